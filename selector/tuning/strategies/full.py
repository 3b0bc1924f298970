"""Everything moves."""

from __future__ import annotations

from torch import nn

from selector.tuning.strategies import strategy
from selector.tuning.strategies._parts import Group, Parts, decayed


@strategy("full")
class Full:
    """All parameters; for transformers and ConvNeXt the rate falls towards the stem."""

    name = "full"
    trains = True
    adapts = False
    optimiser = None
    rate_factor = 1.0

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module itself."""
        return module

    def groups(self, parts: Parts, *, layer_decay: bool) -> list[Group]:
        """Stem, blocks, rest and head."""
        return decayed(parts.sections(), layer_decay)

    def unwrap(self, module: nn.Module) -> nn.Module:
        """The module itself."""
        return module
