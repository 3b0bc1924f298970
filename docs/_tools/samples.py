"""The data that the examples of the manual name, made small: what a page mentions is laid into its working folder."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("global", "local", "nominal")
WORDS = {
    "billing": ("refund", "invoice", "charge", "payment", "card"),
    "delivery": ("parcel", "courier", "late", "address", "tracking"),
    "returns": ("return", "exchange", "size", "broken", "label"),
}


def lay(folder: Path, text: str) -> None:
    """Make everything in ``SAMPLES`` whose name stands in ``text``."""
    for name, make in SAMPLES.items():
        if name in text:
            make(folder / name.rstrip("/"))


def photos(path: Path, per_class: int = 40, skip: int = 0) -> None:
    """Published photos of textiles from the pip package of the demo, in three classes."""
    from selector.demo import photos as published

    for name in CLASSES:
        (path / name).mkdir(parents=True)
        for file in sorted((published() / name).iterdir())[skip : skip + per_class]:
            shutil.copyfile(file, path / name / file.name)


def unlabeled(path: Path) -> None:
    """Other photos of the same textiles, darker and without folders of classes."""
    from selector.demo import photos as published

    path.mkdir()
    for name in CLASSES:
        for number, file in enumerate(sorted((published() / name).iterdir())[200:230]):
            with Image.open(file) as image:
                pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
            Image.fromarray((0.6 * pixels).astype(np.uint8)).save(path / f"{number:03d}-{CLASSES.index(name)}.jpg")


def texts(path: Path) -> None:
    """Messages to a shop, in three classes."""
    rng = np.random.default_rng(0)
    with path.open("w", encoding="utf-8", newline="") as file:
        write = csv.writer(file)
        write.writerow(["text", "label"])
        for number in range(120):
            label = list(WORDS)[number % 3]
            some = rng.choice(WORDS[label], 2, replace=False)
            write.writerow([f"question {number}: my {some[0]} and the {some[1]}", label])


def tokens(path: Path) -> None:
    """Sentences about trips with places tagged."""
    rng = np.random.default_rng(0)
    places = ("Boston", "Denver", "Oslo", "Lima", "Cairo", "Quito")
    sentences = []
    for _ in range(90):
        a, b = rng.choice(places, 2, replace=False)
        sentences.append(f"flights O\nfrom O\n{a} B-place\nto O\n{b} B-place\n")
    path.write_text("\n".join(sentences), encoding="utf-8")


def shapes(rng: np.random.Generator) -> tuple[Image.Image, Image.Image, list[tuple[str, list[int]]]]:
    """A picture with a disc and a square on it, their mask and their boxes."""
    noise = rng.integers(60, 120, (96, 96, 3)).astype(np.uint8)
    image, mask = Image.fromarray(noise), Image.new("L", (96, 96), 0)
    boxes: list[tuple[str, list[int]]] = []
    for value, (name, color) in enumerate((("disc", (220, 80, 60)), ("square", (60, 120, 220))), start=1):
        side = int(rng.integers(18, 34))
        left, top = int(rng.integers(0, 48 - side) + 48 * (value - 1)), int(rng.integers(0, 96 - side))
        box = (left, top, left + side, top + side)
        for canvas, fill in ((image, color), (mask, value)):
            draw = ImageDraw.Draw(canvas)
            (draw.ellipse if name == "disc" else draw.rectangle)(box, fill=fill)
        boxes.append((name, [left, top, side, side]))
    return image, mask, boxes


def masks(path: Path, count: int = 60) -> None:
    """Images with a mask each."""
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (path / part).mkdir(parents=True)
    for number in range(count):
        image, mask, _ = shapes(rng)
        image.save(path / "images" / f"{number:03d}.png")
        mask.save(path / "masks" / f"{number:03d}.png")
    (path / "names.txt").write_text("background\ndisc\nsquare\n", encoding="utf-8")


def boxes(path: Path, count: int = 60) -> None:
    """Images with boxes in a COCO file."""
    rng = np.random.default_rng(0)
    path.mkdir()
    found = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "disc"}, {"id": 2, "name": "square"}]}
    for number in range(count):
        image, _, drawn = shapes(rng)
        image.save(path / f"{number:03d}.png")
        found["images"].append({"id": number, "file_name": f"{number:03d}.png", "width": 96, "height": 96})
        for name, box in drawn:
            entry = {"id": len(found["annotations"]) + 1, "image_id": number, "category_id": 1 if name == "disc" else 2}
            found["annotations"].append({**entry, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
    (path / "annotations.json").write_text(json.dumps(found), encoding="utf-8")


def tags(path: Path) -> None:
    """A table of images with several labels and a value each."""
    rng = np.random.default_rng(0)
    path.mkdir()
    with (path / "table.csv").open("w", encoding="utf-8", newline="") as file:
        write = csv.writer(file)
        write.writerow(["image", "tags", "area"])
        for number in range(90):
            wanted = [name for name in ("disc", "square") if rng.random() < 0.6]
            image = Image.fromarray(rng.integers(60, 120, (96, 96, 3)).astype(np.uint8))
            side = int(rng.integers(16, 44))
            if "disc" in wanted:
                ImageDraw.Draw(image).ellipse((2, 2, 2 + side, 2 + side), fill=(220, 80, 60))
            if "square" in wanted:
                ImageDraw.Draw(image).rectangle((50, 50, 50 + side, 50 + side), fill=(60, 120, 220))
            image.save(path / f"{number:03d}.png")
            write.writerow([f"{number:03d}.png", "|".join(wanted) or "none", side**2])


def checkpoint(path: Path) -> None:
    """Weights of a small model, as a training script saves them."""
    import timm
    import torch
    from safetensors.torch import save_file

    path.parent.mkdir(exist_ok=True)
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), path)


SAMPLES: dict[str, Callable[[Path], None]] = {
    "photos/": lambda path: photos(path),
    "photos_2/": lambda path: photos(path, skip=100),
    "new_photos/": unlabeled,
    "texts.csv": texts,
    "flights.conll": tokens,
    "street/": masks,
    "parts/": boxes,
    "tagged/": tags,
    "weights/mine.safetensors": checkpoint,
}
"""Name as the pages write it -> what makes it."""
