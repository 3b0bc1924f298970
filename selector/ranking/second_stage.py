"""The second stage: who gets a pilot run, the order that transferability and pilots give together, who is confirmed.

Pure functions of what a run records, so that a saved ranking goes through the same stage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from selector.core.stats import Metric
from selector.ranking.combination import contradicts
from selector.results import ModelResult, PilotCell

NEAR = 0.05  # P(top k) from which a model is not significantly different (90%) from the k-th
MOST_TRIALS = 6  # or twice the k that a user asked for, where that is more
Z90 = 1.645  # half-width of a 90% interval in standard errors
PILOT_WEIGHT = 0.5  # of a pilot run beside the transferability; docs/benchmarks/pilot-runs.md has the comparison
MARGIN = 0.03  # behind the first, in the combined value
FEWEST, MOST = 2, 4  # models that are confirmed where the user names no number; with six they cost half as much again
PILOT_SHARE = (
    0.25  # of the budget that the scan left, at most; readers of texts took all of two minutes and half as much again
)
SHARE_OF_BUDGET = 0.5  # that the first round of the confirmed set may take
AGAINST_PILOTS = "left out, because it orders these models against their pilot runs"


@dataclass(frozen=True)
class ModelsToConfirm:
    """The models to confirm, and why as many, in a sentence."""

    names: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class Scale:
    """A metric as a share of the way from knowing nothing to perfect, 0..1, so that none can outweigh the transferability.

    What is a share itself (accuracy, F1, R² where the mean does worse) stays what it is: only differences between models
    count, and the chance of few classes is the same for all of them. A loss is what it saves of the trivial predictor's.

    Attributes:
        sign: of the metric.
        unit: what its differences are divided by.

    >>> Scale()(0.9), Scale()(-30.0), Scale(-1, 2.0)(0.5), Scale(-1, 2.0)(80.0)
    (0.9, 0.0, 0.75, 0.0)
    """

    sign: int = 1
    unit: float = 1.0

    @classmethod
    def of(cls, metric: Metric, trivial: float | None) -> Scale | None:
        """``trivial``: the value of a predictor that looks at no item. None where a loss has none to be compared with."""
        if metric.sign > 0 or metric.unit == "share":
            return cls(metric.sign)
        return cls(-1, trivial) if trivial is not None and 0 < trivial < math.inf else None

    def __call__(self, value: float) -> float:
        share = value if self.sign > 0 else 1 - value / self.unit
        return min(max(share, 0.0), 1.0)

    def width(self, difference: float) -> float:
        """A difference of the metric, 0 or more."""
        return difference / self.unit


SHARE = Scale()


def contenders(models: Sequence[ModelResult], top_k: int) -> list[ModelResult]:
    """Finished models that are not significantly different from the ``top_k``-th, by what the rows alone or the rows and
    the prior say; at most ``MOST_TRIALS`` or twice ``top_k``, the leading ones first.

    Args:
        models: those that finished, a network once, in rank order.
    """
    leading = list(models[:top_k])
    if any(m.p_top_k is None for m in models):
        near = models[top_k : 2 * top_k]  # without intervals as many again
    else:
        near = [m for m in models[top_k:] if (m.p_top_k or 0.0) >= NEAR]
    # what the prior has pushed behind the first k is a contender as well: pilots decide, not the prior
    scored = [m for m in models if m.normalized_score is not None]
    by_rows = sorted(scored, key=lambda m: -(m.normalized_score or 0.0))[:top_k]
    chosen = {m.name: m for m in [*leading, *by_rows, *near]}
    return list(chosen.values())[: max(MOST_TRIALS, 2 * top_k)]


def ended_well(pilots: Mapping[str, PilotCell]) -> dict[str, PilotCell]:
    """Those that were judged after their steps."""
    return {name: cell for name, cell in pilots.items() if cell.after is not None}


def combined(
    transferability: Mapping[str, float],
    pilots: Mapping[str, PilotCell],
    errors: Mapping[str, float] | None = None,
    *,
    frozen_too: bool = False,
    scale: Scale = SHARE,
) -> dict[str, float]:
    """The mean of a model's transferability and what its pilot run says, as far as that is no noise.

    What pilots say beyond the transferability is drawn towards its mean by the share of its variance that their own errors
    explain: where they explain all of it the transferability orders. A model whose pilot run did not take place counts as if it had
    trained as the others did on average. Only differences between models mean something: a pilot run's value of a model that
    knows nothing is that of chance, 0.5 for two classes, and the transferability's is about 0.

    Args:
        errors: half-width of the 90% interval of a pilot run's paired difference to the best one, 0 for that one, in units of
            the metric; pilots without errors count in full.
        frozen_too: a model may also be saved as it is, with a new head: then a pilot run counts by the mean of its
            probe and its value after the steps, and ``errors`` are of that; else by the latter alone.
        scale: of the pilots' metric.
    Returns:
        By model, without those whose pilot run diverged or failed: they come last.

    >>> ended = PilotCell("ok", before=0.5, after=0.9)
    >>> combined({"a": 0.6, "b": 0.65}, {"a": ended, "b": PilotCell("not run")})
    {'a': 0.75, 'b': 0.8}
    """
    values = {n: pilot_value(cell, frozen_too, scale) for n, cell in ended_well(pilots).items()}
    beyond = {n: value - transferability[n] for n, value in values.items()}
    usual = float(np.mean(list(beyond.values()))) if beyond else 0.0
    kept = _no_noise(list(beyond.values()), [scale.width(e) for n, e in (errors or {}).items() if n in beyond])
    found = {}
    for name, value in transferability.items():
        if name in pilots and pilots[name].untrainable:
            continue
        more = usual + kept * (beyond.get(name, usual) - usual)
        found[name] = round(value + PILOT_WEIGHT * more, 12)
    return found


def pilot_value(cell: PilotCell, frozen_too: bool, scale: Scale = SHARE) -> float:
    """What a pilot run that ended well counts, in 0..1."""
    assert cell.after is not None
    after = scale(cell.after)
    return (scale(cell.before) + after) / 2 if frozen_too and cell.before is not None else after


def without_prior_against(models: Sequence[ModelResult], pilots: Mapping[str, float]) -> list[ModelResult] | None:
    """The models without the prior's share of their transferability, where it orders them against what pilots say.

    The rule is that for the target's own scores (``combination.contradicts``). It is asked where every model that has a
    prior had a pilot run, and only there: among few that were chosen by scores and prior together the two oppose each other
    whatever is true, as who came in with lower scores came in by its prior. Replayed on the suite with six models tried
    the rule left the prior out on seven of eight sets, and what was confirmed was worse. The probabilities of ranks stay
    those of the scan.

    Args:
        pilots: value of each model's pilot run (``pilot_value``).
    Returns:
        None where the prior stays.
    """
    shifts = {m.name: m.prior.shift for m in models if m.prior is not None}
    if not shifts.keys() <= pilots.keys() or not contradicts(shifts, pilots):
        return None
    return [_without_prior(m) for m in models]


def _without_prior(model: ModelResult) -> ModelResult:
    if model.prior is None:
        return model
    by = model.prior.shift
    cell = replace(model.prior, shift=0.0, weight=0.0, origin=f"{model.prior.origin}; {AGAINST_PILOTS}")
    ends = (model.transferability, model.transferability_low, model.transferability_high)
    value, low, high = (None if end is None else end - by for end in ends)
    return replace(model, prior=cell, transferability=value, transferability_low=low, transferability_high=high)


def _no_noise(beyond: Sequence[float], half_widths: Sequence[float]) -> float:
    """Share of the variance of ``beyond`` that sampling of the held-out items does not explain, 0..1."""
    differences = [(half / Z90) ** 2 for half in half_widths if half > 0]
    if len(beyond) < 2 or not differences:
        return 1.0
    noise = float(np.mean(differences)) / 2  # a difference has the noise of two
    return max(0.0, 1.0 - noise / max(float(np.var(beyond, ddof=1)), 1e-12))


def choose(
    values: Mapping[str, float],
    errors: Mapping[str, float],
    seconds: Mapping[str, float],
    budget: float | None,
    margin: float = MARGIN,
    *,
    allowed: float = math.inf,
) -> ModelsToConfirm:
    """The models that may be the best, as many as the budget can train and as cost no more than a fixed number.

    A model counts that lies within its margin of the first, even where a surer one between them does not; others are
    confirmed only to make up the least number.

    Args:
        values: combined value of each contender whose pilot run did not fail; at least one.
        errors: half-width of the 90% interval of its pilot run's difference to the first, on the scale of the values; widens
            the margin.
        seconds: that a first round of it takes, where its pilot run has told.
        budget: of the confirmation in seconds; None for no limit.
        margin: behind the first, that a model may be the best from.
        allowed: seconds that the first rounds of the models may take together; one that does not fit is passed over.
            The first two are confirmed whatever they take.
    """
    order = sorted(values, key=lambda n: -values[n])
    first = values[order[0]]
    margins = {n: float(np.hypot(margin, PILOT_WEIGHT * errors.get(n, 0.0))) for n in order}
    near = [n for n in order if first - values[n] <= margins[n]]
    wanted = [*near, *(n for n in order if n not in near)][: max(FEWEST, min(len(near), MOST))]
    why = f"{len(near)} may be the best by scores and pilot runs (90%)"
    of_budget = math.inf if budget is None else SHARE_OF_BUDGET * budget
    chosen, spent = wanted[:FEWEST], sum(seconds.get(n, 0.0) for n in wanted[:FEWEST])
    for name in wanted[FEWEST:]:
        if spent + seconds.get(name, 0.0) <= min(of_budget, allowed):
            chosen.append(name)
            spent += seconds.get(name, 0.0)
    if len(chosen) < len(wanted):
        why += (
            f", and the budget has time for {len(chosen)}"
            if of_budget < allowed
            else f", and pilot runs and {len(chosen)} fine-tuned models take as long as the usual number without pilot runs"
        )
    return ModelsToConfirm(tuple(chosen), f"Fine-tuned: {len(chosen)} models, because {why}.")


def seconds_for_pilots(left: float, training: float | None) -> float:
    """What pilot runs may take: their share, and never what keeps the leading model from a whole training.

    Args:
        left: seconds of the budget.
        training: seconds of a whole training of the leading model at its own size, where they are known; a budget
            that is shorter trains it at less either way.

    >>> seconds_for_pilots(100, None), seconds_for_pilots(100, 60), seconds_for_pilots(100, 90), seconds_for_pilots(100, 120)
    (25.0, 25.0, 10.0, 25.0)
    """
    share = PILOT_SHARE * left
    return share if training is None or training > left else min(share, float(left - training))


def as_long_as(
    fixed: Sequence[str], rounds: Mapping[str, float], pilots: float, items: float, items_of_round: float
) -> float:
    """Seconds of first rounds that leave pilots and trainings together no longer than trainings of a fixed set alone.

    Args:
        fixed: the models that would be confirmed without pilots.
        rounds: seconds of a first round, where a pilot run has told; others take as long as these on average.
        pilots: seconds that all pilots took.
        items: of a whole training, of which a first round has ``items_of_round``.

    >>> as_long_as(["a", "b", "c"], {"a": 10.0, "b": 10.0, "d": 40.0}, 50.0, 5000, 1000)  # c: 20 s; pilots: 10 s a round
    30.0
    """
    if not rounds:
        return math.inf
    usual = float(np.mean(list(rounds.values())))
    return sum(rounds.get(n, usual) for n in fixed) - pilots * items_of_round / items
