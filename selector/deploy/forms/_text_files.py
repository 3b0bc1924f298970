"""Files that stand for texts to predict: which arguments mean a file, and what is read from it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selector.core.errors import ConfigError, TargetError
from selector.data._csv import read_utf8
from selector.data._json_lines import json_lines as read_json_lines

LINES, JSON_LINES = (".txt",), (".jsonl", ".ndjson")
_TABLES = (".csv", ".tsv", ".parquet", ".json", ".conll", ".conllu", ".conllup", ".iob", ".iob2", ".bio", ".bioes")
_KNOWN = (*LINES, *JSON_LINES, *_TABLES)
_SUFFIX = re.compile(r"\.[a-z][a-z0-9]{0,7}$")
_LONGEST = 4096  # characters of a path


def file_of(item: Any, line: str) -> Path | None:
    """The file that an argument means; None where it is a text.

    Args:
        line: what a line of a .jsonl file holds, for messages.
    Raises:
        ConfigError: there is no such file, or none of a kind that is read.
    """
    if not isinstance(item, os.PathLike) and not (isinstance(item, str) and _is_path(item)):
        return None
    path = Path(item)
    if path.is_file() and path.suffix.lower() in (*LINES, *JSON_LINES):
        return path
    found = "is a file of another kind" if path.is_file() else "is a folder" if path.is_dir() else "does not exist"
    raise ConfigError(
        f"{path} {found}; predict reads .txt files (a text a line) and .jsonl files ({line} a line). If it is meant as a "
        "text, put it into one of these: what stands in a file is never taken for a path."
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


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """(name, text) of each line of a .txt file; nothing but a line feed ends one.

    Raises:
        ConfigError: it cannot be read, or is empty.
    """
    found = _read(path).split("\n")
    if not found[-1]:
        found.pop()
    if not found:
        raise ConfigError(f"{path} is empty; expected a text a line.")
    for number, line in enumerate(found, 1):
        yield f"{path}:{number}", line.removesuffix("\r")


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
