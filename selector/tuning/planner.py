"""From what the lanes cost, measured, to the rungs that the budget allows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from selector.core.contracts import Progress
from selector.core.engine import LocalEngine
from selector.core.errors import StoreError
from selector.core.units import format_duration
from selector.tuning.field import Field, Lane
from selector.tuning.heads import START_ROWS, prepare_start
from selector.tuning.loaded import Loaded
from selector.tuning.plan import MIN_EPOCHS, MIN_STEPS, Plan, Rung, make_plan, seconds_of
from selector.tuning.plan import Lane as Cost

EPOCHS = 20  # of the winner, when neither budget nor steps are given
STEPS_AT_LEAST, STEPS_AT_MOST = 100, 3000
FACTORS = (1.0, 0.72, 0.58, 0.43)  # of the native side: 224, 160, 128, 96
SMALLEST_SIDE = 64
GOOD_EPOCHS = 3  # of the winner: below it a smaller resolution is taken first


def plan_rungs(field: Field) -> Plan | None:
    """Choose resolution, rates and steps, or take up the plan of an interrupted call.

    Lanes that the budget leaves no time for are removed from the field, with a note; None when none is left.
    """
    train = len(field.bench.indices["train"])
    batch = min(field.bench.batch_size, train)
    an_epoch = max(1, train // batch)
    wanted = field.settings["max_steps"] or min(max(EPOCHS * an_epoch, STEPS_AT_LEAST), STEPS_AT_MOST)
    if field.clock.state["rungs"]:
        _set_factor(field, float(field.clock.state["factor"]))
        _prepare(field)
        rungs = tuple(Rung(*rung) for rung in field.clock.state["rungs"])
        field.notes += field.clock.state["notes"]
        for line in field.clock.course:
            field.bench.notify(Progress("plan", 0, 0, "rounds", note=line))
        field.lanes = [lane for lane in field.lanes if lane.label in field.clock.state["step_seconds"]]
        for lane in field.lanes:
            lane.step_seconds = float(field.clock.state["step_seconds"][lane.label])
        return Plan(rungs, 0.0) if field.lanes else None
    noted = len(field.notes)
    factor = _choose_factor(field, wanted, an_epoch)
    plan = None
    while field.lanes:
        plan = make_plan(
            field.costs(field.lanes), budget=_finite_left(field), max_steps=wanted, steps_an_epoch=an_epoch
        )
        if plan is not None or len(field.lanes) == 1:
            break
        # too little for all: the lane that starts from the worst frozen figure leaves first
        worst = min(field.lanes, key=lambda lane: (field.frozen_value(lane.loaded), -lane.step_seconds))
        field.notes.append(
            f"{worst.label} was not trained: the budget is too short for {len(field.lanes)} configurations."
        )
        field.lanes.remove(worst)
    if plan is None and field.lanes:
        # rather a few steps of the one lane that is left than nothing
        plan = make_plan(
            field.costs(field.lanes),
            budget=_finite_left(field),
            max_steps=wanted,
            steps_an_epoch=an_epoch,
            min_epochs=0.0,
        )
    if plan is None:
        if field.lanes:
            need = _least_seconds(field, an_epoch)
            field.notes.append(
                f"the budget of {format_duration(field.clock.budget or 0)} is shorter than one round (about "
                f"{format_duration(need)} more are needed): the frozen encoders with linear probes are compared instead."
            )
        field.lanes = []
        return None
    field.clock.state["rungs"] = [[r.steps, r.lanes, r.rates] for r in plan.rungs]
    field.clock.state["factor"] = factor
    field.clock.state["wanted"] = wanted
    field.clock.state["step_seconds"] = {lane.label: lane.step_seconds for lane in field.lanes}
    told = (
        ", then ".join(
            f"{_several(r.lanes, 'configuration')} x {_several(r.rates, 'rate')} x {r.steps} steps" for r in plan.rungs
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
    areas = {lane.label: lane.loaded.size[0] * lane.loaded.size[1] for lane in field.lanes}
    # rather small images and a training worth its name than a few steps at full size
    for epochs, least_rates in ((GOOD_EPOCHS, 2), (GOOD_EPOCHS, 1), (0, 2), (0, 1)):
        for factor in FACTORS:
            costs = []
            for lane in field.lanes:
                height, width = _side(lane.loaded, factor)
                grown = height * width / areas[lane.label]
                cost = field.cost(lane)
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
    for loaded in {lane.loaded.name: lane.loaded for lane in field.lanes}.values():
        if not math.isnan(loaded.forward_seconds):
            height, width = _side(loaded, factor)
            total += loaded.forward_seconds * height * width / (loaded.size[0] * loaded.size[1]) * START_ROWS
    return total


def _set_factor(field: Field, factor: float) -> None:
    resolution = field.settings["resolution"]
    for loaded in {lane.loaded.name: lane.loaded for lane in field.lanes}.values():
        if loaded.resolution is None:
            continue  # a text has no resolution
        native = loaded.encoder.image_preprocess.input_size[1:]
        size = _side(loaded, factor)
        if resolution is not None:
            size = _short_side(native, resolution)
        if not field.bench.reduce(loaded, size):
            field.notes.append(
                f"{loaded.name} stays at {native[0]} x {native[1]}: its architecture allows no other size."
            )


def _short_side(native: Sequence[int], short: int) -> tuple[int, int]:
    """(height, width) of this short side, the long one in a multiple of 32; never larger than the native size.

    >>> _short_side((224, 224), 100), _short_side((224, 288), 128), _short_side((224, 288), 300)
    ((100, 100), (128, 160), (224, 288))
    """
    height, width = native
    if short >= min(height, width):
        return height, width
    if height == width:
        return short, short
    long = max(32, round(short * max(height, width) / min(height, width) / 32) * 32)
    return (short, long) if height < width else (long, short)


def _prepare(field: Field) -> None:
    """Solve the heads at the training resolution and measure a step of every lane."""

    def measure(lane: Lane) -> float:
        field.bench.settle_precision(lane.loaded)
        prepare_start(field.bench, lane.loaded, field.clock.deadline())
        if lane.label in field.clock.state.get("step_seconds", {}):
            return float(field.clock.state["step_seconds"][lane.label])
        known = field.bench.remembered_costs(lane.loaded, lane.strategy)
        if known is not None:
            lane.loaded.forward_seconds = known["forward"]
            return known["step"]
        return field.bench.measure_step(lane.loaded, lane.strategy)

    for outcome in LocalEngine().map(measure, list(field.lanes), fatal=(StoreError,)):
        lane = outcome.item
        if outcome.result is None:
            lane.status = "failed"
            lane.alive = False
            lane.notes.append(outcome.failure.reason if outcome.failure else "unknown")
            _out(field, lane)
        else:
            lane.step_seconds = outcome.result


def _out(field: Field, lane: Lane) -> None:
    """A lane that failed before its first rung: measured as failed."""
    field.lanes.remove(lane)
    field.history.append(
        {"model": lane.loaded.name, "strategy": lane.strategy, "status": "failed", "notes": lane.notes}
    )
    field.dead.append(lane)


def _least_seconds(field: Field, an_epoch: int) -> float:
    steps = max(MIN_STEPS, math.ceil(MIN_EPOCHS * an_epoch))
    return min(seconds_of([Rung(steps, 1, 1)], [cost]) for cost in field.costs(field.lanes))


def _side(loaded: Loaded, factor: float) -> tuple[int, int]:
    """The native (height, width) times ``factor``, in multiples of 32, never below 64."""
    if loaded.resolution is None:
        return loaded.size
    _, height, width = loaded.encoder.image_preprocess.input_size
    if factor == 1.0 or min(height, width) <= SMALLEST_SIDE:
        return height, width
    return max(SMALLEST_SIDE, round(height * factor / 32) * 32), max(SMALLEST_SIDE, round(width * factor / 32) * 32)
