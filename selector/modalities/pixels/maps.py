"""Feature maps of whole pictures: the canvas that a network reads, and values at places of a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selector.core.contracts import Encoder
from selector.core.errors import SourceError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["canvas_encoder", "canvas_side", "read_points"]

LEAST_SIDE = 160


def canvas_side(encoder: Encoder) -> int:
    """Short side in pixels at which an encoder reads whole pictures: as it was pretrained, and 160 where that was on
    thumbnails, which hide what a mask or a box shows.
    """
    return max(LEAST_SIDE, *sorted(encoder.image_preprocess.input_size[1:])[:1])


def canvas_encoder(encoder: Encoder, canvas: tuple[int, int]) -> Encoder:
    """The encoder for whole pictures on the canvas (H, W) or the nearest one that its network takes.

    Sides are rounded to multiples of its largest stride; a network that only takes squares gets the square
    of the same area. Places are relative, so rows of all models are read at the same points of a picture.

    Raises:
        SourceError: it gives no maps, or at no such size.
    """
    stride = encoder.strides[-1]

    def rounded(side: float) -> int:
        return max(1, round(side / stride)) * stride

    side = rounded((canvas[0] * canvas[1]) ** 0.5)
    try:
        return encoder.on_canvas((rounded(canvas[0]), rounded(canvas[1])))
    except SourceError:
        if rounded(canvas[0]) == rounded(canvas[1]) == side:
            raise
        try:
            return encoder.on_canvas((side, side))
        except SourceError:
            pass
        raise


def read_points(found: Tensor, item: Tensor, place: Tensor) -> Tensor:
    """Bilinear values (R, C) in float32 of maps (B, C, h, w) at places (R, 2), x before y, 0..1."""
    import torch
    from torch.nn.functional import grid_sample

    counts = torch.bincount(item, minlength=len(found))
    order = torch.argsort(item, stable=True)
    slot = torch.empty_like(item)
    slot[order] = torch.arange(len(item), device=item.device) - (counts.cumsum(0) - counts)[item[order]]
    # as many points a picture as the one with most; what is filled up is read and dropped
    grid = found.new_zeros((len(found), 1, max(1, int(counts.max())), 2), dtype=torch.float32)
    grid[item, 0, slot] = 2 * place.to(grid) - 1
    read = grid_sample(found.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return read[item, :, 0, slot]
