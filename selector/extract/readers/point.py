"""A row a point: maps read bilinearly at (x, y), relative to the image.

(0, 0) is the image's top left corner and (1, 1) its bottom right one, so pixel i of n lies at
(i + 0.5) / n. A cell's value stands at the middle of the pixels that it covers (``align_corners=False``);
within half a cell of the image's edge the outermost cells count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from selector.extract.readers import Outputs, reader
from selector.modalities.pixels.maps import read_points

if TYPE_CHECKING:
    from torch import Tensor

LAST, STAGES = "last", "stages"


@reader("point")
class Point:
    """See ``readers.Reader``."""

    needs_maps = True

    def variants(self, strides: Sequence[int]) -> list[str]:
        """``stages`` (all maps side by side), ``last``, and each earlier map: ``stage1`` is the finest."""
        if len(strides) < 2:
            return [LAST]
        return [STAGES, LAST, *(f"stage{i}" for i in range(1, len(strides)))]

    def read(self, outputs: Outputs, item: Tensor, place: Tensor | None, variant: str) -> Tensor:
        """Rows (R, D); of ``stages`` the D of all maps add up."""
        import torch

        assert place is not None
        maps = [found for _, found in outputs.maps]
        if variant == LAST:
            maps = maps[-1:]
        elif variant != STAGES:
            number = int(variant.removeprefix("stage"))
            maps = maps[number - 1 : number]
        return torch.cat([read_points(found, item, place) for found in maps], 1)
