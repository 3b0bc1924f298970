"""Labelled texts: CSV, TSV, JSONL or parquet files, a ``datasets.Dataset``, or lists in memory.

Columns are those that were named, or the only ones with a usual name; where two could be meant, the
message asks. Two text columns make pairs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from selector.contracts import Modality, RawText
from selector.errors import TargetError, did_you_mean
from selector.targets._build import Draft
from selector.targets._columns import TEXT_COLUMNS, is_dataset, of_type, reads_text
from selector.targets._csv import csv_header, read_csv, read_utf8
from selector.targets._items import ListItems
from selector.targets._kinds import KINDS, Kind, Options, split_rank
from selector.targets.manifest import SPLIT_COLUMNS, as_numbers, split_word
from selector.targets.parquet import class_names_of, declared, files_of, is_text_file, split_of
from selector.texts import text_hash

LABEL_COLUMNS = ("label", "labels", "class", "target", "category", "intent", "class_name")

_JSON_LINES = (".jsonl", ".ndjson")


@dataclass
class _Table:
    """Columns of a table of texts; ``names`` say where a row stands, for messages."""

    where: str
    name: str
    columns: Mapping[str, Sequence[Any]]
    names: list[str]
    splits: list[str] | None = None
    declared_labels: Sequence[str] = ()
    class_names: Callable[[str], list[str] | None] = lambda _: None
    written: bool = False  # labels are words of a file, of which whole numbers are made
    origin: dict[str, Any] | None = field(default=None)


# ---------------------------------------------------------------------------- which inputs


def _accepts(x: Any, options: Options) -> bool:
    if isinstance(x, tuple) and len(x) == 2:
        return _is_texts(x[0])
    if is_dataset(x):
        return reads_text(list(x.features), options, of_type(x.features, "Image"))
    if not isinstance(x, str | os.PathLike):
        return False
    path = Path(x)
    if path.is_file() and path.suffix.lower() in _JSON_LINES:
        return True
    if path.is_file() and path.suffix.lower() in (".csv", ".tsv"):
        return reads_text(csv_header(path), options)
    files = files_of(path)
    return bool(files) and is_text_file(files[0], options)


def _is_texts(x: Any) -> bool:
    if isinstance(x, np.ndarray):
        return x.ndim == 1 and x.dtype.kind in "UO" and len(x) > 0 and isinstance(x[0], str)
    return isinstance(x, list) and bool(x) and (isinstance(x[0], str) or _is_pair(x[0]))


def _is_pair(x: Any) -> bool:
    return isinstance(x, tuple | list) and len(x) == 2 and all(isinstance(part, str) for part in x)


# ---------------------------------------------------------------------------- reading


def _read(x: Any, options: Options) -> Draft:
    if isinstance(x, tuple):
        return _of_lists(x, options)
    if is_dataset(x):
        return _draft(_of_dataset(x, options), options)
    path = Path(x).absolute()
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        table = _of_csv(path)
    elif suffix in _JSON_LINES:
        table = _of_json_lines(path)
    else:
        table = _of_parquet(path)
    table.origin = {"path": str(path)}
    return _draft(table, options)


def _draft(table: _Table, options: Options) -> Draft:
    texts = [options.text_column] if isinstance(options.text_column, str) else list(options.text_column or ())
    if len(texts) > 2:
        raise TargetError(f"{table.where}: text_column names {len(texts)} columns; give one, or two for pairs.")
    where, known = table.where, list(table.columns)
    taken = [_column(where, "text", name, known, (), "text_column") for name in texts]
    if not taken:
        taken = [_column(where, "text", None, known, _usual(known, TEXT_COLUMNS), "text_column")]
    others = [name for name in known if name not in taken]
    usual = list(table.declared_labels) or _usual(others, LABEL_COLUMNS)
    label = _column(where, "label", options.label_column, known, usual, "label_column")
    items = _texts(table, taken)
    labels = list(table.columns[label])
    splits = table.splits
    if splits is None and (column := next((c for c in SPLIT_COLUMNS if c in others and c != label), None)):
        cells = zip(table.columns[column], table.names, strict=True)
        splits = [split_word(str(cell or ""), f"{where}: {name}", column) for cell, name in cells]
    return Draft(
        where=where,
        name=options.name or table.name,
        items=ListItems(items),
        names=table.names,
        labels=as_numbers(labels) if table.written else labels,
        hashes=[text_hash(text) for text in items],
        splits=splits if splits and any(splits) else None,
        class_names=table.class_names(label),
        origin=table.origin,
        modality=Modality.TEXT,
    )


def _usual(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    return [column for column in columns if column.lower() in names]


def _column(
    where: str, role: str, wanted: str | None, columns: Sequence[str], candidates: Sequence[str], option: str
) -> str:
    """The column that plays a role: the one asked for, or the only candidate.

    Raises:
        TargetError: there is none, or more than one.
    """
    flag = f"{option} (--{option.replace('_', '-')})"
    if wanted is not None:
        if wanted not in columns:
            raise TargetError(
                f"{where}: no column '{wanted}'{did_you_mean(wanted, columns)} Columns: {', '.join(columns)}."
            )
        return wanted
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        named = " and ".join(f"'{name}'" for name in candidates)
        raise TargetError(f"{where}: {named} could each be the {role} column; name the one that is meant with {flag}.")
    raise TargetError(f"{where}: which column holds the {role}? Columns: {', '.join(columns)}. Name it with {flag}.")


def _texts(table: _Table, columns: Sequence[str]) -> list[RawText]:
    found: list[RawText] = []
    for row, parts in enumerate(zip(*(table.columns[name] for name in columns), strict=True)):
        cells = ["" if part is None else part for part in parts]
        for name, cell in zip(columns, cells, strict=True):
            if not isinstance(cell, str):
                raise TargetError(
                    f"{table.where}: {table.names[row]}: column '{name}' holds {type(cell).__name__} ({str(cell)[:40]}); "
                    "expected text."
                )
        found.append(cells[0] if len(cells) == 1 else (cells[0], cells[1]))
    return found


def _of_lists(x: tuple[Any, Any], options: Options) -> Draft:
    texts: list[RawText] = []
    where = options.name or "texts"
    for row, text in enumerate(x[0]):
        if isinstance(text, str):
            texts.append(str(text))
        elif _is_pair(text):
            texts.append((text[0], text[1]))
        else:
            raise TargetError(f"{where}: row {row} is a {type(text).__name__}; expected a text or a pair of texts.")
    if len({isinstance(text, str) for text in texts}) > 1:
        raise TargetError(f"{where}: some rows are texts and some are pairs; give all of one kind.")
    return Draft(
        where=where,
        name=where,
        items=ListItems(texts),
        names=[f"row {i}" for i in range(len(texts))],
        labels=x[1],
        hashes=[text_hash(text) for text in texts],
        modality=Modality.TEXT,
    )


def _of_csv(path: Path) -> _Table:
    header, rows = read_csv(path)
    columns = {name: [row[name] for _, row in rows] for name in header}
    return _Table(str(path), path.stem, columns, [f"line {line}" for line, _ in rows], written=True)


def _of_json_lines(path: Path) -> _Table:
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(read_utf8(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise TargetError(f"{path}:{number}: not JSON ({error}); expected one object a line.") from None
        if not isinstance(row, dict):
            raise TargetError(f"{path}:{number}: found a {type(row).__name__}; expected an object, such as "
                              '{"text": "...", "label": "..."}.')  # fmt: skip
        rows.append((number, row))
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    columns = {name: [row.get(name) for _, row in rows] for name in names}
    return _Table(str(path), path.stem, columns, [f"line {number}" for number, _ in rows])


def _of_parquet(root: Path) -> _Table:
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
                raise TargetError(
                    f"{path}: columns {', '.join(table.column_names)}; expected {', '.join(columns)} as in "
                    f"{files[0].name}. Keep the files of one data set in a folder."
                )
            for name in table.column_names:
                columns.setdefault(name, []).extend(table[name].to_pylist())
            names += [f"{path.name}:{row}" for row in range(table.num_rows)]
            splits += [split_of(path)] * table.num_rows
    except (pa.ArrowException, OSError) as error:
        raise TargetError(
            f"{root}: not a readable parquet file ({str(error).splitlines()[0]}); write it again."
        ) from None
    return _Table(
        str(root),
        root.name if root.is_dir() else root.stem,
        columns,
        names,
        splits if any(splits) else None,
        declared(schema, "ClassLabel"),
        lambda column: class_names_of(schema, column),
    )


def _of_dataset(x: Any, options: Options) -> _Table:
    where = options.name or x.info.dataset_name or "dataset"
    features = x.features

    def class_names(column: str) -> list[str] | None:
        feature = features[column]
        return list(feature.names) if type(feature).__name__ == "ClassLabel" else None

    return _Table(
        where,
        where,
        {name: list(x[name]) for name in features},
        [f"row {index}" for index in range(len(x))],
        None,
        of_type(features, "ClassLabel"),
        class_names,
    )


KINDS.register("text")(
    Kind(
        "a table of texts and labels (CSV, TSV, JSONL, parquet, datasets.Dataset), or (texts, labels)", _accepts, _read
    )
)
