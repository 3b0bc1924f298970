"""Tables of texts as columns, whatever holds them (CSV, JSONL, parquet, a ``datasets.Dataset``, a ``DataFrame``); and
which column is meant."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from selector.core.errors import TargetError, did_you_mean
from selector.data._columns import of_type
from selector.data._csv import read_csv, read_utf8
from selector.data._files import JSON_LINES, files_of, split_of
from selector.data.reader import Options, split_rank
from selector.data.readers.manifest import split_column, split_word
from selector.data.readers.parquet import class_names_of, declared

_ROW = '{"text": "...", "label": "..."}'


@dataclass
class Columns:
    """Columns of a table; ``names`` say where a row stands, for messages."""

    where: str
    name: str
    columns: Mapping[str, Sequence[Any]]
    names: list[str]
    splits: list[str] | None = None
    declared_labels: Sequence[str] = ()
    class_names: Callable[[str], list[str] | None] = lambda _: None
    written: bool = False  # labels are words of a file, of which whole numbers are made
    origin: dict[str, Any] | None = field(default=None)


def usual_of(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """The columns with one of the usual names, whatever their case."""
    return [column for column in columns if column.lower() in names]


def column_of(
    where: str, role: str, wanted: str | None, columns: Sequence[str], candidates: Sequence[str], option: str
) -> str:
    """The column that plays a role: the one asked for, or the only candidate.

    Raises:
        TargetError: there is none, or more than one.
    """
    flag = f"{option} (--{option.replace('_', '-')})"
    if not columns:
        raise TargetError(f"{where}: the table is empty; expected columns of texts and labels, and a row an item.")
    if wanted is not None:
        if wanted not in columns:
            raise TargetError(
                f"{where}: no column '{wanted}'{did_you_mean(wanted, columns) or '.'} Columns: {', '.join(columns)}."
            )
        return wanted
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        named = " and ".join(f"'{name}'" for name in candidates)
        raise TargetError(f"{where}: {named} could each be the {role} column; name the one that is meant with {flag}.")
    raise TargetError(f"{where}: which column holds the {role}? Columns: {', '.join(columns)}. Name it with {flag}.")


def splits_of(table: Columns, others: Sequence[str]) -> list[str] | None:
    """Splits that the files or a column give; None where neither says anything.

    Args:
        others: columns that play no other role.
    """
    splits = table.splits
    if splits is None and (column := split_column(table.where, others)):
        cells = zip(table.columns[column], table.names, strict=True)
        splits = [split_word(str(cell or ""), f"{table.where}: {name}", column) for cell, name in cells]
    return splits if splits and any(splits) else None


def of_files(root: Path, files: Sequence[Path]) -> Columns:
    """A CSV, TSV or JSONL file, or those of a folder that are named by split."""
    other = next((path.name for path in files if path.suffix != files[0].suffix), None)
    if other is not None:
        raise TargetError(
            f"{root}: found {files[0].name} and {other}; keep files of one kind, since two of them may hold the same."
        )
    tables = [_of_json_lines(path) if path.suffix.lower() in JSON_LINES else _of_csv(path) for path in files]
    first = tables[0]
    if len(files) == 1:
        return replace(first, name=root.name if root.is_dir() else root.stem)
    for path, table in zip(files, tables, strict=True):
        if table.written and set(table.columns) != set(first.columns):
            raise _other_columns(path, list(table.columns), list(first.columns), files[0])
    known = dict.fromkeys(name for table in tables for name in table.columns)
    return Columns(
        str(root),
        root.name,
        {name: [c for table in tables for c in table.columns.get(name, [None] * len(table.names))] for name in known},
        [f"{path.name}, {said}" for path, table in zip(files, tables, strict=True) for said in table.names],
        [split_of(path) for path, table in zip(files, tables, strict=True) for _ in table.names],
        written=first.written,
    )


def _other_columns(path: Path, found: Sequence[str], expected: Sequence[str], first: Path) -> TargetError:
    return TargetError(
        f"{path}: columns {', '.join(found)}; expected {', '.join(expected)} as in {first.name}. Keep the files of one "
        "data set in a folder."
    )


def _of_csv(path: Path) -> Columns:
    header, rows = read_csv(path)
    columns = {name: [row[name] for _, row in rows] for name in header}
    return Columns(str(path), path.stem, columns, [f"line {line}" for line, _ in rows], written=True)


def _of_json_lines(path: Path) -> Columns:
    """An object a line; a key that a row lacks is None there."""
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(read_utf8(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise TargetError(f"{path}:{number}: not JSON ({error}); expected one object a line.") from None
        if not isinstance(row, dict):
            raise TargetError(f"{path}:{number}: found a {type(row).__name__}; expected an object, such as {_ROW}.")
        rows.append((number, row))
    if not rows:
        raise TargetError(f"{path}: no rows found; expected an object a line, such as {_ROW}.")
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    columns = {name: [row.get(name) for _, row in rows] for name in names}
    return Columns(str(path), path.stem, columns, [f"line {number}" for number, _ in rows])


def of_parquet(root: Path) -> Columns:
    """A file, or a folder of files named by split."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = files_of(root)
    files.sort(key=lambda path: (split_rank(split_of(path)), path.name))
    columns: dict[str, list[Any]] = {}
    names: list[str] = []
    splits: list[str] = []
    try:
        schema = pq.read_schema(files[0])
        for path in files:
            table = pq.read_table(path)
            if columns and set(table.column_names) != set(columns):
                raise _other_columns(path, table.column_names, list(columns), files[0])
            for name in table.column_names:
                columns.setdefault(name, []).extend(table[name].to_pylist())
            names += [f"{path.name}:{row}" for row in range(table.num_rows)]
            splits += [split_of(path)] * table.num_rows
    except (pa.ArrowException, OSError) as error:
        raise TargetError(
            f"{root}: not a readable parquet file ({str(error).splitlines()[0]}); write it again."
        ) from None
    return Columns(
        str(root),
        root.name if root.is_dir() else root.stem,
        columns,
        names,
        splits if any(splits) else None,
        declared(schema, "ClassLabel"),
        lambda column: class_names_of(schema, column),
    )


def of_frame(x: Any, options: Options) -> Columns:
    """A ``pandas.DataFrame``.

    Raises:
        TargetError: a column name twice.
    """
    where = options.name or "table"
    known = [str(name) for name in x.columns]
    if len(set(known)) < len(known):
        raise TargetError(f"{where}: a column name occurs twice ({', '.join(known)}); rename one.")
    columns = {name: x.iloc[:, place].tolist() for place, name in enumerate(known)}
    return Columns(where, where, columns, [f"row {index}" for index in range(len(x))])


def of_dataset(x: Any, options: Options) -> Columns:
    """A ``datasets.Dataset``, in whatever format it is."""
    where = options.name or x.info.dataset_name or "dataset"
    if x.format["type"] != "custom":  # what a function of the user's makes of a row is meant
        x = x.with_format(None)
    features = x.features

    def class_names(column: str) -> list[str] | None:
        feature = features[column]
        feature = getattr(feature, "feature", feature)  # of lists: what they hold
        return list(feature.names) if type(feature).__name__ == "ClassLabel" else None

    return Columns(
        where,
        where,
        {name: list(x[name]) for name in features},
        [f"row {index}" for index in range(len(x))],
        None,
        of_type(features, "ClassLabel"),
        class_names,
    )
