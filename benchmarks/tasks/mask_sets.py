"""Sets whose items carry a mask: road scenes, and mosaics of photographed textures that are made here."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks.suite.image_sets import decode
from benchmarks.suite.sets import SPLIT_SEED
from benchmarks.tasks import vector_sets

SIZE = (144, 192)  # height and width that networks read; masks are predicted and judged at their own size
SETS = ("camvid", "dtd10_mosaics")
_MOSAIC = (180, 240)  # height and width of a mosaic and its mask, as camvid's
_MOSAICS = {"train": 160, "val": 40, "test": 100}
_REGIONS = (3, 6)  # a mosaic, at least and at most
_BENT = 14.0  # pixels by which borders between regions are bent, about
_IGNORE = 255


@dataclass(frozen=True)
class MaskSet:
    """``pixels`` uint8 (N, 3, *SIZE), ``masks`` uint8 (N, H, W) with ``ignore`` where nothing is known."""

    name: str
    pixels: torch.Tensor
    masks: torch.Tensor
    splits: np.ndarray
    classes: tuple[str, ...]
    ignore: int

    def rows(self, split: str) -> torch.Tensor:
        return torch.from_numpy(np.flatnonzero(self.splits == split))


@lru_cache(maxsize=1)
def load_set(name: str, assets: Path) -> MaskSet:
    """One of ``SETS``."""
    return camvid(assets) if name == "camvid" else dtd10_mosaics(assets)


def camvid(assets: Path) -> MaskSet:
    """CamVid's road scenes; the validation split is the last fifth of train by file name, since neighboring frames
    look alike and a random one would be seen in training."""
    folder = assets / "data" / "camvid"
    facts = vector_sets.info(folder / "train.parquet")
    train, test = vector_sets.tables(folder)
    train.sort(key=lambda row: row["image"]["path"])
    held = round(vector_sets.VAL_SHARE * len(train))
    splits = np.repeat(["train", "val", "test"], [len(train) - held, held, len(test)])
    rows = train + test
    images = [decode(row["image"]["bytes"]) for row in rows]
    masks = [np.asarray(Image.open(io.BytesIO(row["mask"]["bytes"]))) for row in rows]
    return MaskSet("camvid", _read(images), _stacked(masks), splits, tuple(facts["classes"]), facts["ignore_index"])


def dtd10_mosaics(assets: Path) -> MaskSet:
    """Images of 3 to 6 regions with bent borders, each a piece of a photograph of one of ten textures.

    Photographs of train, validation and test mosaics are different ones: test mosaics are made of the set's own test,
    validation mosaics of a fifth of its train. A photograph is mirrored, scaled by 0.6 to 1.4 and made brighter or
    darker before a piece is cut, so that neither place nor brightness tells the class.
    """
    folder = assets / "data" / "dtd10"
    train, test = vector_sets.tables(folder)
    classes = tuple(vector_sets.info(folder / "train.parquet")["label"]["names"])
    shuffled = np.random.default_rng(SPLIT_SEED).permutation(len(train))
    held = set(shuffled[: round(vector_sets.VAL_SHARE * len(train))].tolist())
    pools = {
        "train": [row for i, row in enumerate(train) if i not in held],
        "val": [row for i, row in enumerate(train) if i in held],
        "test": test,
    }
    rng = np.random.default_rng(SPLIT_SEED)
    images, masks = [], []
    for split, count in _MOSAICS.items():
        photos: list[list[Image.Image]] = [[] for _ in classes]
        for row in pools[split]:
            photos[row["label"]].append(decode(row["image"]["bytes"]))
        for _ in range(count):
            image, mask = mosaic(photos, rng)
            images.append(Image.fromarray(image))
            masks.append(mask)
    splits = np.repeat(list(_MOSAICS), list(_MOSAICS.values()))
    return MaskSet("dtd10_mosaics", _read(images), _stacked(masks), splits, classes, _IGNORE)


def mosaic(photos: list[list[Image.Image]], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image uint8 (H, W, 3) of pieces of photographs, ``photos`` by class, and its mask uint8 (H, W)."""
    parts = regions(_MOSAIC, int(rng.integers(_REGIONS[0], _REGIONS[1] + 1)), rng)
    image, mask = np.zeros((*_MOSAIC, 3), np.uint8), np.zeros(_MOSAIC, np.uint8)
    # neighbors of one class would have no border that the mask shows
    for part, label in enumerate(rng.permutation(len(photos))[: parts.max() + 1].tolist()):
        here = parts == part
        image[here] = cut(photos[label][int(rng.integers(len(photos[label])))], _MOSAIC, rng)[here]
        mask[here] = label
    return image, mask


def regions(size: tuple[int, int], count: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers (H, W) of the nearest of ``count`` random places, measured from where a smooth noise moves each pixel."""
    height, width = size
    places = rng.uniform((0, 0), size, (count, 2))
    noise = torch.from_numpy(rng.standard_normal((1, 2, 6, 8)))
    moved = F.interpolate(noise, size=size, mode="bicubic", align_corners=False)[0].numpy() * _BENT
    down, across = np.mgrid[:height, :width] + moved
    far = [(down - y) ** 2 + (across - x) ** 2 for y, x in places]
    return np.asarray(np.argmin(far, axis=0))


def cut(photo: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A piece uint8 (H, W, 3) of a photograph, scaled, mirrored and made brighter or darker at random; mirrored at its
    edges where it is smaller."""
    height, width = size
    scale = rng.uniform(0.6, 1.4)
    sides = (max(8, round(photo.width * scale)), max(8, round(photo.height * scale)))
    array = np.asarray(photo.resize(sides, Image.Resampling.BICUBIC))
    array = array[:, ::-1] if rng.random() < 0.5 else array
    lack = [max(0, height - array.shape[0]), max(0, width - array.shape[1]), 0]
    array = np.pad(array, [(0, n) for n in lack], mode="symmetric")
    top, left = (int(rng.integers(array.shape[axis] - side + 1)) for axis, side in ((0, height), (1, width)))
    piece = array[top : top + height, left : left + width].astype(float)
    return np.asarray(np.clip(piece * rng.uniform(0.7, 1.3), 0, 255).astype(np.uint8))


def _read(images: list[Image.Image]) -> torch.Tensor:
    arrays = [np.asarray(image.resize(SIZE[::-1], Image.Resampling.BICUBIC)) for image in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def _stacked(masks: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(masks))
