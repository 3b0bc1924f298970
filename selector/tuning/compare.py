"""Who is best, and how sure is that: paired comparison on the validation items, honest where these are few.

Every comparison rests on what each item contributes to a metric (its jackknife pseudo-value). Where an item is right or
wrong as a whole, the weights of the items are drawn, with one more item for each entrant that it alone gets right: of two
entrants the interval then leaves out 0 exactly where the mid-p sign test of their discordant items does. Other metrics are
means of degrees: Student's t, with fewer degrees of freedom where few items make up the difference, and an error that is
never below what one more item of the usual spread would add. ``benchmarks/bench_intervals.py`` measures the coverage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from selector.core.stats import Metric, t_quantile
from selector.core.task import Stats

DRAWS = 4000
MOST_PARTS = 200  # of the items that are left out in turn; each computes the metric again
FLOOR = 1.0  # of the spread over items: what one more item may add to the difference of two ranks, areas or F1
ENDS = {"share": (0.0, 1.0), "": (1.0,)}  # sizes at which a metric of a unit has nowhere to go
FLOOR_OF_SUMS = 0.5  # likewise for means and ratios of sums, which move less


@dataclass(frozen=True)
class Standing:
    """One entrant against the best one, on the same items.

    ``difference`` is best minus this one (0 for the best), with a 90% interval, oriented so that more is
    worse; ``p_best`` the probability of being the first. ``merit``, more being better, is what chooses: the value, or what is
    expected of it on new items.
    """

    value: float
    difference: float
    low: float
    high: float
    p_best: float
    merit: float = math.nan


@dataclass(frozen=True)
class _Compared:
    """Entrants on the same items.

    Attributes:
        values: (K,) the metric, oriented so that more is better; the mean over repeats.
        parts: (P, K) what each part of the items contributes, pseudo-values whose mean is about ``values``.
        size: items a part.
        floors: (K,) spread of one more item of each entrant, in the metric's unit.
        whole: whether an item is right or wrong as a whole.
        seeds: (K,) standard error of the mean over repeats.
        widest: difference that there can be.
    """

    values: np.ndarray
    parts: np.ndarray
    size: float
    floors: np.ndarray
    whole: bool
    seeds: np.ndarray
    widest: float = math.inf

    def gaps(self, best: int, seed: int) -> np.ndarray:
        """(draws, K) how far each entrant is behind the ``best`` one."""
        rng = np.random.default_rng(seed)
        count = len(self.parts)
        noise = rng.normal(0.0, 1.0, (DRAWS, len(self.values))) * self.seeds
        if self.whole:
            weights = rng.gamma(self.size, size=(DRAWS, count))
            more = rng.gamma(1.0, size=(DRAWS, len(self.values))) * self.floors
            total = weights.sum(axis=1, keepdims=True) + 2.0
            drawn = (weights @ self.parts + more) / total + noise
            return np.asarray(drawn[:, [best]] - drawn)
        centered = self.parts - self.parts.mean(axis=0)
        behind = centered[:, [best]] - centered
        errors = np.sqrt((behind**2).sum(axis=0) / (count * max(count - 1, 1)))
        freedom = _freedom(behind)
        wider = np.array([t_quantile(f) for f in freedom]) / t_quantile(max(count - 1, 1))
        added = rng.standard_normal((DRAWS, len(self.values))) * self.floors / (self.size * count)
        drawn = rng.standard_normal((DRAWS, count)) @ behind / math.sqrt(count * max(count - 1, 1))
        drawn = np.where(errors > 0, drawn, 0.0) + added[:, [best]] - added
        scale = np.sqrt(rng.chisquare(max(count - 1, 1), (DRAWS, 1)) / max(count - 1, 1))
        gaps = self.values[best] - self.values + wider * drawn / scale + noise[:, [best]] - noise
        gaps[:, best] = 0.0
        return np.asarray(np.clip(gaps, -self.widest, self.widest))


def standings(
    entrants: Mapping[str, Sequence[Stats]],
    name: str,
    metric: Metric,
    seed: int = 0,
    *,
    unfinished: float = 0.0,
    repeats: bool = True,
) -> dict[str, Standing]:
    """Compare entrants; several statistics of one entrant are repeats with other seeds, and averaged.

    Args:
        entrants: statistics that all run along the same items.
        name, metric: what is compared, and its declaration.
        unfinished: standard deviation, in units of the metric, of what further training would change in each
            entrant; see ``spread_of_changes``.
        repeats: several statistics of one entrant are of one training with other seeds, whose differences are noise; else
            of several networks whose mean is meant.
    Returns:
        by entrant; P(best) sums to 1.
    Cost: DRAWS · items · entrants for metrics that are ratios of sums; up to 200 metrics an entrant more otherwise.
    """
    compared = _compare(entrants, name, metric, repeats)
    best = int(np.nanargmax(compared.values))
    gaps = compared.gaps(best, seed)
    if unfinished:
        more = np.random.default_rng((seed, 1)).normal(0.0, unfinished, gaps.shape)
        gaps = gaps + more[:, [best]] - more
    known = ~np.isnan(compared.values)
    firsts = np.argmin(np.where(known, gaps, np.inf), axis=1)
    p_best = np.bincount(firsts, minlength=len(known)) / len(gaps)
    low, high = np.quantile(gaps, [0.05, 0.95], axis=0)
    return {
        entrant: Standing(
            float(metric.sign * compared.values[i]),
            float(compared.values[best] - compared.values[i]),
            float(low[i]),
            float(high[i]),
            float(p_best[i]),
        )
        for i, entrant in enumerate(entrants)
    }


def spread_of_changes(before: Sequence[Stats], after: Sequence[Stats], name: str) -> float:
    """How differently a round moved its entrants: what one more round may do to their order.

    A change that all share alters no order and does not count; nor does what the choice of items
    alone makes of equal changes (the variance of the changes over the items is deducted).

    Args:
        before, after: by entrant, statistics of the same items; before and after the round.
        name: of the metric.
    Returns:
        A standard deviation, in units of the metric; 0 for fewer than two entrants.
    """
    count = len(before)
    if count < 2:
        return 0.0
    observed = np.array([b.value(name) - a.value(name) for a, b in zip(before, after, strict=True)])
    parts = np.stack([_parts(b, name) - _parts(a, name) for a, b in zip(before, after, strict=True)], axis=1)
    parts = parts - parts.mean(axis=1, keepdims=True)
    noise = parts.var(axis=0, ddof=1) / len(parts) if len(parts) > 1 else np.zeros(count)
    return math.sqrt(max(0.0, float(((observed - observed.mean()) ** 2).sum() - noise.sum()) / (count - 1)))


def _compare(entrants: Mapping[str, Sequence[Stats]], name: str, metric: Metric, repeats: bool) -> _Compared:
    runs = [list(own) for own in entrants.values()]
    values = [metric.sign * np.array([run.value(name) for run in own]) for own in runs]
    parts = np.stack([metric.sign * np.mean([_parts(run, name) for run in own], axis=0) for own in runs], axis=1)
    items = len(runs[0][0])
    whole = runs[0][0].decided(name)
    means = np.array([own.mean() for own in values])
    if whole is not None:
        floors = np.full(len(runs), whole)
    else:
        spread = parts.std(axis=0, ddof=1) * math.sqrt(items / len(parts)) if len(parts) > 1 else np.zeros(len(runs))
        floors = (FLOOR if runs[0][0].ratio(name) is None else FLOOR_OF_SUMS) * spread
        # where all is right so far, the next item may be wrong as a whole
        ends = ENDS.get(metric.unit, ())
        at_end = np.isclose(np.abs(means)[:, None], ends, rtol=0, atol=1e-9).any(axis=1) if ends else np.isnan(spread)
        floors = np.where(at_end, 1.0, floors)
    differ = [own.var(ddof=1) for own in values if len(own) > 1] if repeats else []
    error = math.sqrt(float(np.mean(differ))) if differ else 0.0
    seeds = np.array([error / math.sqrt(len(own)) if len(own) > 1 else 0.0 for own in values])
    widest = 1.0 if metric.unit == "share" else math.inf
    return _Compared(means, parts, items / len(parts), floors, whole is not None, seeds, widest)


def _parts(stats: Stats, name: str) -> np.ndarray:
    """(P,) pseudo-values: what each item, or each of ``MOST_PARTS`` parts of them, contributes to the metric."""
    value, count = stats.value(name), len(stats)
    ratio = stats.ratio(name)
    if ratio is not None:
        top, below = (np.asarray(array, dtype=float) for array in ratio)
        mean = below.mean()
        return value + (top - value * below) / mean if mean > 0 else np.full(count, value)
    number = min(count, MOST_PARTS)
    if number < 2:
        return np.full(number, value)
    part = np.random.default_rng(count).permutation(count) % number
    left = np.array([stats[np.flatnonzero(part != k)].value(name) for k in range(number)])
    left[np.isnan(left)] = value  # what a single item decides alone: its floor stands for it
    return np.asarray(number * value - (number - 1) * left)


def _freedom(behind: np.ndarray) -> np.ndarray:
    """(K,) degrees of freedom of the variance of centered differences (P, K): fewer where few parts make it up."""
    count = len(behind)
    square, fourth = (behind**2).mean(axis=0), (behind**4).mean(axis=0)
    peaked = np.divide(fourth, square**2, out=np.full(len(square), 1.0), where=square > 0)
    return np.asarray(np.clip(2 * count / np.maximum(peaked - 1, 1e-9), 1.0, max(count - 1, 1)))


def advise(
    curves: Mapping[str, Sequence[Sequence[float]]],
    strategies: Mapping[str, Sequence[str]],
    stats: Mapping[str, Sequence[Stats]],
    name: str,
    metric: Metric,
    epsilon: float,
    seed: int = 0,
    sizes: Mapping[str, str] | None = None,
    short: Mapping[str, str] | None = None,
    merits: Mapping[str, float] | None = None,
) -> list[str]:
    """Sentences about the models of which more than the frozen strategy was measured.

    Args:
        curves: by model, (training items, value) of the frozen strategy.
        strategies: by model, the trained strategies.
        stats: by ``model strategy``, of the validation items, one a seed.
        name, metric: what decides, and its declaration.
        short: by ``model strategy``, what was too short or too small about a training to speak against it.
        merits: by ``model strategy``, what is expected on new items where that is not the value.
        sizes: of models that were trained below their own size: a sentence that says so.
    """
    sentences = []
    for model, trained in strategies.items():
        if not trained:
            continue
        frozen = f"{model} frozen"
        labels = [frozen, *(f"{model} {strategy}" for strategy in trained)]
        table = standings({label: stats[label] for label in labels}, name, metric, seed)
        best = max(table, key=lambda label: metric.sign * table[label].value)
        found = table[frozen]
        gain, low = found.difference, found.low
        ends = [metric.number(end, "+") for end in (found.low, found.high)]
        # the table shows the seed that did best, so that the figures differ
        seeds = max(len(stats[f"{model} {s}"]) for s in trained) if best == frozen else len(stats[best])
        mean = f"in the mean of {seeds} seeds" if seeds > 1 else ""
        interval = f"{mean}, 90% interval {ends[0]} to {ends[1]}".removeprefix(", ")
        strategy = best.rpartition(" ")[2]
        reasons = [
            f"{strategy} {short[label]}" for strategy in trained if short and (label := f"{model} {strategy}") in short
        ]
        if reasons and (best == frozen or low <= 0):
            lead = "frozen leads so far" if best == frozen else f"{strategy} leads frozen by {metric.gap(gain)} so far"
            sentence = (
                f"{model}: {lead}, but {' and '.join(reasons)}. This does not speak against a complete training: "
                "increase the budget before you decide."
            )
        elif (
            best == frozen
            and (expected := max(labels, key=lambda label: (merits or {}).get(label, -math.inf))) != frozen
        ):
            sentence = (
                f"{model}: take {expected.rpartition(' ')[2]}; {len(stats[frozen][0])} validation items do not tell it from "
                "frozen, and on other datasets training gained."
            )
        elif best == frozen:
            sentence = f"{model}: take frozen; training gained nothing over the linear probe{' ' * bool(mean)}{mean}."
        elif low <= 0:
            sentence = (
                f"{model}: {strategy} gained {metric.gap(gain)} over frozen ({interval}), which noise could "
                "explain: take frozen where the cost of training matters."
            )
        else:
            small = " (a small gain if cost matters)" if gain < epsilon else ""
            sentence = f"{model}: take {strategy}; it gained {metric.gap(gain)} over frozen ({interval}){small}."
        size = "" if sizes is None or model not in sizes else f" {sizes[model]}"
        sentences.append(sentence + size + _curve(curves.get(model, ()), metric))
    return sentences


def _curve(curve: Sequence[Sequence[float]], metric: Metric) -> str:
    if len(curve) < 2:
        return ""
    (fewer, before), (all_of_them, now) = curve[-2], curve[-1]
    gain = metric.sign * (now - before)
    if gain < metric.epsilon:
        return ""
    return f" From {fewer:.0f} to {all_of_them:.0f} training items the linear probe gained {metric.gap(gain)}: more items would help."
