"""What was measured earlier, as columns: the ranks of the models of one target, strategy and metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from selector.core.stats import mean_ranks
from selector.ranking.history import Result

FEWEST_MODELS = 3  # a left-out target with two models is right or wrong by chance
RANK_DEVIATION = 1 / math.sqrt(12)  # of a uniform rank in 0..1


@dataclass(frozen=True)
class PastColumn:
    """Centered ranks of the models that were measured in the same way on one target."""

    target: str
    models: tuple[str, ...]
    ranks: np.ndarray
    published: bool = False
    reliability: float = 1.0


def columns_of(
    rows: Sequence[tuple[str, Result]], predicted: Mapping[tuple[str, str], float] | None = None
) -> list[PastColumn]:
    """Ranks by target, strategy and metric; columns that order nothing are left out.

    Args:
        rows: (model, row).
        predicted: (target, model) -> the score that it had there. With it a rank is how many places a model ended
            above the place of its score; models without a score are left out.
    """
    cells: dict[tuple[str, str, str, str], dict[str, list[float]]] = {}
    items: dict[tuple[str, str, str, str], int] = {}
    for model, row in rows:
        if predicted is not None and (row.target, model) not in predicted:
            continue
        # two published tables of one dataset were measured in different ways; runs of this machine in one
        table = row.run if row.origin == "published" else ""
        key = (row.target, row.strategy, row.metric, table)
        cells.setdefault(key, {}).setdefault(model, []).append(row.value)
        if row.origin != "published" and row.items:
            items[key] = min(row.items, items.get(key, row.items))
    published = {row.target for _, row in rows if row.origin == "published"}
    columns = []
    for key, by_model in sorted(cells.items()):
        target = key[0]
        models = tuple(sorted(by_model))
        values = np.array([np.mean(by_model[m]) for m in models])
        if len(set(values.tolist())) > 1:
            ranks = _places(values)
            if predicted is not None:
                ranks = ranks - _places(np.array([predicted[target, m] for m in models]))
            reliability = _reliability(values, items[key]) if key in items else 1.0
            if reliability > 0:
                columns.append(PastColumn(target, models, ranks, target in published, reliability))
    return columns


def _places(values: np.ndarray) -> np.ndarray:
    """Expected places of n uniform draws, centered: a small pool spreads less than a large one."""
    return np.asarray(mean_ranks(values) / (len(values) + 1) - 0.5)


def _reliability(values: np.ndarray, items: int) -> float:
    """Share of the variance between models that is not sampling noise of so many validation items, 0..1.

    Six items that give 6/6 and 5/6 say nothing; 300 items that lie ten points apart say nearly all. The error of a
    share is Agresti and Coull's, so that 6/6 is not taken for certain; of other metrics that of a share of a half.
    """
    shares = values if ((values >= 0) & (values <= 1)).all() else np.full(len(values), 0.5)
    centered = (shares * items + 2) / (items + 4)
    noise = float((centered * (1 - centered) / (items + 4)).mean())
    spread = float(values.var(ddof=1))
    if shares is not values:
        noise *= spread * 4  # in the metric's own unit: an item decides as much as it does of a share
    return max(0.0, 1.0 - noise / spread) if spread > 0 else 0.0
