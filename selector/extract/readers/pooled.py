"""A row an item: the pooled features of ``Encoder.encode``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from selector.extract.readers import Outputs, reader

if TYPE_CHECKING:
    from torch import Tensor


@reader("pooled")
class Pooled:
    """See ``readers.Reader``."""

    needs_maps = False

    def variants(self, strides: Sequence[int]) -> list[str]:
        """One: the features."""
        return ["features"]

    def read(self, outputs: Outputs, item: Tensor, place: Tensor | None, variant: str) -> Tensor:
        """The features of each row's item."""
        assert outputs.features is not None
        return outputs.features[item].float()
