"""Files of masks and boxes with bytes and values changed at random: read, or refused with a message of ours."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selector.core.errors import SelectorError
from selector.data import load_target
from tests.data.test_boxes import COUNT, coco, csv, csv_rows, pictures, xml, yolo
from tests.data.test_masks import pairs

CASES = 60
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    10**30,
    1e308,
    float("nan"),
    "",
    "x",
    "../../x",
    "\0",
    [],
    [[]],
    {},
    {"a": []},
    [1, 2],
)


def mutate_json(value: Any, rng: random.Random) -> Any:
    """One value somewhere within replaced or removed."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        found: Any = dict(value) if isinstance(value, dict) else list(value)
        if rng.random() < 0.1:
            del found[key]
        else:
            found[key] = mutate_json(value[key], rng)
        return found
    return rng.choice(VALUES)


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """A few bytes replaced, removed or doubled."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(found) or 1)
        kind = rng.random()
        if kind < 0.5:
            found[place : place + 1] = rng.choice(
                (b"\0", b"\xff", b"9", b"-", b"<", b'"', b",", b"\n", b"nan", b"[", b"&")
            )
        elif kind < 0.75:
            del found[place : place + rng.randint(1, 30)]
        else:
            found[place:place] = found[place : place + rng.randint(1, 40)]
    return bytes(found)


def read_or_refuse(data: Any, **options: Any) -> None:
    with contextlib.suppress(SelectorError):  # anything else fails the test
        load_target(data, **options)


def make_coco(root: Path) -> Path:
    pictures(root / "images")
    (root / "annotations.json").write_text(json.dumps(coco(range(COUNT))))
    return root / "annotations.json"


def make_voc(root: Path) -> Path:
    pictures(root, ".jpg")
    for i in range(COUNT):
        xml(root / f"{i:02}.xml", i)
    return root / "03.xml"


def make_yolo(root: Path) -> Path:
    yolo(root)
    (root / "data.yaml").write_text("path: .\ntrain: images\nnames:\n  0: cat\n  1: dog\n")
    return root / "labels" / "03.txt"


def make_yaml(root: Path) -> Path:
    make_yolo(root)
    return root / "data.yaml"


def make_csv(root: Path) -> Path:
    pictures(root / "images")
    return csv(root / "a.csv", csv_rows())


def make_masks(root: Path) -> Path:
    (pairs(root) / "classes.txt").write_text("sky\nroad\ncar\n")
    return root / "masks" / "003.png"


def make_colours(root: Path) -> Path:
    make_masks(root)
    (root / "label_colors.txt").write_text("0 0 0 sky\n1 1 1 road\n2 2 2 car\n255 255 255 void\n")
    (root / "classes.txt").unlink()
    return root / "label_colors.txt"


@pytest.mark.parametrize("make", [make_coco, make_voc, make_yolo, make_yaml, make_csv, make_masks, make_colours])
def test_changed_bytes(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    path = make(tmp_path)
    original = path.read_bytes()
    target = path if path.suffix == ".csv" or make is make_coco else tmp_path
    rng = random.Random(make.__name__)
    for _ in range(CASES):
        path.write_bytes(mutate_bytes(original, rng))
        read_or_refuse(target)
    path.write_bytes(original)
    assert len(load_target(target)) > 0


def test_changed_values_of_coco(tmp_path: Path) -> None:
    path = make_coco(tmp_path)
    original = coco(range(COUNT))
    rng = random.Random(0)
    for _ in range(4 * CASES):
        path.write_text(json.dumps(mutate_json(original, rng)))
        read_or_refuse(path)


def test_changed_values_in_memory() -> None:
    from tests.data.test_boxes import boxes, pixels

    samples = [{"image": pixels(i), "boxes": boxes(i)[0], "labels": boxes(i)[1]} for i in range(COUNT)]
    rng = random.Random(0)
    for _ in range(4 * CASES):
        row = rng.randrange(COUNT)
        changed = mutate_json({key: samples[row][key] for key in ("boxes", "labels")}, rng)
        sample = {**changed, "image": samples[row]["image"]} if isinstance(changed, dict) else changed
        read_or_refuse([*samples[:row], sample, *samples[row + 1 :]], task="detection")
