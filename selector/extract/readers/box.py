"""A row a box: RoI-Align 7 x 7 and the mean, from the map that fits the box's size.

Places are (x0, y0, x1, y1) relative to the image. The level is that of feature pyramid networks
(Lin et al., arXiv:1612.03144, eq. 1): k = floor(4 + log2(sqrt(w h) / 224)) with w and h in pixels of the
canvas, read from the map of stride 2^k, or from the nearest one there is. A network of one stride is
read from its last map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from selector.extract.readers import Outputs, reader

if TYPE_CHECKING:
    from torch import Tensor

_CELLS = 7
_SAMPLES = 2  # a side of a cell, as torchvision's detectors take
_LEVEL, _SIDE = 4, 224
FITTING, LAST, STAGES = "fitting", "last", "stages"


@reader("box")
class Box:
    """See ``readers.Reader``."""

    needs_maps = True

    def variants(self, strides: Sequence[int]) -> list[str]:
        """``fitting`` (by size), ``last``, and ``stages`` (all maps side by side).

        Maps differ in width and in what their channels mean, so a row of ``fitting`` has a place for each
        map and is zero in those that it was not read from: a linear model has weights of its own a level.
        """
        return [FITTING, LAST, STAGES] if len(set(strides)) > 1 else [LAST]

    def read(self, outputs: Outputs, item: Tensor, place: Tensor | None, variant: str) -> Tensor:
        """Rows (R, D)."""
        import torch

        assert place is not None
        maps = list(outputs.maps)
        if variant == LAST or len({stride for stride, _ in maps}) < 2:
            return read_boxes(maps[-1][1], item, place)
        if variant == STAGES:
            return torch.cat([read_boxes(found, item, place) for _, found in maps], 1)
        stride, finest = maps[0]
        canvas = (stride * finest.shape[2], stride * finest.shape[3])
        level = level_of(place, canvas, [stride for stride, _ in maps])
        rows = place.new_zeros((len(item), sum(found.shape[1] for _, found in maps)), dtype=torch.float32)
        begin = 0
        for number, (_, found) in enumerate(maps):
            here = torch.nonzero(level == number)[:, 0]
            if len(here):
                rows[here, begin : begin + found.shape[1]] = read_boxes(found, item[here], place[here])
            begin += found.shape[1]
        return rows


def level_of(place: Tensor, canvas: tuple[int, int], strides: Sequence[int]) -> Tensor:
    """Which of the maps, by position, fits each box (R, 4) on a canvas of (H, W) pixels."""
    import torch

    width = (place[:, 2] - place[:, 0]).clamp(min=0) * canvas[1]
    height = (place[:, 3] - place[:, 1]).clamp(min=0) * canvas[0]
    side = (width * height).sqrt().clamp(min=1e-6)
    level = torch.floor(_LEVEL + torch.log2(side / _SIDE))
    known = torch.log2(torch.tensor(strides, dtype=torch.float32, device=place.device))
    return (level[:, None] - known).abs().argmin(1)


def read_boxes(found: Tensor, item: Tensor, place: Tensor) -> Tensor:
    """Means (R, C) in float32 over 7 x 7 cells of maps (B, C, h, w) in boxes (R, 4), 0..1."""
    import torch
    from torchvision.ops import roi_align

    height, width = found.shape[2:]
    scale = place.new_tensor([width, height, width, height], dtype=torch.float32)
    boxes = torch.cat([item[:, None].float(), place.float() * scale], 1)
    cells = roi_align(found.float(), boxes, _CELLS, spatial_scale=1.0, sampling_ratio=_SAMPLES, aligned=True)
    return torch.as_tensor(cells).mean((2, 3))
