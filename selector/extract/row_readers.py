"""Row readers: from the feature maps that a network gives for a batch to the rows of a ``RowPlan``.

A reader gets the maps of one forward pass and the places of the rows in their images, and gives
(R, D). Only rows leave it: feature maps are never stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

from selector.core.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor


Maps: TypeAlias = "Sequence[tuple[int, Tensor]]"
"""(stride, map (B, C, h, w)) of a batch of B images, the finest first."""

OF_ITEMS = ("pooled", "word")
"""Readers of no maps: rows are what ``Encoder.encode`` gives for an item, or for each word of it."""


class RowReader(Protocol):
    """A row reader."""

    def variants(self, strides: Sequence[int]) -> list[str]:
        """Feature variants that it can give of maps of these strides, the usual one first."""
        ...

    def read(self, maps: Maps, item: Tensor, place: Tensor, variant: str) -> Tensor:
        """Rows (R, D) in float32.

        Args:
            item: int64 (R,) positions in the batch.
            place: (R, k) where in its image each row is read (``RowPlan.place``).
            variant: one of ``variants``.
        """
        ...


registry: Registry[RowReader] = Registry("selector.extract.row_readers", "row reader")
reader = registry.instance
"""Class decorator: ``@reader("name")`` files one instance of the class."""


LAST, STAGES = "last", "stages"


@reader("point")
class Point:
    """See ``readers.Reader``."""

    def variants(self, strides: Sequence[int]) -> list[str]:
        """``stages`` (all maps side by side), ``last``, and each earlier map: ``stage1`` is the finest."""
        if len(strides) < 2:
            return [LAST]
        return [STAGES, LAST, *(f"stage{i}" for i in range(1, len(strides)))]

    def read(self, maps: Maps, item: Tensor, place: Tensor, variant: str) -> Tensor:
        """Rows (R, D); of ``stages`` the D of all maps add up."""
        import torch

        from selector.modalities.pixels.maps import read_points

        if variant == LAST:
            maps = maps[-1:]
        elif variant != STAGES:
            number = int(variant.removeprefix("stage"))
            maps = maps[number - 1 : number]
        return torch.cat([read_points(found, item, place) for _, found in maps], 1)


_CELLS = 7
_SAMPLES = 2  # a side of a cell, as torchvision's detectors take
_LEVEL, _SIDE = 4, 224
FITTING = "fitting"


@reader("box")
class Box:
    """See ``readers.Reader``."""

    def variants(self, strides: Sequence[int]) -> list[str]:
        """``fitting`` (by size), ``last``, and ``stages`` (all maps side by side).

        Maps differ in width and in what their channels mean, so a row of ``fitting`` has a place for each
        map and is zero in those that it was not read from: a linear model has weights of its own a level.
        """
        return [FITTING, LAST, STAGES] if len(set(strides)) > 1 else [LAST]

    def read(self, maps: Maps, item: Tensor, place: Tensor, variant: str) -> Tensor:
        """Rows (R, D)."""
        import torch

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
