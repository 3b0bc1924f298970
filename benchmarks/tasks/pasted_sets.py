"""Images with boxes that are made here: flowers, cut out as ellipses, on photographed textures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.suite.image_sets import decode
from benchmarks.suite.sets import SPLIT_SEED
from benchmarks.tasks import vector_sets
from benchmarks.tasks.mask_sets import cut

FLOWERS = "flowers_on_textures"
_SIZE = (192, 256)  # height and width of an image
_PICTURES = {"train": 160, "val": 40, "test": 100}
_FLOWERS = (2, 5)  # an image, at least and at most
_SIDES = (40, 112)  # pixels of a flower's box, at least and at most
_LONGEST = 1.5  # of a box, its longer side over its shorter one
_OVERLAP = 0.1  # share of the smaller of two boxes that the other may cover
_TRIES = 20  # places that are tried for a flower before it is left out

Made = tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor], np.ndarray, tuple[str, ...]]


def flowers_on_textures(assets: Path) -> Made:
    """Images uint8 (3, H, W), boxes (n, 4) in pixels, classes (n,), the split of each image, and names of the classes.

    The classes are the five of flowers; photographs of train, validation and test images are different ones, of flowers
    and of textures alike. An ellipse has no edge that its box shares with the photograph, so that what a detector
    learns is what a flower looks like and where it ends.
    """
    data = assets / "data"
    names = tuple(vector_sets.info(data / "flowers" / "train.parquet")["label"]["names"])
    flowers, textures = _pools(data / "flowers"), _pools(data / "dtd10")
    rng = np.random.default_rng(SPLIT_SEED)
    images, boxes, labels = [], [], []
    for split, count in _PICTURES.items():
        for _ in range(count):
            image, found, kinds = picture(flowers[split], textures[split], rng)
            images.append(torch.from_numpy(image).permute(2, 0, 1).contiguous())
            boxes.append(torch.from_numpy(found))
            labels.append(torch.from_numpy(kinds))
    return images, boxes, labels, np.repeat(list(_PICTURES), list(_PICTURES.values())), names


def picture(
    flowers: list[tuple[Image.Image, int]], textures: list[tuple[Image.Image, int]], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image uint8 (H, W, 3), its boxes float32 (n, 4) and their classes int64 (n,); one flower at least."""
    image = cut(textures[int(rng.integers(len(textures)))][0], _SIZE, rng)
    boxes: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    for _ in range(int(rng.integers(_FLOWERS[0], _FLOWERS[1] + 1))):
        photo, label = flowers[int(rng.integers(len(flowers)))]
        place = _place(boxes, rng)
        if place is None:
            continue
        left, top, right, bottom = place
        pasted = np.asarray(photo.resize((right - left, bottom - top), Image.Resampling.BICUBIC))
        pasted = pasted[:, ::-1] if rng.random() < 0.5 else pasted
        here = _ellipse(bottom - top, right - left)
        image[top:bottom, left:right][here] = pasted[here]
        boxes.append(place)
        labels.append(label)
    return image, np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64)


def _place(taken: list[tuple[int, int, int, int]], rng: np.random.Generator) -> tuple[int, int, int, int] | None:
    """A box of random size and shape that hardly covers one that is there; None where none is found."""
    for _ in range(_TRIES):
        side, shape = rng.uniform(*_SIDES), _LONGEST ** rng.uniform(-0.5, 0.5)
        width, height = round(side * shape), round(side / shape)
        left, top = int(rng.integers(_SIZE[1] - width + 1)), int(rng.integers(_SIZE[0] - height + 1))
        found = (left, top, left + width, top + height)
        if all(_covered(found, other) <= _OVERLAP for other in taken):
            return found
    return None


def _covered(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Share of the smaller box that lies in the other."""
    across, down = (max(0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    return across * down / min((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))


def _ellipse(height: int, width: int) -> np.ndarray:
    """bool (H, W): the pixels of the ellipse that fills the box."""
    down, across = ((np.arange(n) + 0.5) / n * 2 - 1 for n in (height, width))
    return np.asarray(down[:, None] ** 2 + across**2 <= 1)


def _pools(folder: Path) -> dict[str, list[tuple[Image.Image, int]]]:
    """Photographs with their labels by split: a fifth of train is validation."""
    train, test = vector_sets.tables(folder)
    splits = vector_sets.split(len(train), len(test))
    pools: dict[str, list[tuple[Image.Image, int]]] = {name: [] for name in _PICTURES}
    rows: list[dict[str, Any]] = train + test
    for row, split in zip(rows, splits, strict=True):
        pools[str(split)].append((decode(row["image"]["bytes"]), int(row["label"])))
    return pools
