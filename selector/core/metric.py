"""A declared metric: which way is better, in which unit, and from which difference on it matters."""

from __future__ import annotations

from dataclasses import dataclass


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
