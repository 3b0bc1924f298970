"""A ``datasets.Dataset`` of texts, of lists of words, or of images (a ``DatasetDict`` is a dict of splits)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from selector.core.contracts import Items, RawImage
from selector.core.errors import TargetError
from selector.core.table import Table
from selector.data._boxes import is_boxes
from selector.data._items import MappedItems, SubsetItems
from selector.data._tabular import shape_of
from selector.data.columns import Columns, LazyColumns, reads_text, table_of
from selector.data.reader import Options, reader
from selector.modalities.image import content_hash, read_image_file


def _encoded(column: str, row: Mapping[str, Any]) -> RawImage:
    """The encoded image of a row."""
    cell = row[column]
    if cell is None:
        return b""
    return bytes(cell["bytes"]) if cell.get("bytes") is not None else read_image_file(cell["path"])


def _accepts(x: object, options: Options) -> bool:
    # by name: an object that is not theirs must not cost the import
    return any(base.__module__ == "datasets.arrow_dataset" and base.__name__ == "Dataset" for base in type(x).__mro__)


@reader("hub", "a datasets.Dataset of texts or images and labels", _accepts, columns=True)
def _read(x: Any, options: Options) -> Table:
    where = options.name or x.info.dataset_name or "dataset"
    if x.format["type"] != "custom":  # what a function of the user's makes of a row is meant
        x = x.with_format(None)
    typed = {name: type(feature).__name__ for name, feature in x.features.items()}
    pictures = [name for name, kind in typed.items() if kind == "Image"]
    texts = reads_text(list(typed), options, pictures)
    first = x.remove_columns(pictures)[0] if len(x) and len(pictures) < len(typed) else {}
    names = [f"row {index}" for index in range(len(x))]

    def read(name: str) -> list[Any]:
        if x.format["type"] == "custom":  # datasets 4.0 hands the function one column, where it reads rows
            return [row[name] for row in x]
        return list(x[name])

    def pictures_of(
        column: str, rows: Sequence[int] | None = None, *, masks: bool = False
    ) -> tuple[Items, Sequence[str], list[str]]:
        import datasets

        if typed[column] != "Image":
            raise TargetError(
                f"{where}: column '{column}' is a {typed[column]}; expected a datasets.Image "
                f"(dataset.cast_column('{column}', datasets.Image()))."
            )
        encoded = x.cast_column(column, datasets.Image(decode=False))
        items: Items = MappedItems(encoded, partial(_encoded, column))
        if rows is not None:
            items = SubsetItems(items, np.array(list(rows)))
        shown = names if rows is None else [names[row] for row in rows]
        if masks:
            return items, shown, []
        try:
            return items, shown, [content_hash(items[index]) for index in range(len(items))]
        except OSError as error:
            raise TargetError(f"{where}: {error.filename} cannot be read ({error.strerror}).") from None

    found = Columns(
        where=where,
        name=where,
        columns=LazyColumns(list(typed), read),
        names=names,
        pictures_of=pictures_of,
        types={
            "ClassLabel": [name for name, kind in typed.items() if kind == "ClassLabel"],
            "Image": pictures,
            "Boxes": [name for name, feature in x.features.items() if _holds_boxes(feature)],
        },
        class_names=lambda column: _class_names(x.features[column]),
        split_column=texts,
        **shape_of(first),
    )
    return table_of(found, options)


def _holds_boxes(feature: Any) -> bool:
    """Whether cells are a mapping, or a list of mappings, with fields for boxes and classes."""
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)
    return isinstance(inner, dict) and is_boxes(dict.fromkeys(inner, 0))


def _class_names(feature: Any) -> list[str] | None:
    """Names of the first ClassLabel that a feature is or holds."""
    if type(feature).__name__ == "ClassLabel":
        return list(feature.names)
    inner = getattr(feature, "feature", None)  # of lists: what they hold
    if inner is not None:
        return _class_names(inner)
    parts = list(feature.values()) if isinstance(feature, dict) else feature if isinstance(feature, list) else []
    return next((names for names in map(_class_names, parts) if names), None)
