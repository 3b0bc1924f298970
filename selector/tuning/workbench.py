"""One trial at a time: build it, train it from its linear-probe initialization, measure it, keep the record."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from selector import modalities
from selector.core.contracts import UNLABELED, Encoder, ProgressCallback, Target
from selector.core.errors import ConfigError, TrainingError
from selector.core.preprocess import AnyPreprocess
from selector.core.table import RowPlan
from selector.core.task import Learner, Probe, Stats, Task
from selector.extract.inputs import ready
from selector.run import worker
from selector.tuning.journal import Journal, Record
from selector.tuning.strategies._loop import Feed, Normalize, Optimizer, PixelBatches, predict
from selector.tuning.strategies._parts import bf16_helps
from selector.tuning.types import TuningCandidate

log = logging.getLogger(__name__)


STEPS, VALIDATION, HEADS = "optimizer steps", "validation", "heads at the size of the training"


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


@dataclass
class Workbench:
    """What all trials share.

    By split ``indices`` of the items. ``augment`` and ``averaging`` are options of a run.
    ``batch_size`` (items) is the same for every candidate.
    """

    target: Target
    task: Task
    pixels_for: Callable[[AnyPreprocess], PixelBatches]
    journal: Journal
    device: str
    batch_size: int
    augment: str
    averaging: str = "none"
    features_for: Callable[[str, np.ndarray], np.ndarray] | None = None
    notify: ProgressCallback = lambda _: None
    now: Callable[[], float] = time.perf_counter
    indices: dict[str, np.ndarray] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys((HEADS, STEPS, VALIDATION), 0.0))  # by use
    given_up: Mapping[str, str] = field(default_factory=dict)  # candidates that workers died of, with the reason

    def __post_init__(self) -> None:
        self.bf16 = bf16_helps(self.device)
        for split in ("train", "val", "test"):
            self.indices[split] = self.target.indices(split)

    # -------------------------------------------------------------------- measuring

    def task_for(self, adaptation: str) -> Task:
        """The task with the decoder of an adaptation: of ``fcos/full`` that is fcos, of ``full`` the task's own."""
        decoder = adaptation.rpartition("/")[0]
        return self.task.configured(decoder=decoder) if decoder else self.task

    def plan(self, split: str, some: np.ndarray | None = None) -> RowPlan:
        """The rows of a split, or of some of its items (positions in the target)."""
        return self.task.probe_plan(self.target, self.indices[split] if some is None else some)

    def stats_of_outputs(self, outputs: object, split: str, context: Mapping[str, object] | None = None) -> Stats:
        """Statistics of outputs of all items of a split."""
        evaluator = self.task.evaluator(self.target, context)
        evaluator.update(outputs, self.indices[split])
        return evaluator.stats()

    def moment(self) -> tuple[float, dict[str, float]]:
        """The time, and what was spent until now by name."""
        return self.now(), dict(self.seconds)

    def stats_of(
        self, loaded: Loaded, module: nn.Module, split: str, context: Mapping[str, object] | None = None
    ) -> Stats:
        """Statistics of a learner on a split at the training resolution, in single precision whatever it was trained in:
        that is what the saved model computes, so the reported metric is that of what ``predict`` returns.

        Raises:
            NotFinite: its outputs are no numbers.
        """
        evaluator = self.task.evaluator(self.target, context)
        feed = self.feed(loaded.preprocess)
        predict(
            module, feed, self.indices[split], evaluator.update,
            device=self.device, batch_size=2 * self.task.batch_size,
        )  # fmt: skip
        return evaluator.stats()

    def rows_of(
        self,
        module: nn.Module,
        feed: Feed,
        items: np.ndarray,
        *,
        bf16: bool,
        deadline: float = math.inf,
    ) -> tuple[RowPlan, np.ndarray | None]:
        """The rows of some items and what the learner's head reads of them, (R, D) float32; None where the deadline
        came first or the learner has no such rows."""
        plan = self.plan("", items)
        found: list[np.ndarray] = []

        def call(batch: object, some: np.ndarray) -> Any:
            places = [None if plan.place is None else plan.place[plan.item == item] for item in some]
            return cast(Learner, module).rows(batch, places)

        def take(rows: Any, _: np.ndarray) -> None:
            if rows is not None:
                found.append(rows.float().cpu().numpy())

        done = predict(
            module,
            feed,
            items,
            take,
            call=call,
            device=self.device,
            bf16=bf16,
            batch_size=2 * self.task.batch_size,
            deadline=deadline,
            clock=self.now,
        )
        return plan, np.concatenate(found) if done and found else None

    def feed(self, preprocess: AnyPreprocess, *, augment: bool = False, mirror: bool = True) -> Feed:
        """The items of the target, prepared for a model; training batches with their annotations.

        Args:
            augment: augment the items and draw them as the task balances classes, for training.
            mirror: whether augmentation includes mirror images.
        """
        return Feed(
            self.pixels_for(preprocess),
            self.normalize(preprocess),
            lambda items: self.task.annotations(self.target, items),
            partial(self._augmented, mirror=mirror) if augment and self.augment != "none" else None,
            self.target.indices(UNLABELED),
            self.task.sampling_weights(self.target, self.indices["train"]) if augment else None,
        )

    def _augmented(self, batch: object, annotations: Sequence[object], mirror: bool) -> tuple[object, Sequence[object]]:
        return self.task.augment(*modalities.of_batch(batch).augment(batch, annotations, mirror, self.augment))

    @contextlib.contextmanager
    def working_on(self, candidate: TuningCandidate) -> Iterator[None]:
        """Work on a candidate: what a worker dies of meanwhile is put down to it.

        Raises:
            TrainingError: workers died of it before.
        """
        if reason := self.given_up.get(candidate.name):
            raise TrainingError(reason)
        with worker.working_on(candidate.name):
            yield

    def normalize(self, preprocess: AnyPreprocess) -> Normalize:
        return lambda batch: ready(batch, preprocess, self.device)

    def facts(self, loaded: Loaded, preprocess: AnyPreprocess, bf16: bool | None = None) -> dict[str, Any]:
        return {
            "target": self.target.fingerprint,
            "task": self.task.address,
            "encoder": {**loaded.encoder.identity, **loaded.candidate.identity},
            "preprocess": preprocess.to_dict(),
            "device": loaded.device or torch.device(self.device).type,
            "bf16": self.bf16 if bf16 is None else bf16,
        }


def device_of(device: str) -> str:
    """The device of a call: ``auto`` is a GPU where torch sees one.

    Raises:
        ConfigError: there is no such device.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N. Got '{device}'.") from None
    if kind.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device '{device}' was asked for, but torch sees no CUDA device; use --device cpu.")
    return device
