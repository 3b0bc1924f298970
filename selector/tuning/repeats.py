"""The leaders again, with other seeds."""

from __future__ import annotations

from selector.tuning.field import Field, Lane, Run
from selector.tuning.loaded import Candidate
from selector.tuning.plan import Rung, seconds_of
from selector.tuning.rungs import train_lane


def repeat_leaders(field: Field) -> None:
    """The two leading lanes again with other seeds, as long as they trained before, as far as time allows."""
    leaders = sorted((lane for lane in field.alive() if lane.best), key=field.lane_order, reverse=True)[:2]
    if len(leaders) < 2 or field.settled:
        return
    allowed = int(field.clock.state.get("repeats", field.settings["repeats"]))
    for number in range(1, allowed + 1):
        cost = sum(seconds_of([Rung(_steps(lane), 1, 1)], [field.cost(lane)]) for lane in leaders)
        if "repeats" not in field.clock.state and cost > field.clock.left:
            field.clock.state["repeats"] = number - 1
            break
        runs = [_repeat(field, lane, field.seed + number) for lane in leaders]
        if any(run is None for run in runs):
            field.clock.state["repeats"] = number - 1
            break
        for lane, run in zip(leaders, runs, strict=True):
            assert run is not None
            if run.record.status == "ok":
                lane.repeats.append(run)
            else:
                lane.notes.append(f"seed {run.candidate.seed} {run.record.status}")
    field.clock.state.setdefault("repeats", allowed)
    field.clock.remember()


def _repeat(field: Field, lane: Lane, seed: int) -> Run | None:
    assert lane.best is not None
    candidate = Candidate(lane.loaded.name, lane.strategy, lane.best.candidate.rate, seed)
    return train_lane(field, lane, candidate, lane.rung, _steps(lane))


def _steps(lane: Lane) -> int:
    assert lane.best is not None
    return lane.best.steps
