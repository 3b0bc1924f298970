"""How well a measurement of the truth agrees with another one, and how well random orders do.

Two measurements are simulated, each with the spread between seeds that a set's own second seeds show, around accuracies that
are drawn together so far that a simulated column varies as much as the measured one. The first plays the truth, the second
the score; scopes such as the upper half are of the first, as they are of the truth for every other row. The noise of two
measurements is in it (their difference deviates by √2 times the spread of one seed, less where seeds were averaged), the
sampling of the test items is not: both are judged on the same. So it says what an order can reach whose only fault is that
trainings differ; it is an expectation and no bound, and a score can come out above it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.agreement import BATCHED, Interval
from benchmarks.suite import table

Column = Mapping[str, float]
Kept = Callable[[str, Column], Sequence[str]]
"""Set and its column of accuracies -> the encoders that are compared."""

DRAWS = 200  # pairs of measurements, or random orders
EVERY_SET = ""  # the spread of all sets together


@dataclass(frozen=True)
class SeedNoise:
    """Spread of accuracies between seeds.

    Attributes:
        deviations: set -> standard deviation of an accuracy of one seed, in points; ``EVERY_SET`` has that of all.
        seeds: (set, encoder) -> how many were averaged.
    """

    deviations: Mapping[str, float]
    seeds: Mapping[tuple[str, str], int]

    def error(self, name: str, encoder: str) -> float:
        """Standard deviation of what the truth has of a cell, in points."""
        deviation = self.deviations.get(name, self.deviations.get(EVERY_SET, math.nan))
        return deviation / math.sqrt(self.seeds.get((name, encoder), 1))


def seed_noise(*paths: Path, strategy: str = "full") -> SeedNoise:
    """From the cells of the tables that have several seeds; without any the deviations are empty."""
    found: dict[tuple[str, str], list[float]] = {}
    for path in dict.fromkeys(paths):
        for (name, encoder, how, _), row in table.read(path).items():
            if how == strategy and row["status"] == "ok" and row["diverged"] == "0":
                found.setdefault((name, encoder), []).append(100 * float(row["test_accuracy"]))
    several = {cell: float(np.var(values, ddof=1)) for cell, values in found.items() if len(values) > 1}
    by_set: dict[str, list[float]] = {}
    for (name, _), variance in several.items():
        by_set.setdefault(name, []).append(variance)
        by_set.setdefault(EVERY_SET, []).append(variance)
    deviations = {name: float(np.sqrt(np.mean(variances))) for name, variances in by_set.items()}
    return SeedNoise(deviations, {cell: len(values) for cell, values in found.items()})


def measured_twice(
    truth: Mapping[str, Column], noise: SeedNoise, draws: int = DRAWS, seed: int = 0
) -> Iterator[tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]]:
    """Pairs of simulated measurements, set -> encoder -> accuracy in points; none without a spread between seeds."""
    if not noise.deviations:
        return
    rng = np.random.default_rng(seed)
    columns = {}
    for name, column in truth.items():
        measured = np.array(list(column.values()))
        errors = np.array([noise.error(name, e) for e in column])
        # accuracies without noise lie closer together than measured ones
        share = max(0.0, 1 - float(np.mean(errors**2)) / max(float(np.var(measured, ddof=1)), 1e-12))
        columns[name] = measured.mean() + math.sqrt(share) * (measured - measured.mean()), errors
    for _ in range(draws):
        pair: tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]] = ({}, {})
        for made in pair:
            for name, (center, errors) in columns.items():
                values = center + rng.normal(0, 1, len(center)) * errors
                made[name] = dict(zip(truth[name], values.tolist(), strict=True))
        yield pair


def ceiling(
    truth: Mapping[str, Column],
    noise: SeedNoise,
    kept: Kept,
    measures: Sequence[str],
    *,
    fewest: int = 2,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Interval]:
    """Mean of each measure over pairs of measurements; empty without a spread between seeds or a set to compare on.

    Args:
        fewest: encoders that a set must keep to count.
    Returns:
        By measure. The interval resamples sets and encoders as that of a score does, a resample a pair.
    """
    pairs = list(measured_twice(truth, noise, draws, seed))
    if not pairs:
        return {}
    rng = np.random.default_rng(seed)
    pool = list(dict.fromkeys(e for column in truth.values() for e in column))
    together = rng.integers(len(pool), size=(draws, len(pool)))  # encoders are drawn once for all sets
    whole: dict[str, list[np.ndarray]] = {m: [] for m in measures}
    resampled: dict[str, list[np.ndarray]] = {m: [] for m in measures}
    for name, column in truth.items():
        first, second = (np.array([[pair[i][name][e] for e in column] for pair in pairs]) for i in range(2))
        compared = [set(kept(name, pair[0][name])) for pair in pairs]
        counts = np.array([[e in some and len(some) >= fewest for e in column] for some in compared])
        own = {e: position for position, e in enumerate(column)}
        at = np.array([own.get(e, -1) for e in pool])[together]
        drawn = [np.take_along_axis(values, at, axis=1) for values in (second, first, counts)]
        for measure in measures:
            whole[measure].append(BATCHED[measure](second, first, counts))
            resampled[measure].append(BATCHED[measure](drawn[0], drawn[1], drawn[2] & (at >= 0)))
    sets = rng.integers(len(truth), size=(draws, len(truth)))
    found = {}
    for measure in measures:
        each, again = np.array(whole[measure]).T, np.array(resampled[measure]).T
        if np.isfinite(each).any():
            found[measure] = _interval(_means(each), _means(np.take_along_axis(again, sets, axis=1)))
    return found


def chance(
    truths: Sequence[Sequence[float]], measures: Sequence[str], draws: int = DRAWS, seed: int = 0
) -> dict[str, Interval]:
    """Mean of each measure over random orders; the interval is that of the mean over sets of one order."""
    rng = np.random.default_rng(seed)
    found = {}
    orders = [rng.permuted(np.tile(np.arange(len(t), dtype=float), (draws, 1)), axis=1) for t in truths]
    for measure in measures:
        each = [
            BATCHED[measure](o, np.tile(t, (draws, 1)), np.ones(o.shape, bool))
            for o, t in zip(orders, truths, strict=True)
        ]
        means = _means(np.array(each).T)
        found[measure] = _interval(means, means)
    return found


def _means(values: np.ndarray) -> np.ndarray:
    """(draws, sets) -> (draws,), over the sets where the measure is defined."""
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(defined, values, 0.0).sum(axis=1) / defined.sum(axis=1))


def _interval(values: np.ndarray, resampled: np.ndarray) -> Interval:
    low, high = np.nanquantile(resampled, (0.05, 0.95))
    return Interval(float(np.nanmean(values)), float(low), float(high))
