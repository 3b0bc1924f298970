"""Which candidate is handed over where the target has no labels: ranks of validators combined, doubt told.

No function here sees a label of the target: a candidate is a ``View``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from selector.core.stats import mean_ranks
from selector.tuning import validators
from selector.tuning.validators import View

SOURCE_ONLY = "source-only"
COMBINED = ("class-ami", "im")
"""Validators whose ranks are combined, chosen on seven pairs of ``benchmarks/results/da.csv``; the others are shown. On
those pairs the density of neighbourhoods (snd) orders candidates the wrong way round."""
AGREE = 0.2
"""Mean rank correlation between validators below which they are said to disagree."""


@dataclass(frozen=True)
class Chosen:
    """What was chosen and why.

    Attributes:
        name: (model, strategy) that is handed over.
        first: (model, strategy) that the combined ranks put first.
        values: (candidate, validator) -> value; higher is better.
        combined: candidate -> mean share of candidates that it is ahead of, 0..1.
        agreement: mean Spearman correlation of the validators' orders; NaN for a single candidate.
        notes: sentences for a reader: disagreement, and that adaptation is not expected to help.
    """

    name: tuple[str, str]
    first: tuple[str, str]
    values: Mapping[tuple[str, str], Mapping[str, float]]
    combined: Mapping[tuple[str, str], float]
    agreement: float
    notes: tuple[str, ...]


def choose(candidates: Mapping[tuple[str, str], View], names: Sequence[str] = COMBINED) -> Chosen:
    """The candidate with the best mean rank, or source-only of its model where adaptation is not expected to beat it.

    Args:
        candidates: by (model, strategy).
        names: of the validators that choose; all are worked out.
    """
    known = list(candidates)
    pool = np.mean([view.target for view in candidates.values()], axis=0)
    views = {key: view.beside(pool) for key, view in candidates.items()}
    every = validators.registry.names()
    values = {key: {name: validators.registry.get(name)(view) for name in every} for key, view in views.items()}
    table = np.array([[values[key][name] for name in names] for key in known])
    combined = dict(zip(known, combined_ranks(table), strict=True))
    name, first, agreement = decided(known, table)
    notes: list[str] = []
    safe = (first[0], SOURCE_ONLY)
    if agreement < AGREE and len(known) > 1:
        leaders = {validator: known[int(np.argmax(table[:, i]))] for i, validator in enumerate(names)}
        listed = "; ".join(f"{validator} {' '.join(key)}" for validator, key in leaders.items())
        notes.append(
            f"the validators disagree (mean rank correlation {agreement:.2f}); each would take: {listed}. "
            f"'selector label' settles it with few labels; the safer choice until then is {' '.join(safe)}."
        )
    if first[1] != SOURCE_ONLY and safe in values:
        wins = sum(values[first][v] > values[safe][v] for v in names)
        if name == safe:
            notes.append(
                f"{' '.join(first)} leads by its ranks but is not expected to beat {' '.join(safe)}: "
                f"{wins} of {len(names)} validators prefer it; {' '.join(safe)} is handed over."
            )
        else:
            notes.append(f"{wins} of {len(names)} validators prefer {' '.join(first)} to {' '.join(safe)}.")
    return Chosen(name, first, values, combined, agreement, tuple(notes))


def decided(known: Sequence[tuple[str, str]], table: np.ndarray) -> tuple[tuple[str, str], tuple[str, str], float]:
    """(handed over, first by the ranks, agreement of the validators) of values (K, V).

    Source-only of the first model is handed over where not more than half of the validators prefer the adaptation.
    """
    ranks, agreement = combined_ranks(table), _agreement(table)
    best = int(np.argmax(ranks))
    first, safe = known[best], (known[best][0], SOURCE_ONLY)
    if first == safe or safe not in known:
        return first, first, agreement
    wins = int((table[best] > table[known.index(safe)]).sum())
    return (safe if 2 * wins <= table.shape[1] else first), first, agreement


def combined_ranks(table: np.ndarray) -> np.ndarray:
    """(K,) mean over the columns of (K, V) of the share of the other rows that a row exceeds, ties half."""
    count = len(table)
    if count == 1:
        return np.ones(1)
    return np.asarray(np.mean([(mean_ranks(column) - 1) / (count - 1) for column in table.T], axis=0))


def _agreement(table: np.ndarray) -> float:
    """Mean Spearman correlation of the columns of (K, V); those that tell nothing apart are left out."""
    ranks = [mean_ranks(column) for column in table.T if np.ptp(column) > 0]
    if len(table) < 3 or len(ranks) < 2:
        return float("nan")
    correlations = np.corrcoef(np.array(ranks))
    return float(correlations[np.triu_indices(len(ranks), 1)].mean())
