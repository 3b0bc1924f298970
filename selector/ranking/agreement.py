"""How well a score agrees with fine-tuned accuracy, over models: rank agreement."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from itertools import combinations_with_replacement
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from selector.core.errors import ConfigError
from selector.core.stats import mean_ranks


def weighted_taus(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """As ``scipy.stats.weightedtau`` with its default ``rank=True``: the mean over the rankings by either variable."""
    return np.asarray(np.mean(_taus(x, y, counts), axis=0))


def _taus(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    """Weighted by the ranking by ``x``, and by that by ``y``."""
    # the weight of a pair is the sum of its models' and its term is the same for (i, j) and (j, i): rows are enough
    terms = _pairs(x, y, counts)
    taus = []
    for last, other in ((x, y), (y, x)):
        order = np.lexsort((other, last, counts), axis=-1)[:, ::-1]  # what does not count is ranked last
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(order.shape[1])[None], axis=1)
        taus.append(_ratio((counts / (1.0 + rank) * terms).sum(axis=2)))
    return taus


def _pairs(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(3, B, n) pairs of each model that ``x`` tells apart, that both order alike less otherwise, that ``y`` tells apart."""
    step, found = max(1, _CELLS // max(1, x.size)), []
    for some in (slice(start, start + step) for start in range(0, x.shape[1], step)):
        both = counts[:, some, None] & counts[:, None]
        own = [
            np.subtract(v[:, some, None] > v[:, None], v[:, some, None] < v[:, None], dtype=np.float32) for v in (x, y)
        ]
        pairs = combinations_with_replacement([signs * both for signs in own], 2)
        found.append(np.stack([np.einsum("bij,bij->bi", a, b) for a, b in pairs]))
    return np.concatenate(found, axis=2).astype(float)


def _ratio(terms: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(terms[1] / np.sqrt(terms[0] * terms[2]))


Convention = Literal["scipy", "accuracy"]
_CELLS = 2**20  # pairs of models that are compared in one array


def weighted_tau(scores: ArrayLike, accuracies: ArrayLike, *, convention: Convention = "scipy") -> float:
    """Weighted Kendall tau of scores and accuracies, in -1..1; higher is better.

    Args:
        scores: (M,) one a model, higher is better.
        accuracies: (M,) measured, same order.
        convention: ``scipy`` weighs hyperbolically by the mean over the rankings by either variable
            (``rank=True``, what most tables print). ``accuracy`` is ``weightedtau(accuracies,
            scores, rank=None)``, which weighs by the ranking by accuracy alone: some papers print
            it, and the two are not comparable.
    Returns:
        tau; NaN where a variable is constant, never averaged silently.
    Raises:
        ConfigError: lengths differ, fewer than two models, or a value is not finite.

    >>> round(weighted_tau([1, 2, 3, 4], [10, 20, 40, 30]), 3)
    0.52
    """
    x, y = paired_values(scores, accuracies)
    if is_constant(x) or is_constant(y):
        return math.nan
    by_x, by_y = (float(tau[0]) for tau in _taus(x[None], y[None], np.ones((1, len(x)), bool)))
    return by_y if convention == "accuracy" else (by_x + by_y) / 2


def kendall(scores: ArrayLike, accuracies: ArrayLike) -> float:
    """Kendall's tau-b, in -1..1; NaN on constants."""
    x, y = paired_values(scores, accuracies)
    return float(_ratio(_pairs(x[None], y[None], np.ones((1, len(x)), bool)).sum(axis=2))[0])


def spearman(scores: ArrayLike, accuracies: ArrayLike) -> float:
    """Spearman's rho, ties at their mean rank, in -1..1; NaN on constants."""
    x, y = paired_values(scores, accuracies)
    return math.nan if is_constant(x) or is_constant(y) else float(np.corrcoef(mean_ranks(x), mean_ranks(y))[0, 1])


def paired_values(scores: ArrayLike, accuracies: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(scores, dtype=float), np.asarray(accuracies, dtype=float)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 2:
        raise ConfigError(f"expected two arrays (M,) of equal length M >= 2. Got shapes {x.shape} and {y.shape}.")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ConfigError("scores and accuracies must be finite; drop the models without a value before comparing.")
    return x, y


def is_constant(values: np.ndarray) -> bool:
    return bool((values == values[0]).all())


@dataclass(frozen=True)
class CalibrationSet:
    """One set of the suite: its size, and the normalized score of the best encoder and of the median one."""

    rows: int
    classes: int
    encoders: int
    best_normalized_score: float
    median_normalized_score: float


@dataclass(frozen=True)
class Calibration:
    """The frozen values.

    Attributes:
        version: raised with every change of a value below; a run records it.
        normalized_score_per_deviation: how far encoders of a set lie apart in normalized score per standard deviation of their rank.
        sets: by name.
    """

    version: int
    normalized_score_per_deviation: float
    sets: Mapping[str, CalibrationSet]

    def unlike(self, modality: str, label_kind: str) -> set[str]:
        """In what a target differs from all sets: modality, label_kind."""
        found = {"modality": str(modality), "label_kind": str(label_kind)}
        return {name for name, value in found.items() if _MADE_ON[name] != value}


_MADE_ON = {"modality": "image", "label_kind": "classes"}


@lru_cache(maxsize=1)
def calibration() -> Calibration:
    """The values that the package carries."""
    data = json.loads((files("selector.ranking") / "calibration.json").read_text(encoding="utf-8"))
    sets = {name: CalibrationSet(**facts) for name, facts in data["sets"].items()}
    return Calibration(data["version"], data["normalized_score_per_deviation"], sets)
