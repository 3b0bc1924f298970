"""CSV and TSV files of texts, or with a row an image (``path``, ``label``, perhaps ``split``), a mask or a box; or a folder
of such files that are named by split.

Paths of images are relative to the file's folder, or to ``image_root``; they may be absolute or lead anywhere.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from selector.core.task import Table
from selector.data._csv import csv_cells, csv_header
from selector.data._files import table_files
from selector.data._tabular import of_files
from selector.data.columns import PATH_COLUMNS, reads_text, table_of
from selector.data.reader import Options, reader

_SUFFIXES = (".csv", ".tsv")


def _accepts(x: Any, options: Options) -> bool:
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


@reader("csv", "a CSV or TSV file (path or text, label and perhaps split), or a folder of them", _accepts, columns=True)
def _read(x: str | os.PathLike[str], options: Options) -> Table:
    root = Path(x).absolute()
    files = [root] if root.is_file() else table_files(root)
    return table_of(of_files(root, files, csv_cells, options, written=True), options)
