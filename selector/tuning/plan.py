"""How a budget becomes rounds: pure arithmetic, no torch.

A configuration is a (model, strategy) pair. In the first round every configuration is tried at several learning
rates; the better ones go on, each at its best rate, for more steps; two reach the last round. In every
round training starts anew from the linear-probe initialization and takes one full cosine cycle, so that what a round
measures is a finished model, and stopping after any round leaves one. Going on from the weights of
the round before would begin each cycle with steps at the full rate, and a short cycle has no time
to mend what they spoil.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

BACKWARD = 3  # forward passes that a step costs for each of its items
RATES = (3, 2, 1)  # learning rates a configuration in the first round, while the budget lasts
FINAL_LANES = 2
SHARE_OF_BUDGET = 0.9  # the rest is for what cannot be planned
LEAST_EPOCHS = 1  # of the first round; less shows nothing of a rate
MIN_STEPS = 10
FEWEST_STEPS = 3  # where no other model would be saved
FACTORS = (1.0, 0.72, 0.58, 0.43)  # of the native side: 224, 160, 128, 96
GOOD_EPOCHS = 6  # of the winner: below it a smaller resolution is taken first
FEW_EPOCHS = 3  # of the winner: below it fewer configurations are trained
EPOCHS = 20  # of the winner, when neither budget nor steps are given
STEPS_AT_LEAST, STEPS_AT_MOST = 100, 3000


@dataclass(frozen=True)
class StrategyCost:
    """What a (model, strategy) pair costs, measured.

    ``step``, ``evaluate`` (one pass over the validation images) and ``start`` (building, loading
    and saving once) in seconds.
    """

    step: float
    evaluate: float
    start: float = 0.0

    @classmethod
    def of_passes(cls, seconds: float, batch: int, val: int) -> StrategyCost:
        """As foreseen from ``seconds`` of a forward pass of an item, before anything was trained."""
        return cls(BACKWARD * batch * seconds, val * seconds, 1.0)

    def seconds(self, steps: float) -> float:
        """Of a training of so many steps."""
        return self.start + self.evaluate + self.step * steps

    def resized(self, area: float) -> StrategyCost:
        """Of items of so many times the area."""
        return StrategyCost(self.step * area, self.evaluate * area, self.start)


@dataclass(frozen=True)
class Round:
    """``configurations`` go through it at ``rates`` learning rates each, for ``steps`` steps."""

    steps: int
    configurations: int
    rates: int


@dataclass(frozen=True)
class TrainingPlan:
    """The rounds, and the seconds that they are expected to take.

    Attributes:
        again: as many of the last round's steps once more, on all labels, have time behind it; 0 where they have none.
    """

    rounds: tuple[Round, ...]
    seconds: float
    again: float = 0.0

    @property
    def steps(self) -> int:
        """Steps of the last round: of the training that made the winner."""
        return self.rounds[-1].steps


def usual_steps(steps_an_epoch: int | Fraction) -> int:
    """Steps of the winner's training where time allows and nothing else is asked.

    >>> usual_steps(1), usual_steps(30), usual_steps(1000)
    (100, 600, 3000)
    """
    return int(min(max(EPOCHS * steps_an_epoch, STEPS_AT_LEAST), STEPS_AT_MOST))


def shares(configurations: int) -> tuple[float, ...]:
    """Steps of each round, as shares of the last one's.

    >>> shares(2), shares(8), shares(20)
    ((0.25, 1.0), (0.125, 1.0), (0.125, 0.25, 1.0))
    """
    if configurations <= 4:
        return (0.25, 1.0)
    return (0.125, 1.0) if configurations <= 8 else (0.125, 0.25, 1.0)


def rounds_of(
    total: int, configurations: int, rates: int, final_configurations: int = FINAL_LANES
) -> tuple[Round, ...]:
    """The rounds for a winner whose last training takes ``total`` steps.

    >>> [(r.steps, r.configurations, r.rates) for r in rounds_of(80, configurations=8, rates=3)]
    [(10, 8, 3), (80, 2, 1)]
    >>> [(r.steps, r.configurations, r.rates) for r in rounds_of(80, configurations=12, rates=3)]
    [(10, 12, 3), (20, 6, 1), (80, 2, 1)]
    >>> [(r.steps, r.configurations, r.rates) for r in rounds_of(80, configurations=1, rates=3)]
    [(20, 1, 3), (80, 1, 1)]
    >>> [(r.steps, r.configurations, r.rates) for r in rounds_of(80, configurations=2, rates=1)]
    [(80, 2, 1)]
    """
    if rates == 1 and configurations <= final_configurations:
        return (Round(total, configurations, 1),)  # nothing to choose on the way
    parts = shares(configurations)
    rounds = [Round(max(1, round(total * parts[0])), configurations, rates)]
    for share in parts[1:-1]:
        half = math.ceil(rounds[-1].configurations / 2)
        rounds.append(Round(max(1, round(total * share)), max(final_configurations, half), 1))
    return (*rounds, Round(total, min(configurations, final_configurations), 1))


def seconds_of(rounds: Sequence[Round], configurations: Sequence[StrategyCost], again: float = 0.0) -> float:
    """What the rounds cost if the most expensive configurations go on, and ``again`` times the last one's steps of one."""
    last = again * rounds[-1].steps if rounds else 0.0
    total = max((c.seconds(last) for c in configurations), default=0.0) if last else 0.0
    for each in rounds:
        costs = sorted((c.seconds(each.steps) for c in configurations), reverse=True)
        total += each.rates * sum(costs[: each.configurations])
    return total


