"""Row readers, one file each: from what a network gives for a batch to the rows of a ``RowPlan``.

A reader gets the outputs of one forward pass and the places of the rows in their items, and gives
(R, D). Only rows leave it: feature maps are never stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from selector.core.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Outputs:
    """What a network gives for a batch of B items.

    Attributes:
        features: (B, D), or (W, D) where an item has several feature rows (words).
        starts: (B + 1,) where those of each item begin in ``features``; None where an item has one.
        maps: (stride, map (B, C, h, w)), the finest first.
    """

    features: Tensor | None = None
    starts: Tensor | None = None
    maps: Sequence[tuple[int, Tensor]] = ()


class RowReader(Protocol):
    """A row reader.

    Attributes:
        needs_maps: it reads feature maps of whole images; else the features of ``Encoder.encode``.
    """

    needs_maps: bool

    def variants(self, strides: Sequence[int]) -> list[str]:
        """Feature variants that it can give of maps of these strides, the usual one first."""
        ...

    def read(self, outputs: Outputs, item: Tensor, place: Tensor | None, variant: str) -> Tensor:
        """Rows (R, D) in float32.

        Args:
            item: int64 (R,) positions in the batch.
            place: (R, k) where in its item each row is read (``RowPlan.place``).
            variant: one of ``variants``.
        """
        ...


registry: Registry[RowReader] = Registry("selector.extract.readers", "row reader")
reader = registry.instance
"""Class decorator: ``@reader("name")`` files one instance of the class."""
