"""No adaptation: the head of the source domain, as it is. What every other strategy has to beat."""

from __future__ import annotations

from selector.tuning.domains import AdaptedHead, Domains, solved
from selector.tuning.strategies import strategy
from selector.tuning.strategies._heads import HeadStrategy


@strategy("source-only")
class SourceOnly(HeadStrategy):
    """The solved probe on the source's features."""

    name = "source-only"

    def solve(self, domains: Domains) -> AdaptedHead:
        """See ``HeadStrategy``."""
        return solved(domains, domains.train, domains.val)
