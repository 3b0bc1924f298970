"""A CSV file with a row an image: ``path``, ``label`` and perhaps ``split``.

Paths are relative to the file's folder and may not leave it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selector.core.errors import TargetError, did_you_mean
from selector.core.task import Table
from selector.data._columns import PATH_COLUMNS, reads_text
from selector.data._csv import csv_header, read_csv
from selector.data._hashing import hash_files
from selector.data.reader import SPLIT_NAMES, Found, Options, find_column, reader
from selector.data.readers.folder import FileItems

LABEL_COLUMNS = ("label", "class", "target", "category", "class_name", "labels")
SPLIT_COLUMNS = ("split", "subset", "set", "partition", "fold")


def _accepts(x: Any, options: Options) -> bool:
    if not isinstance(x, str | os.PathLike) or Path(x).suffix.lower() not in (".csv", ".tsv") or not Path(x).is_file():
        return False
    return not reads_text(csv_header(Path(x)), options)


@reader(
    "manifest",
    "a CSV file with the columns path, label and perhaps split",
    _accepts,
)
def _read(x: str | os.PathLike[str], options: Options) -> Table:
    path = Path(x).absolute()
    header, rows = read_csv(path)
    path_column = find_column(str(path), "path", options.image_column, header, PATH_COLUMNS)
    label_column = find_column(str(path), "label", options.one_label, header, LABEL_COLUMNS)
    split = split_column(str(path), [name for name in header if name not in (path_column, label_column)])
    folder = path.parent
    real_folder = folder.resolve()
    relative: list[str] = []
    labels: list[str] = []
    splits: list[str] = []
    missing: list[tuple[int, str]] = []
    statuses: list[os.stat_result] = []
    for line, row in rows:
        relative.append(_confined(row[path_column], folder, real_folder, f"{path}:{line}"))
        labels.append(row[label_column].strip())
        if split is not None:
            splits.append(split_word(row[split], f"{path}:{line}", split))
        try:
            statuses.append((folder / relative[-1]).stat())
        except OSError:
            missing.append((line, relative[-1]))
    if missing:
        line, name = missing[0]
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise TargetError(
            f"{path}:{line}: image '{name}' does not exist in {folder}{more}; correct the path or add the file."
        )
    return Found(
        where=str(path),
        name=options.name or path.stem,
        items=FileItems(str(folder), relative),
        names=relative,
        labels=labels,
        written=True,
        hashes=hash_files(str(path), relative, statuses, options.trust, folder=str(folder)),
        splits=splits if any(splits) else None,
        origin={"path": str(path)},
    ).table(options)


def _confined(value: str, folder: Path, real_folder: Path, where: str) -> str:
    inside = os.path.normpath(folder / value.strip())
    if not value.strip():
        raise TargetError(f"{where}: the path is empty; name an image file.")
    if not Path(inside).is_relative_to(folder) or not Path(inside).resolve().is_relative_to(real_folder):
        raise TargetError(
            f"{where}: the path '{value.strip()}' leads outside {folder}; move the image below it, or the CSV file up."
        )
    return Path(inside).relative_to(folder).as_posix()


def split_column(where: str, columns: Sequence[str]) -> str | None:
    """The column that says the split of a row: the first of the usual names, before it in another case.

    Args:
        columns: those that play no other role.

    Raises:
        TargetError: a name stands there in several other cases.
    """
    for usual in SPLIT_COLUMNS:
        if usual in columns:
            return usual
        found = [name for name in columns if name.lower() == usual]
        if len(found) > 1:
            raise TargetError(
                f"{where}: {' and '.join(found)} could each be the column of splits; call the one that is meant '{usual}'."
            )
        if found:
            return found[0]
    return None


def split_word(value: str, where: str, column: str) -> str:
    """What a cell of the split column means; empty where it says nothing.

    Raises:
        TargetError: an unknown word.
    """
    word = value.strip().lower()
    if word and word not in SPLIT_NAMES:
        raise TargetError(
            f"{where}: unknown {column} '{value.strip()}'{did_you_mean(word, SPLIT_NAMES) or '.'} Expected train, val or test."
        )
    return SPLIT_NAMES.get(word, "")
