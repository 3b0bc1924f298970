"""A labeled set of a suite: labels and fixed stratified splits, whatever its items are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import train_test_split

SPLIT_SEED = 0  # splits are one and the same in every run; --seed moves batches and augmentation only


@dataclass(frozen=True)
class LabeledSet:
    """Labels 0..C-1 (N,) and splits ``train``, ``val`` and ``test`` (N,) of as many items."""

    name: str
    labels: np.ndarray
    splits: np.ndarray

    @property
    def classes(self) -> int:
        return int(self.labels.max()) + 1

    def rows(self, *splits: str) -> np.ndarray:
        return np.flatnonzero(np.isin(self.splits, splits))


def draw(
    labels: np.ndarray, is_test: np.ndarray, val_share: float, max_train_val: int, max_test: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and the split of each: at most so many, drawn evenly by class; a share of those not in test becomes val."""
    rest = _at_most(max_train_val, np.flatnonzero(~is_test), labels)
    test = _at_most(max_test, np.flatnonzero(is_test), labels)
    train, val = train_test_split(rest, test_size=val_share, stratify=labels[rest], random_state=SPLIT_SEED)
    rows = np.concatenate([np.sort(train), np.sort(val), np.sort(test)])
    return rows, np.repeat(["train", "val", "test"], [len(train), len(val), len(test)])


def _at_most(count: int, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    if len(rows) <= count:
        return rows
    kept, _ = train_test_split(rows, train_size=count, stratify=labels[rows], random_state=SPLIT_SEED)
    return kept
