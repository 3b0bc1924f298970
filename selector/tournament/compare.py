"""Who is best, and how sure is that: paired resampling of the validation images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from selector.contracts import Task, metric_sign

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
    logits: Mapping[str, Sequence[np.ndarray]], labels: np.ndarray, task: Task, metric: str, seed: int = 0
) -> dict[str, Standing]:
    """Compare entrants; several arrays of one entrant are repeats with other seeds, and averaged.

    Args:
        logits: by entrant, arrays (N, K) that all run along the same images.
        labels: of those images.
    Returns:
        by entrant; P(best) sums to 1 (ties are shared).
    Cost: draws · N · entrants for accuracy; 200 metrics an entrant otherwise.
    """
    names = list(logits)
    values = np.array([_mean([task.metrics(run, labels).get(metric, np.nan) for run in logits[n]]) for n in names])
    oriented = values * metric_sign(metric)
    draws = _draws(logits, labels, task, metric, seed) * metric_sign(metric)
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


def _draws(
    logits: Mapping[str, Sequence[np.ndarray]], labels: np.ndarray, task: Task, metric: str, seed: int
) -> np.ndarray:
    """(draws, entrants): the metric on resamples of the images, and of the repeats of each entrant."""
    rng = np.random.default_rng(seed)
    count = len(labels)
    if metric == "accuracy":
        weights = rng.multinomial(count, np.full(count, 1 / count), size=DRAWS) / count
        columns = []
        for runs in logits.values():
            right = np.stack([run.argmax(axis=1) == labels for run in runs]).astype(float)
            by_run = weights @ right.T
            # a repeat drawn with the images: noise of training and of the sample together
            picks = rng.integers(len(runs), size=(DRAWS, len(runs)))
            columns.append(np.take_along_axis(by_run, picks, axis=1).mean(axis=1))
        return np.stack(columns, axis=1)
    result = np.empty((DRAWS_OF_OTHER_METRICS, len(logits)))
    for draw in range(DRAWS_OF_OTHER_METRICS):
        rows = rng.integers(count, size=count)
        for i, runs in enumerate(logits.values()):
            run = runs[int(rng.integers(len(runs)))]
            result[draw, i] = task.metrics(run[rows], labels[rows]).get(metric, np.nan)
    return result


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
