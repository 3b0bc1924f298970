"""From what the configurations cost, measured, to the rounds that the budget allows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from selector.core.contracts import Progress
from selector.core.engine import Failure, LocalEngine
from selector.core.errors import BudgetEnded, StoreError
from selector.core.units import format_duration
from selector.tuning.elsewhere import measured_elsewhere
from selector.tuning.field import Configuration, Field
from selector.tuning.heads import START_ROWS, prepare_start
from selector.tuning.loaded import Loaded
from selector.tuning.loading import resize, settle_precision
from selector.tuning.plan import MIN_EPOCHS, MIN_STEPS, Cost, Plan, Round, make_plan, seconds_of, usual_steps
from selector.tuning.step_costs import measured_step

FACTORS = (1.0, 0.72, 0.58, 0.43)  # of the native side: 224, 160, 128, 96
SMALLEST_SIDE = 64
GOOD_EPOCHS = 3  # of the winner: below it a smaller resolution is taken first


def plan_rounds(field: Field) -> Plan | None:
    """Choose resolution, rates and steps, or take up the plan of an interrupted call.

    Configurations that the budget leaves no time for are removed from the field, with a note; None when none is left.
    """
    train = len(field.bench.indices["train"])
    batch = min(field.bench.batch_size, train)
    an_epoch = max(1, train // batch)
    wanted = field.settings["max_steps"] or usual_steps(an_epoch)
    if field.clock.state["rounds"]:
        _set_factor(field, float(field.clock.state["factor"]))
        _prepare(field)
        rounds = tuple(Round(*each) for each in field.clock.state["rounds"])
        field.notes += field.clock.state["notes"]
        for line in field.clock.tuning_log:
            field.bench.notify(Progress("plan", 0, 0, "rounds", note=line))
        field.configurations = [
            configuration
            for configuration in field.configurations
            if configuration.label in field.clock.state["step_seconds"]
        ]
        for configuration in field.configurations:
            configuration.step_seconds = float(field.clock.state["step_seconds"][configuration.label])
        return Plan(rounds, 0.0) if field.configurations else None
    noted = len(field.notes)
    factor = _choose_factor(field, wanted, an_epoch)
    plan = None
    while field.configurations:
        plan = make_plan(
            field.costs(field.configurations), budget=_finite_left(field), max_steps=wanted, steps_an_epoch=an_epoch
        )
        if plan is not None or len(field.configurations) == 1:
            break
        # too little for all: the configuration that starts from the worst frozen metric leaves first
        worst = min(
            field.configurations,
            key=lambda configuration: (field.frozen_value(configuration.loaded), -configuration.step_seconds),
        )
        field.notes.append(
            f"{worst.label} was not trained: the budget is too short for {len(field.configurations)} configurations."
        )
        field.configurations.remove(worst)
    if plan is None and field.configurations:
        # rather a few steps of the one configuration that is left than nothing
        plan = make_plan(
            field.costs(field.configurations),
            budget=_finite_left(field),
            max_steps=wanted,
            steps_an_epoch=an_epoch,
            min_epochs=0.0,
        )
    if plan is None:
        if field.configurations:
            need = _least_seconds(field, an_epoch)
            short = (
                f"the budget of {format_duration(field.clock.budget or 0)} is shorter than one round (about "
                f"{format_duration(need)} more are needed): the frozen encoders with linear probes are compared instead."
            )
            field.notes.append(short)
            field.bench.notify(Progress("plan", 0, 0, "rounds", note=short))  # before what is left of it is spent
        field.configurations = []
        return None
    field.clock.state["rounds"] = [[r.steps, r.configurations, r.rates] for r in plan.rounds]
    field.clock.state["factor"] = factor
    field.clock.state["wanted"] = wanted
    field.clock.state["step_seconds"] = {
        configuration.label: configuration.step_seconds for configuration in field.configurations
    }
    told = (
        ", then ".join(
            f"{_several(r.configurations, 'configuration')} x {_several(r.rates, 'rate')} x {r.steps} steps"
            for r in plan.rounds
        )
        + f"; batch {batch}; about {format_duration(plan.seconds)}"
    )
    planned = f"Planned: {told}."
    field.bench.notify(Progress("plan", 0, 0, "rounds", note=planned))
    field.clock.tell(planned)
    field.clock.state["notes"] = field.notes[noted:]
    field.clock.remember()
    return plan


def _several(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _finite_left(field: Field) -> float | None:
    return None if field.clock.budget is None else max(0.0, field.clock.left)


def _choose_factor(field: Field, wanted: int, an_epoch: int) -> float:
    """Share of the native side to train at: 1 unless the budget needs less."""
    resolution = field.settings["resolution"]
    if resolution is not None or field.clock.budget is None:
        _set_factor(field, 1.0)
        _prepare(field)
        return 1.0
    _set_factor(field, FACTORS[-1])
    _prepare(field)  # measured where it is cheapest, and scaled by area
    areas = {
        configuration.label: configuration.loaded.size[0] * configuration.loaded.size[1]
        for configuration in field.configurations
    }
    # rather small images and a training worth its name than a few steps at full size
    for epochs, least_rates in ((GOOD_EPOCHS, 2), (GOOD_EPOCHS, 1), (0, 2), (0, 1)):
        for factor in FACTORS:
            costs = []
            for configuration in field.configurations:
                height, width = _side(configuration.loaded, factor)
                grown = height * width / areas[configuration.label]
                cost = field.cost(configuration)
                costs.append(Cost(cost.step * grown, cost.evaluate * grown, cost.start))
            left = max(0.0, field.clock.left)
            if factor != FACTORS[-1]:  # measuring again and solving the heads again take time as well
                left -= sum(4 * cost.step for cost in costs) + _start_seconds(field, factor, areas)
            if make_plan(
                costs,
                budget=left,
                max_steps=wanted,
                steps_an_epoch=an_epoch,
                min_rates=least_rates,
                min_total=epochs * an_epoch,
            ):
                if factor != FACTORS[-1]:
                    _set_factor(field, factor)
                    _prepare(field)
                return factor
    return FACTORS[-1]


def _start_seconds(field: Field, factor: float, areas: Mapping[str, int]) -> float:
    if factor == 1.0:
        return 0.0  # the head solved at the native resolution is there
    total = 0.0
    for loaded in {configuration.loaded.name: configuration.loaded for configuration in field.configurations}.values():
        if not math.isnan(loaded.forward_seconds):
            height, width = _side(loaded, factor)
            total += loaded.forward_seconds * height * width / (loaded.size[0] * loaded.size[1]) * START_ROWS
    return total


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
                    f"{loaded.name} is trained at {near[0]} x {near[1]} pixels, the nearest that it takes to the "
                    f"{size[0]} x {size[1]} asked for ({reason.rstrip('.')})."
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


def _prepare(field: Field) -> None:
    """Solve the heads at the training resolution and measure a step of every configuration."""
    for configuration, found in _measured(field):
        if isinstance(found, Failure):
            configuration.status = "not run" if isinstance(found.error, BudgetEnded) else "failed"
            configuration.alive = False
            configuration.notes.append(found.reason)
            _out(field, configuration)
        else:
            configuration.step_seconds = found


def _measured(field: Field) -> Iterator[tuple[Configuration, float | Failure]]:
    """Seconds of a step, or why there are none: measured where the trainings will run."""
    names = field.crew.names if field.crew else frozenset()
    known = field.clock.state.get("step_seconds", {})  # by an interrupted call

    def elsewhere(c: Configuration) -> bool:
        return c.loaded.name in names and c.label not in known

    away = [c for c in field.configurations if elsewhere(c)]
    here = [c for c in field.configurations if not elsewhere(c)]
    if away:
        yield from measured_elsewhere(field, away)

    def measure(configuration: Configuration) -> float:
        loaded = configuration.loaded
        if configuration.label not in known:
            return measured_step(field.bench, loaded, configuration.strategy, field.clock.deadline())
        settle_precision(field.bench, loaded)
        if loaded.name in names and (place := field.clock.state.get("trained_on", {}).get(loaded.name)):
            loaded.device, loaded.bf16 = place
        prepare_start(field.bench, loaded, field.clock.deadline())
        return float(known[configuration.label])

    for outcome in LocalEngine().map(measure, here, fatal=(StoreError,)):
        yield outcome.item, outcome.failure or outcome.result or 0.0


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


def _least_seconds(field: Field, an_epoch: int) -> float:
    steps = max(MIN_STEPS, math.ceil(MIN_EPOCHS * an_epoch))
    return min(seconds_of([Round(steps, 1, 1)], [cost]) for cost in field.costs(field.configurations))


def _side(loaded: Loaded, factor: float) -> tuple[int, int]:
    """The native (height, width) times ``factor``, in multiples of 32, never below 64."""
    if loaded.resolution is None:
        return loaded.size
    _, height, width = loaded.encoder.image_preprocess.input_size
    if factor == 1.0 or min(height, width) <= SMALLEST_SIDE:
        return height, width
    return max(SMALLEST_SIDE, round(height * factor / 32) * 32), max(SMALLEST_SIDE, round(width * factor / 32) * 32)
