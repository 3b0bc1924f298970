"""Image folders: splits, classes, what is left out, and bad input."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selector.core.errors import TargetError
from selector.data import load_origin, load_target, without
from tests.conftest import image_folder

PIXELS = np.arange(8 * 16, dtype=np.uint8).reshape(8, 4, 4)


def picture(path: Path, seed: int) -> Path:
    """A small image whose content is given by the seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def split_folder(root: Path, counts: dict[str, int], classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    seed = 0
    for split, number in counts.items():
        for name in classes:
            for i in range(number):
                seed += 1
                picture(root / split / name / f"{i}.png", seed)
    return root


def test_class_folders_are_split_70_15_15_by_class(tmp_path):
    target = load_target(image_folder(tmp_path / "photos", 20))
    assert (target.name, target.task) == ("photos", "classification")
    assert target.class_names == ("across", "leaning", "upright")
    assert target.counts() == {"train": 42, "val": 9, "test": 9}
    for label in range(3):
        assert sorted(np.unique(target.splits[target.labels == label], return_counts=True)[1].tolist()) == [3, 3, 14]
    assert target.split_origin == "drawn"
    assert target.notes == ("train, val and test were drawn (70/15/15, by class, seed 0)",)
    assert target.names[0] == "across/000.png"
    assert target.items[0] == (tmp_path / "photos" / "across" / "000.png").read_bytes()


def test_splits_survive_moving_touching_and_renaming(tmp_path):
    first = load_target(image_folder(tmp_path / "one", 8))
    shutil.copytree(tmp_path / "one", tmp_path / "zwei é")
    for path in (tmp_path / "zwei é").rglob("*.png"):
        os.utime(path, (1, 1))
    moved = load_target(tmp_path / "zwei é")
    assert moved.fingerprint == first.fingerprint
    assert moved.splits.tolist() == first.splits.tolist()
    for path in sorted((tmp_path / "one").rglob("*.png")):
        path.rename(path.with_name(f"{99 - int(path.stem)}.png"))
    renamed = load_target(tmp_path / "one")
    assert renamed.names[0] != first.names[0]
    by_content = (dict(zip(one.hashes, one.splits.tolist(), strict=True)) for one in (renamed, first))
    assert next(by_content) == next(by_content)
    (tmp_path / "zwei é" / "across" / "000.png").write_bytes(picture(tmp_path / "other.png", 9).read_bytes())
    changed = load_target(tmp_path / "zwei é")
    assert changed.fingerprint != first.fingerprint
    assert sum(a != b for a, b in zip(changed.hashes, first.hashes, strict=True)) == 1


def test_given_splits_are_respected(tmp_path):
    target = load_target(split_folder(tmp_path / "x", {"train": 4, "Validation": 2, "test": 3}))
    assert (target.counts(), target.split_origin) == ({"train": 8, "val": 4, "test": 6}, "given")
    assert (target.class_names, target.notes) == (("cat", "dog"), ())


def test_val_is_drawn_from_train_when_only_test_is_given(tmp_path):
    target = load_target(split_folder(tmp_path / "x", {"train": 20, "test": 3}))
    assert (target.counts(), target.split_origin) == ({"train": 32, "val": 8, "test": 6}, "drawn")
    assert target.notes == ("val was drawn from train (15/85, by class, seed 0); train and test were given",)
    assert all(name.startswith("train/") for name, s in zip(target.names, target.splits, strict=True) if s == "val")


def test_a_class_may_be_called_train(tmp_path):
    for i in range(4):
        picture(tmp_path / "x" / "train" / f"{i}.png", i)
        picture(tmp_path / "x" / "bus" / "old" / f"{i}.png", 10 + i)
    target = load_target(tmp_path / "x")
    assert target.class_names == ("bus", "train")


def test_strays_and_other_files_are_noted(tmp_path):
    root = image_folder(tmp_path / "x", 4)
    picture(root / "stray.png", 1)
    (root / "across" / "notes.txt").write_text("x")
    (root / "across" / ".hidden.png").write_bytes(b"")
    notes = load_target(root).notes
    assert "1 images outside class folders were left out, such as stray.png" in notes
    assert "1 files that are not images were left out, such as across/notes.txt" in notes


def test_a_list_of_files_beside_class_folders_is_no_tagging_set(tmp_path):
    root = image_folder(tmp_path / "photos", 4)
    (root / "train.txt").write_text("across/000.png 0\nupright/000.png 1\n")
    target = load_target(root)
    assert (str(target.modality), len(target)) == ("image", 12)
    assert any("1 files that are not images were left out, such as train.txt" in note for note in target.notes)


def test_linked_folders_are_followed_once(tmp_path):
    root = image_folder(tmp_path / "x", 4)
    shutil.move(root / "across", tmp_path / "elsewhere")
    (root / "across").symlink_to(tmp_path / "elsewhere")
    (root / "leaning" / "loop").symlink_to(root)
    assert len(load_target(root)) == 12


def test_origin_loads_the_same_target_again(tmp_path):
    root = image_folder(tmp_path / "x", 10)
    target = load_target(root, max_samples=20, seed=3, name="mine")
    smaller = without(target, {0: "is truncated"})
    again = load_origin(smaller.origin)
    assert again.fingerprint == smaller.fingerprint != target.fingerprint
    assert (again.name, again.names, again.notes) == ("mine", smaller.names, smaller.notes)


def test_loading_does_not_import_torch(tmp_path):
    root = image_folder(tmp_path / "x", 4)
    code = (
        "import sys; from selector.data import load_target; load_target(sys.argv[1]); "
        "sys.exit(' '.join(m for m in ('torch', 'datasets', 'pyarrow', 'pandas') if m in sys.modules) or 0)"
    )
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code, str(root)]) == 0


