"""A CSV or TSV file as rows of named cells."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from selector.errors import TargetError

_LONGEST = 2**31 - 1  # characters of a cell; the library's own limit is 131,072


def read_csv(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Column names, and (line, cells by column) of each row that is not blank.

    Raises:
        TargetError: not UTF-8, a column name twice, a row of another length; with the line.
    """
    text = read_utf8(path)
    delimiter = _delimiter(path, text.partition("\n")[0])
    limit = csv.field_size_limit(_LONGEST)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        header = [name.strip() for name in next(reader, [])]
        if len(set(header)) < len(header):
            raise TargetError(f"{path}:1: a column name occurs twice ({', '.join(header)}); rename one.")
        rows = []
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise TargetError(
                    f"{path}:{reader.line_num}: found {len(cells)} values; expected {len(header)} ({', '.join(header)})."
                )
            rows.append((reader.line_num, dict(zip(header, cells, strict=True))))
        return header, rows
    finally:
        csv.field_size_limit(limit)


def csv_header(path: Path) -> list[str]:
    """The column names alone; empty when the first line cannot be read (reading all of it will say why)."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = file.readline(1 << 20)
    except (OSError, UnicodeDecodeError):
        return []
    return [name.strip() for name in next(csv.reader([first], delimiter=_delimiter(path, first)), [])]


def _delimiter(path: Path, first: str) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)


def read_utf8(path: Path) -> str:
    """A text file.

    Raises:
        TargetError: it cannot be read, or is not UTF-8; with the line.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TargetError(f"{path} cannot be read ({error.strerror}); make it readable.") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise TargetError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8; expected one encoding throughout. Convert the "
            "file (iconv -f latin1 -t utf-8), or this line."
        ) from None
