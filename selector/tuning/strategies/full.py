"""Everything moves."""

from __future__ import annotations

from selector.tuning.strategies import Strategy, strategy
from selector.tuning.strategies._parts import Group, Parts, decayed


@strategy("full")
class Full(Strategy):
    """All parameters; for transformers and ConvNeXt the rate falls towards the stem."""

    name = "full"

    def groups(self, parts: Parts, *, layer_decay: bool) -> list[Group]:
        """Stem, blocks, rest and head."""
        return decayed(parts.sections(), layer_decay)
