"""A candidate in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from selector import modalities
from selector.core.contracts import AnyPreprocess, Encoder
from selector.core.task import Probe, Stats
from selector.tuning.journal import Record
from selector.tuning.strategies._loop import Optimizer
from selector.tuning.types import TuningCandidate


@dataclass
class Loaded:
    """A candidate whose encoder is in memory."""

    candidate: TuningCandidate
    encoder: Encoder
    preprocess: AnyPreprocess  # as trained
    optimizer: Optimizer = "adamw"
    layer_decay: bool = False
    bf16: bool = False  # trains in mixed precision, because that was measured to be faster
    frozen: Record | None = None
    native_probe: Probe | None = None  # the solved linear probe; None where the task has none
    probe: Probe | None = None  # at the training resolution
    start: Stats | None = None  # of the validation items with that probe: every training begins there
    forward_seconds: float = math.nan  # an image, at the training resolution
    build_seconds: float = 0.0
    mirror: bool = True  # mirror images are among what augmentation makes
    device: str = ""  # kind of device that it is trained on, where that is not this process's

    @property
    def name(self) -> str:
        return self.candidate.name

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the training; of a text network (tokens, 1), which is never reduced."""
        return self.preprocess.extent

    @property
    def resized(self) -> tuple[int, int] | None:
        """``size`` where it is not the network's own."""
        return None if self.size == self.encoder.preprocess.extent else self.size

    @property
    def reduced(self) -> bool:
        """Whether it is trained below the network's own size."""
        return math.prod(self.size) < math.prod(self.encoder.preprocess.extent)

    @property
    def resolution(self) -> tuple[int, int] | None:
        """``size`` as it is reported: None for texts."""
        return self.size if modalities.of(self.encoder).resizable else None
