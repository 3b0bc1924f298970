"""Which strategy to take, in one sentence a model, from what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from selector.core.contracts import Task, metric_sign
from selector.core.units import format_gap, gap_number
from selector.tuning.compare import standings


def advise(
    curves: Mapping[str, Sequence[Sequence[float]]],
    strategies: Mapping[str, Sequence[str]],
    logits: Mapping[str, Sequence[np.ndarray]],
    labels: np.ndarray,
    task: Task,
    metric: str,
    epsilon: float,
    seed: int = 0,
    units: np.ndarray | None = None,
    sizes: Mapping[str, str] | None = None,
) -> list[str]:
    """Sentences about the models of which more than the frozen strategy was measured.

    Args:
        curves: by model, (training items, figure) of the frozen strategy.
        strategies: by model, the trained strategies.
        logits: by ``model strategy``, validation outputs (N, K), one array a seed.
        units: which item a row belongs to, where an item has several.
        sizes: of models that were trained below their own size: a sentence that says so.
    """
    sentences = []
    for model, trained in strategies.items():
        if not trained:
            continue
        frozen = f"{model} frozen"
        table = standings(
            {label: logits[label] for label in [frozen, *(f"{model} {s}" for s in trained)]},
            labels,
            task,
            metric,
            seed,
            units,
        )
        best = max(table, key=lambda label: metric_sign(metric) * table[label].value)
        found = table[frozen]
        gain, low = found.difference, found.low
        ends = [gap_number(end, metric, sign="+") for end in (found.low, found.high)]
        # the table shows the seed that did best, so that the figures differ
        seeds = max(len(logits[f"{model} {s}"]) for s in trained) if best == frozen else len(logits[best])
        mean = f"in the mean of {seeds} seeds" if seeds > 1 else ""
        interval = f"{mean}, 90 % interval {ends[0]} to {ends[1]}".removeprefix(", ")
        strategy = best.rpartition(" ")[2]
        if best == frozen:
            sentence = f"{model}: take frozen; training gained nothing over the solved head{' ' * bool(mean)}{mean}."
        elif low <= 0:
            sentence = (
                f"{model}: {strategy} gained {format_gap(gain, metric)} over frozen ({interval}), which noise could "
                "explain: take frozen where the cost of training matters."
            )
        else:
            small = " (little, if the cost matters)" if gain < epsilon else ""
            sentence = (
                f"{model}: take {strategy}; it gained {format_gap(gain, metric)} over frozen ({interval}){small}."
            )
        size = "" if sizes is None or model not in sizes else f" {sizes[model]}"
        sentences.append(sentence + size + _curve(curves.get(model, ())))
    return sentences


def _curve(curve: Sequence[Sequence[float]]) -> str:
    if len(curve) < 2:
        return ""
    (fewer, before), (all_of_them, now) = curve[-2], curve[-1]
    gain = 100 * (now - before)
    if gain < 1:
        return ""
    return f" From {fewer:.0f} to {all_of_them:.0f} training items the solved head gained {gain:.1f} points: more would help."
