"""Moments, blocks and the spectrum that proxies share."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import selector
import selector.proxies as proxies
from selector.core.contracts import LabelKind
from selector.core.errors import NotApplicable, ProxyError
from selector.features import FeatureSet, accumulate
from selector.features.labels import check_labels


def rows_and_labels(n=60, d=8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) * np.linspace(1, 3, d) + 5, rng.integers(0, 3, n)


def full(lower):
    return np.tril(lower) + np.tril(lower, -1).T


def same(a, b):
    for name in ("total", "cross", "label_total", "label_square", "norm2_rows"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-9, atol=1e-8, err_msg=name)
    np.testing.assert_allclose(full(a.gram), full(b.gram), rtol=1e-9, atol=1e-8)
    assert (a.count, a.norm4) == (
        b.count,
        pytest.approx(b.norm4, rel=1e-9, abs=1e-6),
    )  # fourth powers of the shift cancel


@settings(max_examples=25, deadline=None)
@given(n=st.integers(6, 80), d=st.integers(1, 12), seed=st.integers(0, 10**6), move=st.floats(-20, 20))
def test_moments_add_subtract_and_move(n, d, seed, move):
    x, _ = rows_and_labels(n, d, seed)
    labels = check_labels(np.arange(n) % 2, n, LabelKind.CLASSES)
    parts = np.arange(n) % 3
    whole = accumulate(x, labels)[0]
    a, b, c = accumulate(x, labels, parts, 3)
    same(a + b + c, whole)
    same(whole - b, a + c)
    elsewhere = accumulate(x, labels, shift=whole.shift + move)[0]
    same(elsewhere.shifted_to(whole.shift), whole)
    shard = accumulate(x, labels, parts, 3, only=1, shift=whole.shift - 3)[0]
    same(a + c + shard, whole)  # shards of another shift merge too


def test_moments_are_the_sums_they_say():
    x, y = rows_and_labels()
    m = accumulate(x, check_labels(y, 60, None))[0]
    centered = x - x.mean(0)
    np.testing.assert_allclose(m.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(full(m.centered_gram()), centered.T @ centered, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(m.centered_cross(), np.eye(3)[y].T @ centered, rtol=1e-9, atol=1e-9)
    assert m.centered_norm4() == pytest.approx((np.linalg.norm(centered, axis=1) ** 4).sum(), rel=1e-11)


def test_moments_of_different_widths_do_not_mix():
    x, y = rows_and_labels()
    labels = check_labels(y, 60, None)
    with pytest.raises(ProxyError, match=r"equal widths and label columns. Got 8 and 5 features, 3 and 3 columns"):
        accumulate(x, labels)[0] + accumulate(x[:, :5], labels)[0]


def test_rows_in_memory_mapped_chunks_give_the_same_moments(monkeypatch, tmp_path):
    from selector.features import arrays

    x, y = rows_and_labels(1000, 6)
    stored = np.memmap(tmp_path / "x", dtype=np.float32, mode="w+", shape=x.shape)
    stored[:] = x
    labels = check_labels(y, 1000, None)
    whole = accumulate(np.array(stored), labels)[0]
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 100)
    same(accumulate(stored, labels, shift=whole.shift)[0], whole)


@pytest.mark.parametrize(("n", "d"), [(50, 9), (9, 50), (20, 20)])
def test_the_spectrum_is_that_of_the_centered_rows(n, d):
    x, _ = rows_and_labels(n, d)
    labels = np.arange(n) % 3
    features = FeatureSet(x, labels)
    spectrum = features.spectrum
    centered = x - x.mean(0)
    s = np.linalg.svd(centered, compute_uv=False)
    kept = spectrum.values[spectrum.values > 0][::-1]
    np.testing.assert_allclose(kept, s[: len(kept)] ** 2, rtol=1e-9)
    assert len(kept) == min(n - 1, d)
    basis = features.basis[:, spectrum.values > 0]
    np.testing.assert_allclose(basis.T @ basis, np.eye(len(kept)), atol=1e-8)
    z = features.coordinates()
    np.testing.assert_allclose(z @ z.T, centered @ centered.T, atol=1e-6)
    np.testing.assert_allclose(spectrum.energy.sum(0) + spectrum.residual, spectrum.label_square, rtol=1e-9)


def test_blocks_are_stratified_and_do_not_depend_on_order_or_names():
    x, y = rows_and_labels(200, 4)
    features = FeatureSet(x, y)
    table = np.zeros((3, 10))
    np.add.at(table, (y, features.blocks), 1)
    assert (np.ptp(table, axis=1) <= 1).all()
    order = np.random.default_rng(1).permutation(200)
    again = FeatureSet(x[order], np.array(["z", "a", "m"])[y[order]])
    np.testing.assert_array_equal(again.blocks, features.blocks[order])


def test_storage_type_does_not_move_blocks():
    x = np.random.default_rng(0).standard_normal((100, 4)).astype(np.float32)
    y = np.arange(100) % 2
    np.testing.assert_array_equal(FeatureSet(x, y).blocks, FeatureSet(x.astype(np.float64), y).blocks)


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (np.array([0, 1, 1]), "classes"),
        (np.array([True, False, True]), "classes"),
        (["cat", "dog", "cat"], "classes"),
        (np.array([0.5, 1, 2]), "real"),
        (np.array([[0, 1], [1, 1], [0, 0]]), "multilabel"),
        (np.array([[0.5, 1], [1, 1], [0, 0]]), "real"),
    ],
)
def test_label_kinds_are_inferred(labels, kind):
    assert check_labels(labels, 3, None).kind == kind


@pytest.mark.parametrize(
    ("labels", "kind", "text"),
    [
        ([0, 0, 0], None, "at least two classes. Got one: 0"),
        ([0.5, 1, 2], "classes", "Got fractions; real values need label_kind='real'"),
        ([0, 1, np.inf], "real", "labels must be finite. Label 2 is not"),
        ([0, 1, np.nan], "classes", "Label 2 is not; a class cannot be unknown: drop the row"),
        ([[0, 2], [1, 1], [0, 0]], "multilabel", "must hold 0 and 1 only"),
        ([1.0, 1.0, 1.0], "real", "real labels must vary"),
        ([0, 1], None, "equal lengths. Got 3 rows and 2 labels"),
        ([0, 1, 2], "classez", "label_kind must be one of classes, multilabel, real. Got 'classez'"),
    ],
)
def test_wrong_labels_are_refused(labels, kind, text):
    with pytest.raises(ProxyError, match=text):
        FeatureSet(np.eye(3), labels, label_kind=kind)


def test_other_wrong_arguments_are_refused():
    x, y = rows_and_labels(20, 4)
    with pytest.raises(ProxyError, match=r"keys must have one entry per row. Got 3 for 20 rows"):
        FeatureSet(x, y, keys=["a", "b", "c"])
    with pytest.raises(ProxyError, match=r"features must hold real numbers. Got the type complex128"):
        FeatureSet(x.astype(complex), y)
    with pytest.raises(ProxyError, match="too large to square"):
        FeatureSet(x * 1e30, y)
    with pytest.raises(ProxyError, match=r"source_head must be \(weight \(C_s, 4\)"):
        FeatureSet(x, y, source_head=(np.zeros((5, 3)), np.zeros(5))).source_logits  # noqa: B018
    with pytest.raises(NotApplicable, match="no head of its source task"):
        FeatureSet(x, y).source_logits  # noqa: B018


def test_a_source_head_gives_its_logits():
    x, y = rows_and_labels(20, 4)
    weight, bias = np.arange(12.0).reshape(3, 4), np.array([1.0, 2, 3])
    np.testing.assert_allclose(FeatureSet(x, y, source_head=(weight, bias)).source_logits, x @ weight.T + bias)


def test_labels_with_few_positives_are_left_out_and_named():
    rng = np.random.default_rng(0)
    labels = np.zeros((100, 4))
    labels[:40, 0], labels[::3, 1], labels[:4, 2], labels[:97, 3] = 1, 1, 1, 1
    data = FeatureSet(rng.standard_normal((100, 5)), labels, label_names=["cat", "dog", "newt", "leg"]).label_data
    assert (data.names, data.left_out) == (("cat", "dog"), {"newt": 4, "leg": 3})
    assert data.note() == (
        "2 labels have fewer than 10 positive or negative rows and are not scored: newt (4), leg (3)."
    )
    few = FeatureSet(rng.standard_normal((100, 5)), labels[:, 2:], label_kind="multilabel").label_data
    assert (few.names, few.left_out, few.note()) == (("0", "1"), {}, "")  # none has enough: all that vary
    constant = FeatureSet(rng.standard_normal((100, 5)), np.stack([labels[:, 0], np.ones(100)], 1), label_kind="real")
    assert constant.label_data.note() == "1 columns are constant and not scored: 1 (0)."


def test_unknown_entries_make_parts_that_are_complete():
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((60, 4)), rng.standard_normal((60, 3))
    labels[:9, 1] = np.nan
    features = FeatureSet(x, labels, label_names="abc", groups=np.arange(60) // 2)
    parts = {part.label_data.names: part for part in features.complete_parts()}
    assert set(parts) == {("a", "c"), ("b",)}
    np.testing.assert_array_equal(parts["b",].rows, x[9:])
    np.testing.assert_array_equal(parts["b",].labels[:, 0], labels[9:, 1])
    np.testing.assert_array_equal(parts["b",].blocks, features.blocks[9:])
    block = int(features.blocks[20])
    rest = {part.label_data.names: part for part in features.without(block).complete_parts()}
    np.testing.assert_array_equal(rest["b",].rows, x[9:][features.blocks[9:] != block])
    with pytest.raises(NotApplicable, match="needs every label of every row, and some are unknown"):
        features.spectrum  # noqa: B018
    assert FeatureSet(x, labels[:, [0, 2]]).complete_parts()[0].label_data.known is None
    masked = FeatureSet(x, np.ma.masked_array(np.nan_to_num(labels), np.isnan(labels)))
    np.testing.assert_array_equal(masked.label_data.known, ~np.isnan(labels))
    with pytest.raises(ProxyError, match=r"mask must have the shape of the labels, \(60, 3\). Got \(59,\)"):
        FeatureSet(x, labels, mask=np.ones(59))
    with pytest.raises(ProxyError, match=r"label_names must name every column. Got 2 for 3"):
        FeatureSet(x, labels, label_names=["a", "b"])
    with pytest.raises(ProxyError, match=r"features must have no masked entries. Row 3 has one"):
        FeatureSet(np.ma.masked_array(x, np.tile(np.arange(60)[:, None] == 3, 4)), labels)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["a", 1, "b", "a"], r"all names or all numbers\. Label 0 is 'a', but label 1 is 1"),
        ([1, 2, "1", 2], r"all names or all numbers\. Label 0 is 1, but label 2 is '1'"),
        (np.array([True, "yes", False, "no"], dtype=object), r"Label 0 is True, but label 1 is 'yes'"),
        (np.array(["a", None, "b", "a"], dtype=object), r"labels must be known\. Label 1 is None; drop the row"),
        (["a", float("nan"), "b", "a"], r"labels must be known\. Label 1 is nan; drop the row"),
        (pd.array([0, 1, None, 1]), r"labels must be known\. Label 2 is missing; drop the row"),
    ],
)
def test_labels_of_two_kinds_are_told(labels, said):
    """numpy made names of the numbers: 1 and '1' were one class, without a word."""
    rows = np.random.default_rng(0).standard_normal((4, 3))
    with pytest.raises(ProxyError, match=said):
        selector.score(rows, labels, "knn")


def test_other_labels_share_what_depends_on_rows_alone():
    rng = np.random.default_rng(0)
    rows, codes = rng.normal(size=(60, 5)), rng.integers(0, 3, 60)
    values = rng.normal(size=(60, 2))
    values[codes == 0] = np.nan
    first = FeatureSet(rows, codes, groups=np.arange(60) // 3, keys=np.arange(60))
    proxies.evaluate(first, "knn")
    second = first.with_labels(values, "real")
    alone = FeatureSet(rows, values, label_kind="real", groups=np.arange(60) // 3, keys=np.arange(60))
    assert second.shared("neighbors", dict) is first.shared("neighbors", dict)
    for name in ("knn", "logme"):
        one, other = (proxies.evaluate(features, name, intervals=True) for features in (second, alone))
        assert (one.value, one.low, one.high) == (other.value, other.low, other.high)
    np.testing.assert_array_equal(second.blocks, alone.blocks)
