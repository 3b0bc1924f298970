"""Trainings as jobs: what is wanted of a candidate as plain values, and what came of it.

``estimate_steps`` and ``train`` do them, as the same functions in this process and in a worker.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from selector.core.contracts import Encoder, Target
from selector.core.errors import StoreError
from selector.core.preprocess import AnyPreprocess
from selector.core.system import cpu_model
from selector.core.task import Probe, Stats
from selector.extract.job import ExtractSettings
from selector.extract.workspace import Workspace, workspace_of
from selector.run.executor import InProcess
from selector.run.job import Failure, Needs, Shared
from selector.run.worker import report
from selector.tuning import strategies
from selector.tuning.clock import Clock
from selector.tuning.field import Configuration, Field, Run, try_rates
from selector.tuning.heads import prepare_start
from selector.tuning.journal import Journal, Record
from selector.tuning.loading import build, load, resize, settle_precision
from selector.tuning.plan import BACKWARD
from selector.tuning.strategies._loop import PixelBatches, predict
from selector.tuning.trial import Trial, key_of, run_trial
from selector.tuning.types import TuningCandidate
from selector.tuning.workbench import Loaded, Workbench, device_of
from selector.zoo import ModelSpec


class Supplies(Protocol):
    """Models and prepared items of a target, wherever a training runs; can be pickled."""

    @property
    def target(self) -> Target: ...

    @property
    def names(self) -> Collection[str]:
        """Of the candidates that another process can load."""
        ...

    def load(self, name: str) -> Encoder:
        """The encoder of a candidate."""
        ...

    def inputs(self, preprocess: AnyPreprocess) -> PixelBatches:
        """As ``pixels_for`` of ``run_fine_tuning``."""
        ...

    def folder(self) -> Path:
        """Where the machine that asks keeps records, weights and checkpoints."""
        ...


@dataclass(frozen=True)
class StoreSupplies:
    """``Supplies`` of a scan, from the store that all of its workers reach.

    Attributes:
        target: whose items.
        store: folder or URL of the feature store.
        settings: of the scan's extraction.
        specs: of the models that another process can load, by the name of the candidate.
    """

    target: Target
    store: str
    settings: ExtractSettings
    specs: Mapping[str, ModelSpec]

    @property
    def names(self) -> tuple[str, ...]:
        """See ``Supplies.names``."""
        return tuple(self.specs)

    def load(self, name: str) -> Encoder:
        """See ``Supplies.load``."""
        return self._work.load(self.specs[name])

    def inputs(self, preprocess: AnyPreprocess) -> PixelBatches:
        """Every item of the target, prepared once per machine."""
        return self._work.prepared.inputs(preprocess)

    def folder(self) -> Path:
        """See ``Supplies.folder``."""
        return self._work.store.trainings_folder

    @property
    def _work(self) -> Workspace:
        return workspace_of(self.target, self.store, self.settings)


class Kit:
    """What all jobs of a run share. In the process of the run that is its own workbench, candidates and loaded models; a
    worker makes its own from the supplies.

    Args:
        bench: of the run.
        candidates: its models.
        supplies: for workers; None where every job stays in this process.
        device: as it was asked for: ``auto`` is settled where a job runs.
        settings: of the run, plain JSON.
    """

    def __init__(
        self,
        bench: Workbench,
        candidates: Sequence[TuningCandidate],
        supplies: Supplies | None,
        device: str,
        settings: Mapping[str, Any],
    ) -> None:
        self.loaded: dict[str, Loaded] = {}
        self.settings = settings
        self._bench: Workbench | None = bench
        self._candidates = {candidate.name: candidate for candidate in candidates}
        self._supplies, self._device, self._mark = supplies, device, ""
        self._identities: Mapping[str, Any] = {c.name: dict(c.identity) for c in candidates}

    def __getstate__(self) -> dict[str, object]:
        assert self._bench is not None
        made = {"task": self._bench.task, "batch_size": self._bench.batch_size, "augment": self._bench.augment}
        made["averaging"] = self._bench.averaging
        state = {name: value for name, value in vars(self).items() if name not in ("_bench", "_candidates", "loaded")}
        return {**state, "_mark": self._bench.journal.mark(), "made": made}

    def __setstate__(self, state: Mapping[str, object]) -> None:
        vars(self).update(state, _bench=None, _candidates={}, loaded={})

    @property
    def bench(self) -> Workbench:
        """Trains and measures in this process."""
        if self._bench is None:
            made: dict[str, Any] = vars(self)["made"]
            task, supplies = made["task"], self._supplies
            assert supplies is not None
            self._bench = Workbench(
                supplies.target,
                task,
                supplies.inputs,
                Journal(supplies.folder(), task.stats_type),
                device_of(self._device),
                made["batch_size"],
                made["augment"],
                made["averaging"],
                notify=report,
            )
        return self._bench

    def candidate(self, name: str) -> TuningCandidate:
        """One of the models."""
        known = self._candidates.get(name)
        if known is None:
            assert self._supplies is not None
            known = TuningCandidate(name, partial(self._supplies.load, name), self._identities[name])
        return known

    def needs(self, name: str) -> Needs:
        """Of a job of a model. It has its device to itself: what it takes is compared."""
        return Needs(local=self._supplies is None or name not in self._supplies.names)

    @property
    def apart(self) -> bool:
        """Whether this process keeps its trainings in another folder than the run."""
        return bool(self._mark) and not (self.bench.journal.folder / self._mark).is_file()


@dataclass(frozen=True)
class Place:
    """How a worker brings a candidate to where the run has it.

    Attributes:
        size: (height, width) of the training where it is another than its own; None for the native one.
        frozen: the record of its linear probe at the native resolution.
        probe, start: what trainings start from, where it is known.
    """

    model: str
    size: tuple[int, int] | None
    frozen: Record | None
    probe: Probe | None
    start: Stats | None
    forward_seconds: float

    @staticmethod
    def of(loaded: Loaded) -> Place:
        """Where a candidate is."""
        return Place(loaded.name, loaded.resized, loaded.frozen, loaded.probe, loaded.start, loaded.forward_seconds)

    def take(self, kit: Kit) -> Loaded:
        """The candidate in this process; in that of the run it is there already."""
        if (known := kit.loaded.get(self.model)) is not None:
            return known
        loaded = load(kit.bench, kit.candidate(self.model))
        if self.size is not None:
            resize(kit.bench, loaded, self.size)
        settle_precision(kit.bench, loaded)
        loaded.frozen = self.frozen
        loaded.native_probe = None if self.frozen is None else self.frozen.arrays
        loaded.probe, loaded.start, loaded.forward_seconds = self.probe, self.start, self.forward_seconds
        return loaded


@dataclass(frozen=True)
class EstimateJob:
    """Job: where a candidate's trainings start, and what a step of each of its strategies takes.

    Attributes:
        strategies: with the seconds per step that the run goes by so far.
        seconds: that it may take.
        start: whether to solve the probe that trainings start from.
        estimate: whether to estimate steps of which nothing is remembered.
    """

    kit: Shared[Kit]
    place: Place
    strategies: Mapping[str, float]
    seconds: float
    start: bool = True
    estimate: bool = True

    @property
    def name(self) -> str:
        """Of the model; for messages."""
        return self.place.model


@dataclass(frozen=True)
class EstimatedSteps:
    """Result of an ``EstimateJob``: seconds per step or why there are none by strategy, and the device that says so."""

    steps: Mapping[str, float | Failure]
    probe: Probe | None
    start: Stats | None
    forward_seconds: float
    build_seconds: float
    device: str
    bf16: bool
    seconds: float


def estimate_steps(job: EstimateJob) -> EstimatedSteps:
    """Solve the start of a candidate's trainings and estimate a step of each of its strategies."""
    bench = job.kit.value.bench
    begun = bench.now()
    loaded = job.place.take(job.kit.value)
    deadline = begun + job.seconds

    def measure(strategy: str) -> float:
        settle_precision(bench, loaded)
        if job.start:
            prepare_start(bench, loaded, deadline)
        if job.estimate:
            return estimated_step(bench, loaded, strategy)
        trained = remembered_costs(bench, loaded, strategy)
        return job.strategies[strategy] if trained is None else trained["step"]

    steps: dict[str, float | Failure] = {}
    for result in InProcess().map(measure, job.strategies, fatal=(StoreError,)):
        found = result.value if result.failure is None else result.failure
        assert found is not None
        steps[result.job] = found
    device = torch.device(bench.device).type
    return EstimatedSteps(
        steps, loaded.probe, loaded.start, loaded.forward_seconds, loaded.build_seconds, device, loaded.bf16,
        bench.now() - begun,
    )  # fmt: skip


