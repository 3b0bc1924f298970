"""A target without labels beside a labelled source domain: what is read, what is refused, what stays sealed."""

import contextlib
import re

import numpy as np
import pytest
from PIL import Image

from selector.core.contracts import UNLABELLED
from selector.core.errors import ConfigError, OptionError, TargetError
from selector.core.sealed import UNKNOWN, Decision, LabelsSealed, SealedLabels
from selector.data import load_origin, load_target

SHADES = {"dark": 30, "light": 220}


def picture(path, shade, seed):
    noise = np.random.default_rng(seed).integers(-20, 20, (12, 12, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(shade + noise, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def source(tmp_path):
    for c, (name, shade) in enumerate(SHADES.items()):
        for i in range(10):
            picture(tmp_path / "source" / name / f"{i}.png", shade, 100 * c + i)
    return tmp_path / "source"


@pytest.fixture
def flat(tmp_path):
    for i in range(6):
        picture(tmp_path / "new" / f"{i}.png", list(SHADES.values())[i % 2], 1000 + i)
    return tmp_path / "new"


def opened(sealed):
    with sealed.choosing() as choice:
        decision = choice.settle("m", "s")
    return sealed.open(decision)


def codes(target):
    return opened(target.annotations.sealed)[target.indices(UNLABELLED)].tolist()


def test_a_flat_folder_is_the_target(source, flat):
    target = load_target(flat, source_domain=source)
    assert target.task == "adaptation"
    assert target.class_names == ("dark", "light")
    assert target.counts() == {"train": 12, "val": 4, "test": 4}
    assert len(target.indices(UNLABELLED)) == 6
    assert (target.labels[target.indices(UNLABELLED)] == UNKNOWN).all()
    assert [target.names[i] for i in target.indices(UNLABELLED)] == [f"{i}.png" for i in range(6)]
    assert target.items[int(target.indices(UNLABELLED)[0])][:4] == b"\x89PNG"
    assert target.annotations.sealed.known == 0
    again = load_origin(target.origin)
    assert again.fingerprint == target.fingerprint


@pytest.mark.parametrize("kind", ["paths", "arrays", "pictures", "csv"])
def test_other_kinds_of_targets(source, flat, kind):
    files = sorted(flat.iterdir())
    pictures = [np.asarray(Image.open(path)) for path in files]
    table = flat.parent / "new.csv"
    table.write_text("path\n" + "\n".join(f"new/{path.name}" for path in files))
    given = {"paths": files, "arrays": np.stack(pictures), "pictures": pictures, "csv": table}[kind]
    target = load_target(given, source_domain=source)
    assert len(target.indices(UNLABELLED)) == 6
    assert (target.labels[target.indices(UNLABELLED)] == UNKNOWN).all()


def test_texts_and_features(tmp_path):
    texts = [f"text number {i}" for i in range(30)]
    labelled = (texts, ["no", "yes"] * 15)
    (tmp_path / "new.txt").write_text("one more\n\nand another\n")
    from_file = load_target(tmp_path / "new.txt", source_domain=labelled)
    assert [from_file.items[int(i)] for i in from_file.indices(UNLABELLED)] == ["one more", "and another"]
    assert from_file.name == "new"
    assert len(load_target(["a b", "c d"], source_domain=labelled).indices(UNLABELLED)) == 2
    rows = np.random.default_rng(0).standard_normal((40, 3))
    features = load_target(rows[30:] + 1, source_domain=(rows[:30], ["no", "yes"] * 15))
    assert features.features.shape == (40, 3)
    with pytest.raises(TargetError, match="the target has 2 features a row and source_domain 3; expected as many"):
        load_target(rows[30:, :2], source_domain=(rows[:30], ["no", "yes"] * 15))


def test_labels_of_the_target_are_sealed(source, flat):
    picture(flat / "light" / "a.png", 220, 5000)
    target = load_target(flat, source_domain=source)
    assert codes(target) == [UNKNOWN] * 6 + [1]
    assert (target.labels[target.indices(UNLABELLED)] == UNKNOWN).all()
    assert "1 of 7 images of the target have a label, used for the final metric only" in target.notes
    assert "no labelled image of the target is of 1 of the classes: dark" in target.notes


def test_the_identity_of_a_target_does_not_know_its_labels(source, flat):
    files = [np.asarray(Image.open(path)) for path in sorted(flat.iterdir())]
    right = load_target((np.stack(files), ["dark", "light"] * 3), source_domain=source)
    wrong = load_target((np.stack(files), ["light", "dark"] * 3), source_domain=source)
    assert right.fingerprint == wrong.fingerprint
    assert codes(right) == [0, 1] * 3
    assert codes(wrong) == [1, 0] * 3


def test_few_labels_that_are_learned_from(source, flat):
    files = [np.asarray(Image.open(path)) for path in sorted(flat.iterdir())]
    target = load_target((np.stack(files), ["dark", "light"] * 3), source_domain=source, labelled_target=2)
    assert target.counts()["train"] == 14
    assert len(target.indices(UNLABELLED)) == 4
    learned = np.flatnonzero(target.splits == "train")[12:]
    assert (target.labels[learned] == learned % 2).all()
    assert codes(target) == [(int(target.names[i].split()[-1])) % 2 for i in target.indices(UNLABELLED)]
    assert (opened(target.annotations.sealed)[learned] == UNKNOWN).all()
    with pytest.raises(OptionError, match="labelled_target is 7, but 6 items of the target have a label"):
        load_target((np.stack(files), ["dark", "light"] * 3), source_domain=source, labelled_target=7)
    with pytest.raises(OptionError, match="give source_domain as well"):
        load_target(source, labelled_target=2)


def test_copies_of_what_is_learned_from_are_neither_adapted_to_nor_measured(source, flat):
    files = [np.asarray(Image.open(path)) for path in sorted(flat.iterdir())]
    twice, names = np.stack([*files, *files]), ["dark", "light"] * 3
    target = load_target((twice, [*names, *names]), source_domain=source, labelled_target=3)
    learned = [target.hashes[i] for i in target.indices("train") if i >= 20]
    assert len(set(learned)) == len(learned) == 3
    assert len(target.indices(UNLABELLED)) == 6  # the others, which are copies of each other
    assert not {target.hashes[i] for i in target.indices(UNLABELLED)} & set(learned)
    told = "3 items of the target have the same content as items that are learned from .labelled_target., such as row"
    assert any(re.match(told, note) for note in target.notes)
    assert "6 of 6 images of the target have a label, used for the final metric only" in target.notes
    with pytest.raises(OptionError, match=r"7, but 6 items of the target have a label .copies of an item count once"):
        load_target((twice, [*names, *names]), source_domain=source, labelled_target=7)
    odd = load_target((twice, [*names, *names[1:], "dark"]), source_domain=source, labelled_target=3)
    assert any(note.startswith("3 items have the same content as one with another label") for note in odd.notes)


def test_what_is_refused(source, flat, tmp_path):
    with pytest.raises(
        TargetError, match=r"20 of 20 items .* as items of source_domain 'source': the target is the source"
    ):
        load_target(source, source_domain=source)
    picture(tmp_path / "odd" / "grey" / "x.png", 120, 9)
    with pytest.raises(
        TargetError, match=r"classes of the two domains differ: 'grey' \(grey/x.png\) .* \(dark, light\)"
    ):
        load_target(tmp_path / "odd", source_domain=source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(TargetError, match="no images found; the target is a folder of images"):
        load_target(tmp_path / "empty", source_domain=source)
    with pytest.raises(TargetError, match="the target is empty; give at least one item"):
        load_target([], source_domain=source)
    with pytest.raises(TargetError, match=r"source_domain: .*no class folders with images"):
        load_target(flat, source_domain=tmp_path / "empty")
    with pytest.raises(TargetError, match=r"source_domain: target .*nowhere does not exist"):
        load_target(flat, source_domain=tmp_path / "nowhere")
    with pytest.raises(TargetError, match="the target holds texts and source_domain 'source' images"):
        load_target(["a text"], source_domain=source)
    with pytest.raises(TargetError, match="is read as regression; adaptation to a target without labels is for class"):
        load_target(np.ones((2, 3)), source_domain=(np.random.default_rng(0).random((30, 3)), np.linspace(0, 1, 30)))
    several = [["dark"], ["dark", "light"], ["light"]] * 10
    with pytest.raises(
        TargetError, match=r"is read as multilabel; adaptation .* is for classification, one class an item"
    ):
        load_target(np.ones((2, 3)), source_domain=(np.random.default_rng(0).random((30, 3)), several))
    with pytest.raises(
        ConfigError, match="task 'detection' was asked for; with source_domain the task is classification"
    ):
        load_target(flat, source_domain=source, task="detection")
    with pytest.raises(
        ConfigError, match="the labelled data set that it is adapted from is lacking; give source_domain"
    ):
        load_target(source, task="adaptation")


def test_a_few_shared_items_leave_the_target(source, flat):
    (flat / "copy.png").write_bytes((source / "dark" / "0.png").read_bytes())
    target = load_target(flat, source_domain=source)
    assert len(target.indices(UNLABELLED)) == 6
    assert any("1 items of the target have the same content as items of the source" in note for note in target.notes)


def test_sealed_labels_open_once_for_the_decision_that_was_settled():
    sealed = SealedLabels(np.array([1, UNKNOWN, 0]))
    part = sealed.take(np.array([2]))
    assert sealed.known == 2
    assert "1" not in repr(sealed).replace("of 3", "")
    for some in (sealed, part):  # since it was loaded, before any choice
        with pytest.raises(LabelsSealed, match="nothing is settled"):
            some.open(Decision("m", "s"))
    with sealed.choosing() as choice:
        decision = choice.settle("m", "s")
        for some in (sealed, part, sealed.take(np.array([0]))):
            with pytest.raises(LabelsSealed, match="while a choice is made"):
                some.open(decision)
    with pytest.raises(LabelsSealed, match=r"the Decision that was made\. Got another one"):
        part.open(Decision("m", "s"))
    with pytest.raises(LabelsSealed, match=r"the Decision that was made\. Got NoneType"):
        sealed.open(None)
    assert sealed.open(decision).tolist() == [1, UNKNOWN, 0]
    for some in (sealed, part):
        with pytest.raises(LabelsSealed, match="nothing is settled"):
            some.open(decision)
    with sealed.choosing() as choice:
        decision = choice.settle("m", "s")
    assert part.open(decision).tolist() == [0]


def test_what_a_choice_within_another_settles_opens_nothing():
    sealed = SealedLabels(np.array([1]))
    with sealed.choosing():
        with sealed.take(np.array([0])).choosing() as inner:
            decision = inner.settle("m", "s")
        with pytest.raises(LabelsSealed, match="while a choice is made"):
            sealed.open(decision)
    with pytest.raises(LabelsSealed, match="nothing is settled"):
        sealed.open(decision)
    with contextlib.suppress(RuntimeError), sealed.choosing() as choice:
        decision = choice.settle("m", "s")
        raise RuntimeError
    with pytest.raises(LabelsSealed, match="nothing is settled"):
        sealed.open(decision)
