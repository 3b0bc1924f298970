"""The layout of Cityscapes: ``leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png`` and ``gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png``.

Of the 34 ids the 19 that the benchmark evaluates are classes and the rest is void; masks of train ids
(``_labelTrainIds.png``) are read as well, and come first.
"""

from __future__ import annotations

from pathlib import Path

from selector.core.errors import TargetError
from selector.core.table import Table
from selector.data._trees import Entry, first_missing, is_folder, listed, mask_table, split_among
from selector.data.reader import Options, reader
from selector.modalities.image import is_image_name
from selector.options.data import PathLike

NAMES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_PICTURES, _TRUTH = "leftImg8bit", ("gtFine", "gtCoarse")


def _accepts(x: object, options: Options) -> bool:
    return is_folder(x) and (Path(x) / _PICTURES).is_dir() and any((Path(x) / name).is_dir() for name in _TRUTH)


@reader("cityscapes", "a folder in the layout of Cityscapes (leftImg8bit/ and gtFine/)", _accepts, rank=10)
def _read(x: PathLike, options: Options) -> Table:
    root = Path(x).absolute()
    truth = next(name for name in _TRUTH if (root / name).is_dir())
    tail = f"_{_PICTURES}.png"
    images = [entry for entry in listed(root, is_image_name, _PICTURES) if entry[0].endswith(tail)]
    there = {path for path, _ in listed(root, is_image_name, truth)}
    kept: list[Entry] = []
    masks: list[str] = []
    lacking: list[str] = []
    ending = "labelTrainIds" if any(path.endswith("_labelTrainIds.png") for path in there) else "labelIds"
    for path, status in images:
        mask = f"{truth}/{path.removeprefix(_PICTURES + '/').removesuffix(tail)}_{truth}_{ending}.png"
        (lacking if mask not in there else masks).append(mask)
        if mask in there:
            kept.append((path, status))
    # the published test set has images alone
    lost = [mask for mask in lacking if split_among(mask.split("/")[:-1]) != "test"]
    if lost or not kept:
        name = first_missing(lost) if lost else f"{truth}/.../*_{truth}_{ending}.png"
        raise TargetError(f"{root}: no mask {name}; add it or remove the image.")
    classes = enumerate(NAMES) if ending == "labelTrainIds" else zip(IDS, NAMES, strict=True)
    return mask_table(
        root,
        kept,
        masks,
        options,
        schema={"mask_classes": dict(classes)},
        splits=[split_among(path.split("/")[:-1]) for path, _ in kept],
        notes=[f"{len(lacking)} images of the test split have no mask and were left out"] if lacking else [],
    )
