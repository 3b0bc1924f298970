"""Labels, splits, fingerprints, subsamples: what is common to every kind of input."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selector.core.contracts import LabelKind, Target
from selector.core.errors import ConfigError, TargetError
from selector.data import load_target, subsample, without
from selector.data.splits import SHARES


def rows(sizes: list[int], seed: int = 0, task: str | None = None) -> Target:
    """A target of ready features with the given class sizes."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return load_target((np.random.default_rng(seed).normal(size=(len(labels), 3)), labels), task=task)


def cells(target: Target) -> Counter[tuple[int, str]]:
    return Counter(zip(target.labels.tolist(), target.splits.tolist(), strict=True))


@settings(max_examples=25)
@given(st.lists(st.integers(3, 60), min_size=2, max_size=8))
def test_every_class_is_in_every_part_and_the_shares_hold(sizes):
    target = rows(sizes)
    counts = cells(target)
    for label, size in enumerate(sizes):
        for split, share in SHARES.items():
            assert counts[label, split] >= 1
            assert abs(counts[label, split] - share * size) <= 1.5
    assert sum(target.counts().values()) == sum(sizes)


@settings(max_examples=25)
@given(st.lists(st.integers(3, 60), min_size=2, max_size=6), st.data())
def test_subsample_keeps_shares_and_at_least_one_each(sizes, data):
    target = rows(sizes)
    number = data.draw(st.integers(3 * len(sizes), len(target)))
    small = subsample(target, number, seed=1)
    assert len(small) == number
    before, after = cells(target), cells(small)
    floor = len(before)  # so many places at most go to cells that would round to none
    for key, size in before.items():
        assert 1 <= after[key] <= size
        assert after[key] >= size * number / len(target) - floor
    assert small.names == [name for name in target.names if name in set(small.names)]  # order kept


def test_subsample_does_not_depend_on_the_order():
    features = np.random.default_rng(0).normal(size=(90, 3))
    labels = np.arange(90) % 3
    order = np.random.default_rng(1).permutation(90)
    a = subsample(load_target((features, labels)), 30)
    b = subsample(load_target((features[order], labels[order])), 30)
    assert dict(zip(a.hashes, a.splits.tolist(), strict=True)) == dict(zip(b.hashes, b.splits.tolist(), strict=True))
    assert a.fingerprint != b.fingerprint  # ordered


def test_a_larger_subsample_contains_most_of_a_smaller_one():
    target = rows([50, 70, 80])
    small, large = set(subsample(target, 60).hashes), set(subsample(target, 120).hashes)
    assert len(small - large) <= 2


def test_subsample_notes_and_features():
    whole = rows([20, 20])
    assert subsample(whole, 40) is whole
    target = subsample(whole, 12, seed=4)
    assert target.notes[-1] == "12 of 40 items were drawn, by split and class, with seed 4"
    assert target.features is not None
    assert target.features.shape == (12, 3)


def test_subsample_too_small():
    with pytest.raises(TargetError, match=r"max_samples = 5 is too small: 2 classes in 3 splits need at least 6"):
        subsample(rows([20, 20]), 5)
    with pytest.raises(ConfigError, match=r"'max_samples' parameter must be an int in the range \[1, inf\)"):
        subsample(rows([20, 20]), 0)


def test_without_renews_fingerprint_and_notes():
    target = rows([20, 20])
    smaller = without(target, [3, 1], ["is truncated", "is empty (0 bytes)"])
    assert len(smaller) == 38
    assert smaller.hashes == (target.hashes[0], target.hashes[2], *target.hashes[4:])
    assert smaller.fingerprint != target.fingerprint
    assert smaller.notes[-1] == "2 of 40 items skipped: row 1 (is empty (0 bytes)), row 3 (is truncated)"
    assert without(target, {3: "is truncated", 1: "is empty (0 bytes)"}).fingerprint == smaller.fingerprint
    assert without(target, []) is target


def test_without_refuses_to_lose_a_class():
    target = rows([20, 20])
    bad = np.flatnonzero((target.labels == 1) & (target.splits == "val"))
    with pytest.raises(TargetError, match=r"none of the 3 rows of class '1' in val can be used"):
        without(target, bad)


def test_duplicates_stay_on_one_side_of_a_drawn_split():
    features = np.repeat(np.random.default_rng(0).normal(size=(30, 3)), 2, axis=0)
    target = load_target((features, np.repeat(np.arange(3), 20)))
    assert not any("data leakage" in note for note in target.notes)
    assert any("30 of 60 items have the same content as an earlier one in their split" in note for note in target.notes)
    assert target.splits[::2].tolist() == target.splits[1::2].tolist()


def test_duplicates_across_given_splits_are_noted():
    features = np.random.default_rng(0).normal(size=(12, 3))
    labels = [0, 1] * 6
    target = load_target(
        {"train": (features, labels), "val": (features[:2] + 1, labels[:2]), "test": (features[:2], labels[:2])}
    )
    assert (
        "2 items have the same content as one in another split, such as train: row 0 (train) and test: row 0 (test); "
        "test metrics are likely optimistic (data leakage)"
    ) in target.notes


