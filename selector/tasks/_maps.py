"""What tasks on feature maps of whole pictures share: their canvas, their width, what a map learner reads."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from selector.core.contracts import Encoder, Items, Target
from selector.core.task import Task
from selector.modalities.image import canvas_of
from selector.modalities.pixels.maps import canvas_encoder, canvas_side

if TYPE_CHECKING:
    import torch


class MapTask(Task):
    """See ``core.task.Task``: models read whole pictures on a canvas and give maps; rows are places in them.

    Attributes:
        batch_size: pictures a step; maps hold far more than pooled features.
        probe_rows: of a probe, at most: the rows of every stage side by side are wide.
    """

    batch_size: ClassVar[int] = 8
    probe_rows: ClassVar[int | None] = 50_000

    def prepared(self, encoder: Encoder, target: Target) -> Encoder:
        """The encoder for whole pictures: short side as ``canvas_side`` says, aspect of the target's pictures.

        Raises:
            SourceError: the network gives no maps.
        """
        return canvas_encoder(encoder, _canvas(_ByIdentity(target.items), canvas_side(encoder)))

    def width(self, encoder: Encoder) -> int:
        """Channels of all maps side by side."""
        import torch

        with torch.no_grad():
            return sum(found.shape[1] for _, found in encoder.maps(encoder.probe()))


class _ByIdentity:
    """Items as a key of a cache; they hold their pictures lazily and cannot be hashed."""

    def __init__(self, items: Items) -> None:
        self.items = items

    def __hash__(self) -> int:
        return id(self.items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByIdentity) and other.items is self.items


@functools.lru_cache(maxsize=8)
def _canvas(key: _ByIdentity, short: int) -> tuple[int, int]:
    return canvas_of(key.items, short)


def read_places(
    maps: Sequence[torch.Tensor],
    places: Sequence[np.ndarray | None],
    read: Any,
) -> torch.Tensor:
    """Rows (R, D) of all maps side by side at the places of each picture, picture after picture.

    Args:
        maps: (B, C, h, w) each, of B pictures.
        places: (R_i, k) of each of them.
        read: (map, item (R,), place (R, k)) -> (R, C): ``modalities.pixels.maps.read_points`` is one.
    """
    import torch

    known = [np.empty((0, 2), np.float32) if place is None else place for place in places]
    item = torch.from_numpy(np.repeat(np.arange(len(known)), [len(place) for place in known]))
    place = torch.from_numpy(np.concatenate(known).astype(np.float32))
    device = maps[0].device
    return torch.cat([read(found, item.to(device), place.to(device)) for found in maps], 1)
