"""CORAL in closed form: source features get the mean and covariance of the target before the head is solved."""

from __future__ import annotations

import numpy as np

from selector.tuning.domains import AdaptedHead, Domains, solved
from selector.tuning.strategies import strategy
from selector.tuning.strategies._heads import HeadStrategy


@strategy("coral")
class Coral(HeadStrategy):
    """Whitens source rows and colors them as the target (Sun, Feng & Saenko, AAAI 2016, arXiv:1511.05547)."""

    name = "coral"
    mends = "items"

    def solve(self, domains: Domains) -> AdaptedHead:
        """See ``HeadStrategy``."""
        from sklearn.covariance import ledoit_wolf  # fewer rows than columns have directions of no variance

        moved = alignment(ledoit_wolf(domains.train)[0], ledoit_wolf(domains.target)[0])
        center, aim = domains.train.mean(axis=0), domains.target.mean(axis=0)
        train, val = (((rows - center) @ moved + aim).astype(np.float32) for rows in (domains.train, domains.val))
        return solved(domains, train, val)


def alignment(covariance: np.ndarray, aim: np.ndarray) -> np.ndarray:
    """(D, D) C_s^(-1/2) C_t^(1/2) of two covariances: centered rows of the first times it have the second."""
    return np.asarray(_power(covariance, -0.5) @ _power(aim, 0.5))


def _power(covariance: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.maximum(values, 1e-12 * values[-1]) ** exponent) @ vectors.T)
