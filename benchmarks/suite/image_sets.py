"""The image sets of the suite: decoded once, with fixed stratified splits."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.model_selection import train_test_split

from benchmarks.suite import crop_sets
from benchmarks.suite.suites import SPLIT_SEED, LabeledSet, draw

NAMES = ("flowers", "cifar10", "pneumoniamnist", "digits", "dtd10", "textile", "mnist", "brainmri")
RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class ImageSet(LabeledSet):
    """Labeled RGB images."""

    images: list[Image.Image]
    _pixels: dict[tuple[int, str], torch.Tensor] = field(default_factory=dict, repr=False)

    @property
    def small(self) -> bool:
        """Made of images of at most 32 pixels: enlarging them far costs time and adds nothing."""
        return max(max(image.size) for image in self.images) <= 32

    def pixels(self, size: int, interpolation: str) -> torch.Tensor:
        """uint8 (N, 3, size, size); the whole image is squashed to the square, nothing is cropped."""
        key = (size, interpolation)
        if key not in self._pixels:
            how = RESAMPLING[interpolation]
            arrays = [np.asarray(image.resize((size, size), how)) for image in self.images]
            self._pixels[key] = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
        return self._pixels[key]


def load(name: str, data: Path, max_train_val: int, max_test: int) -> ImageSet:
    """One set, at most so many images, drawn evenly by class.

    The set's own train and test are kept where it has them, and 15% of train become val; the
    others are split 70/15/15.
    """
    if (data / name / "train.parquet").is_file():
        images, labels = _parquet(data / name / "train.parquet")
        test_images, test_labels = _parquet(data / name / "test.parquet")
        is_test = np.repeat([False, True], [len(images), len(test_images)])
        images, labels, val_share = images + test_images, np.concatenate([labels, test_labels]), 0.15
    elif name in CUT:
        images, labels, is_test = CUT[name](data)
        val_share = 0.15
    else:
        images, labels = WITHOUT_SPLIT[name]()
        _, test = train_test_split(np.arange(len(labels)), test_size=0.15, stratify=labels, random_state=SPLIT_SEED)
        is_test, val_share = np.isin(np.arange(len(labels)), test), 0.15 / 0.85
    rows, splits = draw(labels, is_test, val_share, max_train_val, max_test)
    return ImageSet(name, labels[rows], splits, [decode(images[i]) for i in rows])


def decode(raw: bytes | np.ndarray | Image.Image) -> Image.Image:
    """An RGB image from a file's bytes, from pixels or from one that is open."""
    if isinstance(raw, Image.Image):
        return raw.convert("RGB")
    image = Image.open(io.BytesIO(raw)) if isinstance(raw, bytes) else Image.fromarray(raw)
    return image.convert("RGB")


def _parquet(path: Path) -> tuple[list[bytes], np.ndarray]:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    return [row["bytes"] for row in table["image"].to_pylist()], np.asarray(table["label"].to_pylist())


def _textile() -> tuple[list[bytes], np.ndarray]:
    """Simulated textile photos: nominal, local defect, global defect (package conformal-clip-data)."""
    import conformal_clip_data

    folders = (conformal_clip_data.nominal_dir(), conformal_clip_data.local_dir(), conformal_clip_data.global_dir())
    files = [(path, label) for label, folder in enumerate(folders) for path in sorted(folder.glob("*.jpg"))]
    return [path.read_bytes() for path, _ in files], np.array([label for _, label in files])


def _digits() -> tuple[list[np.ndarray], np.ndarray]:
    """scikit-learn's 8 x 8 digits; 0..16 is stretched to 0..255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return list((bunch.images * 255 / 16).round().astype(np.uint8)), bunch.target


WITHOUT_SPLIT: dict[str, Callable[[], tuple[list, np.ndarray]]] = {"textile": _textile, "digits": _digits}
CUT: dict[str, Callable[[Path], tuple[list, np.ndarray, np.ndarray]]] = {
    "coco128_crops": crop_sets.coco128_crops,
    "camvid_tiles": crop_sets.camvid_tiles,
}
