"""A torch ``Dataset`` of (image, label), or of ``{"image": ..., "label": ...}``; of a ``DataLoader`` its dataset.

Images are Pillow images, uint8 arrays, or tensors in 0..1; labels are classes, vectors of 0 and 1 or of real values, masks
(H, W), or boxes with their classes, as torchvision's detectors take them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from selector.core.contracts import RawImage
from selector.core.errors import TargetError
from selector.core.table import Table
from selector.data._boxes import box_cells, is_boxes
from selector.data._items import MappedItems, plain_mask
from selector.data._memory import is_mask, raw_image
from selector.data.columns import IMAGE_COLUMNS, MASK_COLUMNS
from selector.data.reader import Options, annotated, reader
from selector.modalities.image import content_hash

_LABELS = ("label", "labels", "target", "class", *MASK_COLUMNS, "y")


class _Pairs:
    """Images and labels of a dataset, made when asked for."""

    def __init__(self, dataset: Any, where: str) -> None:
        self._dataset, self._where = dataset, where
        self._lock = threading.Lock()  # a dataset need not be made for threads

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int, /) -> tuple[RawImage, Any]:
        """Image and label.

        Raises:
            TargetError: the dataset gives something else.
        """
        with self._lock:
            entry = self._dataset[index]
        if isinstance(entry, Mapping):
            entry = _of_mapping(entry)
        if not isinstance(entry, tuple | list) or len(entry) != 2:
            raise TargetError(
                f"{self._where}: item {index} is a {type(entry).__name__}; expected a pair (image, label)."
            )
        return raw_image(entry[0], f"{self._where}: item {index}"), entry[1]


def _mask(pair: tuple[RawImage, Any]) -> Any:
    return plain_mask(pair[1])


def _of_mapping(entry: Mapping[str, object]) -> object:
    """(image, label) of a sample; the sample itself where it has no such keys."""
    image = next((entry[key] for key in IMAGE_COLUMNS if key in entry), None)
    if image is None:
        return entry
    if is_boxes(entry):
        return image, entry
    key = next((key for key in _LABELS if key in entry), None)
    return entry if key is None else (image, entry[key])


def _accepts(x: object, options: Options) -> bool:
    # by name: a dataset that is not torch's must not cost the import of torch
    return any(base.__module__.startswith("torch.utils.data") for base in type(x).__mro__)


@reader("torch-dataset", "a torch Dataset of (image, label), or a DataLoader", _accepts)
def _read(x: Any, options: Options) -> Table:
    if any(base.__name__ == "DataLoader" for base in type(x).__mro__):
        x = x.dataset
    where = options.name or type(x).__name__
    if not hasattr(x, "__len__"):
        raise TargetError(f"{where} has no length; expected a map-style Dataset (with __len__ and __getitem__).")
    pairs = _Pairs(x, where)
    hashes: list[str] = []
    labels: list[Any] = []
    masks = False
    for index in range(len(pairs)):
        image, label = pairs[index]
        hashes.append(content_hash(image))
        masks = masks or is_mask(label)
        labels.append(None if masks else _plain(label))
    if hashes and content_hash(pairs[0][0]) != hashes[0]:
        raise TargetError(
            f"{where}: item 0 differs each time it is read; leave random augmentation out of the dataset."
        )
    first: Any = next((label for label in labels if label is not None), None)
    boxes = not masks and is_boxes(first) and all(label is None or is_boxes(label) for label in labels)
    names = [f"item {index}" for index in range(len(hashes))]
    schema = {"box_format": "xyxy" if "boxes" in first else "xywh"} if boxes else {}
    return annotated(
        Table(where, options.name or where.lower(), "image", MappedItems(pairs, itemgetter(0)), names, hashes),
        MappedItems(pairs, _mask) if masks else box_cells(labels, names, where) if boxes else labels,
        options,
        role="mask" if masks else "boxes" if boxes else "label",
        class_names=None if masks or boxes else _class_names(x, labels),
        schema=schema,
    )


def _plain(label: object) -> object:
    if isinstance(label, Mapping):
        return {key: _plain(value) for key, value in label.items()}
    return label.tolist() if hasattr(label, "tolist") else label


def _class_names(dataset: object, labels: list[object]) -> list[str] | None:
    while not hasattr(dataset, "classes") and hasattr(dataset, "dataset"):  # a Subset
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return None
    fits = all(isinstance(label, int) and 0 <= label < len(names) for label in labels)
    return list(names) if fits else None
