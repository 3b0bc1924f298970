"""Records in memory: a ``pandas.DataFrame``, or a list of mappings such as ``{"image": ..., "label": ...}`` with texts, masks or boxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selector.core.errors import TargetError
from selector.core.task import Table
from selector.data._boxes import is_boxes
from selector.data._memory import memory_columns
from selector.data.columns import table_of
from selector.data.reader import Options, reader


def _accepts_frame(x: Any, options: Options) -> bool:
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


def _accepts_samples(x: Any, options: Options) -> bool:
    return isinstance(x, list) and bool(x) and all(isinstance(sample, Mapping) for sample in x)


@reader("samples", 'a list of samples ({"image": ..., "label": ...})', _accepts_samples, columns=True)
def _read_samples(x: list[Mapping[str, Any]], options: Options) -> Table:
    samples = [_with_objects(sample) for sample in x]
    known = dict.fromkeys(str(name) for sample in samples for name in sample)
    columns = {name: [sample.get(name) for sample in samples] for name in known}
    table = table_of(memory_columns(options.name or "samples", columns, options, "sample"), options)
    if "boxes" in table.roles and options.box_format is None and any("boxes" in sample for sample in x):
        table.schema = {**table.schema, "box_format": "xyxy"}  # as torchvision writes them
    return table


def _with_objects(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Boxes and their classes in one cell, where they lie beside the image."""
    if not is_boxes(sample):
        return dict(sample)
    boxes = {
        key: sample[key]
        for key in sample
        if key in ("boxes", "bbox", "bboxes", "labels", "category", "categories", "iscrowd")
    }
    return {**{key: cell for key, cell in sample.items() if key not in boxes}, "objects": boxes}
