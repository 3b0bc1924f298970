"""Few labels where they tell the leading candidates apart: a Bayesian, sequential choice of items.

After CODA (Kay et al., ICCV 2025, arXiv:2507.23771): every candidate has a confusion matrix with Dirichlet rows, which
start at what the pool's averaged prediction implies and are updated by labels; the next item is the one whose label
is expected to tell most of which candidate is the best. Differs from it: rows of accuracies are taken as normal with
their Beta moments, and an item's classes are those of the pool weighted by P(best).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PRIOR = 2.0
"""Pseudo-items a class that the pool's prediction counts for."""
DRAWS = 400
MOST = 150  # items that are looked at for the next one: those that candidates disagree on most


@dataclass(frozen=True)
class Standing:
    """What the labels so far say of the candidates.

    Attributes:
        accuracy: (K,) expected accuracy on the target.
        p_best: (K,) probability of being the best.
        regret: expected accuracy that the leader is behind the best.
    """

    accuracy: np.ndarray
    p_best: np.ndarray
    regret: float

    def rows(self, keys: Sequence[tuple[str, str]]) -> tuple[tuple[str, str, float, float], ...]:
        """(model, strategy, expected accuracy, P(best)) of every candidate, the best first."""
        order = np.argsort(-self.accuracy, kind="stable")
        return tuple((*keys[k], float(self.accuracy[k]), float(self.p_best[k])) for k in order)

    @property
    def leader(self) -> int:
        """The candidate with the highest expected accuracy."""
        return int(np.argmax(self.accuracy))


class Labelling:
    """Candidates' predictions of M items, and the labels that are known so far.

    Args:
        probabilities: (K, M, C) of every candidate.
        seed: of the draws behind the probabilities.
    """

    def __init__(self, probabilities: np.ndarray, seed: int = 0) -> None:
        self.probabilities = np.asarray(probabilities, dtype=np.float64)
        count, _, self.classes = self.probabilities.shape
        self.predicted = self.probabilities.argmax(axis=2)
        pool = self.probabilities.mean(axis=0)
        self.shares = pool.mean(axis=0)
        self.labels: dict[int, int] = {}
        self._noise = np.random.default_rng(seed).standard_normal((DRAWS, count))
        # of an item of class c, how a candidate predicts it: (K, C) right, the pool's prediction taken for the label
        weight = np.maximum(pool.sum(axis=0), 1e-9)
        right = np.stack([(self.predicted == c) @ pool[:, c] for c in range(self.classes)], axis=1) / weight
        self._right = PRIOR * right + 0.5
        self._wrong = PRIOR * (1 - right) + 0.5

    def label(self, item: int, label: int) -> None:
        """Take a label."""
        if item in self.labels:
            return
        self.labels[item] = label
        hit = self.predicted[:, item] == label
        self._right[:, label] += hit
        self._wrong[:, label] += ~hit

    def standing(self) -> Standing:
        """How the candidates stand."""
        return self._standing(self._right, self._wrong)

    def next(self) -> int:
        """The item whose label is expected to lower the doubt about the best candidate most.

        Raises:
            ValueError: every item has a label.
        """
        now = self.standing()
        open_items = np.setdiff1d(np.arange(self.predicted.shape[1]), list(self.labels))
        if not len(open_items):
            raise ValueError("every item has a label")
        votes = np.einsum("k,kmc->mc", now.p_best, np.eye(self.classes)[self.predicted[:, open_items]])
        split = 1 - votes.max(axis=1)
        looked = open_items[np.argsort(-split, kind="stable")[:MOST]]
        believed = np.einsum("k,kmc->mc", 0.5 * now.p_best + 0.5 / len(now.p_best), self.probabilities[:, looked])
        gains = [self._doubt_left(int(item), shares) for item, shares in zip(looked, believed, strict=True)]
        return int(looked[int(np.argmin(gains))])

    def batch(self, count: int) -> list[int]:
        """The next items when no label comes in between: each is chosen as if the pool had labelled those before it."""
        imagined = Labelling.__new__(Labelling)
        imagined.__dict__ = {**self.__dict__, "labels": dict(self.labels)}
        imagined._right, imagined._wrong = self._right.copy(), self._wrong.copy()
        found: list[int] = []
        for _ in range(min(count, self.predicted.shape[1] - len(self.labels))):
            item = imagined.next()
            found.append(item)
            imagined.label(item, int(self.probabilities[:, item].mean(axis=0).argmax()))
        return found

    def _doubt_left(self, item: int, shares: np.ndarray) -> float:
        """Expected entropy of P(best) once the item is labelled."""
        said = self.predicted[:, item]
        total = 0.0
        for label in np.flatnonzero(shares > 0.02):
            right, wrong = self._right.copy(), self._wrong.copy()
            right[:, label] += said == label
            wrong[:, label] += said != label
            p = self._standing(right, wrong).p_best
            total += shares[label] * float(-(p[p > 0] * np.log(p[p > 0])).sum())
        return total / float(shares[shares > 0.02].sum())

    def _standing(self, right: np.ndarray, wrong: np.ndarray) -> Standing:
        size = right + wrong
        mean = right / size
        accuracy = mean @ self.shares
        deviation = np.sqrt((mean * (1 - mean) / (size + 1)) @ self.shares**2)
        drawn = accuracy + deviation * self._noise
        best = drawn.max(axis=1)
        p_best = np.bincount(drawn.argmax(axis=1), minlength=len(accuracy)) / len(drawn)
        return Standing(accuracy, p_best, float((best - drawn[:, int(np.argmax(accuracy))]).mean()))
