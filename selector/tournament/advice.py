"""Which strategy to take, in one sentence a model, from what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from selector.contracts import Task, metric_sign
from selector.tournament.compare import standings
from selector.units import format_gap, gap_number


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
) -> list[str]:
    """Sentences about the models of which more than the frozen strategy was measured.

    Args:
        curves: by model, (training items, figure) of the frozen strategy.
        strategies: by model, the trained strategies.
        logits: by ``model strategy``, validation outputs (N, K), one array a seed.
        units: which item a row belongs to, where an item has several.
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
        interval = f"90 % interval {ends[0]} to {ends[1]}"
        if best == frozen or low <= 0:
            what = f"{format_gap(gain, metric)} ({interval})" if best != frozen else "nothing"
            sentence = f"{model}: take frozen; training gained {what} over the solved head, which noise explains."
        else:
            strategy = best.rpartition(" ")[2]
            small = " (little, if the cost matters)" if gain < epsilon else ""
            sentence = (
                f"{model}: take {strategy}; it gained {format_gap(gain, metric)} over frozen ({interval}){small}."
            )
        sentences.append(sentence + _curve(curves.get(model, ())))
    return sentences


def _curve(curve: Sequence[Sequence[float]]) -> str:
    if len(curve) < 2:
        return ""
    (fewer, before), (all_of_them, now) = curve[-2], curve[-1]
    gain = 100 * (now - before)
    if gain < 1:
        return ""
    return f" From {fewer:.0f} to {all_of_them:.0f} training items the solved head gained {gain:.1f} points: more would help."
