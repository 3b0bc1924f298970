"""Who is best, and how sure is that: paired resampling of the validation images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from selector.core.contracts import Task, metric_sign, spread

DRAWS = 2000
DRAWS_OF_OTHER_METRICS = 200  # each draw computes the metric again


@dataclass(frozen=True)
class Standing:
    """One entrant against the best one, on the same images.

    ``difference`` is best minus this one (0 for the best), with a 90 % interval; ``p_best`` the
    share of resamples in which it is the first.
    """

    value: float
    difference: float
    low: float
    high: float
    p_best: float


def standings(
    logits: Mapping[str, Sequence[np.ndarray]],
    labels: np.ndarray,
    task: Task,
    metric: str,
    seed: int = 0,
    units: np.ndarray | None = None,
    *,
    unfinished: float = 0.0,
) -> dict[str, Standing]:
    """Compare entrants; several arrays of one entrant are repeats with other seeds, and averaged.

    Args:
        logits: by entrant, arrays (N, K) that all run along the same images.
        labels: of those images.
        units: (N,) which item a row belongs to, ascending, where an item has several: items are drawn.
        unfinished: standard deviation, in units of the metric, of what further training would change in each
            entrant; see ``spread_of_changes``.
    Returns:
        by entrant; P(best) sums to 1 (ties are shared).
    Cost: draws · items · entrants for metrics that are ratios of sums; 200 metrics an entrant otherwise.
    """
    names = list(logits)
    values = np.array(
        [_mean([task.metrics(run, labels, units).get(metric, np.nan) for run in logits[n]]) for n in names]
    )
    oriented = values * metric_sign(metric)
    draws = _draws(logits, labels, task, metric, seed, units) * metric_sign(metric)
    if unfinished:
        draws = draws + np.random.default_rng((seed, 1)).normal(0.0, unfinished, draws.shape)
    best = int(np.nanargmax(oriented))
    firsts = draws == np.nanmax(draws, axis=1, keepdims=True)
    p_best = (firsts / firsts.sum(axis=1, keepdims=True)).mean(axis=0)
    gaps = draws[:, [best]] - draws
    low, high = np.nanquantile(gaps, [0.05, 0.95], axis=0)
    return {
        name: Standing(
            float(values[i]), float(oriented[best] - oriented[i]), float(low[i]), float(high[i]), float(p_best[i])
        )
        for i, name in enumerate(names)
    }


def spread_of_changes(
    before: Sequence[np.ndarray],
    after: Sequence[np.ndarray],
    labels: np.ndarray,
    task: Task,
    metric: str,
    seed: int = 0,
    units: np.ndarray | None = None,
) -> float:
    """How differently a rung moved its entrants: what one more rung may do to their order.

    A change that all share alters no order and does not count; nor does what the choice of images
    alone makes of equal changes (the variance of the changes on resampled images is deducted).

    Args:
        before, after: by entrant, outputs (N, K) on the same images; before and after the rung.
        labels: of those images.
        units: as in ``standings``.
    Returns:
        A standard deviation, in units of the metric; 0 for fewer than two entrants.
    """
    count = len(before)
    if count < 2:
        return 0.0
    entrants = {
        f"{when} {i}": [run] for when, runs in (("before", before), ("after", after)) for i, run in enumerate(runs)
    }
    figures = np.array([[task.metrics(runs[0], labels, units).get(metric, np.nan) for runs in entrants.values()]])
    draws = _draws(entrants, labels, task, metric, seed, units)
    observed, resampled = (_apart(f[:, count:] - f[:, :count]) for f in (figures, draws))
    variance = float((observed**2).sum() - resampled.var(axis=0).sum()) / (count - 1)
    return math.sqrt(max(0.0, variance))


def _apart(changes: np.ndarray) -> np.ndarray:
    """Each entrant's change beyond the mean change."""
    centred: np.ndarray = changes - changes.mean(axis=1, keepdims=True)
    return centred


def _draws(
    logits: Mapping[str, Sequence[np.ndarray]],
    labels: np.ndarray,
    task: Task,
    metric: str,
    seed: int,
    units: np.ndarray | None,
) -> np.ndarray:
    """(draws, entrants): the metric on resamples of the images, and of the repeats of each entrant."""
    rng = np.random.default_rng(seed)
    starts = np.arange(len(labels) + 1)
    if units is not None:
        starts = np.append(np.flatnonzero(np.diff(units, prepend=units[:1] - 1)), len(labels))
    count = len(starts) - 1
    ratios = _ratios(logits, labels, task, metric, units)
    if ratios is not None:
        weights = rng.multinomial(count, np.full(count, 1 / count), size=DRAWS) / count
        columns = []
        for pairs in ratios:
            parts, wholes = (weights @ np.stack(arrays).T.astype(float) for arrays in zip(*pairs, strict=True))
            by_run = np.divide(parts, wholes, out=np.zeros_like(parts), where=wholes > 0)
            # a repeat drawn with the images: noise of training and of the sample together
            picks = rng.integers(len(pairs), size=(DRAWS, len(pairs)))
            columns.append(np.take_along_axis(by_run, picks, axis=1).mean(axis=1))
        return np.stack(columns, axis=1)
    result = np.empty((DRAWS_OF_OTHER_METRICS, len(logits)))
    for draw in range(DRAWS_OF_OTHER_METRICS):
        items = rng.integers(count, size=count)
        rows = spread(starts, items)
        drawn = None if units is None else np.repeat(np.arange(count), np.diff(starts)[items])
        for i, runs in enumerate(logits.values()):
            run = runs[int(rng.integers(len(runs)))]
            result[draw, i] = task.metrics(run[rows], labels[rows], drawn).get(metric, np.nan)
    return result


def _ratios(
    logits: Mapping[str, Sequence[np.ndarray]], labels: np.ndarray, task: Task, metric: str, units: np.ndarray | None
) -> list[list[tuple[np.ndarray, np.ndarray]]] | None:
    """Numerators and denominators of the metric, by entrant and run; None where it is no ratio of sums over items."""
    ratio = getattr(task, "ratio", None)
    if ratio is None:
        return None
    try:
        return [[ratio(metric, run, labels, units) for run in runs] for runs in logits.values()]
    except KeyError:
        return None


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
