"""The rungs: train, choose a rate, halve, stop when it is settled."""

from __future__ import annotations

import math
from collections.abc import Sequence

from selector.tuning.field import Field, Lane, Run, stats_of
from selector.tuning.loaded import Candidate
from selector.tuning.plan import SHARE_OF_BUDGET, Plan, Rung, fit_rest, seconds_of
from selector.tuning.settle import stop_if_settled

DIVERGED_RATE_SHARE = 0.1
FAR_BEHIND = 5  # ε behind the leader; no lane of the recorded trainings made up for so much


def run_rungs(field: Field, plan: Plan) -> None:
    """Take the lanes through the rungs; what is left of the budget cuts those that are left."""
    rungs = list(plan.rungs)
    number = 0
    while number < len(rungs):
        rung = rungs[number]
        if number >= int(field.clock.state["done"]) and field.clock.budget is not None:
            alive = field.costs(field.alive())
            rest = fit_rest(rungs[number:], alive, max(0.0, field.clock.left), rungs[number - 1].steps if number else 0)
            if rest != tuple(rungs[number:]):
                field.clock.tell(
                    f"Round {number + 1} and later were cut to fit the budget."
                    if rest
                    else f"The budget ended after round {number}."
                )
            rungs = rungs[:number] + list(rest)
            field.clock.state["rungs"] = [[r.steps, r.lanes, r.rates] for r in rungs]
            field.clock.remember()
            if not rest:
                break
            rung = rungs[number]
        if number:
            _halve(field, rung.lanes)
        if not _rung(field, number, rung, rungs[number + 1 :]):
            field.clock.state["rungs"] = [[r.steps, r.lanes, r.rates] for r in rungs[: number + 1]]
            field.clock.remember()
            break
        number += 1
        field.clock.state["done"] = max(number, int(field.clock.state["done"]))
        field.clock.remember()
        if not field.alive():
            break
        if number < len(rungs) and stop_if_settled(field, math.log2(max(2.0, rungs[-1].steps / rung.steps))):
            # nobody is left to compare with: the leader gets the time of its rivals
            rungs = [*rungs[:number], Rung(_most_steps(field, rungs[-1].steps), 1, 1)]
            field.clock.state["rungs"] = [[r.steps, r.lanes, r.rates] for r in rungs]
            field.clock.remember()


def _most_steps(field: Field, planned: int) -> int:
    """Steps that the only lane left has time for; at least as planned, at most as a whole training has."""
    (lane,) = field.alive()
    if field.clock.budget is None:
        return planned
    cost = field.cost(lane)
    fits = int((SHARE_OF_BUDGET * field.clock.left - cost.start - cost.evaluate) / cost.step)
    return max(planned, min(fits, int(field.clock.state.get("wanted", planned))))


def _rung(field: Field, number: int, rung: Rung, later: Sequence[Rung] = ()) -> bool:
    """Every lane that is alive goes through one rung, the cheap ones first; False when the time is over.

    Each training may take what is left in proportion to what is planned of it, so that none takes the time of those
    behind it: one that runs slower than planned is cooled down, and measured as all others.
    """
    lanes = field.alive()
    if field.clock.budget is not None:
        lanes = sorted(lanes, key=lambda lane: lane.step_seconds)
    rates = {
        lane.label: field.bench.rates(lane.loaded, lane.strategy)[: rung.rates] if number == 0 else (lane.rate,)
        for lane in lanes
    }
    measured = 0
    for place, lane in enumerate(lanes):
        runs: list[Run] = []
        for tried, rate in enumerate(rates[lane.label]):
            if _beyond_the_worse(field, lane, runs, rate):
                continue
            rest = [
                (lane, len(rates[lane.label]) - tried),
                *((other, len(rates[other.label])) for other in lanes[place + 1 :]),
            ]
            run = _tried(field, lane, rate, number, rung, _deadline(field, lane, rung, rest, later))
            if run is None:
                break
            runs.append(run)
        if runs and all(run.record.status == "diverged" for run in runs):
            rate = min(rates[lane.label]) * DIVERGED_RATE_SHARE
            run = _tried(field, lane, rate, number, rung, field.clock.deadline())
            runs += [] if run is None else [run]
        if runs:
            _take(field, lane, runs, number)
            measured += 1
        if field.clock.now() >= field.clock.deadline():
            break
    if measured < len(lanes):
        left = ", ".join(lane.label for lane in lanes[measured:])
        field.clock.tell(
            f"The budget ended in round {number + 1}, after {measured} of {len(lanes)} configurations; not reached: {left}."
        )
    return measured == len(lanes)


