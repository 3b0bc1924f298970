"""A measured metric as the normalized score of a model lets expect it, calibrated on confirmed models.

A straight line through pairs of normalized score (predicted) and metric (measured). Enough pairs of the target
itself are taken alone, since level and slope differ between targets; otherwise the pairs of all
targets are, and then the interval is what targets that were left out were missed by.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from selector.core.stats import t_quantile
from selector.ranking.history import Result
from selector.results import PredictedValue

FEWEST_PAIRS = 5
FEWEST_TARGETS = 3  # with fewer, how far targets differ is a guess


@dataclass(frozen=True)
class ForecastPair:
    """A confirmed model: the normalized score it had before, and the metric that was measured."""

    target: str
    normalized_score: float
    measured: float


@dataclass(frozen=True)
class Line:
    """A calibrated line and what its interval is made of."""

    slope: float
    intercept: float
    metric: str
    strategy: str
    pairs: int
    targets: int
    error: float
    degrees: int
    center: float = 0.0
    spread: float = math.inf
    bounded: bool = True

    def at(self, normalized_score: float) -> PredictedValue:
        """The metric of a further model, with its 90% interval."""
        value = self.intercept + self.slope * normalized_score
        leverage = 1 + 1 / self.pairs + (normalized_score - self.center) ** 2 / self.spread
        half = t_quantile(self.degrees) * self.error * math.sqrt(leverage)
        low, high = value - half, value + half
        if self.bounded:
            value, low, high = (min(max(end, 0.0), 1.0) for end in (value, low, high))
        return PredictedValue(value, low, high, self.metric, self.strategy, self.pairs, self.targets)


def confirmed_pairs(
    results: Iterable[Result], normalized_score_metric: str
) -> dict[tuple[str, str], list[ForecastPair]]:
    """(strategy, metric) -> pairs of models whose normalized score and metric the same run recorded.

    Args:
        results: of a history, predicted rows and measured ones.
        normalized_score_metric: of the predicted rows; normalized scores over other members cannot be compared.
    """
    rows = list(results)
    normalized_scores = {
        (r.run, r.target, r.source, r.model): r.value for r in rows if r.metric == normalized_score_metric
    }
    pairs: dict[tuple[str, str], dict[tuple[str, str, str], ForecastPair]] = {}
    for r in rows:
        key = (r.run, r.target, r.source, r.model)
        if r.kind == "measured" and r.origin == "run" and key in normalized_scores:
            # of several runs of one target the latest counts: a model measured twice is one model
            pairs.setdefault((r.strategy, r.metric), {})[r.target, r.source, r.model] = ForecastPair(
                r.target, normalized_scores[key], r.value
            )
    return {key: list(found.values()) for key, found in pairs.items()}


def of_metric(results: Iterable[Result], metric: str | None) -> list[Result]:
    """The results that a forecast of one metric may rest on: its measured rows, and the predicted ones beside them.

    A line through accuracies says nothing of entity F1, however many pairs it has.

    Args:
        results: of a history.
        metric: that decides on the target; None where nothing can be measured on it.
    """
    return [r for r in results if r.kind == "predicted" or r.metric == metric]


def calibrate(pairs: Sequence[ForecastPair], target: str, *, strategy: str, metric: str) -> Line | None:
    """The line for a target; None without enough pairs, or where a higher normalized score does not mean a higher metric.

    Args:
        pairs: of all targets.
        target: fingerprint of the one that is predicted.
    """
    own = [p for p in pairs if p.target == target]
    if len(own) >= FEWEST_PAIRS:
        return _of_one_target(own, strategy, metric)
    targets = {p.target for p in pairs}
    if len(pairs) < FEWEST_PAIRS or len(targets) < FEWEST_TARGETS:
        return None
    return _of_several(pairs, sorted(targets), strategy, metric)


def best_line(pairs: dict[tuple[str, str], list[ForecastPair]], target: str) -> Line | None:
    """The line of the strategy and metric with the most pairs; None when none can be calibrated."""
    lines = [calibrate(found, target, strategy=s, metric=m) for (s, m), found in sorted(pairs.items())]
    return max((line for line in lines if line is not None), key=lambda line: line.pairs, default=None)


def _of_one_target(pairs: Sequence[ForecastPair], strategy: str, metric: str) -> Line | None:
    fitted = _fit(pairs)
    if fitted is None:
        return None
    slope, intercept = fitted
    x, y = _columns(pairs)
    error = math.sqrt(float(((y - intercept - slope * x) ** 2).sum()) / (len(pairs) - 2))
    spread = float(((x - x.mean()) ** 2).sum())
    return Line(
        slope, intercept, metric, strategy, len(pairs), 1, error, len(pairs) - 2, float(x.mean()), spread, _share(y)
    )


def _of_several(pairs: Sequence[ForecastPair], targets: Sequence[str], strategy: str, metric: str) -> Line | None:
    fitted = _fit(pairs)
    missed = []
    for target in targets:
        rest = _fit([p for p in pairs if p.target != target])
        if fitted is None or rest is None:
            return None
        x, y = _columns([p for p in pairs if p.target == target])
        missed.append(float(((y - rest[1] - rest[0] * x) ** 2).mean()))
    assert fitted is not None
    _, y = _columns(pairs)
    error = math.sqrt(float(np.mean(missed)))
    return Line(*fitted, metric, strategy, len(pairs), len(targets), error, len(targets) - 1, bounded=_share(y))


def _fit(pairs: Sequence[ForecastPair]) -> tuple[float, float] | None:
    """Least squares: slope and intercept; None where the slope is not positive or not defined."""
    x, y = _columns(pairs)
    if len(x) < 2 or np.ptp(x) == 0:
        return None
    slope, intercept = np.polyfit(x, y, 1)
    return (float(slope), float(intercept)) if slope > 0 else None


def _columns(pairs: Sequence[ForecastPair]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([p.normalized_score for p in pairs]), np.array([p.measured for p in pairs])


def _share(values: np.ndarray) -> bool:
    """Whether a metric looks like a share, so that its predictions stay within 0..1."""
    return bool((values >= 0).all() and (values <= 1).all())
