"""Trainings of a round on an engine's workers: a job a configuration, under one budget of the workers' time.

The driver keeps the records, decides, and charges the clock with what each job took on its device; a worker loads the
network, tries the rates as the driver would, and hands records back. Weights stay where driver and worker share a
folder, and travel where they do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from selector.core.answers import opened
from selector.core.atomic import write_atomic
from selector.core.contracts import Progress
from selector.core.engine import Failure, LocalEngine, Shared
from selector.core.errors import StoreError
from selector.core.progress import under_way
from selector.core.task import Probe, Stats
from selector.tuning.clock import Clock
from selector.tuning.crew import Kit
from selector.tuning.field import Configuration, Field, Run
from selector.tuning.heads import keep_start, prepare_start
from selector.tuning.journal import Record
from selector.tuning.loaded import Loaded
from selector.tuning.loading import load, resize, settle_precision
from selector.tuning.rates import lower_rate, try_rates
from selector.tuning.step_costs import estimated_step, remember_costs
from selector.tuning.trial import Trial, key_of, run_trial


@dataclass(frozen=True)
class Place:
    """How a worker brings a candidate to where the driver has it.

    Attributes:
        size: (height, width) of the training where it is another than its own; None for the native one.
        frozen: the record of its linear probe at the native resolution.
        probe, start: what trainings start from, where the driver knows it.
    """

    model: str
    size: tuple[int, int] | None
    frozen: Record | None
    probe: Probe | None
    start: Stats | None
    forward_seconds: float

    @staticmethod
    def of(loaded: Loaded) -> Place:
        return Place(loaded.name, loaded.resized, loaded.frozen, loaded.probe, loaded.start, loaded.forward_seconds)

    def taken(self, kit: Kit) -> Loaded:
        """The candidate in this worker."""
        loaded = load(kit.bench, kit.candidate(self.model))
        if self.size is not None:
            resize(kit.bench, loaded, self.size)
        settle_precision(kit.bench, loaded)
        loaded.frozen = self.frozen
        loaded.native_probe = None if self.frozen is None else self.frozen.arrays
        loaded.probe, loaded.start, loaded.forward_seconds = self.probe, self.start, self.forward_seconds
        return loaded


@dataclass(frozen=True)
class CandidateJob:
    """What a worker does with one candidate."""

    kit: Shared
    place: Place

    @property
    def model(self) -> str:
        """Name of the candidate."""
        return self.place.model


@dataclass(frozen=True)
class TimingJob(CandidateJob):
    """Job: the start of a candidate's trainings, and what a step of each of its strategies takes."""

    strategies: tuple[str, ...]
    seconds: float

    @property
    def name(self) -> str:
        """For messages."""
        return self.model


@dataclass(frozen=True)
class TimedSteps:
    """Answer to ``TimingJob``: seconds a step or why there are none by strategy, and the device that says so."""

    steps: Mapping[str, float | Failure]
    probe: Probe | None
    start: Stats | None
    forward_seconds: float
    build_seconds: float
    device: str
    bf16: bool
    seconds: float


@dataclass(frozen=True)
class TrainingJob(CandidateJob):
    """Job: one configuration in one round.

    Attributes:
        rates: to be tried, by preference.
        known: records that the driver has, by rate.
        seconds: that it may take on its device, loading included.
    """

    strategy: str
    rates: tuple[float, ...]
    known: Mapping[float, Record]
    seed: int
    steps: int
    seconds: float

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.model} {self.strategy}"


@dataclass(frozen=True)
class Finished:
    """Answer to ``TrainingJob``: its runs in order, the weights of the best one where the driver cannot read them here, and
    seconds on the device."""

    runs: tuple[Run, ...]
    weights: tuple[float, bytes] | None
    seconds: float


# ---------------------------------------------------------------------------- of a worker


