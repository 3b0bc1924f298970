"""Training on labels of the target: the head alone, the last blocks with it, or everything."""

from __future__ import annotations

from selector.core.errors import TrainingError
from selector.tuning.strategies import Strategy, strategy
from selector.tuning.strategies._parts import Group, Parts, decayed


@strategy("frozen")
class Frozen(Strategy):
    """Nothing moves by steps; the head is the solved probe."""

    name = "frozen"
    trains = False

    def groups(self, parts: Parts, *, layer_decay: bool) -> list[Group]:
        """The head alone, should a caller train it."""
        return [Group(parts.head)]


@strategy("full")
class Full(Strategy):
    """All parameters; for transformers and ConvNeXt the rate falls towards the stem."""

    name = "full"


SHARE = 8  # one block in so many: two of ResNet-50's seventeen, two of ViT's twelve


@strategy("partial")
class Partial(Strategy):
    """Frees the last n blocks, what follows them, and the head; n is an eighth of the blocks."""

    name = "partial"

    def groups(self, parts: Parts, *, layer_decay: bool) -> list[Group]:
        """The last n blocks, the rest after them, and the head.

        Raises:
            TrainingError: the source names no blocks of this network.
        """
        if not parts.blocks:
            raise TrainingError("'partial' needs the network's blocks, and its source names none; use full or frozen.")
        count = blocks_to_free(len(parts.blocks))
        return decayed([*parts.blocks[-count:], parts.rest, parts.head], layer_decay)


def blocks_to_free(blocks: int) -> int:
    """How many of the last blocks move.

    >>> [blocks_to_free(n) for n in (1, 4, 12, 17, 36)]
    [1, 1, 2, 2, 4]
    """
    return max(1, round(blocks / SHARE))
