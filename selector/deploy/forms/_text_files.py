"""Files that stand for texts to predict: which arguments mean a file, and what is read from it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from io import TextIOBase
from pathlib import Path
from typing import Any

from selector.core.contracts import RawText
from selector.core.errors import ConfigError, TargetError, first_line
from selector.data._csv import read_csv, read_utf8
from selector.data._json_lines import json_lines as read_json_lines
from selector.data.readers.parquet import DAMAGE, column_cells

LINES, JSON_LINES = (".txt",), (".jsonl", ".ndjson")
TABLES = (".csv", ".tsv", ".parquet")
_OTHERS = (".json", ".conll", ".conllu", ".conllup", ".iob", ".iob2", ".bio", ".bioes")
_KNOWN = (*LINES, *JSON_LINES, *TABLES, *_OTHERS)
_SUFFIX = re.compile(r"\.[a-z][a-z0-9]{0,7}$")
_LONGEST = 4096  # characters of a path


def file_of(item: Any, line: str, *, table: bool = False) -> Path | None:
    """The file that an argument means; None where it is a text.

    Args:
        line: what a line of a .jsonl file holds, for messages.
        table: whether a column was named.
    Raises:
        ConfigError: there is no such file, or none of a kind that is read.
    """
    if not isinstance(item, os.PathLike) and not (isinstance(item, str) and _is_path(item)):
        return None
    path = Path(item)
    if path.is_file() and path.suffix.lower() in (*JSON_LINES, *TABLES, *(() if table else LINES)):
        return path
    found = "is a file of another kind" if path.is_file() else "is a folder" if path.is_dir() else "does not exist"
    raise ConfigError(
        f"{path} {found}; predict reads .txt files (a text a line), .jsonl files ({line} a line) and a column of .csv, .tsv "
        "and .parquet files. If it is meant as a text, put it into one of these: what stands in a file is never taken "
        "for a path."
    )


def _is_path(text: str) -> bool:
    """Whether a string means a file, be it there or not: a wrong path must not be predicted as if it were a text."""
    if len(text) >= _LONGEST or "\n" in text or "://" in text:
        return False
    folder, name = os.path.split(text)
    match = _SUFFIX.search(name.lower())
    suffix = match[0] if match else ""
    if not (folder or suffix):
        return False
    if os.path.exists(text):  # noqa: PTH110 - takes names that no file can have
        return bool(suffix or text.strip("/\\."))
    known = suffix in _KNOWN
    if len(text.split()) > 1:  # a path with blanks, or a text that ends with the name of a file
        return known and bool(folder) and os.path.isdir(folder)  # noqa: PTH112
    return known or bool(folder and suffix)


def lines(path: Path | TextIOBase) -> Iterator[tuple[str, str]]:
    """(name, text) of each line of a .txt file or an open one; nothing but a line feed ends one.

    Raises:
        ConfigError: it cannot be read, or is empty.
    """
    named = str(getattr(path, "name", path)).strip("<>") if isinstance(path, TextIOBase) else str(path)
    found = (path.read() if isinstance(path, TextIOBase) else _read(path)).split("\n")
    if not found[-1]:
        found.pop()
    if not found:
        raise ConfigError(f"{named} is empty; expected a text a line.")
    for number, line in enumerate(found, 1):
        yield f"{named}:{number}", line.removesuffix("\r")


def column(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, RawText]]:
    """(name, text) of each row of a table; pairs of two columns.

    Args:
        columns: at most two; none for the only column, or the one that is called ``text``.
    Raises:
        ConfigError: it cannot be read, lacks a column, or it is open which one is meant.
    """
    names, rows = _table(path, columns)
    asked = list(columns) or (names if len(names) == 1 else [name for name in names if name == "text"])
    listed = ", ".join(names) or "none"
    if not 1 <= len(asked) <= 2 or (missing := [name for name in asked if name not in names]):
        what = (
            f"text_column={asked!r}: {', '.join(map(repr, missing))} is missing"
            if asked
            else "which column holds the texts"
        )
        raise ConfigError(f"{path}: {what}? name it with text_column (--text-column). Columns: {listed}.")
    if not rows:
        raise ConfigError(f"{path} is empty; expected a text a row.")
    for line, row in rows:
        cells = ["" if row[name] is None else str(row[name]) for name in asked]
        yield f"{path}:{line}", cells[0] if len(cells) == 1 else (cells[0], cells[1])


def _parquet(path: Path, columns: Sequence[str]) -> tuple[list[str], list[tuple[int, dict[str, Any]]]]:
    import pyarrow.parquet as pq

    try:
        names = list(pq.read_schema(path).names)
        wanted = [name for name in dict.fromkeys(columns or (*names[: len(names) == 1], "text")) if name in names]
        cells = {name: [cell for part in column_cells(path, name) for cell in part] for name in wanted}
    except DAMAGE as error:
        raise ConfigError(f"{path} cannot be read as parquet ({first_line(error)}).") from None
    rows = zip(*cells.values(), strict=True)
    return names, [(number, dict(zip(wanted, row, strict=True))) for number, row in enumerate(rows, 1)]


def _table(path: Path, columns: Sequence[str]) -> tuple[list[str], list[tuple[int, dict[str, Any]]]]:
    """Column names, and (line, cells) of each row, of the columns asked for at least."""
    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            return _parquet(path, columns)
        if kind in JSON_LINES:
            rows = [(number, row) for number, row in read_json_lines(path, "an object") if isinstance(row, dict)]
            names = list(dict.fromkeys(name for _, row in rows for name in row))
            return names, [(number, dict.fromkeys(names) | row) for number, row in rows]
        return read_csv(path)
    except TargetError as error:
        raise ConfigError(str(error)) from None


def json_lines(path: Path, line: str) -> Iterator[tuple[str, Any]]:
    """(name, value) of each line of a .jsonl file that is not blank.

    Args:
        line: what each should hold, for messages.
    Raises:
        ConfigError: it cannot be read, has no such line, or one that is not JSON.
    """
    _read(path)  # its errors say what predict expects
    none = True
    try:
        for number, value in read_json_lines(path, line):
            none = False
            yield f"{path}:{number}", value
    except TargetError as error:
        raise ConfigError(str(error)) from None
    if none:
        raise ConfigError(f"{path} is empty; expected {line} a line.")


def _read(path: Path) -> str:
    try:
        return read_utf8(path)
    except TargetError as error:
        raise ConfigError(f"{path} cannot be read as UTF-8 text ({error})") from None
