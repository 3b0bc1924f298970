"""Tables in text files, a row per item: texts, lists of words, or paths of images with labels, masks or boxes.

CSV and TSV, or JSONL with an object per line; a file, or a folder of such files that are named by split. Paths of images are
relative to the file's folder, or to ``image_root``; they may be absolute or lead anywhere.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from selector.core.task import Table
from selector.data._files import JSON_LINES, table_files
from selector.data._tabular import of_files
from selector.data._text_rows import csv_cells, csv_header, read_objects
from selector.data.columns import PATH_COLUMNS, reads_text, table_of
from selector.data.reader import Options, reader

_SUFFIXES = (".csv", ".tsv")


def _accepts_csv(x: Any, options: Options) -> bool:
    if not isinstance(x, str | os.PathLike):
        return False
    path = Path(x)
    if path.is_file():
        return path.suffix.lower() in _SUFFIXES
    files = table_files(path)
    if not files or files[0].suffix.lower() not in _SUFFIXES:
        return False
    header = csv_header(files[0])
    return reads_text(header, options) or options.image_column is not None or any(c in header for c in PATH_COLUMNS)


@reader(
    "csv", "a CSV or TSV file (path or text, label and perhaps split), or a folder of them", _accepts_csv, columns=True
)
def _read_csv(x: str | os.PathLike[str], options: Options) -> Table:
    root = Path(x).absolute()
    files = [root] if root.is_file() else table_files(root)
    return table_of(of_files(root, files, csv_cells, options, written=True), options)


def _accepts_json_lines(x: Any, options: Options) -> bool:
    if not isinstance(x, str | os.PathLike):
        return False
    files = table_files(Path(x))
    return bool(files) and files[0].suffix.lower() in JSON_LINES


@reader("jsonl", "a JSONL file (one object per line), or a folder of them", _accepts_json_lines, columns=True)
def _read_json_lines(x: str | os.PathLike[str], options: Options) -> Table:
    root = Path(x).absolute()
    found = of_files(root, table_files(root), read_objects, options, written=False)
    found.texts_only = True
    return table_of(found, options)
