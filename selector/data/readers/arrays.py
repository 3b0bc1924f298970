"""Images and labels in memory: ``(images, labels)`` with uint8 images (N, H, W) or (N, H, W, C)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from selector.core.errors import TargetError
from selector.core.task import Table
from selector.data._items import ListItems
from selector.data.reader import Found, Options, reader, refuse_masked
from selector.modalities.image import content_hash


def _is_images(x: Any) -> bool:
    if isinstance(x, np.ndarray):
        return x.ndim >= 3
    return isinstance(x, list) and bool(x) and all(isinstance(image, np.ndarray) for image in x)


def _accepts(x: Any, options: Options) -> bool:
    return isinstance(x, tuple) and len(x) == 2 and _is_images(x[0])


@reader(
    "arrays",
    "a tuple (uint8 images (N, H, W[, C]), labels)",
    _accepts,
)
def _read(x: tuple[np.ndarray | list[np.ndarray], Sequence[Any] | np.ndarray], options: Options) -> Table:
    images, labels = x
    where = options.name or "arrays"
    for part in [images] if isinstance(images, np.ndarray) else images:
        refuse_masked(part, "the images", where)
    if isinstance(images, np.ndarray) and (images.dtype != np.uint8 or images.ndim not in (3, 4)):
        raise TargetError(
            f"{where}: images are {images.dtype} {images.shape}; expected uint8 (N, H, W) or (N, H, W, 1|3|4). "
            f"Convert values in 0..1 with (images * 255).round().astype('uint8')."
        )
    return Found(
        where=where,
        name=options.name or "arrays",
        items=ListItems(images),
        names=[f"row {i}" for i in range(len(images))],
        labels=labels,
        hashes=[content_hash(image) for image in images],
    ).table(options)
