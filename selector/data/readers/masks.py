"""A folder of images and one of masks: ``images/`` + ``masks/``, with train/, val/, test/ inside or outside of them.

A mask has the name of its image, whatever its suffix, perhaps with ``_mask`` or the like at its end.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path, PurePosixPath

from selector.core.errors import TargetError
from selector.core.table import Table
from selector.data._trees import (
    Entry,
    by_stem,
    first_missing,
    holds,
    is_folder,
    listed,
    mask_table,
    split_among,
    subfolders,
)
from selector.data.reader import SPLIT_NAMES, Options, reader
from selector.modalities.image import is_image_name
from selector.options.data import PathLike

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "pictures", "photos", "jpegimages", "leftimg8bit")
MASK_FOLDERS = (
    "masks", "mask", "annotations", "annotation", "segmentations", "segmentation", "labels", "gt", "ground_truth",
    "labelimages", "segmentationclass",
)  # fmt: skip
_TAILS = re.compile(r"[_-](mask|masks|label|labels|seg|segmentation|gt|annotation|l|p)$", re.IGNORECASE)


def _accepts(x: object, options: Options) -> bool:
    return is_folder(x) and _places(Path(x)) is not None


def _places(root: Path) -> list[tuple[str, str, str]] | None:
    """(split, folder of images, folder of masks) where a folder has them; None where not."""
    pair = _pair(root)
    if pair is not None:
        return [("", *pair)]
    tops = [name for name in subfolders(root) if name.lower() in SPLIT_NAMES]
    found = [(SPLIT_NAMES[top.lower()], top, _pair(root / top)) for top in tops]
    pairs = [(split, f"{top}/{own[0]}", f"{top}/{own[1]}") for split, top, own in found if own is not None]
    return pairs or None


def _pair(folder: Path) -> tuple[str, str] | None:
    names = {name.lower(): name for name in subfolders(folder)}
    image = next((names[usual] for usual in IMAGE_FOLDERS if usual in names), None)
    mask = next((names[usual] for usual in MASK_FOLDERS if usual in names), None)
    if image is None or mask is None or not holds(folder / mask, is_image_name):
        return None
    return image, mask


@reader("masks", "a folder of images/ and masks/ (same names)", _accepts, rank=20)
def _read(x: PathLike, options: Options) -> Table:
    root = Path(x).absolute()
    images: list[Entry] = []
    masks: list[Entry] = []
    splits: list[str] = []
    unused = 0
    for split, image_folder, mask_folder in _places(root) or ():
        found, own = (listed(root, is_image_name, folder) for folder in (image_folder, mask_folder))
        by_name = by_stem(own, partial(_key, below=mask_folder), str(root), "masks")
        by_stem(found, partial(_key, below=image_folder, tails=False), str(root), "files")
        lacking = [path for path, _ in found if _match(path, image_folder, by_name) is None]
        if lacking:
            raise TargetError(
                f"{root}: no mask for {first_missing(lacking)}; expected {mask_folder}/"
                f"{PurePosixPath(lacking[0]).relative_to(image_folder).with_suffix('.png')}. Add it or remove the image."
            )
        for entry in found:
            mask = _match(entry[0], image_folder, by_name)
            assert mask is not None
            images.append(entry)
            masks.append(mask)
            splits.append(split or split_among(PurePosixPath(entry[0]).relative_to(image_folder).parts[:-1]))
        unused += len(own) - len(found)
    if not images:
        raise TargetError(f"{root}: no images found beside the masks; expected them in images/.")
    notes = [f"{unused} masks have no image and were left out"] if unused > 0 else []
    return mask_table(root, images, [path for path, _ in masks], options, splits=splits, notes=notes)


def _key(path: str, below: str, *, tails: bool = True) -> str:
    stem = PurePosixPath(path).relative_to(below).with_suffix("")
    return str(stem.with_name(_TAILS.sub("", stem.name)) if tails else stem)


def _match(path: str, below: str, masks: dict[str, Entry]) -> Entry | None:
    exact = _key(path, below, tails=False)
    return masks.get(exact) or masks.get(_key(path, below))
