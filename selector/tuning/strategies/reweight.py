"""Importance weights of the source's items by a classifier that tells the domains apart."""

from __future__ import annotations

from selector.tuning.domains import AdaptedHead, Domains, density_ratios, effective_sample_size, solved
from selector.tuning.strategies import strategy
from selector.tuning.strategies._heads import HeadStrategy


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
