"""A target without labels beside a labeled source domain: what is read, what is refused, what stays sealed."""

import contextlib
import re

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from selector.core.contracts import UNLABELED
from selector.core.errors import ConfigError, OptionError, TargetError
from selector.core.held_out_labels import UNKNOWN, Decision, LabelsSealed, SealedLabels
from selector.data import load_origin, load_target
from tests.support.tables import class_label, declared

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
    return opened(target.annotations.sealed)[target.indices(UNLABELED)].tolist()


def test_a_flat_folder_is_the_target(source, flat):
    target = load_target(flat, source_domain=source)
    assert (target.task, target.class_names) == ("adaptation", ("dark", "light"))
    assert (target.counts(), len(target.indices(UNLABELED))) == ({"train": 12, "val": 4, "test": 4}, 6)
    assert (target.labels[target.indices(UNLABELED)] == UNKNOWN).all()
    assert [target.names[i] for i in target.indices(UNLABELED)] == [f"{i}.png" for i in range(6)]
    assert target.items[int(target.indices(UNLABELED)[0])][:4] == b"\x89PNG"
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
    assert len(target.indices(UNLABELED)) == 6
    assert (target.labels[target.indices(UNLABELED)] == UNKNOWN).all()


def test_texts_and_features(tmp_path):
    texts = [f"text number {i}" for i in range(30)]
    labeled = (texts, ["no", "yes"] * 15)
    (tmp_path / "new.txt").write_text("one more\n\nand another\n")
    from_file = load_target(tmp_path / "new.txt", source_domain=labeled)
    assert [from_file.items[int(i)] for i in from_file.indices(UNLABELED)] == ["one more", "and another"]
    assert from_file.name == "new"
    assert len(load_target(["a b", "c d"], source_domain=labeled).indices(UNLABELED)) == 2
    rows = np.random.default_rng(0).standard_normal((40, 3))
    features = load_target(rows[30:] + 1, source_domain=(rows[:30], ["no", "yes"] * 15))
    assert features.features.shape == (40, 3)
    with pytest.raises(TargetError, match="the target has 2 features per row and source_domain 3"):
        load_target(rows[30:, :2], source_domain=(rows[:30], ["no", "yes"] * 15))


def test_labels_of_the_target_are_sealed(source, flat):
    picture(flat / "light" / "a.png", 220, 5000)
    target = load_target(flat, source_domain=source)
    assert codes(target) == [UNKNOWN] * 6 + [1]
    assert (target.labels[target.indices(UNLABELED)] == UNKNOWN).all()
    assert "1 of 7 images of the target have a label, used for the final metric only" in target.notes
    assert "no labeled image of the target is of 1 of the classes: dark" in target.notes


def test_the_identity_of_a_target_does_not_know_its_labels(source, flat):
    files = [np.asarray(Image.open(path)) for path in sorted(flat.iterdir())]
    right = load_target((np.stack(files), ["dark", "light"] * 3), source_domain=source)
    wrong = load_target((np.stack(files), ["light", "dark"] * 3), source_domain=source)
    assert (right.fingerprint, codes(right)) == (wrong.fingerprint, [0, 1] * 3)
    assert codes(wrong) == [1, 0] * 3


def test_few_labels_that_are_learned_from(source, flat):
    files = [np.asarray(Image.open(path)) for path in sorted(flat.iterdir())]
    target = load_target((np.stack(files), ["dark", "light"] * 3), source_domain=source, num_target_labels=2)
    assert (target.counts()["train"], len(target.indices(UNLABELED))) == (14, 4)
    learned = np.flatnonzero(target.splits == "train")[12:]
    assert (target.labels[learned] == learned % 2).all()
    assert codes(target) == [(int(target.names[i].split()[-1])) % 2 for i in target.indices(UNLABELED)]
    assert (opened(target.annotations.sealed)[learned] == UNKNOWN).all()
    with pytest.raises(OptionError, match="num_target_labels is 7, but 6 items of the target have a label"):
        load_target((np.stack(files), ["dark", "light"] * 3), source_domain=source, num_target_labels=7)
    with pytest.raises(OptionError, match="give source_domain as well"):
        load_target(source, num_target_labels=2)