def measure_there(job: TimingJob) -> TimedSteps:
    """``planner`` measures so, in a worker."""
    kit: Kit = opened(job.kit)
    bench = kit.bench
    begun = bench.now()
    loaded = job.place.taken(kit)
    deadline = begun + job.seconds

    def measure(strategy: str) -> float:
        settle_precision(bench, loaded)
        prepare_start(bench, loaded, deadline)
        return estimated_step(bench, loaded, strategy)

    steps: dict[str, float | Failure] = {}
    for outcome in LocalEngine().map(measure, job.strategies, fatal=(StoreError,)):
        found = outcome.result if outcome.failure is None else outcome.failure
        assert found is not None
        steps[outcome.item] = found
    device = torch.device(bench.device).type
    return TimedSteps(
        steps, loaded.probe, loaded.start, loaded.forward_seconds, loaded.build_seconds, device, loaded.bf16,
        bench.now() - begun,
    )  # fmt: skip


def train_there(job: TrainingJob) -> Finished:
    """The trainings of one configuration, in a worker."""
    kit: Kit = opened(job.kit)
    bench = kit.bench
    begun = bench.now()
    end = begun + job.seconds
    loaded = job.place.taken(kit)
    field = Field(bench, Clock({**kit.settings, "budget": None}, bench.journal, None, bench.now), kit.settings)
    configuration = Configuration(loaded, job.strategy)

    def train(before: int, rate: float) -> Run | None:
        trial = Trial(job.model, job.strategy, rate, job.seed)
        record = job.known.get(rate)
        if record is None:
            now = bench.now()
            share = 1 / max(1, len(job.rates) - before)  # of what is left, for this one
            deadline = end if math.isinf(end) else now + max(0.0, end - now) * share
            record = run_trial(bench, loaded, trial, job.steps, deadline)
        return None if record is None else Run(trial, job.steps, record)

    runs = try_rates(field, configuration, job.rates, train)
    for run in runs:
        if run.record.status == "ok" and (steps := int(run.record.facts["steps"])):
            forward = float(run.record.facts["evaluate_seconds"]) / len(bench.indices["val"])
            remember_costs(bench, loaded, job.strategy, float(run.record.facts["seconds"]) / steps, forward)
    return Finished(tuple(runs), _handed_over(kit, field, loaded, runs), bench.now() - begun)


def _handed_over(kit: Kit, field: Field, loaded: Loaded, runs: Sequence[Run]) -> tuple[float, bytes] | None:
    """The weights of the best run, where the driver keeps its trainings elsewhere; the others are removed there."""
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


# ---------------------------------------------------------------------------- of the driver


def measured_elsewhere(field: Field, configurations: Sequence[Configuration]) -> Iterator[tuple[Configuration, Any]]:
    """Each configuration with the seconds of a step, or why it cannot be trained; a job a candidate."""
    assert field.crew is not None
    by_model: dict[str, list[Configuration]] = {}
    for configuration in configurations:
        by_model.setdefault(configuration.loaded.name, []).append(configuration)
    left = field.clock.deadline() - field.clock.now()
    jobs = [
        TimingJob(field.crew.kit, Place.of(mine[0].loaded), tuple(c.strategy for c in mine), left)
        for mine in by_model.values()
    ]
    with field.clock.of_workers():
        for done, outcome in enumerate(field.crew.map(measure_there, jobs), 1):
            found: TimedSteps | None = outcome.result
            mine = by_model[outcome.item.model]
            if found is not None:
                loaded = mine[0].loaded
                field.clock.charge(found.seconds)
                loaded.probe, loaded.start = found.probe, found.start
                loaded.forward_seconds, loaded.build_seconds = found.forward_seconds, found.build_seconds
                loaded.device, loaded.bf16 = found.device, found.bf16
                field.clock.state.setdefault("trained_on", {})[loaded.name] = [found.device, found.bf16]
                keep_start(field.bench, loaded)
            field.bench.notify(Progress("load", done, len(jobs), "models", note="estimating training steps"))
            for configuration in mine:
                yield configuration, outcome.failure if found is None else found.steps[configuration.strategy]


@dataclass(frozen=True)
class Planned:
    """A configuration that is to be trained, and the seconds that it is planned to take."""

    configuration: Configuration
    rates: tuple[float, ...]
    seed: int
    steps: int
    planned: float


