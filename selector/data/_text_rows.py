"""A CSV, TSV or JSONL file as rows of named cells."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selector.core.errors import TargetError
from selector.core.input_files import CELL_BYTES, check_unpacked, open_file, read_file

_LONGEST = 10_000_000
"""Characters of a cell (the library's own limit is 131,072): no reader of texts takes a tenth of it, and the parser holds a
cell in four bytes a character."""
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")  # StringIO splits alike, in four bytes a character


def read_csv(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Column names, and (line, cells by column) of each row that is not blank.

    Raises:
        TargetError: not UTF-8, a column name twice, a row of another length, a cell of more than ten million
            characters, a quote that swallows lines; with the line.
    """
    text = read_utf8(path)
    delimiter = _delimiter(path, text.partition("\n")[0])
    check_memory(path, text, CELL_BYTES * (text.count(delimiter) + text.count("\n")))
    lines = _LINE.findall(text)
    limit = csv.field_size_limit(_LONGEST)
    try:
        reader = csv.reader(lines, delimiter=delimiter)
        header = [name.strip() for name in next(reader, [])]
        if len(set(header)) < len(header):
            raise TargetError(f"{path}:1: a column name occurs twice ({', '.join(header)}); rename one.")
        rows = []
        spans = []  # (first, last) line of each row that stands on several
        last = reader.line_num
        for cells in reader:
            first, last = last + 1, reader.line_num
            if first < last or last == len(lines) or len(cells) != len(header):
                _check_quotes(path, first, lines[first - 1 : last], delimiter)
            if first < last:
                spans.append((first, last))
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise TargetError(
                    f"{path}:{reader.line_num}: found {len(cells)} values; expected {len(header)} ({', '.join(header)})."
                )
            rows.append((reader.line_num, dict(zip(header, cells, strict=True))))
        if spans:
            several = {last for _, last in spans}
            seen = [{row[name] for line, row in rows if line not in several} for name in header]
            for first, last in spans:
                _check_swallowed(path, first, lines[first - 1 : last], delimiter, seen)
        return header, rows
    except csv.Error as error:
        if "field limit" not in str(error):
            raise
        raise TargetError(
            f"{path}:{reader.line_num}: found a cell of more than {_LONGEST:,} characters; shorten it or remove its row. A "
            "quote at the begin of a cell that nothing closes makes one cell of all that follows."
        ) from None
    finally:
        csv.field_size_limit(limit)


def csv_cells(path: Path) -> tuple[dict[str, list[str]], list[int]]:
    """Cells by column, and the line of each row.

    Raises:
        TargetError: as ``read_csv``.
    """
    header, rows = read_csv(path)
    return {name: [row[name] for _, row in rows] for name in header}, [line for line, _ in rows]


def _check_quotes(path: Path, first: int, lines: list[str], delimiter: str) -> None:
    """A quote that begins a cell ends it as well: what follows is a delimiter or the end of the line."""
    try:
        list(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error as error:
        unclosed = "end of data" in str(error)
        if unclosed or len(lines) > 1:  # on one line it costs the quotes, as everywhere, but no row
            what = "is never closed" if unclosed else "is closed within a text"
            raise _quote_error(path, first, first + len(lines) - 1, what) from None


def _check_swallowed(path: Path, first: int, lines: list[str], delimiter: str, seen: list[set[str]]) -> None:
    """Lines of one row that would each be a row by themselves.

    Two texts of which one begins and the other ends with a quote make one cell of all lines between them. Tabs
    hardly stand in texts; of other delimiters a value that the column has in other rows must follow as well.
    """
    column = len(next(csv.reader(lines[:1], delimiter=delimiter))) - 1  # where the quote begins, and ends
    alone = list(csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE))
    if len(seen) < 2 or any(len(cells) != len(seen) for cells in alone):
        return
    known = [[cell in values for cell, values in zip(cells, seen, strict=True)] for cells in alone]
    # of the first and the last line only what would not be a row's in any case proves something
    known[0] = known[0][column + 1 :] or [True]
    known[-1] = known[-1][:column] or [True]
    if delimiter == "\t" or all(map(any, known)):
        raise _quote_error(path, first, first + len(lines) - 1, "makes one cell of lines that look like rows")


def _quote_error(path: Path, first: int, last: int, what: str) -> TargetError:
    lines = f" (lines {first} to {last})" if last > first else ""
    return TargetError(
        f"{path}:{first}: a quote at the begin of a cell {what}{lines}. Write a quote that belongs to a text twice and "
        'put the text in quotes ("""Yes"", she said"), or give texts as JSONL.'
    )


def csv_header(path: Path) -> list[str]:
    """The column names alone; empty when the first line cannot be read (reading all of it will say why)."""
    try:
        with open_file(path) as file:
            first = file.readline(1 << 20).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return []
    try:
        return [name.strip() for name in next(csv.reader([first], delimiter=_delimiter(path, first)), [])]
    except csv.Error:
        return []


def _delimiter(path: Path, first: str) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)


def check_memory(path: Path, text: str, unpacked: int) -> None:
    """Refuse a text file whose cells take more memory than is allowed, before there are any.

    Raises:
        TargetError: says the limit, and how to raise it.
    """
    try:
        check_unpacked(unpacked + 4 * len(text), len(text))
    except ValueError as error:
        raise TargetError(f"{path}: {error}.") from None


def read_utf8(path: Path) -> str:
    """A text file.

    Raises:
        TargetError: it cannot be read, or is not UTF-8; with the line.
    """
    try:
        data = read_file(path)
    except OSError as error:
        raise TargetError(f"{path} cannot be read ({error.strerror}); make it readable.") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise TargetError(
                f"{path}: found UTF-16 (by its first two bytes); expected UTF-8. Convert the file (iconv -f utf-16 -t utf-8)."
            ) from None
        line = data[: error.start].count(b"\n") + 1
        raise TargetError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8; expected one encoding throughout. Convert the "
            "file (iconv -f latin1 -t utf-8), or this line."
        ) from None


_ROW = '{"text": "...", "label": "..."}'


def json_lines(path: Path, expected: str) -> Iterator[tuple[int, object]]:
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
            raise TargetError(f"{path}:{number}: not JSON ({said}); expected {expected} per line.") from None
        yield number, value


def read_objects(path: Path) -> tuple[dict[str, list[Any]], list[int]]:
    """Cells by column and the line of each row, of a file with an object per line; a key that a row lacks is None there.

    Raises:
        TargetError: as ``json_lines``, or a line that holds something else, or none.
    """
    rows: list[tuple[int, dict[str, object]]] = []
    for number, row in json_lines(path, "one object"):
        if not isinstance(row, dict):
            raise TargetError(f"{path}:{number}: found a {type(row).__name__}; expected an object, such as {_ROW}.")
        rows.append((number, row))
    if not rows:
        raise TargetError(f"{path}: no rows found; expected one object per line, such as {_ROW}.")
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    return {name: [row.get(name) for _, row in rows] for name in names}, [number for number, _ in rows]