def test_one_content_under_two_labels_is_noted():
    features = np.random.default_rng(0).normal(size=(20, 3))
    features[10] = features[0]
    target = load_target((features, [0] * 10 + [1] * 10))
    assert "1 items have the same content as one with another label, such as row 0 and row 10" in target.notes


def test_fingerprint_depends_on_labels_names_and_splits():
    features = np.random.default_rng(0).normal(size=(20, 3))
    prints = [
        load_target((features, labels), seed=seed).fingerprint
        for labels, seed in (
            ([0] * 10 + [1] * 10, 0),
            ([0] * 11 + [1] * 9, 0),
            (["x"] * 10 + ["y"] * 10, 0),
            ([0] * 10 + [1] * 10, 1),
        )
    ]
    assert len(set(prints)) == 4


@pytest.mark.parametrize(
    ("labels", "kind", "names"),
    [
        ([10, 2, 2, 10, 10, 2], LabelKind.CLASSES, ("2", "10")),
        (["b", "a", "b", "a", "b", "a"], LabelKind.CLASSES, ("a", "b")),
        ([True, False] * 3, LabelKind.CLASSES, ("False", "True")),
        ([0.5, 1, 2, 3, 4, 5], LabelKind.REAL, ()),
        (np.eye(6, 4, dtype=int), LabelKind.MULTILABEL, ("0", "1", "2", "3")),
        (np.eye(6, 4) / 3, LabelKind.REAL, ()),
    ],
)
def test_label_kinds_are_told_from_the_labels(labels, kind, names):
    target = load_target((np.random.default_rng(0).normal(size=(6, 2)), labels))
    assert target.label_kind is kind
    assert (target.class_names, target.modality) == (names, "rows")


def test_the_task_overrides_the_labels():
    assert load_target((np.eye(9), np.arange(9) % 3.0), task="classification").class_names == ("0", "1", "2")
    assert load_target((np.eye(9), np.arange(9)), task="regression").label_kind is LabelKind.REAL
    with pytest.raises(ConfigError, match=r"unknown task 'clasification'; did you mean 'classification'\?"):
        load_target((np.eye(4), [0, 1, 0, 1]), task="clasification")


@pytest.mark.parametrize(
    ("data", "task", "message"),
    [
        ((np.eye(9), [0, 1] * 4), None, r"features: 9 items but 8 labels; give one label per item"),
        ((np.ones(9), [0, 1, 2] * 3), None, r"features are float64 \(9,\); expected floats \(N, D\)"),
        ((np.zeros((18, 6, 5, 3)), [0, 1, 2] * 6), None, r"images are float64 \(18, 6, 5, 3\); expected uint8 \(N, H, W\)"),
        ((np.zeros((0, 4, 4), np.uint8), []), None, r"arrays: no items found"),
        ((np.eye(4), [1.0, 2.0, float("nan"), 3.0]), None, r"features: row 2 has no label; give it one or remove it"),
        ((np.eye(4), [1.5] * 4), None, r"all labels are equal; there is nothing to learn"),
        ((np.eye(4), list("abcd")), "regression", r"row 0 is labeled 'a', and regression labels must be numbers; write it"),
        ((np.eye(2), [1.5, 2.5]), None, r"there are 2 items; 3 are needed"),
        ((np.eye(4), np.full((4, 2), 3)), "multilabel", r"multilabel labels must be 0 or 1 in the shape \(N, L\); got int64 \(4, 2\)"),
        ((np.eye(4), [0, 1, 0, 1]), "multilabel", r"multilabel labels must be 0 or 1 .*, or lists of names; got numbers \(4,\)"),
        (3, None, r"an object of type int is not a target\. Expected one of: a tuple \(uint8 images"),
    ],
)  # fmt: skip
def test_arrays_that_are_no_target(data, task, message):
    with pytest.raises(TargetError, match=message):
        load_target(data, task=task)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite(value):
    features = np.ones((9, 3))
    features[4, 1] = value
    with pytest.raises(TargetError, match=r"features hold NaN or inf in 1 of 9 rows \(first: row 4\)"):
        load_target((features, [0, 1, 2] * 3))


def test_all_classes_that_are_too_small_are_told_at_once():
    few = r"12 of 14 classes have too few items: '1' has 1, '2' has 2, '3' has 1, .*'10' has 1 and 2 more; 3 of each are needed"
    with pytest.raises(TargetError, match=few):
        rows([20, 1, 2, *[1] * 10, 20])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"train": [0] * 9 + [1] * 9 + [2], "test": [0, 1, 2, 3]},
            r"2 of 4 classes have .*: '2' has 1 in train \(test 1\), '3' has 0 in train \(test 1\); 2 of",
        ),
        (
            {"train": [0, 1, 2], "val": [0, 2], "test": [0, 1, 3]},
            r"3 of 4 classes have no row in one of the splits: '1' \(train 1, val 0, test 1\), '2' \(train 1, val 1, test 0\), ",
        ),
    ],
)
def test_all_classes_that_a_given_split_lacks_are_told_at_once(parts, message):
    rng = np.random.default_rng(0)
    with pytest.raises(TargetError, match=message):
        load_target({split: (rng.normal(size=(len(labels), 3)), labels) for split, labels in parts.items()})
