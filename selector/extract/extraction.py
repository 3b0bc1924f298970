"""What every run of an extraction job does: its result, its items, what the network costs."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from selector.core.contracts import Encoder
from selector.core.errors import SourceError
from selector.core.resources import memory_limit
from selector.extract.job import ExtractJob, ExtractResult, VariantResult
from selector.extract.memory import give_back
from selector.extract.workspace import Workspace
from selector.run.job import Failure
from selector.store import Entry
from selector.zoo import ModelSpec
from selector.zoo.limits import OverLimit, check_memory

if TYPE_CHECKING:
    from selector.extract.encode import Runner
    from selector.extract.inputs import Batch


class ExtractionRun(ABC):
    """The run of one job; what differs between rows of whole items and rows off maps is in ``ItemRows`` and ``MapRows``."""

    def __init__(self, job: ExtractJob, work: Workspace) -> None:
        self.job, self.work = job, work
        self.cost_seconds = 0.0
        bad = set(work.prepared.bad)
        # positions are of the job's target; the workspace's may have lost items since
        self._wanted_hashes = [h for h in (job.target.hashes[i] for i in job.indices) if h not in bad]

    def run(self) -> ExtractResult:
        work, job = self.work, self.job
        before = dict(work.prepared.seconds)
        bad = set(work.prepared.bad)
        started = time.perf_counter()
        excluded = ""
        variants: tuple[VariantResult, ...] = ()
        try:
            found = self.measured() if job.cost_only else self.extracted()
            variants = tuple(self._result(value) for value in found)
        except OverLimit as error:
            excluded = str(error)
            known = [work.entry(spec) for spec in job.specs]  # its row shows what was found before it was excluded
            variants = tuple(
                VariantResult(cost=error.cost) if entry is None else self._result(entry) for entry in known
            )
        finally:
            give_back()  # the network is gone
        seconds = {stage: value - before.get(stage, 0.0) for stage, value in work.prepared.seconds.items()}
        whole = time.perf_counter() - started - self.cost_seconds
        return ExtractResult(
            variants,
            excluded,
            {h: reason for h, reason in work.prepared.bad.items() if h not in bad},
            {**seconds, "extract": 0.0 if job.cost_only else whole, "cost": self.cost_seconds},
        )

    def _result(self, found: Entry | SourceError) -> VariantResult:
        if isinstance(found, Entry):
            return VariantResult({"entry": found.identity, "facts": found.meta}, self.work.costs.known(found))
        return VariantResult(failure=Failure.of(found))

    @abstractmethod
    def extracted(self) -> list[Entry | SourceError]:
        """Bring the missing rows of every variant of the job into its entry; an entry a variant, or why it has none."""

    @abstractmethod
    def measured(self) -> list[Entry | SourceError]:
        """Measure a network whose rows are all stored, because its costs are asked for."""

    def indices(self) -> np.ndarray:
        """Positions of the wanted items in what is left of the target; asked anew after items left it."""
        target = self.work.prepared.target
        if target is self.job.target:
            return self.job.indices
        place = {content: i for i, content in enumerate(target.hashes)}
        return np.array(sorted({place[h] for h in self._wanted_hashes if h in place}), dtype=np.int64)

    def fitting_batch(self, spec: ModelSpec, encoder: Encoder, item: Batch) -> int | None:
        """How many items of a pass fit into the memory that a model may take; None where there is no limit.

        Raises:
            OverLimit: not even one does.
        """
        work = self.work
        limit = memory_limit()
        if limit is None or encoder.module is None:
            return None
        found = work.needed_memory(spec)
        if found is None:
            from selector.extract.cost import needed_memory
            from selector.extract.encode import resolve_device

            found = needed_memory(encoder, resolve_device(work.settings.device), item)
            work.remember_memory(spec, found)
        if found.memory is None or found.disk is None:
            return None
        try:
            check_memory(found.memory, limit)
        except OverLimit as error:
            error.cost = found
            raise
        return (limit - found.disk) // max(1, found.memory - found.disk)

    def check_cost(
        self, spec: ModelSpec, encoder: Encoder, runner: Runner, entries: Sequence[Entry], batch: Batch
    ) -> None:
        """Find out what a loaded network costs and hold it against the limits.

        Raises:
            OverLimit: it exceeds one.
        """
        limits = self.job.settings.limits
        started = time.perf_counter()
        try:
            limits.check_facts(spec, encoder.num_parameters)
            limits.check_cost(self.work.costs.measure(entries, encoder, runner, batch))
        finally:
            self.cost_seconds += time.perf_counter() - started
