"""Strategies that adapt a head on frozen features of two domains: nothing moves by steps."""

from __future__ import annotations

from abc import abstractmethod

from selector.tuning.domains import AdaptedHead, Domains
from selector.tuning.strategies import Strategy
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
