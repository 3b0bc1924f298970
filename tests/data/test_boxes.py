"""Boxes: every format gives the same corners, and what is wrong is told with file and line."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from selector.core.errors import ConfigError, TargetError
from selector.data import load_origin, load_target, subsample
from selector.tasks.detection.reading import BoxAnnotations
from tests.support.tables import Pairs, csv

NAMES = ["cat", "dog"]
WIDTH, HEIGHT = 40, 30
COUNT = 12


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def boxes(seed: int) -> tuple[list[list[float]], list[int]]:
    """Corners and classes; every fifth image has none."""
    if seed % 5 == 4:
        return [], []
    rng = np.random.default_rng(seed)
    found = [[float(a), float(b), float(a + w), float(b + h)] for a, b, w, h in rng.integers(1, 14, (1 + seed % 3, 4))]
    return found, [(seed + k) % 2 for k in range(len(found))]


def pictures(folder: Path, suffix: str = ".png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(COUNT):
        Image.fromarray(pixels(i)).save(folder / f"{i:02}{suffix}")
    return folder


def same(target: Any, tolerance: float = 0, numbers: Sequence[int] | None = None) -> None:
    """The boxes are those that were written: of the numbers in the names of the images, or of these."""
    assert target.task == "detection"
    assert target.class_names == tuple(NAMES)
    for i, name in enumerate(target.names):
        named = int("".join(c for c in name.rpartition("/")[2].partition(".")[0] if c.isdigit()))
        number = named if numbers is None else numbers[i]
        corners, labels = boxes(number)
        found = target.annotations[i]
        assert np.allclose(found.xyxy, np.reshape(corners, (-1, 4)), atol=tolerance)
        assert (found.labels.tolist(), found.size) == (labels, (HEIGHT, WIDTH))
    assert "2 images have no box; they count as images in which there is nothing to find" in target.notes


def coco(numbers: range, crowd: bool = False) -> dict[str, Any]:
    annotations = []
    for i in numbers:
        for (a, b, c, d), label in zip(*boxes(i), strict=True):
            one = {
                "id": len(annotations) + 1,
                "image_id": i,
                "category_id": label * 7 + 3,
                "bbox": [a, b, c - a, d - b],
            }
            annotations.append({**one, "iscrowd": 0, "area": (c - a) * (d - b)})
    if crowd:
        annotations.append(
            {"id": 99, "image_id": 0, "category_id": 3, "bbox": [0, 0, 40, 30], "iscrowd": 1, "area": 1200}
        )
    return {
        "images": [{"id": i, "file_name": f"{i:02}.png", "width": WIDTH, "height": HEIGHT} for i in numbers],
        "annotations": annotations,
        "categories": [{"id": 3, "name": "cat"}, {"id": 10, "name": "dog"}],
    }


def test_coco_equals_pycocotools(tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    pictures(tmp_path / "images")
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(coco(range(COUNT), crowd=True)))
    target = load_target(path)
    same(target)
    assert load_target(tmp_path).fingerprint == target.fingerprint
    assert load_origin(json.loads(json.dumps(target.origin))).fingerprint == target.fingerprint
    assert "1 boxes of crowds were left out" in target.notes
    theirs = COCO(str(path))
    for i, name in enumerate(target.names):
        number = int(Path(name).stem)
        own = theirs.loadAnns(theirs.getAnnIds(imgIds=[number], iscrowd=False))
        found = target.annotations[i]
        assert [[*b[:2], b[2] - b[0], b[3] - b[1]] for b in found.xyxy.tolist()] == [one["bbox"] for one in own]
        assert [theirs.loadCats([one["category_id"]])[0]["name"] for one in own] == [NAMES[k] for k in found.labels]


def test_coco_a_file_a_split(tmp_path: Path) -> None:
    pictures(tmp_path / "images")
    (tmp_path / "annotations").mkdir()
    for split, numbers in (("train", range(6)), ("val", range(6, 9)), ("test", range(9, 12))):
        (tmp_path / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(coco(numbers)))
    target = load_target(tmp_path)
    same(target)
    assert (target.split_origin, target.counts()) == ("given", {"train": 6, "val": 3, "test": 3})


def broken(content: dict[str, Any], key: str, index: int, **changes: Any) -> dict[str, Any]:
    found = json.loads(json.dumps(content))
    found[key][index] = {**found[key][index], **changes}
    return found


@pytest.mark.parametrize(
    ("key", "index", "changes", "message"),
    [
        ("annotations", 2, {"bbox": [30, 2, 20, 5]}, r"annotations\.json: annotations\[2\]: the box of images/01\.png lies outside the image \(left, top, right, bottom: 30, 2, 50, 7; the image has 40 × 30 pixels"),
        ("annotations", 0, {"bbox": [3, 2, 0, 5]}, r"annotations\[0\]: the box of images/00\.png has no area"),
        ("annotations", 0, {"bbox": [3, 2, float("nan"), 5]}, r"annotations\[0\]: the box of .* holds NaN or inf"),
        ("annotations", 0, {"bbox": [3, 2, 5]}, r"annotations\[0\]: the box of .* is \[3, 2, 5\]; expected four numbers"),
        ("annotations", 1, {"category_id": 4}, r"annotations\[1\]: unknown category_id 4; expected one of the categories"),
        ("annotations", 1, {"image_id": 77}, r"annotations\[1\]: image_id 77 is not an image of the file"),
        ("images", 3, {"file_name": "no.png"}, r"images\[3\]: image 'no\.png' does not exist in .*--image-root"),
        ("images", 3, {"file_name": "02.png"}, r"images\[3\]: '02\.png' occurs twice; one image has one entry"),
        ("images", 3, {"id": 2}, r"images\[3\]: the id 2 occurs twice"),
        ("categories", 1, {"id": 3}, r"categories\[1\]: the id 3 occurs twice"),
        ("categories", 1, {"name": "cat"}, "occurs twice"),
        ("categories", 1, {"name": " "}, "the name is empty"),
    ],
)  # fmt: skip
def test_coco_bad_input(tmp_path: Path, key: str, index: int, changes: dict[str, Any], message: str) -> None:
    pictures(tmp_path / "images")
    (tmp_path / "annotations.json").write_text(json.dumps(broken(coco(range(COUNT)), key, index, **changes)))
    with pytest.raises(TargetError, match=message):
        load_target(tmp_path / "annotations.json")


def xml(path: Path, number: int, edit: Any = lambda text: text) -> None:
    """As the development kit of Pascal VOC writes it: pixels count from 1."""
    corners, labels = boxes(number)
    objects = "".join(
        f"<object>\n\t<name>{NAMES[k]}</name>\n\t<pose>Left</pose><difficult>0</difficult>\n\t<bndbox>\n\t\t<xmin>{a + 1:g}</xmin>\n"
        f"\t\t<ymin>{b + 1:g}</ymin>\n\t\t<xmax>{c:g}</xmax>\n\t\t<ymax>{d:g}</ymax>\n\t</bndbox>\n</object>\n"
        for (a, b, c, d), k in zip(corners, labels, strict=True)
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(edit(f"<annotation>\n<filename>{number:02}.jpg</filename>\n{size}\n{objects}</annotation>\n"))


def test_voc_equals_torchvision(tmp_path: Path) -> None:
    from torchvision.datasets import VOCDetection

    root = tmp_path / "VOCdevkit" / "VOC2007"
    pictures(root / "JPEGImages", ".jpg")
    for i in range(COUNT):
        xml(root / "Annotations" / f"{i:02}.xml", i)
    sets = root / "ImageSets" / "Main"
    sets.mkdir(parents=True)
    for split, numbers in (("train", range(6)), ("val", range(6, 9)), ("test", range(9, 12))):
        (sets / f"{split}.txt").write_text("".join(f"{i:02}\n" for i in numbers))
    target = load_target(root)
    same(target)
    assert target.counts() == {"train": 6, "val": 3, "test": 3}
    theirs = VOCDetection(str(tmp_path), year="2007", image_set="train")
    for i in range(len(theirs)):
        found = theirs[i][1]["annotation"]
        place = next(k for k, name in enumerate(target.names) if name.endswith(found["filename"]))
        own = [
            [int(one["bndbox"][side]) for side in ("xmin", "ymin", "xmax", "ymax")] for one in found.get("object", [])
        ]
        assert np.add(target.annotations[place].xyxy, [[1, 1, 0, 0]]).tolist() == own


def test_xml_beside_pictures(tmp_path: Path) -> None:
    pictures(tmp_path, ".jpg")
    for i in range(COUNT):
        xml(tmp_path / f"{i:02}.xml", i)
    target = load_target(tmp_path)
    same(target)
    for i in range(COUNT):
        xml(tmp_path / f"{i:02}.xml", i, lambda text: text.replace("<xmin>", "<xmin>0").replace("<ymin>", "<ymin>0"))
    assert load_target(tmp_path).fingerprint == target.fingerprint  # 01 is 1

    def fails(edit: Any, message: str) -> None:
        xml(tmp_path / "03.xml", 3, edit)
        with pytest.raises(TargetError, match=message):
            load_target(tmp_path)

    fails(lambda t: t.replace("</annotation>", ""), r"03\.xml: not readable as XML \(no element found: line")
    fails(lambda t: '<!DOCTYPE a [<!ENTITY b "c">]>' + t, r"03\.xml:1: holds an entity declaration; remove it")
    fails(
        lambda t: t.replace("<name>", "<title>").replace("</name>", "</title>"), r"03\.xml:4: an object without a name"
    )
    fails(lambda t: t.replace("<xmax>", "<xmax>x"), r"03\.xml:4: the box is \[.*\]; expected numbers in xmin")
    fails(lambda t: t.replace("annotation>", "html>"), r"03\.xml: its root is <html>; expected <annotation>")
    xml(tmp_path / "03.xml", 3)
    xml(tmp_path / "other.xml", 3)
    with pytest.raises(TargetError, match=r"03\.xml and other\.xml are two annotations of 03\.jpg; keep one of them"):
        load_target(tmp_path)
    xml(tmp_path / "other.xml", 77)
    with pytest.raises(TargetError, match=r"other\.xml: its image '77\.jpg' does not exist; add it"):
        load_target(tmp_path)


def yolo_line(corners: list[float], label: int) -> str:
    a, b, c, d = corners
    return f"{label} {(a + c) / 2 / WIDTH} {(b + d) / 2 / HEIGHT} {(c - a) / WIDTH} {(d - b) / HEIGHT}"


def yolo(root: Path, folder: str = "") -> Path:
    pictures(root / "images" / folder)
    (root / "labels" / folder).mkdir(parents=True)
    for i in range(COUNT):
        lines = [yolo_line(*one) for one in zip(*boxes(i), strict=True)]
        if lines or i == 4:  # an image without boxes has an empty file, or none
            (root / "labels" / folder / f"{i:02}.txt").write_text("\n".join(lines))
    return root


def test_yolo(tmp_path: Path) -> None:
    root = yolo(tmp_path / "a")
    (root / "data.yaml").write_text("path: ../datasets/a\ntrain: images\nval: images\nnames:\n  0: cat\n  1: dog\n")
    target = load_target(root)
    same(target, 1e-4)
    assert load_target(root / "data.yaml").fingerprint == target.fingerprint
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("cat\ndog\n")
    assert load_target(root).fingerprint == target.fingerprint
    # the example of the documentation: class, center and size as shares
    (root / "labels" / "00.txt").write_text("1 0.5 0.5 0.25 0.2\n")
    assert load_target(root).annotations[0].xyxy.tolist() == [[15, 12, 25, 18]]  # type: ignore[index]
    (root / "labels" / "00.txt").write_text("1 0.25 0.2 0.75 0.2 0.75 0.6\n")  # a polygon: its box
    assert load_target(root).annotations[0].xyxy.tolist() == [[10, 6, 30, 18]]  # type: ignore[index]

    def fails(text: str, message: str) -> None:
        (root / "labels" / "00.txt").write_text(text)
        with pytest.raises(TargetError, match=message):
            load_target(root)

    fails("1 0.5 0.5 0.2 0.2\n0 0.9 0.5 0.4 0.2", r"labels/00\.txt:2: the box of images/00\.png lies outside the image")
    fails("5 0.5 0.5 0.2 0.2", r"labels/00\.txt:1: the box of .* has the unknown class 5; expected 0\.\.1 \(cat, dog\)")
    fails(
        "cat 0.5 0.5 0.2 0.2", r"labels/00\.txt:1: found 'cat 0\.5 0\.5 0\.2 0\.2'; expected a class number and four sh"
    )
    (root / "labels" / "00.txt").write_text("")
    (root / "labels" / "lost.txt").write_text("1 0.5 0.5 0.2 0.2")
    with pytest.raises(TargetError, match=r"no image for labels/lost\.txt; add it or remove the file"):
        load_target(root)


def test_yolo_splits_are_folders(tmp_path: Path) -> None:
    root = tmp_path / "a"
    for i in range(COUNT):
        split = ("train", "val", "test")[i % 3]
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(i)).save(root / split / "images" / f"{i:02}.png")
        lines = [yolo_line(*one) for one in zip(*boxes(i), strict=True)]
        (root / split / "labels" / f"{i:02}.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text("names: [cat, dog]\nnc: 2\ntrain: ../train/images\n")
    target = load_target(root)
    same(target, 1e-4)
    assert target.counts() == {"train": 4, "val": 4, "test": 4}


HEADER = "path,xmin,ymin,xmax,ymax,label"


def csv_rows() -> list[str]:
    rows = []
    for i in range(COUNT):
        found = list(zip(*boxes(i), strict=True))
        rows += [f"images/{i:02}.png,{a},{b},{c},{d},{NAMES[k]}" for (a, b, c, d), k in found] or [
            f"images/{i:02}.png,,,,,"
        ]
    return rows


def test_csv_with_a_row_a_box(tmp_path: Path) -> None:
    pictures(tmp_path / "images")
    target = load_target(csv(tmp_path / "a.csv", csv_rows(), HEADER))
    same(target)
    assert load_origin(target.origin).fingerprint == target.fingerprint
    split = [f"{row},{('train', 'test')[int(row[8]) % 2]}" for row in csv_rows()]
    with_split = load_target(csv(tmp_path / "b.csv", split, f"{HEADER},split"))
    assert with_split.counts()["test"] == 6

    def fails(row: int, line: str, message: str) -> None:
        rows = csv_rows()
        rows[row] = line
        with pytest.raises(TargetError, match=message):
            load_target(csv(tmp_path / "a.csv", rows, HEADER))

    fails(1, "images/01.png,1,1,50,9,cat", r"a\.csv:3: the box of images/01\.png lies outside the image")
    fails(1, "images/01.png,1,1,nan,9,cat", r"a\.csv:3: the box of images/01\.png holds NaN or inf")
    fails(1, "images/01.png,1,x,5,9,cat", r"a\.csv:3: the box is \['1', 'x', '5', '9'\]; expected four numbers")
    fails(1, "images/01.png,1,1,5,9,", r"a\.csv:3: the box of images/01\.png has no class")
    fails(1, "images/no.png,1,1,5,9,cat", r"a\.csv:3: image 'images/no\.png' does not exist")
    strange = csv(tmp_path / "a.csv", [csv_rows()[0], "images/01.png,1,1,5,9,cow"], HEADER)
    with pytest.raises(TargetError, match=r"a\.csv:3: the box .* has the unknown class 'cow'. Known: cat, dog"):
        load_target(strange, class_names=NAMES)


def test_class_names_are_words_or_an_existing_file(tmp_path: Path) -> None:
    """``--class-names cat,dog`` was taken for a file that cannot be read."""
    pictures(tmp_path / "images")
    file = csv(tmp_path / "a.csv", csv_rows(), HEADER)
    assert load_target(file, class_names=", ".join(NAMES)).class_names == tuple(NAMES)
    many = [*NAMES, *(f"unused {number}" for number in range(500))]  # longer than a file may be named
    assert load_target(file, class_names=",".join(many)).class_names == tuple(NAMES)
    with pytest.raises(TargetError, match=r"class_names \(--class-names\): there is no file names\.txt"):
        load_target(file, class_names="names.txt")


def test_parquet_datasets_and_lists_equal_coco(tmp_path: Path) -> None:
    import datasets

    files = sorted(pictures(tmp_path / "images").iterdir())
    (tmp_path / "annotations.json").write_text(json.dumps(coco(range(COUNT))))
    expected = load_target(tmp_path / "annotations.json")
    images = [{"bytes": file.read_bytes(), "path": None} for file in files]
    corners, labels = zip(*(boxes(i) for i in range(COUNT)), strict=True)
    sized = [[[a, b, c - a, d - b] for a, b, c, d in own] for own in corners]
    objects = [{"bbox": b, "category": k} for b, k in zip(sized, labels, strict=True)]
    pq.write_table(pa.table({"image": images, "objects": objects}), tmp_path / "a.parquet")
    assert load_target(tmp_path / "a.parquet", class_names=NAMES).fingerprint == expected.fingerprint
    pq.write_table(
        pa.table({"image": images, "boxes": [{"bbox": b, "label": k} for b, k in zip(corners, labels, strict=True)]}),
        tmp_path / "b.parquet",
    )
    with pytest.raises(
        TargetError, match=r"b\.parquet:\d+: box 1 lies outside .*, or say box_format='xyxy'|has no area"
    ):
        load_target(tmp_path / "b.parquet", class_names=NAMES)
    by_corners = load_target(tmp_path / "b.parquet", class_names=NAMES, box_format="xyxy")
    assert by_corners.fingerprint == expected.fingerprint
    with pytest.raises(ConfigError, match=r"box_format must be 'xywh' or 'xyxy'. Got 'xyxz'"):
        load_target(tmp_path / "b.parquet", box_format="xyxz")

    per_box = [[{"bbox": b, "category": k} for b, k in zip(o["bbox"], o["category"], strict=True)] for o in objects]
    box = {"bbox": datasets.List(datasets.Value("float32"), length=4), "category": datasets.ClassLabel(names=NAMES)}
    for column, kind in ((objects, datasets.Sequence(box)), (per_box, datasets.List(box))):
        features = datasets.Features({"image": datasets.Image(), "objects": kind})
        hub = datasets.Dataset.from_dict({"image": images, "objects": column}, features=features)
        assert load_target(hub).fingerprint == expected.fingerprint
        order = [4, *range(4), *range(5, COUNT)]  # the first image has no boxes
        same(load_target(hub.select(order)), numbers=order)

    arrays = [pixels(i) for i in range(COUNT)]
    beside = [{"boxes": b, "labels": k} for b, k in zip(corners, labels, strict=True)]
    samples = [{"image": a, **b} for a, b in zip(arrays, beside, strict=True)]
    tensors = [
        {"boxes": torch.tensor(b).reshape(-1, 4), "labels": torch.tensor(k)}
        for b, k in zip(corners, labels, strict=True)
    ]
    trained = Pairs(list(zip(map(Image.fromarray, arrays), tensors, strict=True)))  # as torchvision's detectors are
    for given in ((arrays, beside), (arrays, objects), samples, trained):
        same(load_target(given, class_names=NAMES))
    order = [4, *range(4), *range(5, COUNT)]
    first_none = Pairs([(arrays[i], beside[i] if beside[i]["labels"] else None) for i in order])
    same(load_target(first_none, class_names=NAMES), numbers=order)


def test_splits_keep_what_pictures_contain() -> None:
    arrays = [np.full((HEIGHT, WIDTH), i, np.uint8) for i in range(200)]
    rare = [
        {"boxes": [[1, 1, 9, 9]] * 2, "labels": ["common", "rare" if i % 20 == 0 else "common"]} for i in range(200)
    ]
    target = load_target((arrays, rare))
    assert isinstance(target.annotations, BoxAnnotations)
    strata = target.annotations.strata
    assert {s: int(strata[target.splits == s, 1].sum()) for s in ("train", "val", "test")} in (
        {"train": 7, "val": 2, "test": 1},
        {"train": 7, "val": 1, "test": 2},
        {"train": 6, "val": 2, "test": 2},
    )
    assert "train, val and test were drawn (70/15/15, by label, seed 0)" in target.notes
    small = subsample(target, 50)
    assert small.annotations is not None
    assert len(small.annotations) == 50
    assert small.fingerprint != target.fingerprint


def test_real_sets(assets: Path) -> None:
    target = load_target(assets / "data" / "bccd")
    assert (target.task, target.class_names) == ("detection", ("RBC", "WBC", "Platelets"))
    assert len(load_target(assets / "data" / "coco128").class_names) == 76
    several = load_target(assets / "data" / "coco128", label_column="supercategories")
    assert (several.task, several.labels.shape, several.class_names[0]) == ("multilabel", (256, 12), "person")
    assert load_target(assets / "data" / "bccd", label_column="red_cells").task == "regression"


def test_pictures_of_a_parquet_file_go_to_another_process_without_what_was_read(tmp_path: Path) -> None:
    """Isolated models get the target pickled."""
    import pickle

    import pandas as pd

    from selector.data.readers.parquet import ParquetItems

    path = tmp_path / "a.parquet"
    pd.DataFrame({"image": [{"bytes": bytes([i]) * 5000, "path": None} for i in range(3)]}).to_parquet(path)
    items = ParquetItems([path], "image")
    assert items[1] == b"\x01" * 5000
    sent = pickle.dumps(items)
    assert len(sent) < 5000
    received = pickle.loads(sent)  # noqa: S301 - made here
    assert [received[i] for i in range(3)] == [items[i] for i in range(3)]


def test_a_class_name_that_is_no_text_is_told() -> None:
    """Found by the long fuzz run: the fingerprint raised."""
    samples = [{"image": pixels(i), "boxes": boxes(i)[0], "labels": boxes(i)[1]} for i in range(COUNT)]
    samples[2]["labels"] = ["half \ud800" for _ in samples[2]["labels"]]
    with pytest.raises(
        TargetError, match=r"the class 'half \\ud800' holds half of a character, a lone surrogate; write"
    ):
        load_target(samples, task="detection")


def test_xml_of_fifty_thousand_levels_is_refused_at_once(tmp_path: Path) -> None:
    pictures(tmp_path)
    for number in range(COUNT):
        xml(tmp_path / f"{number:02}.xml", number)
    deep = "<annotation>" + "<a>" * 50_000 + "</a>" * 50_000 + "</annotation>"
    (tmp_path / "00.xml").write_text(deep)
    with pytest.raises(TargetError, match=r"00\.xml:1: nested more than 32 levels"):
        load_target(tmp_path, task="detection")


@pytest.mark.parametrize("names", [["cat", "cat"], ["cat", ""]])
def test_names_of_other_formats_are_there_and_differ(tmp_path: Path, names: list[str]) -> None:
    root = yolo(tmp_path)
    with pytest.raises(TargetError, match=r"two classes are called|name of class 1 is empty"):
        load_target(root, class_names=names, task="detection")
