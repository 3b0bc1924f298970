"""A torch ``Dataset`` of (image, label): Pillow images, uint8 arrays, or tensors in 0..1."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from PIL import Image

from selector.core.contracts import RawImage
from selector.core.errors import TargetError
from selector.core.task import Table
from selector.data.reader import Found, Options, reader
from selector.modalities.image import content_hash, pil_to_array


class DatasetItems:
    """Images of a data set, made when asked for."""

    def __init__(self, dataset: Any, where: str) -> None:
        self._dataset, self._where = dataset, where
        self._lock = threading.Lock()  # a data set need not be made for threads

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int, /) -> RawImage:
        return self.pair(index)[0]

    def pair(self, index: int) -> tuple[RawImage, Any]:
        """Image and label.

        Raises:
            TargetError: the data set gives something else.
        """
        with self._lock:
            entry = self._dataset[index]
        if not isinstance(entry, tuple | list) or len(entry) != 2:
            raise TargetError(
                f"{self._where}: item {index} is a {type(entry).__name__}; expected a pair (image, label)."
            )
        return _to_uint8(entry[0], f"{self._where}: item {index}"), _plain(entry[1])


def _accepts(x: Any, options: Options) -> bool:
    # by name: a data set that is not torch's must not cost the import of torch
    return any(base.__module__.startswith("torch.utils.data") for base in type(x).__mro__)


@reader(
    "torch-dataset",
    "a torch Dataset of (image, label)",
    _accepts,
)
def _read(x: Any, options: Options) -> Table:
    where = options.name or type(x).__name__
    if not hasattr(x, "__len__"):
        raise TargetError(f"{where} has no length; expected a map-style Dataset (with __len__ and __getitem__).")
    items = DatasetItems(x, where)
    hashes, labels = [], []
    for index in range(len(items)):
        image, label = items.pair(index)
        hashes.append(content_hash(image))
        labels.append(label)
    if hashes and content_hash(items[0]) != hashes[0]:
        raise TargetError(
            f"{where}: item 0 is another image each time it is read; leave random augmentation out of the data set."
        )
    return Found(
        where=where,
        name=options.name or where.lower(),
        items=items,
        names=[f"item {index}" for index in range(len(hashes))],
        labels=labels,
        hashes=hashes,
        class_names=_class_names(x, labels),
    ).table(options)


def _to_uint8(image: Any, where: str) -> np.ndarray:
    if isinstance(image, Image.Image):
        return pil_to_array(image)
    if isinstance(image, np.ndarray):
        array = image
    elif hasattr(image, "numpy") and hasattr(image, "ndim"):  # a tensor (C, H, W)
        array = image.detach().cpu().numpy()
        array = array.transpose(1, 2, 0) if array.ndim == 3 else array
    else:
        raise TargetError(
            f"{where}: the image is a {type(image).__name__}; expected a Pillow image, an array or a tensor."
        )
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):
            raise TargetError(
                f"{where}: values from {low:.3g} to {high:.3g}; expected 0..1. Leave the normalisation out of the data "
                f"set: every encoder brings its own."
            )
        array = np.round(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise TargetError(f"{where}: the image has values of {array.dtype}; expected uint8, or floats in 0..1.")
    return np.ascontiguousarray(array)


def _plain(label: Any) -> Any:
    return label.tolist() if hasattr(label, "tolist") else label


def _class_names(dataset: Any, labels: list[Any]) -> list[str] | None:
    while not hasattr(dataset, "classes") and hasattr(dataset, "dataset"):  # a Subset
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return None
    fits = all(isinstance(label, int) and 0 <= label < len(names) for label in labels)
    return list(names) if fits else None
