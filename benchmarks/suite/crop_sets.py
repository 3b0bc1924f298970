"""Image sets cut out of annotated images: objects by their boxes, tiles by the class of most of their pixels.

Train and test are the images' own, so that no image gives items to both.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.suite.suites import SPLIT_SEED

Item = tuple[Image.Image, int]
LEAST_SIDE = 16  # px of an object's shorter side
CONTEXT = 0.1  # of a box's sides, added on each of them
FEWEST = 20  # objects of a class in train; classes with fewer are left out
TILE = 45  # px
MOSTLY = 0.7  # of a tile's pixels that its class covers
MOST_TILES = 200  # of a class and split, drawn; a road fills half of the images
VOID = 11
SUPERCATEGORIES = (1, 8, 5, 10, 5, 10, 7, 10, 6, 6, 5, 7)  # of COCO's 80 classes, in its order


def coco128_crops(data: Path) -> tuple[list[Image.Image], np.ndarray, np.ndarray]:
    """Objects of coco128 by supercategory: images, labels, and which of them are test."""
    place = np.repeat(np.arange(len(SUPERCATEGORIES)), SUPERCATEGORIES)
    return _cut(data / "coco128", lambda row: _objects(row, place))


def _objects(row: dict, classes: Sequence[int]) -> Iterator[Item]:
    """The boxes of an image, with ``CONTEXT`` of their sides added on each, as far as the image goes."""
    image = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
    for (x, y, width, height), category in zip(row["objects"]["bbox"], row["objects"]["category"], strict=True):
        if min(width, height) >= LEAST_SIDE:
            more_x, more_y = CONTEXT * width, CONTEXT * height
            box = (max(0, x - more_x), max(0, y - more_y), min(image.width, x + width + more_x), min(image.height, y + height + more_y))  # fmt: skip
            yield image.crop([round(side) for side in box]), int(classes[category])


def camvid_tiles(data: Path) -> tuple[list[Image.Image], np.ndarray, np.ndarray]:
    """Tiles of camvid by the class of most of their pixels: images, labels, and which of them are test."""

    def tiles(row: dict) -> Iterator[Item]:
        image = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
        mask = np.asarray(Image.open(io.BytesIO(row["mask"]["bytes"])))
        for top in range(0, mask.shape[0] - TILE + 1, TILE):
            for left in range(0, mask.shape[1] - TILE + 1, TILE):
                counts = np.bincount(mask[top : top + TILE, left : left + TILE].ravel())
                if counts.max() >= MOSTLY * TILE**2 and counts.argmax() != VOID:
                    yield image.crop((left, top, left + TILE, top + TILE)), int(counts.argmax())

    return _cut(data / "camvid", tiles, MOST_TILES)


def _cut(folder: Path, items_of, most: int | None = None) -> tuple[list[Image.Image], np.ndarray, np.ndarray]:
    import pyarrow.parquet as pq

    images: list[Image.Image] = []
    labels: list[int] = []
    is_test: list[bool] = []
    for split in ("train", "test"):
        rows = pq.read_table(folder / f"{split}.parquet").to_pylist()
        found = [item for row in rows for item in items_of(row)]
        for label in sorted({label for _, label in found}):
            own = [image for image, of in found if of == label]
            order = np.random.default_rng((SPLIT_SEED, label)).permutation(len(own))
            kept = np.sort(order[:most])
            images += [own[i] for i in kept]
            labels += [label] * len(kept)
            is_test += [split == "test"] * len(kept)
    values, test = np.array(labels), np.array(is_test)
    frequent = [label for label in np.unique(values) if (~test & (values == label)).sum() >= FEWEST and (test & (values == label)).any()]  # fmt: skip
    rows = np.flatnonzero(np.isin(values, frequent))
    return [images[i] for i in rows], np.searchsorted(frequent, values[rows]), test[rows]