def make_plan(
    configurations: Sequence[StrategyCost],
    *,
    budget: float | None,
    max_steps: int,
    steps_an_epoch: int,
    min_total: int = 1,
    min_epochs: float = LEAST_EPOCHS,
    again: float = 0.0,
) -> TrainingPlan | None:
    """The plan with the most learning rates, then the most steps, that the budget allows.

    Args:
        budget: seconds left; None for no limit.
        max_steps: of the last round, at most.
        steps_an_epoch: decides how short a first round may be.
        min_total: fewest steps of the last round.
        min_epochs: fewest epochs of the first round, of which 100 steps are always enough.
        again: as many of the winner's steps once more, on train and validation items; left out where the winner would then
            have less than ``GOOD_EPOCHS``: more of them help more than more items.
    Returns:
        None when not even the shortest first round fits.
    """
    limit = math.inf if budget is None else SHARE_OF_BUDGET * budget
    least = min(max(MIN_STEPS, min(math.ceil(min_epochs * steps_an_epoch), STEPS_AT_LEAST)), max_steps)
    enough = max(min_total, GOOD_EPOCHS * steps_an_epoch)

    def plan(total: int, rates: int, finalists: int, share: float) -> TrainingPlan:
        rounds = rounds_of(total, len(configurations), rates, finalists)
        return TrainingPlan(rounds, seconds_of(rounds, configurations, share), share)

    asked = [(again, enough), (0.0, min_total)] if again else [(0.0, min_total)]
    for (share, fewest), rates, finalists in itertools.product(asked, RATES, (FINAL_LANES, 1)):
        total = bisect_right(
            range(1, max_steps + 1), limit, key=lambda steps: plan(steps, rates, finalists, share).seconds
        )
        found = plan(total, rates, finalists, share)
        if total == max_steps or (total >= fewest and found.rounds[0].steps >= least):
            return found
    return None


@dataclass(frozen=True)
class Forecast:
    """What a budget is expected to train: ``configurations`` at ``factor`` of the native side, the winner for ``epochs``."""

    configurations: int
    factor: float
    epochs: float


