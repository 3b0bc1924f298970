"""Whether an input is one of texts given as lists of words, each with a list of labels; by its columns, not its rows."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selector.core.contracts import Words
from selector.data._columns import IMAGE_COLUMNS, is_dataset, is_frame, reads_text, rows_of
from selector.data._files import JSON_LINES, files_of, table_files
from selector.data.reader import Options

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class _Shape:
    """Names of the columns, of those that hold lists, and of those that hold lists of strings."""

    columns: tuple[str, ...]
    lists: tuple[str, ...]
    words: tuple[str, ...]


def takes_words(x: Any, options: Options) -> bool:
    """Whether words are what is meant: a column of lists of strings, beside another one of lists.

    A table that has a column of texts as well is one of words only where ``text_column`` or
    ``label_column`` names a column of lists.
    """
    if isinstance(x, tuple) and len(x) == 2:
        return _are_sentences(x[0]) and _are_label_lists(x[1])
    shape = _shape_of(x)
    if shape is None or not shape.words or len(shape.lists) < 2 or options.image_column is not None:
        return False
    if options.text_column is not None:
        return options.text_column in shape.words
    if options.label_column is not None:
        return options.label_column in shape.lists
    lower = {column.lower() for column in shape.columns}
    return not reads_text(shape.columns, options) and not lower & set(IMAGE_COLUMNS)


def _are_sentences(x: Any) -> bool:
    """Lists of words; where all are tuples of two texts, they are pairs."""
    rows = rows_of(x) or ()
    return bool(rows) and _is_list_of_words(rows[0]) and not all(map(_is_pair, rows))


def _is_pair(x: Any) -> bool:
    return isinstance(x, tuple) and not isinstance(x, Words) and len(x) == 2


def _is_list_of_words(x: Any) -> bool:
    x = x.tolist() if isinstance(x, np.ndarray) else x
    return isinstance(x, list | tuple) and all(isinstance(word, str) for word in x)


def _are_label_lists(x: Any) -> bool:
    """Lists of labels; an array (N, L) are several labels of each text."""
    rows = rows_of(x) or ()
    return bool(rows) and (isinstance(rows[0], list | tuple) or getattr(rows[0], "ndim", 0) > 0)


def _shape_of(x: Any) -> _Shape | None:
    if is_dataset(x):
        return _of_schema(x.features.arrow_schema)
    if is_frame(x):
        return _of_cells(x.iloc[0].to_dict()) if len(x) else None
    if not isinstance(x, str | os.PathLike):
        return None
    path = Path(x)
    tables = table_files(path)
    if tables:
        return _of_row(tables[0]) if tables[0].suffix.lower() in JSON_LINES else None
    files = files_of(path)
    if not files:
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return _of_schema(pq.read_schema(files[0]))
    except (pa.ArrowException, OSError):
        return None  # reading it says why


def _of_schema(schema: pa.Schema) -> _Shape:
    import pyarrow as pa

    def holds(kind: pa.DataType) -> pa.DataType | None:
        known = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        return kind.value_type if known else None

    inner = {field.name: holds(field.type) for field in schema}
    return _Shape(
        tuple(schema.names),
        tuple(name for name, kind in inner.items() if kind is not None),
        tuple(n for n, k in inner.items() if k is not None and (pa.types.is_string(k) or pa.types.is_large_string(k))),
    )


def _of_row(path: Path) -> _Shape | None:
    """Of the first row of a JSONL file."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            row = json.loads(next((line for line in file if line.strip()), "null"))
    except (OSError, ValueError):
        return None  # reading all of it says why
    return _of_cells(row) if isinstance(row, Mapping) else None


def _of_cells(row: Mapping[Any, Any]) -> _Shape:
    lists = tuple(str(name) for name, cell in row.items() if isinstance(cell, list | np.ndarray))
    return _Shape(
        tuple(map(str, row)),
        lists,
        tuple(str(name) for name, cell in row.items() if str(name) in lists and _is_list_of_words(cell)),
    )