@dataclass(frozen=True)
class TrainingJob:
    """Job: one configuration in one round.

    Attributes:
        rates: to be tried, by preference.
        known: records that the run has, by rate.
        seconds: that it may take on its device, loading included.
        all_labels: see ``Trial``.
    """

    kit: Shared[Kit]
    place: Place
    strategy: str
    rates: tuple[float, ...]
    known: Mapping[float, Record]
    seed: int
    steps: int
    seconds: float
    all_labels: bool = False

    @property
    def name(self) -> str:
        """Of the configuration; for messages."""
        return f"{self.place.model} {self.strategy}"


@dataclass(frozen=True)
class Trainings:
    """Result of a ``TrainingJob``: its runs in order, the weights of the best one (rate, bytes) where the run cannot read
    them itself, and seconds on the device."""

    runs: tuple[Run, ...]
    weights: tuple[float, bytes] | None
    seconds: float


def train(job: TrainingJob) -> Trainings:
    """Train one configuration at its rates."""
    kit = job.kit.value
    bench = kit.bench
    begun = bench.now()
    end = begun + job.seconds
    loaded = job.place.take(kit)
    clock = Clock({**kit.settings, "budget": None}, bench.journal, None, bench.now)
    field = Field(bench, clock, kit.settings, InProcess(), job.kit)

    def train_at(before: int, rate: float) -> Run | None:
        trial = Trial(loaded.name, job.strategy, rate, job.seed, job.all_labels)
        record = job.known.get(rate)
        if record is None:
            now = bench.now()
            share = 1 / max(1, len(job.rates) - before)  # of what is left, for this one
            deadline = end if math.isinf(end) else now + max(0.0, end - now) * share
            record = run_trial(bench, loaded, trial, job.steps, deadline)
        return None if record is None else Run(trial, job.steps, record)

    runs = try_rates(field, Configuration(loaded, job.strategy), job.rates, train_at)
    for run in runs:
        if run.record.status == "ok" and (steps := run.taken):
            forward = float(run.record.facts["evaluate_seconds"]) / len(bench.indices["val"])
            remember_costs(bench, loaded, job.strategy, float(run.record.facts["seconds"]) / steps, forward)
    return Trainings(tuple(runs), _best_weights(kit, field, loaded, runs), bench.now() - begun)