def test_copies_of_what_is_learned_from_are_neither_adapted_to_nor_measured(source, flat):
    files = [np.asarray(Image.open(path)) for path in sorted(flat.iterdir())]
    twice, names = np.stack([*files, *files]), ["dark", "light"] * 3
    target = load_target((twice, [*names, *names]), source_domain=source, num_target_labels=3)
    learned = [target.hashes[i] for i in target.indices("train") if i >= 20]
    assert len(set(learned)) == len(learned) == 3
    assert len(target.indices(UNLABELED)) == 6  # the others, which are copies of each other
    assert not {target.hashes[i] for i in target.indices(UNLABELED)} & set(learned)
    told = "3 items of the target have the same content as items that are learned from .num_target_labels., such as row"
    assert any(re.match(told, note) for note in target.notes)
    assert "6 of 6 images of the target have a label, used for the final metric only" in target.notes
    with pytest.raises(OptionError, match=r"7, but 6 items of the target have a label .copies of an item count once"):
        load_target((twice, [*names, *names]), source_domain=source, num_target_labels=7)
    odd = load_target((twice, [*names, *names[1:], "dark"]), source_domain=source, num_target_labels=3)
    assert any(note.startswith("3 items have the same content as one with another label") for note in odd.notes)


def test_what_is_refused(source, flat, tmp_path):
    with pytest.raises(TargetError, match=r"20 of 20 items .* of source_domain 'source': the target is the source"):
        load_target(source, source_domain=source)
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
    rows, several = np.random.default_rng(0).random((30, 3)), [["dark"], ["dark", "light"], ["light"]] * 10
    for labels, task in ((np.linspace(0, 1, 30), "regression"), (several, "multilabel")):
        with pytest.raises(TargetError, match=f"is read as {task}; adaptation .* is for classification"):
            load_target(np.ones((2, 3)), source_domain=(rows, labels))
    with pytest.raises(ConfigError, match="task 'detection' was asked for; with source_domain"):
        load_target(flat, source_domain=source, task="detection")
    with pytest.raises(ConfigError, match="the labeled dataset that it is adapted from is lacking"):
        load_target(source, task="adaptation")


@pytest.mark.parametrize(
    "folders", [("dark", "gray"), ("drak",), ("DARK", "monday")], ids=["one more", "a slip", "another case"]
)
def test_folders_of_other_classes_are_refused(source, tmp_path, folders):
    for i, name in enumerate(folders):
        picture(tmp_path / "odd" / name / "x.png", 120, 9 + i)
    wrong = next(name for name in sorted(folders) if name != "dark")
    with pytest.raises(TargetError, match=rf"classes of the two domains differ: '{wrong}' \({wrong}/x\.png\)"):
        load_target(tmp_path / "odd", source_domain=source)


def test_folders_that_are_no_classes_hold_images_without_labels(source, tmp_path):
    for i in range(6):
        day = ("monday", "train/friday")[i % 2]
        picture(tmp_path / "camera" / day / f"{i}.png", 200, 50 + i)
    target = load_target(tmp_path / "camera", source_domain=source)
    assert (len(target.indices(UNLABELED)), target.annotations.sealed.known) == (6, 0)
    told = "no folder of the target has the name of a class of the source domain: monday, friday"
    assert any(note.startswith(told) for note in target.notes)
    assert load_origin(target.origin).fingerprint == target.fingerprint
    with pytest.raises(OptionError, match="2, but 0 items of the target have a label"):
        load_target(tmp_path / "camera", source_domain=source, num_target_labels=2)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", b"one\n\ncaf\xe9\n", r"x\.txt:3: byte 0xe9 is not UTF-8"),
        ("x.txt", b"\n \n", r"x\.txt: the target is empty; expected one text per line"),
        ("x.csv", b"", r"x\.csv: the table is empty; expected the names of its columns, then one row per item"),
        ("x.csv", b"text\n", r"x\.csv: the target is empty; give at least one item"),
        ("x.csv", b"text,label\nq,maybe\n", r"x\.csv: the classes .* 'maybe' \(line 2\) .*without labels\."),
        ("x.jsonl", b'{"text": "q"}\n{"text"\n', r"x\.jsonl:2: not JSON .*; expected one object per line"),
        ("x.parquet", b"PAR1", r"x\.parquet: not a readable parquet file .*; write it again"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    texts = [f"text number {i}" for i in range(30)]
    with pytest.raises(TargetError, match=message):
        load_target(tmp_path / name, source_domain=(texts, ["no", "yes"] * 15))


def test_parquet_that_unpacks_to_too_much(tmp_path):
    """A column of one long value, whose codes take a kilobyte, is measured before it is made."""
    held = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1000, np.int32)), ["x" * 1_000_000])
    pq.write_table(pa.table({"text": held}), tmp_path / "x.parquet")
    texts = [f"text number {i}" for i in range(30)]
    with pytest.raises(TargetError, match=r"x\.parquet: it unpacks to 1\.\d GB"):
        load_target(tmp_path / "x.parquet", source_domain=(texts, ["no", "yes"] * 15))


