"""What a model costs to use: the record of one measurement, and the front of the best trade-offs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

BUSY_LOAD = 1.5  # processes a core; beyond it they take turns


TEXT_TOKENS = 128
"""Length of the text that networks are measured on, whatever the target: models compare, and so do scans."""


@dataclass(frozen=True)
class Cost:
    """One model on one device, measured in forward passes at its own input size.

    None where a value could not be determined (a network that is not torch has no count of
    operations). Times are medians of several passes, from decoded pixels to features.

    Attributes:
        flops: multiply-adds an image, which papers call FLOPs; a fused multiply-add counts once.
        latency: seconds for a single image, in torch as the saved model runs.
        latency_low, latency_high: the quickest and the slowest of the ``runs`` passes behind it.
        image_seconds: seconds an image in batches of ``batch_size``, the quickest size of those tried.
        backend: what ran those batches.
        memory: bytes at the peak of a forward pass of one image: weights and activations, without
            what the libraries themselves take.
        disk: bytes of the weights.
        device, precision, threads: what it was measured on and with.
        load: processes that wanted to run, a core, over the last minute; about 1 is this one alone.
    """

    flops: int | None = None
    latency: float | None = None
    latency_low: float | None = None
    latency_high: float | None = None
    runs: int = 0
    image_seconds: float | None = None
    batch_size: int = 1
    backend: str = ""
    memory: int | None = None
    disk: int | None = None
    device: str = ""
    precision: str = ""
    threads: int | None = None
    load: float | None = None

    @property
    def unsteady(self) -> bool:
        """Whether other work disturbed the latency: the median is far from the quickest pass, which suffers
        least, or more wanted to run than there are cores."""
        if self.latency is None:
            return False
        return self.latency > 2 * (self.latency_low or self.latency) or (self.load or 0.0) > BUSY_LOAD

    def to_dict(self) -> dict[str, object]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Cost:
        """The inverse of ``to_dict``; values that a later version added are left out."""
        known = cls.__dataclass_fields__
        return cls(**{name: value for name, value in data.items() if name in known})


@dataclass(frozen=True)
class Footprint:
    """Bytes of one network; a batch of n items takes n times those of an item.

    Attributes:
        weights: of parameters and buffers, in single precision as they are loaded.
        item: that an item adds to a forward pass, at its peak.
        step: that an item adds to a training step: activations that are kept for the gradients, at the peak.
        area: pixels of the item that this holds for (of texts its tokens).
        precision: that the step was looked at in.
    """

    weights: int
    item: int
    step: int
    area: int
    precision: str = "float32"


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Positions of the (cost, value) points that no other point beats, by rising cost.

    One point beats another that costs at least as much and is worth no more, and differs in one of
    the two; of equal points all are kept.

    >>> front([(2, 0.4), (1, 0.5), (3, 0.9), (1, 0.5)])
    [1, 3, 2]
    """
    kept: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i)):
        if not kept or points[i][1] > points[kept[-1]][1] or points[i] == points[kept[-1]]:
            kept.append(i)
    return kept