def _best_weights(kit: Kit, field: Field, loaded: Loaded, runs: Sequence[Run]) -> tuple[float, bytes] | None:
    """The weights of the best run, where the run keeps its trainings elsewhere; the others are removed there."""
    good = [run for run in runs if run.record.status == "ok"]
    if not good or not kit.apart:
        return None
    best = max(good, key=field.order)
    found = None
    for run in good:
        key = key_of(field.bench, loaded, run.trial, run.steps)
        file = field.bench.journal.weights(key)
        if run is best and file.is_file():
            found = (run.trial.rate, file.read_bytes())
        field.bench.journal.forget_weights(key)
    return found


def remembered_costs(bench: Workbench, loaded: Loaded, strategy: str) -> dict[str, float] | None:
    """Seconds of a ``step`` and of a ``forward`` pass of an item, as an earlier training on this machine took them."""
    found = bench.journal.read_json(_name(bench, loaded, strategy))
    return None if found is None else {name: float(found[name]) for name in ("step", "forward")}


def remember_costs(bench: Workbench, loaded: Loaded, strategy: str, step: float, forward: float) -> None:
    """Keep what a training took, so that the next call plans with it instead of measuring again."""
    bench.journal.write_json(_name(bench, loaded, strategy), {"step": step, "forward": forward})


def _name(bench: Workbench, loaded: Loaded, strategy: str) -> str:
    asked = {
        "encoder": loaded.encoder.identity,
        "preprocess": loaded.preprocess.to_dict(),
        "task": bench.task_for(strategy).address,
        "strategy": strategies.plan_of(strategy).name,
        "batch_size": bench.batch_size,
        "bf16": loaded.bf16,
        "machine": f"{cpu_model()}, {torch.get_num_threads()} threads"
        if torch.device(bench.device).type == "cpu"
        else torch.cuda.get_device_name(bench.device),
    }
    return f"costs-{bench.journal.key(asked)}"


def estimated_step(bench: Workbench, loaded: Loaded, strategy: str) -> float:
    """Seconds of one step: remembered from a training on this machine, or what a pass over one batch takes, times three.

    No step is timed before the first training: its own steps say what the next ones take, and a training that is slower
    than estimated is cooled down in time.
    """
    settle_precision(bench, loaded)
    if (known := remembered_costs(bench, loaded, strategy)) is not None:
        loaded.forward_seconds = known["forward"]
        return known["step"]
    with bench.working_on(loaded.candidate):
        forward = _forward_seconds(bench, loaded, strategy)
    if math.isnan(loaded.forward_seconds):
        loaded.forward_seconds = forward
    return forward * BACKWARD * min(bench.batch_size, len(bench.indices["train"]))


def _forward_seconds(bench: Workbench, loaded: Loaded, strategy: str) -> float:
    """Seconds an item of the second of two passes over half a batch; the first one pays for what is prepared once."""
    module, feed = build(bench, loaded, adaptation=strategy), bench.feed(loaded.preprocess)
    some = bench.indices["train"][: max(1, bench.batch_size // 2)]
    for _ in range(2):
        begun = bench.now()
        predict(module, feed, some, lambda *_: None, device=bench.device, bf16=loaded.bf16, batch_size=len(some))
        seconds = bench.now() - begun
    return seconds / len(some)
