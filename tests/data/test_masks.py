"""Masks: every layout and kind of file gives the same classes, and what is wrong is told with its file."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from selector.core.errors import TargetError
from selector.data import load_origin, load_target, subsample, without
from selector.tasks.segmentation.reading import voc_palette
from tests.support.tables import Pairs, declared

NAMES = ["sky", "road", "car"]
COLORS = [(0, 0, 0), (128, 64, 0), (0, 0, 142), (224, 224, 192)]  # the last one is void
COUNT = 14


def mask(seed: int) -> np.ndarray:
    """8 × 10 of 0, 1, 2, and 255 where there is no class."""
    found = np.random.default_rng(seed).integers(0, 3, (8, 10)).astype(np.uint8)
    found[0, :2] = 255
    return found


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(100 + seed).integers(0, 255, (8, 10, 3), dtype=np.uint8)


def save(array: np.ndarray | Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(path)


def pairs(root: Path, name: str = "{kind}/{i:03}{tail}.png", tail: str = "", convert: Any = lambda m: m) -> Path:
    """A folder of images and masks."""
    for i in range(COUNT):
        split = ("train", "val", "test")[i % 3]
        save(picture(i), root / name.format(kind="images", i=i, tail="", split=split))
        save(convert(mask(i)), root / name.format(kind="masks", i=i, tail=tail, split=split))
    return root


def same(target: Any) -> None:
    """The masks are those that were written, whatever their order in the files."""
    assert target.task == "segmentation"
    assert target.class_names == tuple(NAMES)
    assert target.annotations is not None
    for i, name in enumerate(target.names):
        number = int("".join(c for c in name.rpartition("/")[2] if c.isdigit()))
        assert np.array_equal(target.annotations[i], mask(number)), name
    assert target.annotations.pixels.sum() == COUNT * 78


def test_images_beside_masks_are_not_two_classes(tmp_path: Path) -> None:
    root = pairs(tmp_path / "set")
    target = load_target(root, class_names=NAMES)
    same(target)
    assert target.labels.shape == (COUNT, 0)
    assert target.annotations is not None
    assert target.annotations.strata.tolist() == [[1, 1, 1]] * COUNT
    assert "2.5% of the pixels are no class (the value 255) and count nowhere" in target.notes
    assert load_origin(json.loads(json.dumps(target.origin))).fingerprint == target.fingerprint
    save(mask(99), root / "masks" / "000.png")
    assert load_target(root, class_names=NAMES).fingerprint != target.fingerprint


@pytest.mark.parametrize(
    ("name", "tail"),
    [
        ("{split}/{kind}/{i}{tail}.png", "_mask"),
        ("{kind}/{split}/{i}{tail}.png", ""),
        ("{kind}/a/{i}{tail}.png", "-seg"),
    ],
)
def test_splits_within_and_around_and_tails_of_names(tmp_path: Path, name: str, tail: str) -> None:
    target = load_target(pairs(tmp_path / "set", name, tail), class_names=NAMES)
    same(target)
    given = "{split}" in name
    assert target.split_origin == ("given" if given else "drawn")
    if given:
        assert target.counts() == {"train": 5, "val": 5, "test": 4}


@pytest.mark.parametrize(
    "convert",
    [
        lambda m: m.astype(np.uint16),
        lambda m: Image.fromarray(m).convert("LA"),
        lambda m: np.repeat(m[..., None], 3, axis=2),
    ],
    ids=["16 bit", "gray with alpha", "gray as RGB"],
)
def test_kinds_of_gray(tmp_path: Path, convert: Any) -> None:
    (pairs(tmp_path / "set", convert=convert) / "classes.txt").write_text("sky\nroad\ncar\n")
    same(load_target(tmp_path / "set"))


def colored(m: np.ndarray) -> np.ndarray:
    return np.array(COLORS, np.uint8)[np.where(m == 255, 3, m)]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("label_colors.txt", "".join(f"{r} {g} {b}\t{n}\n" for (r, g, b), n in zip(COLORS, [*NAMES, "Void"], strict=True))),
        ("labelmap.txt", "# label:color_rgb\n" + "".join(f"{n}:{r},{g},{b}::\n" for (r, g, b), n in zip(COLORS, [*NAMES, "void"], strict=True))),
        ("class_dict.csv", "name,r,g,b\n" + "".join(f"{n},{r},{g},{b}\n" for (r, g, b), n in zip(COLORS, [*NAMES, "unlabeled"], strict=True))),
        ("classes.json", json.dumps(dict(zip([*NAMES, "void"], COLORS, strict=True)))),
    ],
)  # fmt: skip
def test_colors_with_a_table(tmp_path: Path, file: str, content: str) -> None:
    root = pairs(tmp_path / "set", convert=colored)
    with pytest.raises(
        TargetError, match=r"mask masks/000\.png is in colors \(#000000, #00008e, .*; say which color .* class_names"
    ):
        load_target(root)
    (root / file).write_text(content)
    same(load_target(root))


def test_colors_of_a_palette_and_gray_ones_are_those_of_the_table(tmp_path: Path) -> None:
    """The masks of training held none of their classes, though all of their pixels were counted."""
    table = [(0, 0, 0), (128, 128, 128), (90, 90, 90), (224, 224, 192)]
    (tmp_path / "classes.json").write_text(json.dumps(dict(zip([*NAMES, "void"], table, strict=True))))
    pairs(tmp_path, convert=lambda m: palette(np.where(m == 255, 3, m).astype(np.uint8), table))
    same(load_target(tmp_path))
    pairs(tmp_path, convert=lambda m: np.array(table, np.uint8)[np.where(m == 255, 0, m)])  # all of them are gray
    target = load_target(tmp_path)
    assert target.annotations is not None
    assert np.array_equal(target.annotations[0], np.where(mask(0) == 255, 0, mask(0)))


def palette(m: np.ndarray, colors: list[tuple[int, int, int]]) -> Image.Image:
    image = Image.fromarray(m)
    image.putpalette(bytes(np.array(colors, np.uint8).ravel()))
    return image


def voc(root: Path) -> Path:
    for i in range(COUNT):
        save(picture(i), root / "JPEGImages" / f"{i}.png")
        save(palette(mask(i), voc_palette()), root / "SegmentationClass" / f"{i}.png")
    sets = root / "ImageSets" / "Segmentation"
    sets.mkdir(parents=True)
    (sets / "train.txt").write_text("\n".join(map(str, range(8))))
    (sets / "val.txt").write_text("\n".join(map(str, range(8, COUNT))) + "\n")
    (sets / "trainval.txt").write_text("\n".join(map(str, range(COUNT))))
    return root


def test_voc_equals_torchvision_and_has_the_names_of_its_palette(tmp_path: Path) -> None:
    from torchvision.datasets import VOCSegmentation

    root = voc(tmp_path / "VOCdevkit" / "VOC2012")
    for path in (root / "JPEGImages").iterdir():
        Image.open(path).save(path.with_suffix(".jpg"), quality=100)
        path.unlink()
    target = load_target(root)
    assert target.class_names == ("background", "aeroplane", "bicycle")
    assert "the masks have the palette of Pascal VOC, so its class names are taken" in target.notes
    theirs = VOCSegmentation(str(tmp_path), year="2012", image_set="val")
    by_name = {Path(name).stem: i for i, name in enumerate(target.names)}
    assert target.annotations is not None
    for i in range(len(theirs)):
        place = by_name[Path(theirs.images[i]).stem]
        assert target.splits[place] == "val"
        assert np.array_equal(target.annotations[place], np.asarray(theirs[i][1]))
    assert voc_palette()[:4] == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]  # as the devkit lists them
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("3\n")
    with pytest.raises(TargetError, match=r"val\.txt:1: 3 is in train as well; keep it in one of them"):
        load_target(root)
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("77\n")
    with pytest.raises(TargetError, match=r"no image JPEGImages/77\.jpg; add it or remove its mask"):
        load_target(root)


def test_cityscapes_equals_torchvision(tmp_path: Path) -> None:
    from torchvision.datasets import Cityscapes

    ids = np.zeros(256, np.uint8)
    ids[:3] = [23, 7, 26]  # sky, road, car; the rest is 0, unlabeled
    for i in range(COUNT):
        split = "train" if i < 9 else "val"
        base = f"{split}/ulm/ulm_{i:06}_000019"
        save(picture(i), tmp_path / "leftImg8bit" / f"{base}_leftImg8bit.png")
        save(ids[mask(i)], tmp_path / "gtFine" / f"{base}_gtFine_labelIds.png")
    target = load_target(tmp_path)
    assert target.class_names == ("road", "sky", "car")
    theirs = Cityscapes(str(tmp_path), split="val", mode="fine", target_type="semantic")
    train_ids = {c.id: c.train_id for c in Cityscapes.classes}
    known = [0, 10, 13]  # train ids of the three
    val = {Path(name).name: i for i, name in enumerate(target.names) if target.splits[i] == "val"}
    assert len(val) == len(theirs) == 5
    assert target.annotations is not None
    for i in range(len(theirs)):
        place = val[Path(theirs.images[i]).name]
        expected = np.vectorize(lambda v: known.index(t) if (t := train_ids[v]) in known else 255)(
            np.asarray(theirs[i][1])
        )
        assert np.array_equal(target.annotations[place], expected)
    (tmp_path / "gtFine/val/ulm/ulm_000013_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(TargetError, match=r"no mask gtFine/val/ulm/ulm_000013_000019_gtFine_labelIds\.png; add it"):
        load_target(tmp_path)


def encoded(array: np.ndarray) -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def test_csv_parquet_datasets_and_arrays_equal_the_folder(tmp_path: Path) -> None:
    import datasets

    root = pairs(tmp_path / "set")
    folder = load_target(root, class_names=NAMES)
    rows = "".join(f"set/images/{i:03}.png,set/masks/{i:03}.png\n" for i in range(COUNT))
    (tmp_path / "a.csv").write_text("path,mask\n" + rows)
    assert load_target(tmp_path / "a.csv", class_names=NAMES).fingerprint == folder.fingerprint
    (tmp_path / "a.csv").write_text("path,truth\n" + rows)
    assert load_target(tmp_path / "a.csv", mask_column="truth", class_names=NAMES).fingerprint == folder.fingerprint

    columns = {"image": [encoded(picture(i)) for i in range(COUNT)], "label": [encoded(mask(i)) for i in range(COUNT)]}
    features = {"image": {"_type": "Image"}, "label": {"_type": "Image"}, "classes": NAMES, "ignore_index": 255}
    pq.write_table(declared(pa.table(columns), **features), tmp_path / "a.parquet")
    parquet = load_target(tmp_path / "a.parquet")
    assert parquet.fingerprint == folder.fingerprint
    assert load_origin(parquet.origin).fingerprint == folder.fingerprint

    image = datasets.Image()
    hub = datasets.Dataset.from_dict(
        {"image": columns["image"], "annotation": columns["label"]},
        features=datasets.Features({"image": image, "annotation": image}),
    )
    assert load_target(hub, class_names=NAMES).fingerprint == folder.fingerprint

    pictures, masks = [picture(i) for i in range(COUNT)], [mask(i) for i in range(COUNT)]
    in_memory: list[Any] = [
        (np.stack(pictures), np.stack(masks)),
        (pictures, [Image.fromarray(m) for m in masks]),
        [{"image": p, "mask": m} for p, m in zip(pictures, masks, strict=True)],
        (torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2), torch.from_numpy(np.stack(masks))),
        Pairs([{"image": p, "mask": torch.from_numpy(m)} for p, m in zip(pictures, masks, strict=True)]),
    ]
    for given in in_memory:
        same(load_target(given, class_names=NAMES))


def test_masks_are_decoded_when_asked_for_and_follow_subsets(tmp_path: Path) -> None:
    root = pairs(tmp_path / "set")
    target = load_target(root, class_names=NAMES)
    small = subsample(target, 9)
    assert small.annotations is not None
    assert len(small.names) == 9
    assert all(np.array_equal(small.annotations[i], mask(int(Path(n).stem))) for i, n in enumerate(small.names))
    fewer = without(target, [0], ["is truncated"])
    assert fewer.annotations is not None
    assert np.array_equal(fewer.annotations[0], mask(1))
    assert fewer.annotations.pixels.shape == (COUNT - 1, 3)
    shutil.rmtree(root / "masks")
    with pytest.raises(FileNotFoundError):
        target.annotations[0]  # nothing of it was kept


def test_names_that_nothing_says(tmp_path: Path) -> None:
    plain = load_target(pairs(tmp_path / "a"))
    assert plain.class_names == ("class 0", "class 1", "class 2")
    assert any("nothing names the classes of the masks" in note for note in plain.notes)
    ignored = load_target(tmp_path / "a", ignore_index=2, class_names={0: "sky", 1: "road", 255: "border"})
    assert ignored.class_names == ("sky", "road", "border")
    assert ignored.annotations is not None
    assert ignored.annotations.values.tolist() == [0, 1, 255]
    assert np.array_equal(np.unique(ignored.annotations[0]), [0, 1, 2, 255])


def test_bad_masks(tmp_path: Path) -> None:
    root = pairs(tmp_path / "set")

    def fails(message: str, **options: Any) -> None:
        with pytest.raises(TargetError, match=message):
            load_target(root, **{"class_names": NAMES, **options})

    fails(r"mask masks/\d+\.png holds the value 2, which is none of the 2 classes \(0\.\.1\)", class_names=NAMES[:2])
    save(mask(1)[:, :7], root / "masks" / "001.png")
    fails(r"mask masks/001\.png has 8 × 7 pixels \(height × width\) but its image 8 × 10")
    (root / "masks" / "001.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    fails(r"mask masks/001\.png is ")
    (root / "masks" / "001.png").write_bytes(b"")
    fails(r"images/001\.png has no mask; give it one or remove it")
    (root / "masks" / "001.png").unlink()
    fails(r"no mask for images/001\.png; expected masks/001\.png\. Add it or remove the image")
    Image.fromarray(mask(1)).save(root / "masks" / "001.jpg")
    fails(r"mask masks/001\.jpg is a JPEG, which changes the values of a mask; store masks as PNG")
    save(mask(1), root / "masks" / "001_mask.png")
    save(mask(1), root / "masks" / "001_mask.bmp")
    fails(r"masks/001_mask\.bmp and masks/001_mask\.png are two masks of one image|001.* are two masks of one image")


def test_an_upright_mask_fits_a_turned_picture(tmp_path: Path) -> None:
    root = pairs(tmp_path / "set")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(picture(0))))
    (root / "images" / "000.png").unlink()
    turned.save(root / "images" / "000.jpg", exif=exif)
    assert load_target(root, class_names=NAMES).task == "segmentation"
    turned.save(root / "images" / "000.jpg")
    with pytest.raises(TargetError, match=r"mask masks/000\.png has 8 × 10 pixels .* but its image 10 × 8"):
        load_target(root, class_names=NAMES)


def test_real_set(assets: Path) -> None:
    target = load_target(assets / "data" / "camvid")
    assert (target.task, len(target.class_names)) == ("segmentation", 11)
    assert target.counts()["test"] == 100
    assert target.annotations is not None
    assert (target.annotations[0].shape, target.annotations.ignored_value) == ((180, 240), 11)


def test_a_mask_is_measured_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs(tmp_path)
    first = sorted((tmp_path / "masks").iterdir())[0]
    Image.new("L", (6000, 3000)).save(first)  # 20 kB

    def decoded(*_: Any) -> Any:
        raise AssertionError("decoded")

    monkeypatch.setattr("selector.tasks._image_files._of_image", decoded)
    with pytest.raises(TargetError, match=r"has 3000 × 6000 pixels .* but its image"):
        load_target(tmp_path, task="segmentation")


def test_a_pair_of_bombs_is_refused_by_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs(tmp_path)
    for folder in ("images", "masks"):
        first = sorted((tmp_path / folder).iterdir())[0]
        first.unlink()
        Image.new("1", (6000, 6000)).save(first.with_suffix(".png"))
    monkeypatch.setattr("selector.tasks._image_files._of_image", lambda _: 1 / 0)
    with pytest.raises(TargetError, match="decompression bomb"):
        load_target(tmp_path, task="segmentation")


@pytest.mark.parametrize("names", [("sky", "road"), ("road",), None])
def test_masks_of_0_and_255_are_background_and_foreground(tmp_path: Path, names: Any) -> None:
    pairs(tmp_path)
    for path in (tmp_path / "masks").iterdir():
        Image.fromarray(((np.asarray(Image.open(path)) % 2) * 255).astype(np.uint8)).save(path)
    target = load_target(tmp_path, class_names=names)
    expected = {None: ("background", "foreground"), ("road",): ("background", "road")}.get(names, names)
    assert target.class_names == expected
    assert any("0 and 255 only" in note and expected[1] in note for note in target.notes)
    assert set(np.unique(target.annotations[0])) <= {0, 1}
    with pytest.raises(TargetError, match="one class"):
        load_target(tmp_path, class_names=("sky", "road"), ignore_index=255)
