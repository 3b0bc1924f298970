"""What the measures of two domains share: unit rows, equal samples, and one head of the source domain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from selector.core.contracts import LabelKind
from selector.core.stats import best_temperature, softmax
from selector.features import FeatureSet
from selector.features.arrays import as_float
from selector.linear import solve_head

LABELS = (LabelKind.CLASSES,)


def target_rows(features: FeatureSet) -> np.ndarray:
    """(M, D) rows of the domain without labels, in floats."""
    assert features.unlabeled is not None  # the card says needs_unlabeled
    return as_float(features.unlabeled)


def equal_samples(features: FeatureSet, most: int) -> tuple[np.ndarray, np.ndarray]:
    """As many rows of either domain, ``most`` at most: drawn by content, so that their order does not matter."""
    target = target_rows(features)
    count = min(most, len(features), len(target))
    source = as_float(features.rows[features.sample(count)])
    # the canonical order of the target: by block, within it by the values themselves
    order = np.lexsort((*target.T[:2], target.sum(axis=1, dtype=np.float64)))
    return source, target[order[np.arange(count) * len(target) // count]]


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1; rows of zeros stay."""
    wide = rows.astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(np.divide(wide, length, out=np.zeros_like(wide), where=length > 0))


@dataclass(frozen=True)
class SourceHead:
    """A linear head of the source domain, and what it says of rows that it was not fitted on.

    Attributes:
        held_out: (H, C) probabilities of the source rows of one fold, at the temperature that fits them best.
        labels: (H,) their class positions.
        target: (M, C) probabilities of the target's rows, at the same temperature.
        shares: (C,) of the classes among all source rows; classes are in the order of the head's outputs.
        strength: the inverse penalty that the fold chose.
    """

    held_out: np.ndarray
    labels: np.ndarray
    target: np.ndarray
    shares: np.ndarray
    strength: float

    @property
    def accuracy(self) -> float:
        """On the held-out source rows."""
        return float((self.held_out.argmax(axis=1) == self.labels).mean())


def source_head(features: FeatureSet) -> SourceHead:
    """The head, fitted once for all measures: on four folds, the fifth chooses its penalty and is held out."""
    return features.shared("source head", lambda: _fit(features))


def _fit(features: FeatureSet) -> SourceHead:
    order, codes = features.canonical
    rows, codes = as_float(features.rows)[order], codes[order]
    held = features.folds[order] == 0
    outputs = len(features.classes)
    head = solve_head(rows[~held], codes[~held], rows[held], codes[held], outputs)

    def logits(some: np.ndarray) -> np.ndarray:
        return np.asarray(some.astype(np.float64) @ head.weight.T.astype(np.float64) + head.bias)

    own = logits(rows[held])
    temperature = best_temperature(own, codes[held])
    target = softmax(logits(target_rows(features)), temperature)
    shares = np.bincount(codes, minlength=outputs) / len(codes)
    return SourceHead(softmax(own, temperature), codes[held], target, shares, head.strength)
