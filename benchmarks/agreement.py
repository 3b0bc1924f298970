"""How well a score agrees with fine-tuned accuracy, over models and over datasets.

Rank agreement alone misleads with few models (11 models: a random score has a weighted tau between
about -0.5 and 0.5 on one dataset), so the loss of acting on a score, ``regret_at``, stands beside
it, and every figure comes with a bootstrap interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from selector.core.errors import ConfigError
from selector.ranking.agreement import is_constant, kendall, paired_values, spearman, weighted_tau, weighted_taus

BatchMeasure: TypeAlias = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def one_by_one(
    function: Callable[[np.ndarray, np.ndarray], float], x: np.ndarray, y: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Any measure, a row at a time."""
    rows = zip(x, y, counts, strict=True)
    return np.array([function(a[kept], b[kept]) if kept.sum() > 1 else math.nan for a, b, kept in rows])


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


Measure: TypeAlias = Callable[[np.ndarray, np.ndarray], float]


def pearson(scores: ArrayLike, accuracies: ArrayLike) -> float:
    """Pearson's r, in -1..1; NaN on constants."""
    x, y = paired_values(scores, accuracies)
    return math.nan if is_constant(x) or is_constant(y) else float(np.corrcoef(x, y)[0, 1])


def _alone(many: BatchMeasure) -> Measure:
    """A measure of many resamples, of one order."""

    def measure(scores: ArrayLike, accuracies: ArrayLike) -> float:
        x, y = paired_values(scores, accuracies)
        return float(many(x[None], y[None], np.ones((1, len(x)), bool))[0])

    return measure


def regret_at(k: int) -> Measure:
    """Best accuracy minus the best among the first k models by score, in the accuracies' unit.

    0 is perfect; lower is better. Models whose scores tie at the border are taken in expectation
    over their order, so that the order of the input decides nothing.

    >>> regret_at(1)([3.0, 2.0, 1.0], [70.0, 90.0, 80.0])
    20.0
    """
    return _alone(partial(regrets, k))


def rel_at(k: int) -> Measure:
    """Best accuracy among the first k models by score over the best accuracy; 1 is perfect.

    >>> round(rel_at(1)([3.0, 2.0, 1.0], [70.0, 90.0, 80.0]), 3)
    0.778
    """
    return _alone(partial(rels, k))


MEASURES: Mapping[str, Measure] = {
    "weighted_tau": weighted_tau,
    "kendall": kendall,
    "spearman": spearman,
    "pearson": pearson,
    "rel@1": rel_at(1),
    "rel@3": rel_at(3),
    "regret@1": regret_at(1),
    "regret@3": regret_at(3),
}


@dataclass(frozen=True)
class Interval:
    """A mean over datasets with its 90% bootstrap interval; ``undefined`` datasets gave NaN."""

    value: float
    low: float
    high: float
    undefined: int = 0


def mean_agreement(
    scores: Sequence[ArrayLike],
    accuracies: Sequence[ArrayLike],
    measure: str | Measure = "weighted_tau",
    *,
    models: Sequence[Sequence[str]] | None = None,
    draws: int = 1000,
    seed: int = 0,
    resample: Literal["models", "datasets", "both"] = "both",
) -> Interval:
    """Mean of a measure over datasets, with a bootstrap over models and datasets.

    Args:
        scores, accuracies: one array (M_d,) a dataset; datasets may have other models.
        measure: a name of ``MEASURES`` or a callable.
        models: names (M_d,) of the models of each dataset. A model is then drawn once for all datasets that have it
            (crossed), as it must be where the same models are measured on every dataset. Without names each dataset
            is taken to have models of its own (nested), which makes intervals too narrow where it has not.
        draws, seed: of the bootstrap; the same seed draws the same resamples for every score, so
            that differences between scores can be paired.
        resample: what is drawn with replacement.
    Returns:
        The mean over the datasets where the measure is defined, and the percentile interval.
    Raises:
        ConfigError: no dataset, or lists of different length.
    """
    _same_length(models, scores=scores, accuracies=accuracies)
    function = MEASURES[measure] if isinstance(measure, str) else measure
    pairs = [paired_values(x, y) for x, y in zip(scores, accuracies, strict=True)]
    values = np.array([function(x, y) for x, y in pairs])
    drawn = _bootstrap(pairs, measure, models, draws, seed, resample)
    return Interval(_mean(values), *_percentiles(drawn), int(np.isnan(values).sum()))


def paired_difference(
    first: Sequence[ArrayLike],
    second: Sequence[ArrayLike],
    accuracies: Sequence[ArrayLike],
    measure: str | Measure = "weighted_tau",
    *,
    models: Sequence[Sequence[str]] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """Mean difference (first minus second) of a measure, both scores on the same resamples; ``models`` as above."""
    _same_length(models, first=first, second=second, accuracies=accuracies)
    function = MEASURES[measure] if isinstance(measure, str) else measure
    a = [paired_values(x, y) for x, y in zip(first, accuracies, strict=True)]
    b = [paired_values(x, y) for x, y in zip(second, accuracies, strict=True)]
    values = np.array([function(*p) - function(*q) for p, q in zip(a, b, strict=True)])
    one, other = (_bootstrap(pairs, measure, models, draws, seed, "both") for pairs in (a, b))
    return Interval(_mean(values), *_percentiles(one - other), int(np.isnan(values).sum()))


def _same_length(models: Sequence[Sequence[str]] | None, **lists: Sequence[ArrayLike]) -> None:
    counts = {name: len(values) for name, values in lists.items()}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        raise ConfigError(f"expected one array a dataset in each of {', '.join(counts)}. Got {counts}.")
    own = [len(np.atleast_1d(x)) for x in lists["accuracies"]]
    if models is not None and [len(names) for names in models] != own:
        raise ConfigError(f"models: expected a name for each of {own} models by dataset. Got {[*map(len, models)]}.")


def _percentiles(drawn: np.ndarray) -> tuple[float, float]:
    """90% of the means over the datasets of each resample."""
    means = np.array([_mean(values) for values in drawn])
    if not np.isfinite(means).any():
        return math.nan, math.nan
    low, high = np.nanquantile(means, [0.05, 0.95])
    return float(low), float(high)


def _bootstrap(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    measure: str | Measure,
    models: Sequence[Sequence[str]] | None,
    draws: int,
    seed: int,
    resample: str,
) -> np.ndarray:
    """(draws, datasets) values of the measure on what was drawn; NaN where it is undefined there."""
    many = BATCHED.get(measure) if isinstance(measure, str) else None
    if many is None:
        many = partial(one_by_one, MEASURES[measure] if isinstance(measure, str) else measure)
    rng = np.random.default_rng(seed)
    count = len(pairs)
    chosen = np.tile(np.arange(count), (draws, 1))
    if resample != "models":
        chosen = rng.integers(count, size=(draws, count))
    pool = list(dict.fromkeys(name for names in models or () for name in names))
    together = rng.integers(len(pool), size=(draws, len(pool))) if pool else None
    values = np.full((draws, count), np.nan)
    for index, (x, y) in enumerate(pairs):
        at = np.nonzero(chosen == index)
        if resample == "datasets":
            positions = np.tile(np.arange(len(x)), (len(at[0]), 1))
        elif models is None or together is None:
            positions = rng.integers(len(x), size=(len(at[0]), len(x)))
        else:
            own = {name: position for position, name in enumerate(models[index])}
            positions = np.array([own.get(name, -1) for name in pool])[together[at[0]]]  # -1: not on this dataset
        values[at] = many(x[positions], y[positions], positions >= 0)
    return values


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan
