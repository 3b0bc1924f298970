"""Several labels and real values: from lists, columns, separators and arrays; and the splits that keep their shares."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selector.core.contracts import LabelKind
from selector.core.errors import ConfigError, TargetError
from selector.data import load_origin, load_target
from selector.data.splits import stratify
from selector.tasks._read_labels import kind_of
from tests.support.tables import Pairs, csv, json_lines

COUNT = 40
TEXTS = [f"text {i}" for i in range(COUNT)]
SETS = [[name for name, every in (("cat", 2), ("dog", 3), ("cow", 5)) if i % every == 0] for i in range(COUNT)]
MATRIX = np.array([[int(name in own) for name in ("cat", "cow", "dog")] for own in SETS])


def test_every_form_of_several_labels_is_the_same(tmp_path: Path) -> None:
    expected = load_target((TEXTS, SETS))
    assert (expected.task, expected.class_names) == ("multilabel", ("cat", "cow", "dog"))
    assert np.array_equal(expected.labels, MATRIX)
    assert expected.labels.dtype == np.int64

    lines = json_lines(tmp_path / "a.jsonl", [{"text": t, "labels": own} for t, own in zip(TEXTS, SETS, strict=True)])
    columns = csv(tmp_path / "a.csv", [f"{t},{a},{b},{c}" for t, (a, b, c) in zip(TEXTS, MATRIX.tolist(), strict=True)], "text,cat,cow,dog")  # fmt: skip
    joined = csv(tmp_path / "b.csv", [f"{t},{'|'.join(own)}" for t, own in zip(TEXTS, SETS, strict=True)])
    other = csv(tmp_path / "c.csv", [f"{t},{' ; '.join(own)}" for t, own in zip(TEXTS, SETS, strict=True)])  # fmt: skip
    found = [
        load_target(lines),
        load_target(columns, label_column="cat,cow,dog"),
        load_target(columns, label_column=["cat", "cow", "dog"]),
        load_target(joined),
        load_target(joined, separator="|"),
        load_target(other, separator=";"),
    ]
    for target in found:
        assert target.fingerprint == expected.fingerprint
        assert target.label_kind is LabelKind.MULTILABEL
        assert load_origin(json.loads(json.dumps(target.origin))).fingerprint == expected.fingerprint
    assert load_target(pd.DataFrame({"text": TEXTS, "labels": SETS})).fingerprint == expected.fingerprint
    assert any("the labels hold '|', so each is read as several" in said for said in found[3].notes)
    with pytest.raises(TargetError, match=r"b\.csv: line 3 has no label"):
        load_target(joined, task="classification")
    vectors = load_target(
        Pairs([(np.full((4, 4), i, np.uint8), torch.from_numpy(own)) for i, own in enumerate(MATRIX)])
    )
    assert np.array_equal(vectors.labels, MATRIX)
    features = np.random.default_rng(0).normal(size=(COUNT, 3))
    assert np.array_equal(load_target((features, MATRIX)).labels, MATRIX)
    assert load_target((features, torch.from_numpy(MATRIX))).fingerprint == load_target((features, MATRIX)).fingerprint


def test_names_with_a_bar_stay_classes_where_they_are_no_combinations() -> None:
    target = load_target((TEXTS, ["a|b", "c"] * 20))
    assert (target.task, target.class_names) == ("classification", ("a|b", "c"))
    assert load_target((TEXTS, ["a|b", "b|c"] * 20), task="multilabel").class_names == ("a", "b", "c")


def test_unknown_entries_are_kept_as_such(tmp_path: Path) -> None:
    cells = [["" if i == 7 else str(v) for v in row] for i, row in enumerate(MATRIX.tolist())]
    cells[7][0] = "1"
    rows = [f"{t},{','.join(own)}" for t, own in zip(TEXTS, cells, strict=True)]
    target = load_target(csv(tmp_path / "a.csv", rows, "text,cat,cow,dog"), label_column="cat,cow,dog")
    assert target.labels.dtype == np.float64
    assert (np.isnan(target.labels).sum(), np.isnan(target.labels[7]).tolist()) == (2, [False, True, True])
    assert "2 of 120 entries are unknown and count nowhere" in target.notes
    matrix = MATRIX.astype(float)
    matrix[7] = [1, np.nan, np.nan]
    features = np.random.default_rng(0).normal(size=(COUNT, 3))
    plain = load_target((features, matrix))
    assert (plain.task, np.isnan(plain.labels).sum()) == ("multilabel", 2)
    masked = np.ma.MaskedArray(np.nan_to_num(matrix).astype(int), mask=np.isnan(matrix))
    assert load_target((features, masked)).fingerprint == plain.fingerprint
    assert np.isnan(load_target((features, masked)).labels).sum() == 2


def test_labels_that_tell_nothing_are_named() -> None:
    features = np.random.default_rng(0).normal(size=(COUNT, 3))
    always, never, twin = np.ones(COUNT, int), np.zeros(COUNT, int), MATRIX[:, 0]
    target = load_target((features, np.column_stack([MATRIX, twin, always, never])))
    notes = "\n".join(target.notes)
    assert "train shows one side only: '5' (no positive), '4' (no negative)" in notes
    assert "labels '0' and '3' are the same for every row; remove one of them" in notes
    with pytest.raises(TargetError, match=r"no label has both .* in train: '1' \(no positive\), '0' \(no negative\)"):
        load_target((features, np.column_stack([always, never])), task="multilabel")
    none = load_target((features, MATRIX))
    assert any(note.startswith("10 rows have no label, such as row 1; they count as neg") for note in none.notes)


@pytest.mark.parametrize(
    ("columns", "cell", "task", "message"),
    [
        ("cat,cow", "2", "multilabel", r"a\.csv: line 4: column 'cow' holds '2'; expected 0 or 1, or nothing where it is unkn"),
        ("cat,cow", "x", None, r"a\.csv: line 4: column 'cow' holds 'x'; expected a number, or nothing where it is unknown"),
        ("cat,cow", "inf", None, r"a\.csv: line 4: column 'cow' holds 'inf'; expected a number"),
        ("cat,cow,cat", "1", None, r"a\.csv: label_column names 'cat' twice; give each column once"),
        ("cat,cwo", "1", None, r"a\.csv: no column 'cwo'; did you mean 'cow'\? Columns: text, cat, cow"),
    ],
)  # fmt: skip
def test_bad_columns(tmp_path: Path, columns: str, cell: str, task: str | None, message: str) -> None:
    rows = [f"{t},{i % 2},{cell if i == 2 else i % 3 // 2}" for i, t in enumerate(TEXTS)]
    with pytest.raises(TargetError, match=message):
        load_target(csv(tmp_path / "a.csv", rows, "text,cat,cow"), label_column=columns, task=task)


def test_several_real_values(tmp_path: Path) -> None:
    rows = [f"{t},{i / 4},{'' if i == 3 else 100 - i}" for i, t in enumerate(TEXTS)]
    path = csv(tmp_path / "a.csv", rows, "text,price,area")
    target = load_target(path, label_column="price,area")
    assert (target.task, target.label_kind, target.class_names) == ("regression", LabelKind.REAL, ("price", "area"))
    assert np.isnan(target.labels[3]).tolist() == [False, True]
    assert target.labels[4].tolist() == [1.0, 96.0]
    assert "values that are missing count nowhere, by column: 'area' 1" in target.notes
    assert load_target(path, label_column="price").class_names == ()
    rows[3] = f"{TEXTS[3]},,"
    with pytest.raises(TargetError, match=r"a\.csv: line 5 has no value in any column; remove it"):
        load_target(csv(tmp_path / "a.csv", rows, "text,price,area"), label_column="price,area")
    one = np.where(np.arange(COUNT) == 2, np.inf, 0.5)
    for values, said in ((one, "value; expected"), (np.column_stack([np.arange(COUNT) / 2, one]), "value in column 1")):
        with pytest.raises(TargetError, match=rf"features: row 2 has an infinite {said}"):
            load_target((np.zeros((COUNT, 3)), values))


def test_whole_numbers_are_classes_or_amounts_by_a_rule_that_is_told() -> None:
    features = np.random.default_rng(0).normal(size=(COUNT, 3))
    few = load_target((features, np.arange(COUNT) % 12))
    assert few.task == "classification"
    assert few.notes[0].startswith("the labels are whole numbers (0, 1, 2, ...; 12 differ), so this is read as class")
    many = load_target((features, np.arange(COUNT) * 7))
    assert many.task == "regression"
    assert many.notes[0].startswith("the labels are whole numbers of which 40 differ (0, 7, 14, ...), less than")
    assert load_target((features, np.arange(COUNT) % 12), task="regression").notes[0].startswith("train, val")
    assert load_target((features, np.arange(COUNT) % 2)).notes == (
        "train, val and test were drawn (70/15/15, by class, seed 0)",
    )


def test_splits_of_values_keep_the_quantiles() -> None:
    rng = np.random.default_rng(0)
    values = rng.lognormal(size=600)
    target = load_target((rng.normal(size=(600, 3)), values))
    assert "train, val and test were drawn (70/15/15, by quantile, seed 0)" in target.notes
    for split in ("train", "val", "test"):
        own = values[target.splits == split]
        assert abs((own > np.quantile(values, 0.9)).mean() - 0.1) < 0.02
    assert target.counts() == {"train": 420, "val": 90, "test": 90}
    ties = load_target((rng.normal(size=(90, 3)), np.where(np.arange(90) < 60, 0.0, np.arange(90) / 2)))
    assert min(ties.counts().values()) >= 12


@settings(max_examples=30)
@given(st.integers(30, 120), st.integers(1, 6), st.integers(0, 1000))
def test_iterative_stratification_keeps_every_label(count: int, labels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = (rng.random((count, labels)) < rng.uniform(0.02, 0.6, labels)).astype(int)
    shares = [0.7, 0.15, 0.15]
    parts = stratify(matrix, np.ones(count), shares)
    assert set(parts.tolist()) == {0, 1, 2}
    for part, share in enumerate(shares):
        assert abs((parts == part).sum() - share * count) <= labels + 1
        # the rarest label is dealt out alone: nothing can push it from its share
        rarest = int(np.argmin(np.where(matrix.sum(axis=0) > 0, matrix.sum(axis=0), count + 1)))
        assert abs(matrix[parts == part, rarest].sum() - share * matrix[:, rarest].sum()) < 1


def test_iterative_stratification_is_nearer_than_chance() -> None:
    rng = np.random.default_rng(1)
    matrix = (rng.random((400, 20)) < 0.05).astype(int)
    shares = [0.7, 0.15, 0.15]

    def distance(parts: np.ndarray) -> float:
        """Label distribution distance of Sechidis et al., section 4.2."""
        per_label = []
        for label in matrix.T:
            odds = label.sum() / (len(label) - label.sum())
            own = [label[parts == p].sum() / max((parts == p).sum() - label[parts == p].sum(), 1) for p in range(3)]
            per_label.append(np.mean(np.abs(np.array(own) - odds)))
        return float(np.mean(per_label))

    chance = np.mean([distance(rng.permutation(np.repeat([0, 1, 2], [280, 60, 60]))) for _ in range(20)])
    assert distance(stratify(matrix, np.ones(400), shares)) < 0.35 * chance


def test_splits_of_several_labels_do_not_depend_on_the_order() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 3))
    labels = (rng.random((200, 5)) < 0.2).astype(int)
    order = rng.permutation(200)
    a, b = load_target((features, labels)), load_target((features[order], labels[order]))
    assert dict(zip(a.hashes, a.splits.tolist(), strict=True)) == dict(zip(b.hashes, b.splits.tolist(), strict=True))
    twice = load_target((np.repeat(features, 2, axis=0), np.repeat(labels, 2, axis=0)))
    assert twice.splits[::2].tolist() == twice.splits[1::2].tolist()


def test_a_long_text_named_as_label_costs_no_memory(tmp_path: Path) -> None:
    import tracemalloc

    tracemalloc.start()

    rows = [f"text {i},{'y' * 400_000 if i == 5 else 'xy'[i % 2]}" for i in range(2000)]
    path = csv(tmp_path / "a.csv", rows)
    with pytest.raises(TargetError, match=r"line 7 has a label of 400,000 characters .* a name of at most 1,000"):
        load_target(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6, peak  # rows times the longest label would be 3 GB


def test_labels_win_over_boxes_beside_them_and_that_is_said() -> None:
    images = [np.full((9, 9), i, np.uint8) for i in range(COUNT)]
    boxes = {"bbox": [[1, 1, 3, 3]], "category": ["a"]}
    samples = [{"image": image, "label": "xy"[i % 2], "objects": boxes} for i, image in enumerate(images)]
    target = load_target(samples)
    assert target.task == "classification"
    assert any("column 'objects' holds boxes as well" in note for note in target.notes)
    found = load_target(samples, task="detection")
    assert (found.task, found.class_names) == ("detection", ("a",))
    with pytest.raises(ConfigError, match="task 'segmentation' was asked for, but the data have no column of masks"):
        load_target(samples, task="segmentation")


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("each", [1, 2])
def test_numbers_of_many_small_classes_are_classes(first: int, each: int) -> None:
    """Every number from the first to the last, about equally often: 60 classes, and no amounts."""
    labels = np.repeat(np.arange(first, first + 60), each)
    assert kind_of(labels, fixed_names=False) is LabelKind.CLASSES
    assert kind_of(labels.tolist(), fixed_names=False) is LabelKind.CLASSES
    assert kind_of(np.delete(labels, np.s_[20:22]), fixed_names=False) is LabelKind.REAL  # with a gap
    ages = np.random.default_rng(0).binomial(60, 0.5, 40)
    assert kind_of(np.concatenate([np.arange(30), ages]), fixed_names=False) is LabelKind.REAL  # unequally often


def test_a_cell_that_is_no_number_in_a_column_of_amounts_is_a_slip_and_no_class(tmp_path: Path) -> None:
    rows = [f"{t},{'12;5' if i == 10 else i * 1.5}" for i, t in enumerate(TEXTS)]
    path = csv(tmp_path / "a.csv", rows, "text,price")
    others = f"while {COUNT - 1} of {COUNT} labels are numbers"
    with pytest.raises(TargetError, match=rf"a\.csv: line 12 is labeled '12;5', {others}; mend it for regression"):
        load_target(path, label_column="price")
    with pytest.raises(TargetError, match=r"a\.csv: line 12 is labeled '12;5', and regression labels must be numbers"):
        load_target(path, label_column="price", task="regression")
    words = [f"{t},{'other' if i % 8 == 0 else i % 4}" for i, t in enumerate(TEXTS)]
    assert load_target(csv(tmp_path / "b.csv", words)).task == "classification"  # names of few classes


def test_rows_of_zero_and_one_are_labels_as_floats_too() -> None:
    """The labels that binary cross-entropy takes in torch are floats."""
    shown = np.random.default_rng(0).random((COUNT, 3)) < 0.5
    target = load_target((np.random.default_rng(1).normal(size=(COUNT, 4)), shown.astype(np.float32)))
    assert target.task == "multilabel"
    assert target.notes[0].startswith("the labels are rows of 0.0 and 1.0 only, so they are read as several labels")
    features = np.random.default_rng(1).normal(size=(COUNT, 4))
    assert load_target((features, shown.astype(float)), task="regression").task == "regression"
    assert load_target((features, shown.astype(int))).notes[0].startswith("train, val and test")
