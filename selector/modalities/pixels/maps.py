"""Feature maps of whole images: the canvas that a network reads, and values at places of an image."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from selector.core.contracts import Encoder
from selector.core.errors import SourceError

if TYPE_CHECKING:
    from torch import Tensor

LEAST_SIDE = 160


def canvas_side(encoder: Encoder) -> int:
    """Short side in pixels at which an encoder reads whole images: as it was pretrained, and 160 where that was on
    thumbnails, which hide what a mask or a box shows.
    """
    return max(LEAST_SIDE, *sorted(encoder.image_preprocess.input_size[1:])[:1])


def canvas_encoder(encoder: Encoder, canvas: tuple[int, int]) -> Encoder:
    """The encoder for whole images on the canvas (H, W) or the nearest one that its network takes.

    Sides are rounded to multiples of its largest stride; a network that only takes squares gets the square
    of the same area. Places are relative, so rows of all models are read at the same points of an image.

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
        if not rounded(canvas[0]) == rounded(canvas[1]) == side:
            with suppress(SourceError):
                return encoder.on_canvas((side, side))
        raise


def read_points(found: Tensor, item: Tensor, place: Tensor) -> Tensor:
    """Bilinear values (R, C) in float32 of maps (B, C, h, w) at places (R, 2), x before y, 0..1.

    What ``grid_sample(align_corners=False, padding_mode="border")`` gives, without a copy of the maps in
    another memory layout: of each point only its four cells are touched.
    """
    import torch

    cells = found.permute(0, 2, 3, 1)  # a point's channels lie side by side in channels-last maps
    height, width = found.shape[2:]
    at = place.float() * torch.tensor([width, height], device=place.device) - 0.5
    across, down = at[:, 0].clamp(0, width - 1), at[:, 1].clamp(0, height - 1)
    left, top = across.floor().long(), down.floor().long()
    right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    to_right, to_bottom = (across - left)[:, None], (down - top)[:, None]
    upper = torch.lerp(cells[item, top, left].float(), cells[item, top, right].float(), to_right)
    lower = torch.lerp(cells[item, bottom, left].float(), cells[item, bottom, right].float(), to_right)
    return torch.lerp(upper, lower, to_bottom)
