"""Rankings that never look at the target: facts of the models, mean rank elsewhere, chance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import rankdata

from benchmarks.agreement import MEASURES, Interval, mean_agreement
from benchmarks.reproduce.tables import AccuracyTable, facts
from selector.ranking.agreement import weighted_tau


def fact(table: AccuracyTable, name: str) -> np.ndarray | None:
    """A fact as the score on every set, (models, sets); None where the table's models lack it."""
    known = facts(table.name, name)
    if not all(model in known for model in table.models):
        return None
    return np.tile(np.array([known[m] for m in table.models])[:, None], len(table.sets))


def mean_rank_elsewhere(table: AccuracyTable, ties: str = "average") -> np.ndarray:
    """(models, sets): mean rank over all other sets. ``ties="ordinal"`` lets the order of the file decide."""
    ranks = rankdata(table.accuracy, method=ties, axis=0)
    return _mean_elsewhere(ranks)


def mean_accuracy_elsewhere(table: AccuracyTable) -> np.ndarray:
    """(models, sets): mean accuracy over all other sets."""
    return _mean_elsewhere(table.accuracy)


RANKERS: dict[str, Callable[[AccuracyTable], np.ndarray | None]] = {
    "ImageNet accuracy": lambda table: fact(table, "imagenet_top1"),
    "parameters": lambda table: fact(table, "parameters"),
    "mean rank elsewhere": mean_rank_elsewhere,
    "mean accuracy elsewhere": mean_accuracy_elsewhere,
}


def agreement(table: AccuracyTable, score: np.ndarray, measure: str, draws: int, seed: int) -> Interval:
    """Mean over the sets with a 90% interval over models and sets."""
    return mean_agreement(list(score.T), list(table.accuracy.T), measure, draws=draws, seed=seed)


def point(table: AccuracyTable, score: np.ndarray, measure: str, **options: str) -> float:
    """Mean over the sets where the measure is defined."""
    function = MEASURES[measure]
    values = [function(x, y, **options) for x, y in zip(score.T, table.accuracy.T, strict=True)]
    return float(np.nanmean(values))


def random_taus(accuracy: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """(draws, sets): weighted tau of random orders with accuracy (models, sets)."""
    rng = np.random.default_rng(seed)
    return np.array([[weighted_tau(rng.permutation(len(y)), y) for y in accuracy.T] for _ in range(draws)])


def _mean_elsewhere(values: np.ndarray) -> np.ndarray:
    means = (values.sum(axis=1, keepdims=True) - values) / (values.shape[1] - 1)
    return np.asarray(np.round(means, 9))  # equal means must tie, whatever the order of the additions
