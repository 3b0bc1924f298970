"""Where trainings run when they do not run in this process: an engine's workers, and what they make a workbench from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

from selector.core.answers import report
from selector.core.contracts import AnyPreprocess, Encoder, Target
from selector.core.engine import Engine, Needs, Outcome, Shared
from selector.core.errors import StoreError
from selector.core.task import Task
from selector.tuning.journal import Journal
from selector.tuning.strategies._loop import PixelBatches
from selector.tuning.types import Candidate
from selector.tuning.workbench import Workbench, device_of


class Supplies(Protocol):
    """Networks and prepared items of a target, wherever a training runs; can be pickled."""

    @property
    def target(self) -> Target: ...

    @property
    def names(self) -> Collection[str]:
        """Of the candidates that can be loaded elsewhere."""
        ...

    def load(self, name: str) -> Encoder:
        """The encoder of a candidate."""
        ...

    def inputs(self, preprocess: AnyPreprocess) -> PixelBatches:
        """As ``pixels_for`` of ``run_tournament``."""
        ...

    def folder(self) -> Path:
        """Where the machine that asks keeps records, weights and checkpoints."""
        ...


@dataclass(frozen=True)
class Kit:
    """What all jobs of a run share, handed over once a worker.

    Attributes:
        supplies, task: see ``run_tournament``.
        device: as it was asked for: ``auto`` is settled where the job runs.
        settings: of the tournament, plain JSON.
        identities: of the candidates, by name.
        mark: a file in the driver's folder, by which a worker sees whether it shares that folder.
    """

    supplies: Supplies
    task: Task
    device: str
    batch_size: int
    augment: bool
    settings: Mapping[str, Any]
    identities: Mapping[str, Mapping[str, Any]]
    mark: str = ""

    @cached_property
    def bench(self) -> Workbench:
        """The workbench of this worker."""
        return Workbench(
            self.supplies.target,
            self.task,
            self.supplies.inputs,
            Journal(self.supplies.folder(), self.task.stats_type),
            device_of(self.device),
            self.batch_size,
            self.augment,
            notify=report,
        )

    def candidate(self, name: str) -> Candidate:
        """As the driver has it, loaded here."""
        return Candidate(name, partial(self.supplies.load, name), self.identities[name])

    @property
    def apart(self) -> bool:
        """Whether this worker keeps its trainings in another folder than the driver."""
        return not (self.bench.journal.folder / self.mark).is_file()


class Job(Protocol):
    """A job of a worker: plain values, and the kit by its key."""

    @property
    def kit(self) -> Shared: ...

    @property
    def model(self) -> str: ...


@dataclass(frozen=True)
class Crew:
    """An engine with its kit.

    Attributes:
        names: candidates that can be loaded there.
    """

    engine: Engine
    kit: Shared
    names: frozenset[str]

    @staticmethod
    def of(engine: Engine, kit: Kit) -> Crew:
        """With the kit handed over."""
        return Crew(engine, engine.share(kit), frozenset(kit.supplies.names))

    def map(self, function: Callable[[Any], Any], jobs: Iterable[Job]) -> Iterator[Outcome[Any, Any]]:
        """See ``Engine.map``; a full disk ends the run. A training has its device to itself: what it takes is compared."""
        return self.engine.map(function, jobs, fatal=(StoreError,), needs=lambda job: Needs(shared=(job.kit,)))