def trained_elsewhere(
    field: Field, entries: Sequence[Planned], kept: float = 0.0
) -> Iterator[tuple[Configuration, list[Run]]]:
    """Each configuration with its runs, in the order of completion.

    Of the workers' time that is left each gets its share by what is planned, when its turn comes.

    Args:
        kept: seconds that are planned for what comes later.
    """
    assert field.crew is not None
    of_job: dict[str, Planned] = {}
    finished: list[tuple[Planned, list[Run]]] = []  # by an earlier call
    open_: dict[str, float] = {}  # seconds that were allowed to jobs under way

    done = 0

    def tell() -> None:
        field.bench.notify(Progress("train", done, len(entries), "configurations", note=under_way(list(open_))))

    def jobs() -> Iterator[TrainingJob]:
        for place, entry in enumerate(entries):
            left = field.clock.deadline() - field.clock.now()
            if math.isfinite(left):
                left -= sum(open_.values())
            if left <= 0:
                return
            rest = kept + sum(other.planned for other in entries[place:])
            allowed = left if math.isinf(left) else left * min(1.0, entry.planned / rest if rest > 0 else 1.0)
            loaded, strategy = entry.configuration.loaded, entry.configuration.strategy
            known = _known(field, entry)
            if (runs := _recorded(field, entry, known)) is not None:
                finished.append((entry, runs))
                continue
            job = TrainingJob(
                field.crew.kit, Place.of(loaded), strategy, entry.rates, known, entry.seed, entry.steps, allowed  # type: ignore[union-attr]
            )  # fmt: skip
            of_job[job.name], open_[job.name] = entry, allowed
            tell()
            yield job

    with field.clock.of_workers():
        for outcome in field.crew.map(train_there, jobs()):
            entry = of_job[outcome.item.name]
            del open_[outcome.item.name]
            if outcome.result is None:
                reason = outcome.failure.reason if outcome.failure else "no reason given"
                record = Record({"status": "failed", "notes": [reason], "seconds": 0.0, "steps": 0})
                runs = [Run(_trial(entry, entry.rates[0]), entry.steps, record)]
            else:
                runs = list(outcome.result.runs)
                field.clock.charge(outcome.result.seconds)
                _keep(field, entry.configuration, outcome.result)
            done += 1
            tell()
            yield entry.configuration, runs
    for entry, runs in finished:
        yield entry.configuration, runs


def _trial(entry: Planned, rate: float) -> Trial:
    return Trial(entry.configuration.loaded.name, entry.configuration.strategy, rate, entry.seed)


def _known(field: Field, entry: Planned) -> dict[float, Record]:
    """What the driver's journal has of it: its rates and, had they diverged, a lower one."""
    loaded = entry.configuration.loaded
    rates = (*entry.rates, lower_rate(entry.rates))
    keys = {rate: key_of(field.bench, loaded, _trial(entry, rate), entry.steps) for rate in rates}
    found = {rate: field.bench.journal.read(key) for rate, key in keys.items()}
    return {rate: record for rate, record in found.items() if record is not None}


def _recorded(field: Field, entry: Planned, known: Mapping[float, Record]) -> list[Run] | None:
    """The runs of a configuration where the journal has all of them."""
    lacking = []

    def read(_: int, rate: float) -> Run | None:
        if rate not in known:
            lacking.append(rate)
            return None
        return Run(_trial(entry, rate), entry.steps, known[rate])

    runs = try_rates(field, entry.configuration, entry.rates, read)
    return None if lacking else runs


def _keep(field: Field, configuration: Configuration, found: Finished) -> None:
    """Records and weights in the driver's journal, under its own addresses."""
    journal = field.bench.journal
    for run in found.runs:
        key = field.key(configuration, run)
        if run.record.status != "failed" and journal.read(key) is None:
            journal.write(key, run.record)
        if found.weights is not None and found.weights[0] == run.trial.rate:
            file = journal.weights(key)
            try:
                write_atomic(file, found.weights[1])
            except OSError as error:
                raise StoreError(f"{file} cannot be written ({error.strerror}); free some space.") from error