def _deadline(field: Field, lane: Lane, rung: Rung, rest: Sequence[tuple[Lane, int]], later: Sequence[Rung]) -> float:
    """Until when a training of ``lane`` may run: its share of the time that is left.

    Args:
        rest: lanes of this rung that are not through, this one included, with the trainings of each that are left.
        later: the rungs behind this one, whose time is kept.
    """
    end = field.clock.deadline()
    if math.isinf(end):
        return end

    def planned(one: Lane, steps: int) -> float:
        cost = field.cost(one)
        return cost.start + cost.evaluate + cost.step * steps

    kept = seconds_of(later, [field.cost(one) for one in field.alive()])
    total = kept + sum(count * planned(one, rung.steps) for one, count in rest)
    left = end - field.clock.now()
    return field.clock.now() + left * min(1.0, planned(lane, rung.steps) / total if total > 0 else 1.0)


def _tried(field: Field, lane: Lane, rate: float, number: int, rung: Rung, deadline: float) -> Run | None:
    candidate = Candidate(lane.loaded.name, lane.strategy, rate, field.seed)
    return train_lane(field, lane, candidate, number + 1, rung.steps, deadline)


def _beyond_the_worse(field: Field, lane: Lane, runs: Sequence[Run], rate: float) -> bool:
    """Whether a further rate is not worth its time: figures fall towards it, from the better of two rates to the worse.

    Only while the better one is not demonstrably worse than the linear-probe initialisation it started from: where
    every rate spoils the network, figures are noise and have no slope.
    """
    if len(runs) != 2 or any(run.record.status != "ok" for run in runs):
        return False
    worse, better = sorted(runs, key=field.order)
    if (worse.candidate.rate - better.candidate.rate) * (rate - worse.candidate.rate) <= 0:
        return False
    start = lane.loaded.start
    return start is None or not field.demonstrably_worse(stats_of(better), start)


def train_lane(
    field: Field, lane: Lane, candidate: Candidate, rung: int, steps: int, deadline: float | None = None
) -> Run | None:
    """One training, kept in the history; None when there was no time for a single step."""
    end = field.clock.deadline() if deadline is None else deadline
    record = field.bench.run(lane.loaded, candidate, steps, end)
    if record is None:
        return None
    lane.seconds += float(record.facts["seconds"])
    measured = int(record.facts["steps"])
    if record.status == "ok" and measured:
        # what a training takes while it runs is what the rest of the plan goes by
        lane.loaded.forward_seconds = float(record.facts["evaluate_seconds"]) / len(field.bench.indices["val"])
        lane.step_seconds = float(record.facts["seconds"]) / measured
        field.bench.remember_costs(lane.loaded, lane.strategy, lane.step_seconds, lane.loaded.forward_seconds)
    field.history.append(
        {
            "model": lane.loaded.name,
            "strategy": lane.strategy,
            "rate": candidate.rate,
            "seed": candidate.seed,
            "round": rung,
            "steps": steps,
            "steps_done": measured,
            "status": record.status,
            "value": field.value(record),
            "seconds": record.facts["seconds"],
            "processor_seconds": record.facts.get("processor_seconds", 0.0),
            "precision": record.facts.get("precision"),
            "notes": list(record.facts["notes"]),
        }
    )
    field.clock.remember()
    return Run(candidate, steps, record)


def _take(field: Field, lane: Lane, runs: Sequence[Run], number: int) -> None:
    """The lane goes on from its best run; weights that nobody needs are removed."""
    good = [run for run in runs if run.record.status == "ok"]
    for run in runs:
        if run.record.status != "ok":
            lane.notes.append(
                f"rate {run.candidate.rate:g} {run.record.status}: {'; '.join(run.record.facts['notes'])}"
            )
        else:
            lane.notes += [note for note in run.record.facts["notes"] if note not in lane.notes]
    if not good:
        lane.alive = False
        lane.status = "ok" if lane.best else runs[-1].record.status
        return
    chosen = max(good, key=field.order)
    lane.rate, lane.rung = chosen.candidate.rate, number + 1
    start = [] if lane.loaded.start is None else [lane.loaded.start]
    lane.trail = [*(lane.trail or start), stats_of(chosen)]
    before = lane.best
    # the longer training counts: the best of several rungs on few images would be the luckiest one
    if before is None or not field.demonstrably_worse(stats_of(chosen), stats_of(before)):
        lane.best = chosen
    for run in good if before is None else [*good, before]:
        if run is not lane.best:
            field.bench.journal.forget_weights(field.key(lane, run))


def _halve(field: Field, lanes: int) -> None:
    """The better lanes go on; of them none that is far and demonstrably behind the leader."""
    ranked = sorted(field.alive(), key=field.lane_order, reverse=True)
    for lane in ranked[lanes:]:
        lane.alive = False
    leader = ranked[0]
    for lane in ranked[1:lanes]:
        behind = field.lane_order(leader)[0] - field.lane_order(lane)[0]
        far = behind > FAR_BEHIND * field.epsilon
        if far and field.demonstrably_worse(field.standing(lane), field.standing(leader)):
            lane.alive = False
            field.clock.tell(
                f"{lane.label} was pruned: after round {lane.rung} it was {behind:.3g} below the best configuration."
            )
