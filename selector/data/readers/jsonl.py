"""JSONL files, an object a line: texts, lists of words, or paths of images with labels, masks or boxes; or a folder of
such files that are named by split."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from selector.core.task import Table
from selector.data._files import JSON_LINES, table_files
from selector.data._json_lines import read_objects
from selector.data._tabular import of_files
from selector.data.columns import table_of
from selector.data.reader import Options, reader


def _accepts(x: Any, options: Options) -> bool:
    if not isinstance(x, str | os.PathLike):
        return False
    files = table_files(Path(x))
    return bool(files) and files[0].suffix.lower() in JSON_LINES


@reader("jsonl", "a JSONL file (an object a line), or a folder of them", _accepts, columns=True)
def _read(x: str | os.PathLike[str], options: Options) -> Table:
    root = Path(x).absolute()
    found = of_files(root, table_files(root), read_objects, options, written=False)
    found.texts_only = True
    return table_of(found, options)
