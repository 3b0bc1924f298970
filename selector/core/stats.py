"""Statistics that several rooms share: ranks, quantiles and probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


def mean_ranks(values: ArrayLike) -> np.ndarray:
    """float64 (M,) places from 1, the smallest first, ties at their mean: ``scipy.stats.rankdata``.

    >>> mean_ranks([0.3, 0.1, 0.3]).tolist()
    [2.5, 1.0, 2.5]
    """
    _, place, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place])


def t_quantile(freedom: float, probability: float = 0.95) -> float:
    """Quantile of Student's t; 0.95 is the half-width of a 90% interval. 0 without a degree of freedom.

    >>> round(t_quantile(9), 3)
    1.833
    """
    from scipy.special import stdtrit

    return float(stdtrit(freedom, probability)) if freedom > 0 else 0.0


def binomial_tail(count: int, trials: int, share: float) -> float:
    """How likely ``count`` of ``trials`` or more are, each of which has the chance ``share``.

    >>> binomial_tail(2, 2, 0.5)
    0.25
    """
    from scipy.special import bdtrc

    return float(bdtrc(count - 1, trials, share))


def share_interval(right: float, count: int) -> tuple[float, float]:
    """90% interval of the share of which ``right`` of ``count`` independent items are: mid-p, which holds on few items.

    >>> low, high = share_interval(4, 4)
    >>> round(low, 3), round(high, 3)
    (0.562, 1.0)
    """
    from scipy.optimize import brentq
    from scipy.special import bdtr, bdtrc

    right = round(right)

    def above(share: float) -> float:  # P(more than found) and half of as many
        more = float(bdtrc(right, count, share))
        least = 1.0 if right == 0 else float(bdtrc(right - 1, count, share))
        return (more + least) / 2

    def below(share: float) -> float:
        fewer = 0.0 if right == 0 else float(bdtr(right - 1, count, share))
        return (fewer + float(bdtr(right, count, share))) / 2

    low = 0.0 if right == 0 else brentq(lambda share: above(share) - 0.05, 0.0, 1.0)
    high = 1.0 if right == count else brentq(lambda share: below(share) - 0.05, 0.0, 1.0)
    return float(low), float(high)


def softmax(outputs: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """softmax(outputs / temperature), float64 (N, C)."""
    scaled = outputs.astype(np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def best_temperature(outputs: np.ndarray, labels: np.ndarray) -> float:
    """The temperature that minimizes the log-loss of outputs (N, C) and class numbers (N,), within 0.05..20.

    Cost: some 40 softmaxes.   Source: Guo et al., ICML 2017, arXiv:1706.04599.
    """
    from scipy.optimize import minimize_scalar

    wide = outputs.astype(np.float64)
    wide = wide - wide.max(axis=1, keepdims=True)
    true = wide[np.arange(len(labels)), labels]

    def log_loss(log_temperature: float) -> float:
        scale = np.exp(log_temperature)
        return float((np.log(np.exp(wide / scale).sum(axis=1)) - true / scale).mean())

    best = minimize_scalar(log_loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return float(np.exp(best.x))


@dataclass(frozen=True)
class Metric:
    """A declared metric: nothing is guessed from its name.

    Attributes:
        sign: 1 where higher is better, -1 where lower is.
        unit: ``share`` (0..1, differences are reported in points), ``target`` (the target's own unit), or another
            unit by name (``nats``); empty for a number without one.
        epsilon: the smallest difference that matters to a user, in the metric's unit; a tie below it.
        format: how a value is written.
        chance: value of the trivial predictor where it is a constant (0 for R²); None where ``Task.baseline`` works it out.

    >>> accuracy, loss = Metric(), Metric(sign=-1, unit="nats")
    >>> accuracy.gap(0.021), loss.gap(0.021, sign="+"), accuracy.better(0.8, 0.7), loss.better(0.8, 0.7)
    ('2.1 points', '+0.021 nats', True, False)
    """

    sign: int = 1
    unit: str = "share"
    epsilon: float = 0.01
    format: str = ".3f"
    chance: float | None = None

    def better(self, a: float, b: float) -> bool:
        """Whether ``a`` is better than ``b``."""
        return self.sign * (a - b) > 0

    def number(self, difference: float, sign: str = "-") -> str:
        """A difference without its unit, for the ends of intervals; ``sign`` as in a format ("+" shows it always)."""
        return f"{100 * difference:{sign}.1f}" if self.unit == "share" else f"{difference:{sign}{self.format}}"

    def gap(self, difference: float, sign: str = "-") -> str:
        """A difference for a person: points for shares, else the number in the metric's own unit."""
        unit = {"share": "points", "target": ""}.get(self.unit, self.unit)
        return f"{self.number(difference, sign)} {unit}".rstrip()


LEGACY = {"log_loss": -1, "calibration_error": -1}
"""Signs of metrics in runs and histories that were written before they were declared."""
