"""What tasks on feature maps of whole images share: their canvas, their width, what a map learner reads."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self, Unpack

import numpy as np

from selector.core.contracts import Encoder, Items, Target
from selector.core.errors import ConfigError, did_you_mean
from selector.core.task import BalanceOptions, Task
from selector.modalities.image import canvas_of
from selector.modalities.pixels.maps import canvas_encoder, canvas_side

if TYPE_CHECKING:
    import torch
    from torch import nn


class MapTask(Task):
    """See ``core.task.Task``: models read whole images on a canvas and give maps; rows are places in them.

    Attributes:
        batch_size: images a step; maps hold far more than pooled features.
        probe_rows: of a probe, at most: the rows of every stage side by side are wide.
        decoders: what can sit on the maps, by name; the first one is the usual one.
        decoder: the one that sits there.
        decoder_noun: what such a thing is called.
        lacking: what is said of classes that a split lacks, with ``{split}`` and ``{names}``.
    """

    batch_size: ClassVar[int] = 8
    probe_rows: ClassVar[int | None] = 50_000
    draws: ClassVar[bool] = True
    decoders: ClassVar[tuple[str, ...]]
    decoder: str
    decoder_noun: ClassVar[str] = "decoder"
    lacking: ClassVar[str]

    def configured(
        self, *, decoder: str | None = None, loss: str | None = None, **options: Unpack[BalanceOptions]
    ) -> Self:
        """The task with another decoder.

        Raises:
            ConfigError: there is no such decoder.
        """
        other = super().configured(loss=loss, **options)
        if decoder is not None and decoder not in self.decoders:
            raise ConfigError(
                f"unknown {self.decoder_noun} '{decoder}'{did_you_mean(decoder, self.decoders) or '.'} "
                f"Known: {', '.join(self.decoders)}."
            )
        other.decoder = decoder or self.decoder
        return other

    @property
    def address(self) -> str:
        """With the decoder, where it is not the usual one."""
        return (self.name if self.decoder == self.decoders[0] else f"{self.name} {self.decoder}") + self.address_suffix

    @abstractmethod
    def shows(self, target: Target, items: np.ndarray) -> np.ndarray:
        """Which classes some items show, bool (C,)."""

    def notes(self, target: Target) -> list[str]:
        """Classes that val or test lacks, and what becomes of them in the metrics."""
        notes = []
        for split in ("val", "test"):
            items = target.indices(split)
            lacking = np.flatnonzero(~self.shows(target, items))
            if len(items) and len(lacking):
                names = ", ".join(f"'{target.class_names[i]}'" for i in lacking[:5])
                told = self.lacking.format(split=split, names=names)
                notes.append(f"{len(lacking)} of {len(target.class_names)} classes {told}")
        return notes

    @abstractmethod
    def network(self, maps: nn.Module, outputs: int) -> nn.Module:
        """The decoder, new, on a module that gives maps (``Encoder.map_module``), for so many classes."""

    def recipe(self, encoder: Encoder, target: Target, size: tuple[int, int] | None = None) -> dict[str, object]:
        """That of the encoder's maps, with the decoder."""
        return {**encoder.map_recipe(size), "decoder": self.decoder, "outputs": len(target.class_names)}

    def rebuild(self, recipe: Mapping[str, Any], build: Callable[[Mapping[str, Any]], nn.Module]) -> nn.Module:
        """See ``core.task.Task``.

        Raises:
            ConfigError: a decoder that this version does not know.
        """
        task = self.configured(decoder=str(recipe["decoder"]))
        return task.network(build(recipe), int(recipe["outputs"])).eval()

    def prepared(self, encoder: Encoder, target: Target) -> Encoder:
        """The encoder for whole images: short side as ``canvas_side`` says, aspect of the target's images.

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
    """Items as a key of a cache; they hold their images lazily and cannot be hashed."""

    def __init__(self, items: Items) -> None:
        self.items = items

    def __hash__(self) -> int:
        return id(self.items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByIdentity) and other.items is self.items


@functools.lru_cache(maxsize=8)
def _canvas(key: _ByIdentity, short: int) -> tuple[int, int]:
    return canvas_of(key.items, short)


def read_places(maps: Sequence[torch.Tensor], places: Sequence[np.ndarray | None], read: Any) -> torch.Tensor:
    """Rows (R, D) of all maps side by side at the places of each image, image after image.

    Args:
        maps: (B, C, h, w) each, of B images.
        places: (R_i, k) of each of them.
        read: (map, item (R,), place (R, k)) -> (R, C): ``modalities.pixels.maps.read_points`` is one.
    """
    import torch

    known = [np.empty((0, 2), np.float32) if place is None else place for place in places]
    item = torch.from_numpy(np.repeat(np.arange(len(known)), [len(place) for place in known]))
    place = torch.from_numpy(np.concatenate(known).astype(np.float32))
    device = maps[0].device
    return torch.cat([read(found, item.to(device), place.to(device)) for found in maps], 1)


def telling(each: np.ndarray, worst: int) -> dict[int, str]:
    """Rows of images worth looking at, and the heading of each: the worst, two in the middle and the two best ones
    by a value each (N,); those without a value are left out."""
    order = np.flatnonzero(each == each)[np.argsort(each[each == each], kind="stable")]
    middle = max(1, len(order) // 2)
    return {
        **{int(i): "The worst images" for i in order[:worst]},
        **{int(i): "The median images" for i in order[middle - 1 : middle + 1]},
        **{int(i): "The best images" for i in order[-2:][::-1]},
    }
