"""Trainings of a run by its executor: one job per configuration, within one budget of the devices' time.

The run keeps the records, decides, and charges its clock with what each job took on its device. Weights stay where the run
and a worker share a folder, and travel where they do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from selector.core.contracts import Progress
from selector.core.errors import StoreError
from selector.core.progress import under_way
from selector.run.job import Failure
from selector.tuning.field import Configuration, Field, Run, lower_rate, try_rates
from selector.tuning.heads import keep_start
from selector.tuning.job import EstimateJob, Place, TrainingJob, Trainings, estimate_steps, train
from selector.tuning.journal import Record
from selector.tuning.trial import Trial, key_of


def estimate_configurations(
    field: Field, configurations: Sequence[Configuration], *, start: bool, estimate: bool, needed: bool
) -> Iterator[tuple[Configuration, float | Failure]]:
    """Each configuration with the seconds of a step, or why it cannot be trained; one job per candidate.

    Args:
        start, estimate: see ``EstimateJob``.
        needed: whatever is left of the budget.
    """
    by_model: dict[str, list[Configuration]] = {}
    for configuration in configurations:
        by_model.setdefault(configuration.loaded.name, []).append(configuration)
    done = 0

    def jobs() -> Iterator[EstimateJob]:
        for mine in by_model.values():
            left = math.inf if needed else max(0.0, field.clock.left)
            known = {c.strategy: c.step_seconds for c in mine}
            yield EstimateJob(field.kit, Place.of(mine[0].loaded), known, left, start, estimate)

    with field.clock.of_workers():
        results = field.executor.map(
            estimate_steps, jobs(), fatal=(StoreError,), needs=lambda job: field.kit.value.needs(job.name)
        )
        for done, result in enumerate(results, 1):
            mine = by_model[result.job.name]
            if (found := result.value) is not None:
                loaded = mine[0].loaded
                field.clock.charge(found.seconds)
                loaded.probe, loaded.start = found.probe, found.start
                loaded.forward_seconds, loaded.build_seconds = found.forward_seconds, found.build_seconds
                loaded.device, loaded.bf16 = found.device, found.bf16
                field.clock.state.setdefault("trained_on", {})[loaded.name] = [found.device, found.bf16]
                keep_start(field.bench, loaded)
            if field.executor.width > 1:
                field.bench.notify(Progress("load", done, len(by_model), "models", note="estimating training steps"))
            for configuration in mine:
                step = result.failure if found is None else found.steps[configuration.strategy]
                assert step is not None
                yield configuration, step


@dataclass(frozen=True)
class Planned:
    """A configuration that is to be trained, and the seconds that it is planned to take.

    Attributes:
        seconds: that it may take, whatever is left of the budget; None for its share.
        all_labels: see ``Trial``.
    """

    configuration: Configuration
    rates: tuple[float, ...]
    seed: int
    steps: int
    planned: float
    seconds: float | None = None
    all_labels: bool = False


def planned(
    field: Field,
    configuration: Configuration,
    steps: int,
    seed: int | None = None,
    *,
    seconds: float | None = None,
    all_labels: bool = False,
) -> Planned:
    """A training of so many steps, at the rate of the best run or, before there is one, the first by preference."""
    rate = configuration.best.trial.rate if configuration.best else field.rates(configuration)[0]
    takes = seconds_for(field, configuration, steps)
    return Planned(configuration, (rate,), field.seed if seed is None else seed, steps, takes, seconds, all_labels)


def seconds_for(field: Field, configuration: Configuration, steps: int) -> float:
    """What a training takes; one that was only estimated is corrected by what the others took of their estimates."""
    seconds = field.cost(configuration).seconds(steps)
    took = [c.step_seconds / c.estimated_seconds for c in field.configurations if c.best]
    return seconds if configuration.best or not took else seconds * max(took)


def train_configurations(
    field: Field, entries: Sequence[Planned], kept: float = 0.0
) -> Iterator[tuple[Configuration, list[Run]]]:
    """Each configuration with its runs, in the order of completion; those that are on record come last.

    Of the devices' time that is left each gets its share by what is planned, when its turn comes.

    Args:
        kept: seconds that are planned for what comes later.
    """
    of_job: dict[str, Planned] = {}
    finished: list[tuple[Planned, list[Run]]] = []  # by an earlier call
    open_: dict[str, float] = {}  # seconds that were allowed to jobs under way
    done = 0

    def tell() -> None:
        if field.executor.width > 1:
            note = under_way(list(open_))
            field.bench.notify(Progress("train", done, len(entries), "configurations", note=note))

    def jobs() -> Iterator[TrainingJob]:
        for place, entry in enumerate(entries):
            left = field.clock.left
            if math.isfinite(left):
                left -= sum(open_.values())
            known = _known(field, entry)
            if (runs := _recorded(field, entry, known)) is not None:
                finished.append((entry, runs))
                continue
            if left <= 0 and entry.seconds is None:
                return
            rest = kept + sum(other.planned for other in entries[place:])
            allowed = left if math.isinf(left) else left * min(1.0, entry.planned / rest if rest > 0 else 1.0)
            allowed = allowed if entry.seconds is None else entry.seconds
            at, strategy = Place.of(entry.configuration.loaded), entry.configuration.strategy
            job = TrainingJob(
                field.kit, at, strategy, entry.rates, known, entry.seed, entry.steps, allowed, entry.all_labels
            )
            of_job[job.name], open_[job.name] = entry, allowed
            tell()
            yield job

    with field.clock.of_workers():
        results = field.executor.map(
            train, jobs(), fatal=(StoreError,), needs=lambda job: field.kit.value.needs(job.place.model)
        )
        for result in results:
            entry = of_job[result.job.name]
            del open_[result.job.name]
            if result.value is None:
                reason = result.failure.reason if result.failure else "no reason given"
                record = Record({"status": "failed", "notes": [reason], "seconds": 0.0, "steps": 0})
                runs = [Run(_trial(entry, entry.rates[0]), entry.steps, record)]
            else:
                runs = list(result.value.runs)
                field.clock.charge(result.value.seconds)
                _keep(field, entry.configuration, result.value)
            done += 1
            tell()
            yield entry.configuration, runs
    for entry, runs in finished:
        yield entry.configuration, runs


def _trial(entry: Planned, rate: float) -> Trial:
    return Trial(entry.configuration.loaded.name, entry.configuration.strategy, rate, entry.seed, entry.all_labels)


def _known(field: Field, entry: Planned) -> dict[float, Record]:
    """What the journal of the run has of it: its rates and, had they diverged, a lower one."""
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


def _keep(field: Field, configuration: Configuration, found: Trainings) -> None:
    """Records and weights in the journal of the run, under its own addresses."""
    journal = field.bench.journal
    for run in found.runs:
        key = field.key(configuration, run)
        if run.record.status != "failed" and journal.read(key) is None:
            journal.write(key, run.record)
        if found.weights is not None and found.weights[0] == run.trial.rate:
            journal.write_weights(key, found.weights[1])
