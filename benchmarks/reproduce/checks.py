"""Do printed figures follow from the tables that were printed beside them?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.agreement import pearson
from benchmarks.reproduce.tables import CLASSES, Scores, other_hscores
from selector.ranking.agreement import weighted_tau

LAST_DIGIT = 6e-4
"""Printed figures have three decimals."""

EXACT = "exact"
OTHER = "exact in the other convention"
ROUNDING = "within the rounding of the table"
BROKEN = "does not follow"


@dataclass(frozen=True)
class Check:
    """A printed figure beside what its own table gives.

    ``ours`` is in scipy's default convention, ``other`` is ``weightedtau(accuracy, score,
    rank=None)`` (for Pearson, ``ours`` again).
    """

    source: str
    dataset: str
    method: str
    measure: str
    printed: float
    ours: float
    other: float
    verdict: str


def check_figure(
    source: str,
    key: tuple[str, str, str],
    printed: float,
    scores: Mapping[str, str],
    accuracy: Mapping[str, str],
    *,
    conventions: Iterable[str],
    draws: int,
    seed: int,
) -> Check:
    """Compare one figure; ``key`` is (set, method, measure), scores and accuracies are as printed."""
    dataset, method, measure = key
    models = list(accuracy)
    x, y = (np.array([float(column[m]) for m in models]) for column in (scores, accuracy))
    ours, other = _both(measure, x, y)
    found = {"scipy": ours, "accuracy": other}
    if abs(ours - printed) <= LAST_DIGIT:
        verdict = EXACT
    elif abs(other - printed) <= LAST_DIGIT:
        verdict = OTHER
    else:
        steps = [np.array([_last_place(column[m]) for m in models]) for column in (scores, accuracy)]
        rng = np.random.default_rng(seed)
        reached = {name: [value] for name, value in found.items()}
        for _ in range(draws):
            moved = [v + s * rng.uniform(-0.5, 0.5, len(v)) for v, s in zip((x, y), steps, strict=True)]
            for name, value in zip(reached, _both(measure, *moved), strict=True):
                reached[name].append(value)
        within = any(min(reached[c]) - LAST_DIGIT <= printed <= max(reached[c]) + LAST_DIGIT for c in conventions)
        verdict = ROUNDING if within else BROKEN
    return Check(source, dataset, method, measure, printed, ours, other, verdict)


def copied_columns(scores: Scores) -> list[tuple[str, str, str]]:
    """(set, method, method) whose values are the same for every model."""
    keys = sorted(scores)
    return [
        (a[0], a[1], b[1])
        for i, a in enumerate(keys)
        for b in keys[i + 1 :]
        if a[0] == b[0] and {m: float(v) for m, v in scores[a].items()} == {m: float(v) for m, v in scores[b].items()}
    ]


def impossible_hscores(sources: Mapping[str, Scores]) -> list[tuple[str, str, int, str, float]]:
    """(source, set, bound, model, value) of H-scores above C - 1, which no features can give.

    The score is the trace of a between-class scatter in units of the total scatter: each of the at
    most C - 1 directions in which class means differ adds at most one.
    """
    found = []
    for source, scores in sources.items():
        for (dataset, method), values in scores.items():
            if method == "hscore":
                bound = CLASSES[dataset] - 1
                found += [(source, dataset, bound, m, float(v)) for m, v in values.items() if float(v) > bound]
    for dataset, (classes, by_model) in other_hscores().items():
        found += [
            ("Back to the Basics", dataset, classes - 1, m, v) for m, v in by_model.items() if v > classes - 1 + 1e-6
        ]
    return found


def _both(measure: str, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    if measure == "pearson":
        value = pearson(x, y)
        return value, value
    return weighted_tau(x, y), weighted_tau(x, y, convention="accuracy")


def _last_place(text: str) -> float:
    """Size of the last printed digit.

    >>> _last_place("-4.310"), _last_place("82.7")
    (0.001, 0.1)
    """
    return float(10 ** -len(text.partition(".")[2])) if "." in text else 1.0
