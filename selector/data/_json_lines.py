"""JSONL: a JSON value a line; the one reader of the package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selector.core.errors import TargetError
from selector.data._csv import check_memory, read_utf8

_ROW = '{"text": "...", "label": "..."}'


def json_lines(path: Path, expected: str) -> Iterator[tuple[int, Any]]:
    """(line, value) of each line that is not blank; nothing but a line feed ends one.

    Args:
        expected: what each should hold, for messages.

    Raises:
        TargetError: it cannot be read, or has a line that is not JSON; with the line.
    """
    text = read_utf8(path)
    holders = text.count("[") + text.count("{")
    check_memory(path, text, 150 * holders + 60 * (text.count(",") + text.count("\n")))
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            said = str(error) if isinstance(error, ValueError) else "nested too deep"
            raise TargetError(f"{path}:{number}: not JSON ({said}); expected {expected} a line.") from None
        yield number, value


def read_objects(path: Path) -> tuple[dict[str, list[Any]], list[int]]:
    """Cells by column and the line of each row, of a file with an object a line; a key that a row lacks is None there.

    Raises:
        TargetError: as ``json_lines``, or a line that holds something else, or none.
    """
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, row in json_lines(path, "one object"):
        if not isinstance(row, dict):
            raise TargetError(f"{path}:{number}: found a {type(row).__name__}; expected an object, such as {_ROW}.")
        rows.append((number, row))
    if not rows:
        raise TargetError(f"{path}: no rows found; expected an object a line, such as {_ROW}.")
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    return {name: [row.get(name) for _, row in rows] for name in names}, [number for number, _ in rows]
