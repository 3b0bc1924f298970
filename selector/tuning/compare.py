"""Who is best, and how sure is that: paired resampling of the validation items."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from selector.core.metric import Metric
from selector.core.task import Stats

DRAWS = 2000
DRAWS_OF_OTHER_METRICS = 200  # each draw computes the metric again


@dataclass(frozen=True)
class Standing:
    """One entrant against the best one, on the same items.

    ``difference`` is best minus this one (0 for the best), with a 90 % interval, oriented so that more is
    worse; ``p_best`` the share of resamples in which it is the first.
    """

    value: float
    difference: float
    low: float
    high: float
    p_best: float


def standings(
    entrants: Mapping[str, Sequence[Stats]],
    name: str,
    metric: Metric,
    seed: int = 0,
    *,
    unfinished: float = 0.0,
) -> dict[str, Standing]:
    """Compare entrants; several statistics of one entrant are repeats with other seeds, and averaged.

    Args:
        entrants: statistics that all run along the same items.
        name, metric: what is compared, and its declaration.
        unfinished: standard deviation, in units of the metric, of what further training would change in each
            entrant; see ``spread_of_changes``.
    Returns:
        by entrant; P(best) sums to 1 (ties are shared).
    Cost: draws · items · entrants for metrics that are ratios of sums; 200 metrics an entrant otherwise.
    """
    values = np.array([float(np.mean([run.value(name) for run in runs])) for runs in entrants.values()])
    oriented = values * metric.sign
    draws = _draws(entrants, name, seed) * metric.sign
    if unfinished:
        draws = draws + np.random.default_rng((seed, 1)).normal(0.0, unfinished, draws.shape)
    best = int(np.nanargmax(oriented))
    firsts = draws == np.nanmax(draws, axis=1, keepdims=True)
    p_best = (firsts / firsts.sum(axis=1, keepdims=True)).mean(axis=0)
    gaps = draws[:, [best]] - draws
    low, high = np.nanquantile(gaps, [0.05, 0.95], axis=0)
    return {
        entrant: Standing(
            float(values[i]), float(oriented[best] - oriented[i]), float(low[i]), float(high[i]), float(p_best[i])
        )
        for i, entrant in enumerate(entrants)
    }


def half_widths(entrants: Mapping[str, Sequence[Stats]], name: str, metric: Metric, seed: int = 0) -> dict[str, float]:
    """Half-width of the 90 % interval of each entrant's difference to the best one, 0 for that one.

    Args:
        entrants: statistics of the same items; the value of an entrant is the mean over its own (of several networks,
            not of repeats: how far they lie apart is no noise).
        name, metric: what is compared, in whose units the answer is, and its declaration.
    """
    owners = np.array([entrant for entrant, runs in entrants.items() for _ in runs])
    runs = {str(i): [run] for i, run in enumerate(run for own in entrants.values() for run in own)}
    single = np.array([[run.value(name) for (run,) in runs.values()]])
    values, draws = (
        np.stack([rows[:, owners == entrant].mean(axis=1) for entrant in entrants], axis=1)
        for rows in (single, _draws(runs, name, seed))
    )
    best = int(np.nanargmax(values[0] * metric.sign))
    low, high = np.nanquantile(draws[:, [best]] - draws, [0.05, 0.95], axis=0)
    return {entrant: float(half) for entrant, half in zip(entrants, (high - low) / 2, strict=True)}


def spread_of_changes(before: Sequence[Stats], after: Sequence[Stats], name: str, seed: int = 0) -> float:
    """How differently a round moved its entrants: what one more round may do to their order.

    A change that all share alters no order and does not count; nor does what the choice of items
    alone makes of equal changes (the variance of the changes on resampled items is deducted).

    Args:
        before, after: by entrant, statistics of the same items; before and after the round.
        name: of the metric.
    Returns:
        A standard deviation, in units of the metric; 0 for fewer than two entrants.
    """
    count = len(before)
    if count < 2:
        return 0.0
    entrants = {
        f"{when} {i}": [run] for when, runs in (("before", before), ("after", after)) for i, run in enumerate(runs)
    }
    values = np.array([[runs[0].value(name) for runs in entrants.values()]])
    draws = _draws(entrants, name, seed)
    observed, resampled = (_apart(f[:, count:] - f[:, :count]) for f in (values, draws))
    variance = float((observed**2).sum() - resampled.var(axis=0).sum()) / (count - 1)
    return math.sqrt(max(0.0, variance))


def _apart(changes: np.ndarray) -> np.ndarray:
    """Each entrant's change beyond the mean change."""
    centred: np.ndarray = changes - changes.mean(axis=1, keepdims=True)
    return centred


def _draws(entrants: Mapping[str, Sequence[Stats]], name: str, seed: int) -> np.ndarray:
    """(draws, entrants): the metric on resamples of the items, and of the repeats of each entrant."""
    rng = np.random.default_rng(seed)
    count = len(next(iter(entrants.values()))[0])
    ratios = [[run.ratio(name) for run in runs] for runs in entrants.values()]
    known = [[pair for pair in pairs if pair is not None] for pairs in ratios]
    if all(len(some) == len(pairs) for some, pairs in zip(known, ratios, strict=True)):
        weights = rng.multinomial(count, np.full(count, 1 / count), size=DRAWS) / count
        columns = []
        for pairs in known:
            parts, wholes = (weights @ np.stack(arrays).T.astype(float) for arrays in zip(*pairs, strict=True))
            by_run = np.divide(parts, wholes, out=np.zeros_like(parts), where=wholes > 0)
            # a repeat drawn with the items: noise of training and of the sample together
            picks = rng.integers(len(pairs), size=(DRAWS, len(pairs)))
            columns.append(np.take_along_axis(by_run, picks, axis=1).mean(axis=1))
        return np.stack(columns, axis=1)
    result = np.empty((DRAWS_OF_OTHER_METRICS, len(entrants)))
    for draw in range(DRAWS_OF_OTHER_METRICS):
        items = rng.integers(count, size=count)
        for i, runs in enumerate(entrants.values()):
            result[draw, i] = runs[int(rng.integers(len(runs)))][items].value(name)
    return result
