"""What columns of tables are usually called, and whether a table is one of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selector.data._csv import csv_header
from selector.data._files import JSON_LINES, table_files
from selector.data.reader import Options

PATH_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_path", "filepath")
IMAGE_COLUMNS = ("image", "img", "images", "picture", "pixel_values")
TEXT_COLUMNS = ("text", "sentence", "texts", "content", "document", "utterance", "query", "question", "review")
STRINGS = "UOT"  # kinds of arrays that may hold texts


def is_dataset(x: Any) -> bool:
    """Whether this is a ``datasets.Dataset``; by name, since an object that is not theirs must not cost the import."""
    return any(base.__module__ == "datasets.arrow_dataset" and base.__name__ == "Dataset" for base in type(x).__mro__)


def is_frame(x: Any) -> bool:
    """Whether this is a pandas ``DataFrame``; by name, likewise."""
    return any(
        base.__module__.partition(".")[0] == "pandas" and base.__name__ == "DataFrame" for base in type(x).__mro__
    )


def rows_of(x: Any) -> Sequence[Any] | None:
    """Rows in memory: a list, a tuple, a Series, a column of ``datasets``, an array of strings or objects; else None.

    Rows of an array (N, L) are tuples, so that two columns of texts are pairs.
    """
    if hasattr(x, "to_numpy"):  # pandas, polars, pyarrow
        x = x.to_numpy()
    if isinstance(x, np.ndarray):
        if x.dtype.kind not in STRINGS or x.ndim not in (1, 2):
            return None
        rows = x.tolist()
        return rows if x.ndim == 1 else [tuple(row) for row in rows]
    if isinstance(x, list | tuple):
        return x
    return list(x) if isinstance(x, Sequence) and not isinstance(x, str | bytes) else None


def of_type(features: Mapping[str, Any], kind: str) -> list[str]:
    """Columns of a dataset that are declared as one type of ``datasets``, such as ``Image`` or ``ClassLabel``."""
    return [name for name, feature in features.items() if type(feature).__name__ == kind]


def text_tables(path: Path, options: Options) -> list[Path]:
    """The CSV, TSV or JSONL files of texts that a path stands for; JSONL holds nothing else."""
    files = table_files(path)
    if files and files[0].suffix.lower() not in JSON_LINES and not reads_text(csv_header(files[0]), options):
        return []
    return files


def reads_text(columns: Sequence[str], options: Options, images: Sequence[str] = ()) -> bool:
    """Whether a table is one of texts: a text column was named, or has a usual name and no column of images has.

    Args:
        columns: of the table.
        images: columns that are declared to hold images.
    """
    if options.text_column is not None:
        return True
    if options.image_column is not None or images:
        return False
    lower = {column.lower() for column in columns}
    return bool(lower & set(TEXT_COLUMNS)) and not lower & {*PATH_COLUMNS, *IMAGE_COLUMNS}
