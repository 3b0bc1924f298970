"""A candidate's encoder in memory, at the resolution and the precision it is trained in, and its learner."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import cast

from torch import nn

from selector import modalities
from selector.core.contracts import AnyPreprocess, Encoder, Progress
from selector.core.errors import SourceError
from selector.core.task import Probe, Stats
from selector.tuning.journal import Record
from selector.tuning.strategies._loop import Optimizer
from selector.tuning.strategies._parts import is_classic, is_modern, mixed_precision
from selector.tuning.types import TuningCandidate
from selector.tuning.workbench import Workbench

log = logging.getLogger(__name__)


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


def load(bench: Workbench, candidate: TuningCandidate) -> Loaded:
    """The candidate's encoder."""
    bench.notify(Progress("load", 0, 1, "models", candidate.name))
    encoder = bench.task.prepared(candidate.load(), bench.target)
    loaded = Loaded(candidate, encoder, encoder.preprocess)
    if encoder.module is not None:
        loaded.optimizer = "sgd" if is_classic(encoder.module) else "adamw"
        loaded.layer_decay = is_modern(encoder.module)
    if bench.task.optimizer is not None:
        loaded.optimizer = cast(Optimizer, bench.task.optimizer)
    return loaded


def resize(bench: Workbench, loaded: Loaded, size: tuple[int, int]) -> str:
    """Train this candidate at ``size``; why its architecture does not allow it, nothing where it does."""
    if size == loaded.size:
        return ""
    if not modalities.of(loaded.encoder).resizable:
        return "it reads no images"
    native = loaded.encoder.image_preprocess
    try:
        bench.task.learner(loaded.encoder, bench.target, size=size)
    except SourceError as error:
        log.info("%s keeps its resolution: %s", loaded.name, error)
        return str(error)
    loaded.forward_seconds *= math.prod(size) / math.prod(loaded.size)
    loaded.preprocess = native.overridden({"input_size": (native.input_size[0], *size)})
    loaded.probe = loaded.start = None
    return ""


def settle_precision(bench: Workbench, loaded: Loaded) -> None:
    """Mixed precision or single, as ``mixed_precision`` says."""
    loaded.bf16 = mixed_precision(loaded.encoder.module, bench.device)


def build(bench: Workbench, loaded: Loaded, init: Probe | None = None, adaptation: str = "") -> nn.Module:
    """Its learner with a head that starts from ``init``, as every training starts from the linear probe.

    Args:
        adaptation: its strategy, behind the decoder where several are compared.
    """
    begun = bench.now()
    module = bench.task_for(adaptation).learner(loaded.encoder, bench.target, init, loaded.resized)
    loaded.build_seconds = bench.now() - begun
    return module
