"""How good an adapted model may be on a target without labels. One module a validator, found by name on first use.

A validator is a function of a ``View`` under the ``validator`` decorator; higher is better. None of them is reliable
alone (Musgrave et al., arXiv:2208.07360), so ``tuning.choice`` combines their ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from selector.core.registry import Registry
from selector.tuning.domains import MOST_WEIGHT, log_density_ratios


@dataclass(frozen=True)
class View:
    """What may be looked at of one candidate: never a label of the target.

    Attributes:
        target: (M, C) probabilities of the target's items, at the temperature that fits the source's validation items.
        features: (M, D) what the head read of them.
        val, val_labels: (V, C) and (V,) of the source's validation items; ``val_features`` (V, D).
        train_features: (N, D) of the source's training items.
        pool: (M, C) mean probabilities of all candidates.
        seed: of whatever is drawn.
    """

    target: np.ndarray
    features: np.ndarray
    val: np.ndarray
    val_labels: np.ndarray
    val_features: np.ndarray
    train_features: np.ndarray
    pool: np.ndarray | None = None
    seed: int = 0

    @cached_property
    def predicted(self) -> np.ndarray:
        """(M,) classes."""
        return np.asarray(self.target.argmax(axis=1))

    @cached_property
    def val_weights(self) -> np.ndarray:
        """(V,) how much likelier the validation items are in the target, ``MOST_WEIGHT`` times at most. Their mean is what
        ``dev`` corrects by, so it is not brought to 1."""
        found = log_density_ratios(self.train_features, self.features, self.val_features, self.seed)
        return np.asarray(np.exp(np.minimum(found, np.log(MOST_WEIGHT))))

    @cached_property
    def clusters(self) -> np.ndarray:
        """(M,) k-means clusters of the target's features, as many as there are classes."""
        from sklearn.cluster import KMeans

        found = KMeans(self.target.shape[1], n_init=3, random_state=self.seed).fit_predict(self.features)
        return np.asarray(found)

    def some(self, kept: np.ndarray) -> View:
        """The same of some of the target's items; clusters stay those of all."""
        pool = None if self.pool is None else self.pool[kept]
        found = replace(self, target=self.target[kept], features=self.features[kept], pool=pool)
        found.__dict__["clusters"] = self.clusters[kept]
        return found

    def beside(self, pool: np.ndarray) -> View:
        """The same, knowing the mean probabilities of the pool."""
        found = replace(self, pool=pool)
        found.__dict__["clusters"] = self.clusters
        return found


Validator = Callable[[View], float]
registry: Registry[Validator] = Registry("selector.tuning.validators", "validator")
validator = registry.register
"""Decorator: ``@validator("name")`` files a function ``(View) -> float``."""