def with_emu(root: Path, count: int, different: bool = True) -> Path:
    """Three classes, the last of so few images."""
    image_folder(root, 5, classes=("cat", "dog"))
    for i in range(count):
        picture(root / "emu" / f"{i}.png", i if different else 1)
    return root


def without_dog(root: Path) -> Path:
    split_folder(root, {"train": 3, "val": 2, "test": 2})
    shutil.rmtree(root / "test" / "dog")
    return root


def emu_in_test(root: Path) -> Path:
    split_folder(root, {"train": 5, "test": 2})
    picture(root / "test" / "emu" / "0.png", 77)
    return root


def wrote(path: Path) -> Path:
    path.write_text("x")
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p, r"found 0 images but no class folders with images in them; expected one folder"),
        (lambda p: picture(p / "a.png", 1).parent, r"found 1 images but no class folders"),
        (lambda p: image_folder(p / "x", 5, classes=("cat",)), r"found one class only \('cat', 5 images\); a ranking needs at least two"),
        (lambda p: with_emu(p / "x", 1), r"class 'emu' has 1 item; 3 are needed, at least one for each of train, val and test; add images or remove"),
        (lambda p: with_emu(p / "x", 4, different=False), r"class 'emu' has 4 items, 1 of them different; 3 are needed"),
        (lambda p: without_dog(p / "x"), r"class 'dog' has no image in test \(train 3, val 2, test 0\); every class needs"),
        (lambda p: emu_in_test(p / "x"), r"class 'emu' has 0 items in train \(test 1\); 2 are needed, at least one for each of train and val"),
        (lambda p: {"val": (PIXELS[:4], list("abab")), "test": (PIXELS[4:], list("abab"))}, r"splits test and val were found but no train; add one"),
        (lambda p: image_folder(p / "x", 4, classes=("Cat", "cat", "dog")), r"class names 'Cat' and 'cat' differ by case or spaces only; merge or rename"),
        (lambda p: image_folder(p / "photos", 4).with_name("photo"), r"photo does not exist; did you mean 'photos'\?"),
        (lambda p: wrote(p / "x.docx"), r"x\.docx is unsupported; expected a folder, or a parquet, CSV, TSV or JSONL file"),
    ],
)  # fmt: skip
def test_folders_that_are_no_target(tmp_path, make, message):
    with pytest.raises(TargetError, match=message):
        load_target(make(tmp_path))


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder outside pytest's private one, and no superuser's rights while the test runs."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    user = os.geteuid()
    yield folder
    os.seteuid(user)
    shutil.rmtree(folder)


@pytest.mark.parametrize("place", ["leaning", "leaning/000.png"])
def test_what_cannot_be_read_is_named(as_nobody, monkeypatch, place):
    root = image_folder(as_nobody / "x", 4)
    monkeypatch.setenv("SELECTOR_CACHE", str(as_nobody / "cache"))
    (root / place).chmod(0)
    if os.geteuid() == 0:
        os.seteuid(65534)
    with pytest.raises(TargetError, match=rf"{place} cannot be read \(Permission denied\)"):
        load_target(root)
