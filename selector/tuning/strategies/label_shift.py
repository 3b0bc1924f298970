"""Weights of the source's classes by the class shares that are estimated for the target."""

from __future__ import annotations

import numpy as np

from selector.core.stats import best_temperature, softmax
from selector.proxies.label_shift import estimated_shares
from selector.tuning.domains import AdaptedHead, Domains, clipped, effective_sample_size, solved
from selector.tuning.strategies import strategy
from selector.tuning.strategies._heads import HeadStrategy


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
