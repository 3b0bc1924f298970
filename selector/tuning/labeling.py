"""Few labels where they tell the leading candidates apart: a Bayesian, sequential choice of items.

In the spirit of CODA (Kay et al., ICCV 2025, arXiv:2507.23771), with another belief: instead of a confusion matrix a
candidate, whose rows learn from nothing but the items that were asked for and so take on their bias, every candidate
in turn is taken for the truth. It is believed as much as it was before a label came and as it foresaw the labels that
came; labels that are known count as they are, all others as the candidates that are believed predict them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEADING, DOUBTED = 4, 2.0
"""So many candidates, and no more than half of them, are believed alike before a label came, and the others less by this
logarithm."""
LEFT_FROM = 0.75
"""P(best) from which another candidate leads than the one that was chosen without labels. The first ten labels or so know less
than the validators: led by expected accuracy alone, the choice was 3.6 points behind the best after three labels where it had been
0.9 behind without any (``benchmarks.da_tables``)."""
MISTAKEN = 0.15
"""Share of a label's probability that no candidate can take away: none of them is the truth."""
TEMPER = 0.5
"""Power of the likelihood: what one candidate predicts of two items is not independent."""
EXPLORED = 0.2
"""Share of the items that are drawn by disagreement among all candidates, not among those that are believed."""


@dataclass(frozen=True)
class LabeledStanding:
    """What the labels so far say of the candidates.

    Attributes:
        leader: the candidate with the highest expected accuracy; the one that was chosen without labels until the other is
            the best with a probability of ``LEFT_FROM``.
        accuracy: (K,) expected accuracy on the target.
        p_best: (K,) probability of being the best.
        regret: expected accuracy that the leader is behind the best.
    """

    accuracy: np.ndarray
    p_best: np.ndarray
    regret: float
    leader: int

    def rows(self, keys: Sequence[tuple[str, str]]) -> tuple[tuple[str, str, float, float], ...]:
        """(model, strategy, expected accuracy, P(best)) of every candidate: the leader, then the most accurate."""
        order = sorted(np.argsort(-self.accuracy, kind="stable"), key=lambda k: k != self.leader)
        return tuple((*keys[k], float(self.accuracy[k]), float(self.p_best[k])) for k in order)


class Labeling:
    """Candidates' predictions of M items, and the labels that are known so far.

    Args:
        probabilities: (K, M, C) of every candidate.
        merits: (K,) how good candidates seem without a label, on any scale; higher is better.
        seed: of the draws.
        first: the candidate that was chosen without a label: it is believed as those that seem best are, and leads until
            another is the best with a probability of ``LEFT_FROM``. None where nothing was chosen.
        contents: (M,) what tells items apart: those of one content are asked for once and share a label. Each item has its
            own where it is not given.
    """

    def __init__(
        self,
        probabilities: np.ndarray,
        merits: np.ndarray,
        seed: int = 0,
        *,
        first: int | None = None,
        contents: Sequence[str] | None = None,
    ) -> None:
        self.probabilities = np.asarray(probabilities, dtype=np.float64)
        self.predicted = self.probabilities.argmax(axis=2)
        self.labels: dict[int, int] = {}
        self._seed = seed
        count, items, self._classes = self.probabilities.shape
        least = np.sort(merits)[-min(LEADING, max(1, count // 2))]
        self._log_belief = np.where(merits >= least, 0.0, -DOUBTED)
        if first is not None:
            self._log_belief[first] = 0.0
        self._first = first
        self._contents = np.arange(items) if contents is None else np.unique(list(contents), return_inverse=True)[1]
        # (K, K): expected number of items that the second predicts rightly where the first is the truth
        every = np.arange(items)
        self._right = np.stack([self.probabilities[:, every, said].sum(axis=1) for said in self.predicted], axis=1)

    @property
    def answers(self) -> int:
        """How many labels were given: copies of an item do not count."""
        return len({int(self._contents[item]) for item in self.labels})

    def label(self, item: int, label: int) -> None:
        """Take a label, which is that of all copies of the item; what it says of the candidates it says once."""
        if item in self.labels:
            return
        for copy in np.flatnonzero(self._contents == self._contents[item]):
            self.labels[int(copy)] = label
            said = self.predicted[:, copy]
            self._right += (said == label) - self.probabilities[:, copy][:, said]
        foreseen = (1 - MISTAKEN) * self.probabilities[:, item, label] + MISTAKEN / self._classes
        self._log_belief = self._log_belief + TEMPER * np.log(foreseen)

    def standing(self) -> LabeledStanding:
        """How the candidates stand."""
        belief, accuracies = self._belief(), self._right / self.predicted.shape[1]
        accuracy = belief @ accuracies
        p_best = np.bincount(accuracies.argmax(axis=1), weights=belief, minlength=len(belief))
        leader = int(np.argmax(accuracy))
        if self._first is not None and (not self.labels or p_best[leader] < LEFT_FROM):
            leader = self._first
        return LabeledStanding(accuracy, p_best, float(belief @ accuracies.max(axis=1) - accuracy[leader]), leader)

    def batch(self, count: int) -> list[int]:
        """The next items, drawn by how much the candidates that are believed disagree on them.

        Drawn, not the foremost: items on which all of the best hesitate would say how they do on such items, and not
        who is the best. Items on which no two candidates differ come last.
        """
        rng = np.random.default_rng((self._seed, len(self.labels)))
        believed, every = (self._disagreement(w) for w in (self._belief(), np.full(len(self.predicted), 1.0)))
        chances = (1 - EXPLORED) * believed + EXPLORED * every
        chances[list(self.labels)] = -1.0
        # Efraimidis & Spirakis 2006: the largest of u^(1/w) are a weighted draw without replacement
        with np.errstate(divide="ignore"):
            order = np.where(chances > 0, np.log(rng.random(len(chances))) / np.maximum(chances, 1e-300), -np.inf)
        order = np.where(chances >= 0, order, np.nan)
        found = np.argsort(-order, kind="stable")[: len(chances) - len(self.labels)]
        # of copies the one that was drawn first: together they are drawn as one item of all their chances
        _, once = np.unique(self._contents[found], return_index=True)
        return [int(i) for i in found[np.sort(once)][:count]]

    def _belief(self) -> np.ndarray:
        weights = np.exp(self._log_belief - self._log_belief.max())
        return np.asarray(weights / weights.sum())

    def _disagreement(self, weights: np.ndarray) -> np.ndarray:
        """(M,) chance that two candidates drawn by weight predict other classes, brought to a sum of 1."""
        votes = np.stack([weights @ (self.predicted == c) for c in range(self._classes)], axis=1) / weights.sum()
        found = np.maximum(1 - (votes**2).sum(axis=1), 0)
        return np.asarray(found / max(float(found.sum()), 1e-300))