def foresee(
    native: Sequence[StrategyCost],
    *,
    budget: float | None,
    max_steps: int,
    steps_an_epoch: int,
    reduced: bool = True,
    again: float = 0.0,
) -> Forecast | None:
    """The first configurations, as many as have ``FEW_EPOCHS``, at the largest of ``FACTORS`` with ``GOOD_EPOCHS``.

    Args:
        native: costs at the native size, the first that is to be trained first.
        budget: seconds; None for no limit.
        reduced: whether smaller sizes may be taken; not where ``resolution`` fixes one.
        again: see ``make_plan``.
    Returns:
        None where not even the first one has them at the smallest size.
    """
    for count in range(len(native), 0, -1):
        for epochs in (GOOD_EPOCHS, FEW_EPOCHS):
            for factor in FACTORS if reduced and budget is not None else FACTORS[:1]:
                costs = [cost.resized(factor**2) for cost in native[:count]]
                plan = make_plan(
                    costs,
                    budget=budget,
                    max_steps=max_steps,
                    steps_an_epoch=steps_an_epoch,
                    min_total=max(epochs * steps_an_epoch, FEW_EPOCHS * MIN_STEPS),
                    again=again,
                )
                if plan is not None:
                    return Forecast(count, factor, plan.steps / steps_an_epoch)
    return None


def least_budget(native: StrategyCost, steps_an_epoch: int, *, reduced: bool = True, epochs: int = FEW_EPOCHS) -> float:
    """Seconds for so many ``epochs`` of one configuration at the smallest size, or its own where it is not ``reduced``.

    A budget below that of ``FEW_EPOCHS`` saves a frozen model, or a few steps.

    >>> round(least_budget(StrategyCost(1.0, 2.0, 1.0), 20))
    14
    """
    steps = max(epochs * steps_an_epoch, FEW_EPOCHS * MIN_STEPS)
    share = FACTORS[-1] ** 2 if reduced else 1.0
    return (native.start + share * (native.evaluate + native.step * steps)) / SHARE_OF_BUDGET


def fit_rest(
    rounds: Sequence[Round],
    configurations: Sequence[StrategyCost],
    budget: float,
    done: int = 0,
    most: int = 0,
    again: float = 0.0,
) -> tuple[Round, ...]:
    """The rounds that are left, fitted to what is left of the budget; empty when nothing useful fits.

    Plans assume that the most expensive configurations go on; where cheaper ones did, there is time for more steps.

    Args:
        done: steps of the round before; a round that is not longer than it tells nothing new and is left out.
        most: steps of the last round up to which the rounds may grow; 0 for never beyond what was planned.
        again: of the plan.
    """
    if seconds_of(rounds, configurations, again) <= budget:
        longest = max(1.0, most / rounds[-1].steps)
        return _scaled(rounds, _share(rounds, configurations, SHARE_OF_BUDGET * budget, 1.0, longest, again))
    cut = _scaled(rounds, _share(rounds, configurations, budget, 0.0, 1.0, again))
    if seconds_of(cut, configurations, again) <= budget and cut[0].steps >= max(MIN_STEPS, done + 1):
        return cut
    return fit_rest(rounds[1:], configurations, budget, done, most, again) if done and len(rounds) > 1 else ()


def _share(
    rounds: Sequence[Round],
    configurations: Sequence[StrategyCost],
    budget: float,
    low: float,
    high: float,
    again: float,
) -> float:
    """The largest factor of the steps, from low to high, that fits; low where none does."""
    if seconds_of(_scaled(rounds, high), configurations, again) <= budget:
        return high
    for _ in range(20):
        middle = (low + high) / 2
        if seconds_of(_scaled(rounds, middle), configurations, again) <= budget:
            low = middle
        else:
            high = middle
    return low


def _scaled(rounds: Sequence[Round], share: float) -> tuple[Round, ...]:
    return tuple(Round(max(1, int(each.steps * share)), each.configurations, each.rates) for each in rounds)
