"""A candidate's encoder in memory, at the resolution and the precision it is trained in, and its learner."""

from __future__ import annotations

import logging
import math
from typing import cast

from torch import nn

from selector import modalities
from selector.core.contracts import Progress
from selector.core.errors import SourceError
from selector.core.task import Probe
from selector.tuning.strategies._loop import Optimizer
from selector.tuning.strategies._parts import is_classic, is_modern, mixed_precision
from selector.tuning.types import TuningCandidate
from selector.tuning.workbench import Loaded, Workbench

log = logging.getLogger(__name__)


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
    loaded.bf16 = mixed_precision(loaded.encoder.module, bench.device, bench.bf16)


def build(bench: Workbench, loaded: Loaded, init: Probe | None = None, adaptation: str = "") -> nn.Module:
    """Build the learner of a candidate; its head starts from the linear probe ``init``, damped where that is perfect on its
    training rows.

    Args:
        adaptation: its strategy, behind the decoder where several are compared.
    """
    begun = bench.now()
    if init is not None and "damping" in init:
        init = {**init, **{name: init["damping"] * init[name] for name in ("weight", "bias")}}
    module = bench.task_for(adaptation).learner(loaded.encoder, bench.target, init, loaded.resized)
    loaded.build_seconds = bench.now() - begun
    return module