def test_tables_are_read_as_labeled_ones(tmp_path):
    """Whatever delimiter, words that others take for gaps, no column of labels where the source has one of that name."""
    labeled = (texts := [f"text number {i}" for i in range(30)], ["no", "yes"] * 15)
    (tmp_path / "x.csv").write_text('text;label\nNA;\n"one; more";yes\n')
    target = load_target(tmp_path / "x.csv", source_domain=labeled)
    assert [target.items[int(i)] for i in target.indices(UNLABELED)] == ["NA", "one; more"]
    assert codes(target) == [UNKNOWN, 1]
    assert [target.names[i] for i in target.indices(UNLABELED)] == ["line 2", "line 3"]
    (tmp_path / "x.jsonl").write_text('{"text": "a b", "label": null}\n{"text": "c d", "label": "no"}\n')
    assert codes(load_target(tmp_path / "x.jsonl", source_domain=labeled)) == [UNKNOWN, 0]
    pandas.DataFrame({"text": ["e f", "g h"]}).to_parquet(tmp_path / "x.parquet")
    assert codes(load_target(tmp_path / "x.parquet", source_domain=labeled)) == [UNKNOWN] * 2
    rows = "".join(f"{text},{label}\n" for text, label in zip(texts, labeled[1], strict=True))
    (tmp_path / "source.csv").write_text(f"text,mood\n{rows}")
    (tmp_path / "y.csv").write_text("text\nx y\n")
    found = load_target(tmp_path / "y.csv", source_domain=tmp_path / "source.csv", label_column="mood")
    assert (found.class_names, codes(found)) == (("no", "yes"), [UNKNOWN])
    assert load_origin(found.origin).fingerprint == found.fingerprint


def test_numbers_of_declared_classes_are_their_names(tmp_path):
    """A single file was read without them; and -1, which says that there is no label, as the last class."""

    def written(path, labels):
        table = pa.table({"text": [f"text {path.stem} {i}" for i in range(len(labels))], "label": labels})
        pq.write_table(declared(table, label=class_label(["no", "yes", "maybe"])), path)
        return path

    source = written(tmp_path / "source.parquet", [0, 1, 2] * 10)
    (tmp_path / "folder").mkdir()
    in_folder, alone = (written(tmp_path / name, [1, -1, 0, -1]) for name in ("folder/new.parquet", "new.parquet"))
    for path in (in_folder.parent, alone):
        target = load_target(path, source_domain=source)
        assert codes(target) == [1, UNKNOWN, 0, UNKNOWN]
        assert load_origin(target.origin).fingerprint == target.fingerprint
    with pytest.raises(TargetError, match=r"new\.parquet:1 has the label 3; expected an int in 0\.\.2"):
        load_target(written(tmp_path / "new.parquet", [1, 3]), source_domain=source)


def test_a_few_shared_items_leave_the_target(source, flat):
    (flat / "copy.png").write_bytes((source / "dark" / "0.png").read_bytes())
    target = load_target(flat, source_domain=source)
    assert len(target.indices(UNLABELED)) == 6
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
