"""From what the configurations cost to the rounds that the budget allows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from selector.core.contracts import Progress
from selector.core.errors import BudgetEnded, StoreError
from selector.core.units import format_duration
from selector.run.executor import InProcess
from selector.run.job import Failure
from selector.tuning.field import Configuration, Field
from selector.tuning.heads import START_ROWS, prepare_start
from selector.tuning.loading import resize, settle_precision
from selector.tuning.plan import (
    FACTORS,
    FEW_EPOCHS,
    FEWEST_STEPS,
    GOOD_EPOCHS,
    LEAST_EPOCHS,
    MIN_STEPS,
    Round,
    StrategyCost,
    TrainingPlan,
    make_plan,
    seconds_of,
    usual_steps,
)
from selector.tuning.training import estimate_configurations
from selector.tuning.workbench import Loaded

EARLY = 0.2  # of the steps, that come first where there is no model yet
SMALLEST_SIDE = 64


def plan_rounds(field: Field) -> TrainingPlan | None:
    """Choose configurations, resolution, rates and steps, or take up the plan of an interrupted call.

    Configurations that the budget seems to leave no time for wait; the last one stays whatever the budget is. None when all failed before a step.
    """
    train = len(field.bench.indices["train"])
    batch = min(field.bench.batch_size, train)
    an_epoch = max(1, train // batch)
    wanted = field.settings["max_steps"] or usual_steps(an_epoch)
    if field.clock.state["rounds"]:
        return _taken_up(field)
    noted = len(field.notes)
    entered = list(field.configurations)
    factor = _choose_factor(field, wanted, an_epoch)
    plan = None
    while field.configurations and plan is None:
        last = len(field.configurations) == 1
        for epochs, in_all in ((LEAST_EPOCHS, FEW_EPOCHS), (LEAST_EPOCHS, 0), (0, 0))[: None if last else 1]:
            plan = plan or make_plan(
                field.costs(field.configurations),
                budget=_finite_left(field),
                max_steps=wanted,
                steps_an_epoch=an_epoch,
                min_total=max(in_all * an_epoch, FEW_EPOCHS * MIN_STEPS) if in_all else 1,
                min_epochs=epochs,
                again=field.once_more if field.settings["refit"] else 0.0,
            )
        if last:
            plan = plan or _shortest(field)
            break
        if plan is None:
            field.configurations.remove(min(field.configurations, key=partial(_merit, field)))
    if plan is None:
        return None
    plan = _model_early(field, plan)
    left_out = [c for c in entered if c not in field.configurations and c not in field.dead]
    field.waiting = sorted(left_out, key=partial(_merit, field), reverse=True)
    for configuration in entered:
        configuration.estimated_seconds = configuration.step_seconds
    rounds = [
        f"{_several(r.configurations, 'configuration')} x {_several(r.rates, 'rate')} x {r.steps} steps"
        for r in plan.rounds
    ]
    told = f"{', then '.join(rounds)}; batch {batch}; about {format_duration(plan.seconds)}"
    field.bench.notify(Progress("plan", 0, 0, "rounds", note=told))
    field.clock.tell(f"Planned: {told}.")
    field.clock.state.update(
        factor=factor,
        wanted=wanted,
        again=plan.again,
        step_seconds={configuration.label: configuration.step_seconds for configuration in field.configurations},
        notes=field.notes[noted:],
    )
    field.keep(plan.rounds)
    return plan


def _taken_up(field: Field) -> TrainingPlan | None:
    """The plan of an interrupted call."""
    state = field.clock.state
    _set_factor(field, float(state["factor"]))
    field.waiting = [c for c in field.configurations if c.label not in state["step_seconds"]]
    field.configurations = [c for c in field.configurations if c not in field.waiting]
    _prepare(field)
    field.notes += state["notes"]
    for line in field.clock.tuning_log:
        field.bench.notify(Progress("plan", 0, 0, "rounds", note=line.removeprefix("Planned: ")))
    for configuration in field.configurations:
        configuration.step_seconds = configuration.estimated_seconds = float(state["step_seconds"][configuration.label])
    return TrainingPlan(tuple(Round(*each) for each in state["rounds"]), 0.0) if field.configurations else None


def _merit(field: Field, configuration: Configuration) -> tuple[float, float]:
    """The lowest leaves first where there is too little time for all: it starts from the worst frozen metric; where
    nothing tells them apart it takes longest."""
    return field.frozen_value(configuration.loaded), -configuration.step_seconds


def _model_early(field: Field, plan: TrainingPlan) -> TrainingPlan:
    """A budget that begins without a model has one within its first quarter: a short training goes ahead of a single one."""
    if field.clock.budget is None or len(plan.rounds) > 1 or not field.empty_handed():
        return plan
    (only,) = plan.rounds
    first = max(MIN_STEPS, int(EARLY * only.steps))
    if only.steps < 2 * first:
        return plan
    return replace(plan, rounds=(replace(only, steps=first), replace(only, steps=only.steps - first)))


def _shortest(field: Field) -> TrainingPlan | None:
    """A few steps of the configuration that is left, where no other model would be saved.

    It may exceed the budget by these steps: a budget always ends with a model.
    """
    if not field.empty_handed():
        short = "the budget is too short for fine-tuning: frozen models with linear probes are compared."
        field.notes.append(short)
        field.bench.notify(Progress("plan", 0, 0, "rounds", note=short))  # before what is left of it is spent
        field.configurations = []
        return None
    rounds = (Round(FEWEST_STEPS, 1, 1),)
    return TrainingPlan(rounds, seconds_of(rounds, field.costs(field.configurations)))


def _several(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _finite_left(field: Field) -> float | None:
    return None if field.clock.budget is None else max(0.0, field.clock.left)


def _choose_factor(field: Field, wanted: int, an_epoch: int) -> float:
    """Share of the native side to train at: 1 unless the budget needs less, with the configurations that fit.

    Rather small images and epochs worth their name than a few steps at full size, and rather fewer configurations than
    trainings that show nothing.
    """
    fixed = field.settings["resolution"] is not None
    if field.clock.budget is None:
        _set_factor(field, 1.0)
        _prepare(field)
        return 1.0
    factors = (1.0,) if fixed else FACTORS
    _set_factor(field, factors[-1])
    _prepare(field, start=False)  # estimated where it is cheapest, and scaled by area
    areas = {c.label: math.prod(c.loaded.size) for c in field.configurations}
    steps = {c.label: field.cost(c) for c in field.configurations}
    kept, chosen = list(field.configurations), factors[-1]
    while kept:
        found = _largest_factor(field, kept, steps, areas, factors, wanted, an_epoch)
        if found is not None or len(kept) == 1:
            chosen = factors[-1] if found is None else found
            break
        kept.remove(min(kept, key=partial(_merit, field)))
    if not fixed:
        _set_factor(field, chosen)
    for configuration in field.configurations:
        configuration.step_seconds *= math.prod(configuration.loaded.size) / areas[configuration.label]
    field.configurations = kept
    _prepare(field, estimate=False)
    return chosen


def _largest_factor(
    field: Field,
    kept: Sequence[Configuration],
    known: Mapping[str, StrategyCost],
    areas: Mapping[str, int],
    factors: Sequence[float],
    wanted: int,
    an_epoch: int,
) -> float | None:
    """The largest at which these configurations have ``GOOD_EPOCHS``, else ``FEW_EPOCHS``; None where they have less.

    A single factor is the size that they have now.
    """
    for epochs in (GOOD_EPOCHS, FEW_EPOCHS):
        for factor in factors:
            costs, starts = [], {}
            for configuration in kept:
                loaded = configuration.loaded
                grown = math.prod(_side(loaded, factor)) / areas[configuration.label] if len(factors) > 1 else 1.0
                costs.append(known[configuration.label].resized(grown))
                resized = factor != 1.0 if len(factors) > 1 else loaded.resized is not None
                if resized and loaded.native_probe is not None and not math.isnan(loaded.forward_seconds):
                    starts[loaded.name] = loaded.forward_seconds * grown * _start_rows(field)
            plan = make_plan(
                costs,
                budget=max(0.0, field.clock.left - sum(starts.values())),
                max_steps=wanted,
                steps_an_epoch=an_epoch,
                min_total=max(epochs * an_epoch, FEW_EPOCHS * MIN_STEPS),
                min_epochs=LEAST_EPOCHS,
            )
            if plan is not None:
                return factor
    return None


def _start_rows(field: Field) -> int:
    """Items that a head is solved on at another resolution."""
    return min(START_ROWS, len(field.bench.indices["train"])) + len(field.bench.indices["val"])


def _set_factor(field: Field, factor: float) -> None:
    resolution = field.settings["resolution"]
    for loaded in {configuration.loaded.name: configuration.loaded for configuration in field.configurations}.values():
        if loaded.resolution is None:
            continue  # a text has no resolution
        native = loaded.encoder.image_preprocess.input_size[1:]
        size = _side(loaded, factor)
        if resolution is not None:
            size = _short_side(native, resolution)
        reason = resize(field.bench, loaded, size)
        if reason and resolution is not None:
            near = _in_steps(size)
            if near != size and not resize(field.bench, loaded, near):
                field.notes.append(
                    f"{loaded.name} is trained at {near[0]} x {near[1]} pixels, the nearest supported size to the "
                    f"requested {size[0]} x {size[1]} ({reason.rstrip('.')})."
                )
                continue
        if reason:
            field.notes.append(
                f"{loaded.name} stays at {native[0]} x {native[1]}: its architecture does not allow {size[0]} x {size[1]} "
                f"({reason.rstrip('.')})."
            )


def _short_side(native: Sequence[int], short: int) -> tuple[int, int]:
    """(height, width) of this short side, the long one in a multiple of 32.

    >>> _short_side((224, 224), 100), _short_side((224, 288), 128), _short_side((224, 288), 320)
    ((100, 100), (128, 160), (320, 416))
    """
    height, width = native
    if short == min(height, width):
        return height, width
    if height == width:
        return short, short
    long = max(32, round(short * max(height, width) / min(height, width) / 32) * 32)
    return (short, long) if height < width else (long, short)


def _in_steps(size: tuple[int, int]) -> tuple[int, int]:
    """Both sides in multiples of 32, which is what most networks give whole maps of.

    >>> _in_steps((130, 160))
    (128, 160)
    """
    height, width = (max(32, round(side / 32) * 32) for side in size)
    return height, width


def _prepare(field: Field, *, start: bool = True, estimate: bool = True) -> None:
    """Solve the heads at the training resolution and estimate a step of every configuration."""
    for configuration, found in _estimated(field, start, estimate):
        if isinstance(found, Failure):
            configuration.status = "not run" if isinstance(found.error, BudgetEnded) else "failed"
            configuration.alive = False
            configuration.notes.append(found.reason)
            _out(field, configuration)
        else:
            configuration.step_seconds = found


def _estimated(field: Field, start: bool, estimate: bool) -> Iterator[tuple[Configuration, float | Failure]]:
    """Seconds of a step, or why there are none, by what passes take where the trainings will run."""
    known = field.clock.state.get("step_seconds", {})  # by an interrupted call
    unknown = [c for c in field.configurations if c.label not in known]
    # the last one is trained whatever the budget is, where no other model would be saved
    needed = field.empty_handed() and len(field.configurations) == 1
    yield from estimate_configurations(field, unknown, start=start, estimate=estimate, needed=needed)

    def take_up(configuration: Configuration) -> float:
        loaded = configuration.loaded
        settle_precision(field.bench, loaded)
        if place := field.clock.state.get("trained_on", {}).get(loaded.name):
            loaded.device, loaded.bf16 = place
        if start:
            prepare_start(field.bench, loaded, math.inf if needed else field.clock.deadline())
        return float(known[configuration.label])

    recorded = [c for c in field.configurations if c.label in known]
    for result in InProcess().map(take_up, recorded, fatal=(StoreError,)):
        yield result.job, result.failure or result.value or 0.0


def _out(field: Field, configuration: Configuration) -> None:
    """A configuration that failed before its first round, or that the budget ended before."""
    field.configurations.remove(configuration)
    field.history.append(
        {
            "model": configuration.loaded.name,
            "strategy": configuration.strategy,
            "status": configuration.status,
            "notes": configuration.notes,
        }
    )
    field.dead.append(configuration)


def _side(loaded: Loaded, factor: float) -> tuple[int, int]:
    """The native (height, width) times ``factor``, in multiples of 32, never below 64."""
    if loaded.resolution is None:
        return loaded.size
    _, height, width = loaded.encoder.image_preprocess.input_size
    if factor == 1.0 or min(height, width) <= SMALLEST_SIDE:
        return height, width
    return max(SMALLEST_SIDE, round(height * factor / 32) * 32), max(SMALLEST_SIDE, round(width * factor / 32) * 32)
