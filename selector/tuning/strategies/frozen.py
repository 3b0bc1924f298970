"""Feature extraction: the encoder stays as it is, the head is solved."""

from __future__ import annotations

from selector.tuning.strategies import Strategy, strategy
from selector.tuning.strategies._parts import Group, Parts


@strategy("frozen")
class Frozen(Strategy):
    """Nothing moves by steps; the head is the solved probe."""

    name = "frozen"
    trains = False

    def groups(self, parts: Parts, *, layer_decay: bool) -> list[Group]:
        """The head alone, should a caller train it."""
        return [Group(parts.head)]
