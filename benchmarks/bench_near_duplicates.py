"""What does the warning about near-duplicates find, and what does it take for one by mistake?

    SELECTOR_ASSETS=... python -m benchmarks.bench_near_duplicates [--out FILE] [--quick]
    SELECTOR_ASSETS=... python -m benchmarks.bench_near_duplicates --frames   # neighbours by number

On every set of the suite: how alike the nearest pictures of different splits are (``other pictures``),
and how alike a picture is to itself saved as JPEG, halved, relit or cropped. Writes one row a set and
change: the share at or above the threshold, and the smallest, median and largest similarity. With ``--frames`` one row a
set, of at most 3,000 pictures of it: how many neighbours by number are in different splits, how many of them are more alike
than 95 % of the pictures that are far apart, and how many held-out pictures are told. Only camvid is a video.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from benchmarks.assets import assets_folder
from benchmarks.rows import write_rows
from benchmarks.suite import image_sets
from selector.data import load_target
from selector.modalities.image import read_image
from selector.scan.near_duplicates import SAME, SIDE, likeness, likeness_of, nearest
from selector.scan.sequences import across_splits, alike_neighbours

OUT = Path(__file__).parent / "results" / "near_duplicates.csv"
STORED = 96  # side at which larger pictures are stored here, as a network's preprocessing would
CHANGED = 100  # pictures a set
FRAMES_OUT = OUT.with_name("neighbouring_frames.csv")
NUMBERED = ("camvid", "bccd", "coco128", "cifar10", "flowers", "dtd10", "brainmri", "pneumoniamnist", "mnist")


def _jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=75)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


def _cropped(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop((int(0.02 * width), int(0.02 * height), int(np.ceil(0.98 * width)), int(np.ceil(0.98 * height))))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG, quality 75": _jpeg,
    "half the side": lambda image: image.resize(
        tuple(max(8, side // 2) for side in image.size), Image.Resampling.BICUBIC
    ),
    "15 % brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "15 % less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.85),
    "2 % cropped on every side": _cropped,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_near_duplicates", description=__doc__)
    parser.add_argument("--out", type=Path, help="the committed tables when left out")
    parser.add_argument("--frames", action="store_true", help="neighbours by number instead")
    parser.add_argument("--seed", type=int, default=0, help="of the pictures that are changed")
    parser.add_argument("--quick", action="store_true", help="one set")
    args = parser.parse_args(argv)
    assets = assets_folder("data/")
    if assets is None:
        return 2
    rows = []
    if args.frames:
        rows = [of_order(assets, name) for name in NUMBERED[: 1 if args.quick else None]]
        print("\n".join(map(str, rows)))
        write_rows(args.out or FRAMES_OUT, rows)
        return 0
    for name in image_sets.NAMES[: 1 if args.quick else None]:
        rows += of_set(image_sets.load(name, assets / "data", 1000, 600), args.seed)
        print("\n".join(str(row) for row in rows[-len(CHANGES) - 1 :]), flush=True)
    write_rows(args.out or OUT, rows)
    return 0


def of_set(images: image_sets.ImageSet, seed: int) -> list[dict[str, object]]:
    """One row a change, and one for other pictures."""
    side = min(STORED, max(max(image.size) for image in images.images))
    thumbs = np.stack([thumb(image, side) for image in images.images])
    test, rest = images.rows("test"), images.rows("train", "val")
    found = {"other pictures": likeness(thumbs[test], thumbs[nearest(thumbs, test, rest)])}
    some = np.random.default_rng(seed).choice(len(thumbs), min(CHANGED, len(thumbs)), replace=False)
    for what, change in CHANGES.items():
        changed = np.stack([thumb(change(images.images[i]), side) for i in some])
        found[what] = likeness(changed, thumbs[some])
    return [
        {
            "set": images.name,
            "pictures": len(thumbs),
            "side": side,
            "change": what,
            "compared": len(values),
            "called the same": round(float((values >= SAME).mean()), 4),
            "smallest": round(float(values.min()), 4),
            "median": round(float(np.median(values)), 4),
            "largest": round(float(values.max()), 4),
        }
        for what, values in found.items()
    ]


def of_order(assets: Path, name: str) -> dict[str, object]:
    """The row of a set."""
    target = load_target(assets / "data" / name, max_samples=3000)
    thumbs = np.stack([thumb(Image.fromarray(read_image(item)), STORED) for item in target.items])
    alike = partial(likeness_of, thumbs)
    cut, similarity, usual = across_splits(target, alike)
    pairs, checked = alike_neighbours(target, alike)
    return {
        "set": name, "pictures": len(target), "parted neighbours": len(cut), "far apart, 95 %": round(usual, 4),
        "parted, median": round(float(np.median(similarity)), 4), "share above": round(float((similarity > usual).mean()), 4),
        "held-out pictures": checked, "told": len(pairs),
    }  # fmt: skip


def thumb(image: Image.Image, side: int) -> np.ndarray:
    """As the scan makes it of a stored picture."""
    stored = image.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(stored.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))


if __name__ == "__main__":
    sys.exit(main())
