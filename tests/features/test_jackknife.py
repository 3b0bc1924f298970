"""What is left without a block, against decompositions of the rows that are left."""

import numpy as np
import pytest

from selector.features import FeatureSet
from selector.features.jackknife import deletions, grouped
from selector.proxies import evaluate, registry, with_interval

SHAPES = [(800, 170), (200, 220), (170, 400)]  # rows, columns: either side of the kernel


def sample(n: int, d: int, kind: str) -> FeatureSet:
    """Rows with an offset and uneven directions, three or four to an item."""
    rng = np.random.default_rng(n)
    codes = rng.integers(0, 4, n)
    rows = rng.normal(size=(n, d)) * np.logspace(0, -2, d) + 3
    rows[:, :4] += np.eye(4)[codes]
    labels = codes if kind == "classes" else rows[:, :3] @ rng.normal(size=(3, 2)) + 0.3 * rng.normal(size=(n, 2))
    return FeatureSet(rows, labels, label_kind=kind, groups=np.arange(n) // 4, keys=np.arange(n))


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_left_is_what_the_rows_left_give(shape: tuple[int, int]) -> None:
    features = sample(*shape, "classes")
    every = deletions(features)
    assert every is not None
    for block in (0, 7):
        kept = features.blocks != block
        left, z = every.without(block), every.rows[kept]
        z = z - z.mean(axis=0)
        labels = np.eye(4)[features.labels[kept]]
        scatter = z.T @ z
        assert left.count == kept.sum()
        np.testing.assert_allclose(left.response, z.T @ labels, atol=1e-8)
        np.testing.assert_allclose(left.label_counts, labels.sum(axis=0), atol=1e-9)
        np.testing.assert_allclose(left.label_square, ((labels - labels.mean(axis=0)) ** 2).sum(axis=0), atol=1e-9)
        np.testing.assert_allclose(left.trace, np.trace(scatter))
        np.testing.assert_allclose(left.square, (scatter**2).sum())
        np.testing.assert_allclose(left.norm4, ((z**2).sum(axis=1) ** 2).sum())
        for penalty in (0.1, 30.0):
            inverse = np.linalg.inv(scatter + penalty * np.eye(len(scatter)))
            ridge, right = left.ridge(penalty), z.T @ labels
            np.testing.assert_allclose(ridge.solve(right), inverse @ right, rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(ridge.quadratic(right), np.einsum("kt,kt->t", right, inverse @ right), rtol=1e-7)
            np.testing.assert_allclose(ridge.trace, np.trace(inverse), rtol=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("name", "kind"), [("hscore", "classes"), ("loo-ridge", "real"), ("logme", "classes"), ("logme", "real")]
)
def test_blocks_are_left_out_as_by_decompositions_of_their_own(name: str, kind: str, shape: tuple[int, int]) -> None:
    proxy = registry.get(name)
    fast = evaluate(sample(*shape, kind), name, intervals=True)
    features = sample(*shape, kind)
    if name == "loo-ridge":
        slow = np.array([float(proxy(features.without(b), blocks=False)) for b in range(10)])
    else:
        slow = with_interval(fast.__class__(fast.value), features, lambda part: proxy(part)).blocks
    assert fast.blocks is not None
    if name == "hscore":  # the same figure by another way
        np.testing.assert_allclose(fast.blocks, slow, rtol=1e-7)
        return
    # at the penalty of all rows: where the value is highest in it, another one hardly changes it
    spread, own = (blocks - blocks.mean() for blocks in (fast.blocks, slow))
    assert np.linalg.norm(spread - own) < (0.15 if name == "logme" else 0.35) * np.linalg.norm(own)
    assert np.std(fast.blocks) == pytest.approx(np.std(slow), rel=0.1 if name == "logme" else 0.3)


def test_larger_blocks_than_directions_are_left_to_decompositions() -> None:
    assert deletions(sample(900, 170, "classes")) is None
    assert deletions(sample(800, 170, "classes").without(3)) is None
    assert deletions(sample(120, 100, "classes")) is None  # ten small decompositions take no time


def test_columns_of_near_penalties_go_together() -> None:
    groups = grouped(np.array([1.0, 100.0, 1.1, 95.0]), 4)
    assert [columns.tolist() for _, columns in groups] == [[0, 2], [1, 3]]
    assert groups[0][0] == pytest.approx(np.sqrt(1.1))
    assert grouped(np.full(3, 2.0), 4)[0][1].tolist() == [0, 1, 2]
