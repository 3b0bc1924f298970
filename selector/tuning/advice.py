"""Which strategy to take, in one sentence a model, from what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selector.core.metric import Metric
from selector.core.task import Stats
from selector.tuning.compare import standings


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
) -> list[str]:
    """Sentences about the models of which more than the frozen strategy was measured.

    Args:
        curves: by model, (training items, value) of the frozen strategy.
        strategies: by model, the trained strategies.
        stats: by ``model strategy``, of the validation items, one a seed.
        name, metric: what decides, and its declaration.
        short: by ``model strategy``, what was too short or too small about a training to speak against it.
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
