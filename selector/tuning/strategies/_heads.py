"""Strategies that adapt a head on frozen features of two domains: nothing moves by steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import nn

from selector.tuning.domains import AdaptedHead, Domains
from selector.tuning.strategies._parts import Group, Parts


class HeadStrategy(ABC):
    """See ``strategies.Strategy``; what counts is ``solve``."""

    name: str
    trains = False
    adapts = True
    optimiser = None
    rate_factor = 1.0

    @abstractmethod
    def solve(self, domains: Domains) -> AdaptedHead:
        """A head for the target, from the source's labels and the features of both."""

    def wrap(self, module: Any) -> Any:
        """The module itself."""
        return module

    def groups(self, parts: Parts, *, layer_decay: bool) -> list[Group]:
        """The head alone, should a caller train it."""
        return [Group(parts.head)]

    def unwrap(self, module: nn.Module) -> nn.Module:
        """The module itself."""
        return module
