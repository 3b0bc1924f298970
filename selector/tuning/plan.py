"""How a budget becomes rungs: pure arithmetic, no torch.

A lane is a (model, strategy) pair. In the first rung every lane is tried at several learning
rates; the better ones go on, each at its best rate, for more steps; two reach the last rung. In every
rung training starts anew from the linear-probe initialisation and takes one full cosine cycle, so that what a rung
measures is a finished model, and stopping after any rung leaves one. Going on from the weights of
the rung before would begin each cycle with steps at the full rate, and a short cycle has no time
to mend what they spoil.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

RATES = (3, 2, 1)  # learning rates a lane in the first rung, while the budget lasts
FINAL_LANES = 2
SHARE_OF_BUDGET = 0.9  # the rest is for what cannot be planned
MIN_EPOCHS = 0.5  # of the first rung; less shows nothing of a rate
MIN_STEPS = 10
DEFAULT_BUDGET = 20 * 60.0  # seconds of a confirmation that names no budget


@dataclass(frozen=True)
class Lane:
    """What a (model, strategy) pair costs, measured.

    ``step``, ``evaluate`` (one pass over the validation images) and ``start`` (building, loading
    and saving once) in seconds.
    """

    step: float
    evaluate: float
    start: float = 0.0


@dataclass(frozen=True)
class Rung:
    """``lanes`` go through it at ``rates`` learning rates each, for ``steps`` steps."""

    steps: int
    lanes: int
    rates: int


@dataclass(frozen=True)
class Plan:
    """The rungs, and the seconds that they are expected to take."""

    rungs: tuple[Rung, ...]
    seconds: float

    @property
    def steps(self) -> int:
        """Steps of the last rung: of the training that made the winner."""
        return self.rungs[-1].steps


def shares(lanes: int) -> tuple[float, ...]:
    """Steps of each rung, as shares of the last one's.

    >>> shares(2), shares(8), shares(20)
    ((0.25, 1.0), (0.125, 1.0), (0.125, 0.25, 1.0))
    """
    if lanes <= 4:
        return (0.25, 1.0)
    return (0.125, 1.0) if lanes <= 8 else (0.125, 0.25, 1.0)


def rungs_of(total: int, lanes: int, rates: int, final_lanes: int = FINAL_LANES) -> tuple[Rung, ...]:
    """The rungs for a winner whose last training takes ``total`` steps.

    >>> [(r.steps, r.lanes, r.rates) for r in rungs_of(80, lanes=8, rates=3)]
    [(10, 8, 3), (80, 2, 1)]
    >>> [(r.steps, r.lanes, r.rates) for r in rungs_of(80, lanes=12, rates=3)]
    [(10, 12, 3), (20, 6, 1), (80, 2, 1)]
    >>> [(r.steps, r.lanes, r.rates) for r in rungs_of(80, lanes=1, rates=3)]
    [(20, 1, 3), (80, 1, 1)]
    >>> [(r.steps, r.lanes, r.rates) for r in rungs_of(80, lanes=2, rates=1)]
    [(80, 2, 1)]
    """
    if rates == 1 and lanes <= final_lanes:
        return (Rung(total, lanes, 1),)  # nothing to choose on the way
    parts = shares(lanes)
    rungs = [Rung(max(1, round(total * parts[0])), lanes, rates)]
    for share in parts[1:-1]:
        half = math.ceil(rungs[-1].lanes / 2)
        rungs.append(Rung(max(1, round(total * share)), max(final_lanes, half), 1))
    return (*rungs, Rung(total, min(lanes, final_lanes), 1))


def seconds_of(rungs: Sequence[Rung], lanes: Sequence[Lane]) -> float:
    """What the rungs cost if the most expensive lanes go on."""
    total = 0.0
    for rung in rungs:
        costs = sorted((lane.start + lane.evaluate + lane.step * rung.steps for lane in lanes), reverse=True)
        total += rung.rates * sum(costs[: rung.lanes])
    return total


def make_plan(
    lanes: Sequence[Lane],
    *,
    budget: float | None,
    max_steps: int,
    steps_an_epoch: int,
    min_rates: int = 1,
    min_total: int = 1,
    min_epochs: float = MIN_EPOCHS,
) -> Plan | None:
    """The plan with the most learning rates, then the most steps, that the budget allows.

    Args:
        budget: seconds left; None for no limit.
        max_steps: of the last rung, at most.
        steps_an_epoch: decides how short a first rung may be.
        min_rates: fewest learning rates a lane.
        min_total: fewest steps of the last rung.
        min_epochs: fewest epochs of the first rung.
    Returns:
        None when not even the shortest first rung fits.
    """
    least = min(max(MIN_STEPS, math.ceil(min_epochs * steps_an_epoch)), max_steps)
    for rates in RATES:
        for final_lanes in (FINAL_LANES, 1):
            if rates < min_rates:
                continue
            longest = rungs_of(max_steps, len(lanes), rates, final_lanes)
            if budget is None or seconds_of(longest, lanes) <= SHARE_OF_BUDGET * budget:
                return Plan(longest, seconds_of(longest, lanes))
            total = _most_steps(lanes, rates, final_lanes, SHARE_OF_BUDGET * budget, max_steps)
            if (
                total >= max(1, min(min_total, max_steps))
                and rungs_of(total, len(lanes), rates, final_lanes)[0].steps >= least
            ):
                rungs = rungs_of(total, len(lanes), rates, final_lanes)
                return Plan(rungs, seconds_of(rungs, lanes))
    return None


def fit_rest(rungs: Sequence[Rung], lanes: Sequence[Lane], budget: float, done: int = 0) -> tuple[Rung, ...]:
    """The rungs that are left, cut to what is left of the budget; empty when nothing useful fits.

    Args:
        done: steps of the rung before; a rung that is not longer than it tells nothing new and is left out.
    """
    if seconds_of(rungs, lanes) <= budget:
        return tuple(rungs)
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        if seconds_of(_scaled(rungs, middle), lanes) <= budget:
            low = middle
        else:
            high = middle
    cut = _scaled(rungs, low)
    if cut and seconds_of(cut, lanes) <= budget and cut[0].steps >= max(MIN_STEPS, done + 1):
        return cut
    return fit_rest(rungs[1:], lanes, budget, done) if done and len(rungs) > 1 else ()


def _scaled(rungs: Sequence[Rung], share: float) -> tuple[Rung, ...]:
    return tuple(Rung(max(1, int(rung.steps * share)), rung.lanes, rung.rates) for rung in rungs)


def _most_steps(lanes: Sequence[Lane], rates: int, final_lanes: int, budget: float, max_steps: int) -> int:
    low, high = 0, max_steps
    while low < high:
        middle = (low + high + 1) // 2
        if seconds_of(rungs_of(middle, len(lanes), rates, final_lanes), lanes) <= budget:
            low = middle
        else:
            high = middle - 1
    return low
