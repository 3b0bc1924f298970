"""Feature extraction: the encoder stays as it is, the head is solved."""

from __future__ import annotations

from torch import nn

from selector.tuning.strategies import strategy
from selector.tuning.strategies._parts import Group, Parts


@strategy("frozen")
class Frozen:
    """Nothing moves by steps; the head is the solved probe."""

    name = "frozen"
    trains = False
    adapts = False
    optimiser = None
    rate_factor = 1.0

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module itself."""
        return module

    def groups(self, parts: Parts, *, layer_decay: bool) -> list[Group]:
        """The head alone, should a caller train it."""
        return [Group(parts.head)]

    def unwrap(self, module: nn.Module) -> nn.Module:
        """The module itself."""
        return module
