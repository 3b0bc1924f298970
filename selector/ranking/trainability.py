"""How much better or worse a model trained on earlier targets than its score there promised.

A confirmation measures the few models that scored best, so that their ranks among each other say nothing of how good
they are beside models that were never confirmed: the third of three leaders is no weak model. What a rank among the
confirmed does say is whether the model ended above or below the place of its own score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from selector.ranking.agreement import weighted_tau
from selector.ranking.past_columns import FEWEST_MODELS, RANK_DEVIATION, PastColumn

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
