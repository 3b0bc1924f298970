"""Tables, a row per item: texts, lists of words, or images with labels, masks or boxes.

In text files: CSV and TSV, or JSONL with an object per line; a file, or a folder of such files that are named by split.
Paths of images are relative to the file's folder, or to ``image_root``; they may be absolute or lead anywhere. In memory: a
``pandas.DataFrame``, or a list of mappings such as ``{"image": ..., "label": ...}``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selector.core.errors import TargetError
from selector.core.table import Table
from selector.data._boxes import is_boxes
from selector.data._files import JSON_LINES, table_files
from selector.data._memory import memory_columns
from selector.data._tabular import of_files
from selector.data._text_rows import csv_cells, csv_header, read_objects
from selector.data.columns import PATH_COLUMNS, reads_text, table_of
from selector.data.reader import Options, reader

_SUFFIXES = (".csv", ".tsv")


def _accepts_csv(x: object, options: Options) -> bool:
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


def _accepts_json_lines(x: object, options: Options) -> bool:
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


def _accepts_frame(x: object, options: Options) -> bool:
    # by name: an object that is not theirs must not cost the import
    return any(
        base.__module__.partition(".")[0] == "pandas" and base.__name__ == "DataFrame" for base in type(x).__mro__
    )


@reader("frame", "a pandas.DataFrame of texts or images and labels", _accepts_frame, columns=True)
def _read_frame(x: Any, options: Options) -> Table:
    where = options.name or "table"
    known = [str(name) for name in x.columns]
    if len(set(known)) < len(known):
        raise TargetError(f"{where}: a column name occurs twice ({', '.join(known)}); rename one.")
    columns = {name: x.iloc[:, place].tolist() for place, name in enumerate(known)}
    return table_of(memory_columns(where, columns, options, "row"), options)


def _accepts_samples(x: object, options: Options) -> bool:
    return isinstance(x, list) and bool(x) and all(isinstance(sample, Mapping) for sample in x)


@reader("samples", 'a list of samples ({"image": ..., "label": ...})', _accepts_samples, columns=True)
def _read_samples(x: list[Mapping[str, object]], options: Options) -> Table:
    samples = [_with_objects(sample) for sample in x]
    known = dict.fromkeys(str(name) for sample in samples for name in sample)
    columns = {name: [sample.get(name) for sample in samples] for name in known}
    table = table_of(memory_columns(options.name or "samples", columns, options, "sample"), options)
    if "boxes" in table.roles and options.box_format is None and any("boxes" in sample for sample in x):
        table.schema = {**table.schema, "box_format": "xyxy"}  # as torchvision writes them
    return table


def _with_objects(sample: Mapping[str, object]) -> dict[str, object]:
    """Boxes and their classes in one cell, where they lie beside the image."""
    if not is_boxes(sample):
        return dict(sample)
    boxes = {
        key: sample[key]
        for key in sample
        if key in ("boxes", "bbox", "bboxes", "labels", "category", "categories", "iscrowd")
    }
    return {**{key: cell for key, cell in sample.items() if key not in boxes}, "objects": boxes}
