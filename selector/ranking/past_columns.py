"""What was measured earlier, as columns: the ranks of the models of one target, strategy and metric.

A confirmation measures the few models that scored best, so that their ranks among each other say nothing of how good
they are beside models that were never confirmed: the third of three leaders is no weak model. What a rank among the
confirmed does say is whether the model ended above or below the place of its own score (``Trainability``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from selector.core.stats import mean_ranks
from selector.ranking.agreement import weighted_tau
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


_TARGETS = 1.0  # a model of which nothing is known counts as much as this many targets where it trained as it scored


@dataclass(frozen=True)
class Trainability:
    """What earlier targets say of the models that were confirmed there.

    Attributes:
        values: deviations of rank above the place of the score, by model; drawn towards 0 where targets are few.
        errors: standard errors of ``values``.
        targets: on which each model was measured.
        agreement: mean weighted tau of values with those of a left-out target; None with fewer than two to leave out.
        tried: targets that were left out.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)
    targets: Mapping[str, int] = field(default_factory=dict)
    agreement: float | None = None
    tried: int = 0


def trained_beyond_scores(columns: Sequence[PastColumn]) -> Trainability:
    """From columns whose ranks are places above those of the scores (``columns_of`` with ``predicted``).

    Cost: O(targets · rows).
    """
    tried = sorted({c.target for c in columns if len(c.models) >= FEWEST_MODELS})
    taus = []
    for target in tried if len(tried) > 1 else ():
        known = _means([c for c in columns if c.target != target])[0]
        for column in columns:
            if column.target == target and len(column.models) >= FEWEST_MODELS:
                tau = weighted_tau([known.get(m, 0.0) for m in column.models], column.ranks)
                taus.append(0.0 if math.isnan(tau) else tau)  # no order is worth a random one
    values, errors = _means(columns)
    counts = {m: len({c.target for c in columns if m in c.models}) for m in values}
    return Trainability(values, errors, counts, float(np.mean(taus)) if taus else None, len(tried) if taus else 0)


def _means(columns: Sequence[PastColumn]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean place above the score by model, in deviations, drawn towards 0, and its standard error."""
    sums: dict[str, float] = {}
    weights: dict[str, float] = {}
    for column in columns:
        for model, rank in zip(column.models, column.ranks, strict=True):
            sums[model] = sums.get(model, 0.0) + column.reliability * float(rank)
            weights[model] = weights.get(model, 0.0) + column.reliability
    means = {m: total / (_TARGETS + weights[m]) / RANK_DEVIATION for m, total in sums.items()}
    return means, {m: 1 / math.sqrt(_TARGETS + w) for m, w in weights.items()}
