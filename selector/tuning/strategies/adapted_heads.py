"""Strategies that adapt a head on frozen features of two domains, nothing moves by steps; and no adaptation at all."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from selector.core.stats import best_temperature, softmax
from selector.proxies.domain_measures import estimated_shares
from selector.tuning.domains import AdaptedHead, Domains, clipped, density_ratios, effective_sample_size, solved
from selector.tuning.strategies import Strategy, strategy
from selector.tuning.strategies._parts import Group, Parts


class HeadStrategy(Strategy):
    """What counts is ``solve``."""

    trains = False
    adapts = True

    @abstractmethod
    def solve(self, domains: Domains) -> AdaptedHead:
        """A head for the target, from the source's labels and the features of both."""

    def groups(self, parts: Parts, *, layer_decay: bool) -> list[Group]:
        """The head alone, should a caller train it."""
        return [Group(parts.head)]


@strategy("source-only")
class SourceOnly(HeadStrategy):
    """The solved probe on the source's features."""

    name = "source-only"

    def solve(self, domains: Domains) -> AdaptedHead:
        """See ``HeadStrategy``."""
        return solved(domains, domains.train, domains.val)


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


@strategy("reweight")
class Reweight(HeadStrategy):
    """Items that look like the target count more (Shimodaira 2000; Bickel et al., ICML 2007); clipped."""

    name = "reweight"

    def solve(self, domains: Domains) -> AdaptedHead:
        """See ``HeadStrategy``; ``effective_sample_size`` says how many items are left to learn from."""
        weights, held_out = (
            density_ratios(domains.train, domains.target, rows, domains.seed) for rows in (domains.train, domains.val)
        )
        size = effective_sample_size(weights)
        return solved(domains, domains.train, domains.val, (weights, held_out), effective_sample_size=size)


@strategy("label-shift")
class LabelShift(HeadStrategy):
    """Items of classes that are more frequent in the target count more (Saerens et al. 2002; Lipton et al., ICML 2018)."""

    name = "label-shift"
    mends = "shares"

    def solve(self, domains: Domains) -> AdaptedHead:
        """See ``HeadStrategy``; ``effective_sample_size`` says how many items are left to learn from."""
        plain = solved(domains, domains.train, domains.val)
        own, other = plain.outputs(domains.val), plain.outputs(domains.target)
        shares = np.bincount(domains.labels, minlength=domains.classes) / len(domains.labels)
        known = shares > 0
        probabilities = softmax(other[:, known], best_temperature(own, domains.val_labels))
        ratio = np.zeros(domains.classes)
        ratio[known] = estimated_shares(probabilities, shares[known]) / shares[known]
        # a class that the head never sees in the target is rare there, not impossible
        ratio = np.maximum(ratio, 0.05)
        weights, held_out = clipped(ratio[domains.labels]), clipped(ratio[domains.val_labels])
        size = effective_sample_size(weights)
        return solved(domains, domains.train, domains.val, (weights, held_out), effective_sample_size=size)
