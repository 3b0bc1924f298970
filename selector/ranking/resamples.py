"""Measures of agreement on many resamples at once, as bootstraps need them by the thousand.

Each takes scores and accuracies (B, M), a row a resample, and which of them count (B, M), and gives (B,): what the measure
of the same name in ``agreement`` gives row by row, NaN where fewer than two count. Models that were drawn twice are ties.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

import numpy as np

BatchMeasure: TypeAlias = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def one_by_one(
    function: Callable[[np.ndarray, np.ndarray], float], x: np.ndarray, y: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Any measure, a row at a time."""
    rows = zip(x, y, counts, strict=True)
    return np.array([function(a[kept], b[kept]) if kept.sum() > 1 else math.nan for a, b, kept in rows])


def weighted_taus(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """As ``scipy.stats.weightedtau`` with its default ``rank=True``: the mean over the rankings by either variable."""
    both = counts[:, :, None] & counts[:, None]
    of_x, of_y = (((v[:, :, None] > v[:, None]) * np.float32(2) - (v[:, :, None] != v[:, None])) * both for v in (x, y))
    # the weight of a pair is the sum of its models' and its term is the same for (i, j) and (j, i): rows are enough
    terms = [np.einsum("bij,bij->bi", a, b).astype(float) for a, b in ((of_x, of_y), (of_x, of_x), (of_y, of_y))]
    taus = []
    for last, other in ((x, y), (y, x)):
        order = np.lexsort((other, last, counts), axis=-1)[:, ::-1]  # what does not count is ranked last
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(order.shape[1])[None], axis=1)
        agreeing, spread_x, spread_y = ((counts / (1.0 + rank) * term).sum(axis=1) for term in terms)
        with np.errstate(invalid="ignore", divide="ignore"):
            taus.append(agreeing / np.sqrt(spread_x * spread_y))
    return np.asarray((taus[0] + taus[1]) / 2)


def spearmans(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Correlation of ranks, ties at their mean."""
    number = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    centered = []
    for v in (x, y):
        below = ((v[:, None] < v[:, :, None]) & counts[:, None]).sum(axis=2)
        level = ((v[:, None] == v[:, :, None]) & counts[:, None]).sum(axis=2)
        ranks = np.where(counts, below + (level + 1) / 2, 0.0)
        centered.append(np.where(counts, ranks - ranks.sum(axis=1, keepdims=True) / number, 0.0))
    a, b = centered
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1)))


def best_of_first(k: int, x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(B,) best accuracy among the first k by score, ties at the border in expectation over their order; and the best."""
    number = counts.sum(axis=1)
    first = np.minimum(k, np.maximum(number, 1))
    scores, accuracies = np.where(counts, x, -np.inf), np.where(counts, y, -np.inf)
    border = np.take_along_axis(np.sort(scores, axis=1)[:, ::-1], first[:, None] - 1, axis=1)
    sure = np.where(scores > border, accuracies, -np.inf).max(axis=1)
    free = first - (scores > border).sum(axis=1)
    tied = np.sort(np.where((scores == border) & counts, accuracies, -np.inf), axis=1)
    count = ((scores == border) & counts).sum(axis=1)
    width = x.shape[1]
    ways = np.array([[math.comb(i, j) for j in range(k + 1)] for i in range(width + 1)], dtype=float)
    place = np.arange(width) - (width - count)[:, None]  # among the tied ones, the worst 0
    share = np.where(place >= 0, ways[np.maximum(place, 0), (free - 1)[:, None]], 0.0)
    value = np.where(place >= 0, np.maximum(tied, sure[:, None]), 0.0)
    enough = number > 1
    expected = (share * np.where(np.isfinite(value), value, 0.0)).sum(axis=1) / np.maximum(ways[count, free], 1.0)
    best = accuracies.max(axis=1)
    return np.where(enough, expected, np.nan), np.where(enough, best, np.nan)


def regrets(k: int, x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """``regret_at(k)``."""
    found, best = best_of_first(k, x, y, counts)
    return np.asarray(best - found)


def rels(k: int, x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """``rel_at(k)``."""
    found, best = best_of_first(k, x, y, counts)
    return np.asarray(found / best)


BATCHED: Mapping[str, BatchMeasure] = {
    "weighted_tau": weighted_taus,
    "spearman": spearmans,
    **{f"regret@{k}": partial(regrets, k) for k in (1, 3)},
    **{f"rel@{k}": partial(rels, k) for k in (1, 3)},
}
