"""The rungs: train, choose a rate, halve, stop when it is settled."""

from __future__ import annotations

import math
from collections.abc import Sequence

from selector.tuning.field import Field, Lane, Run, stats_of
from selector.tuning.loaded import Candidate
from selector.tuning.plan import Plan, Rung, fit_rest
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
                    f"Rung {number + 1} and later were cut to fit the budget."
                    if rest
                    else f"The budget ended after rung {number}."
                )
            rungs = rungs[:number] + list(rest)
            field.clock.state["rungs"] = [[r.steps, r.lanes, r.rates] for r in rungs]
            field.clock.remember()
            if not rest:
                break
            rung = rungs[number]
        if number:
            _halve(field, rung.lanes)
        if not _rung(field, number, rung):
            field.clock.tell(f"The budget ended during rung {number + 1}; its figures are not used.")
            field.clock.state["rungs"] = [[r.steps, r.lanes, r.rates] for r in rungs[:number]]
            field.clock.remember()
            break
        number += 1
        field.clock.state["done"] = max(number, int(field.clock.state["done"]))
        field.clock.remember()
        if not field.alive():
            break
        if number < len(rungs) and stop_if_settled(field, math.log2(max(2.0, rungs[-1].steps / rung.steps))):
            rungs = [*rungs[:number], Rung(rungs[-1].steps, 1, 1)]  # nobody is left to compare with
            field.clock.state["rungs"] = [[r.steps, r.lanes, r.rates] for r in rungs]
            field.clock.remember()


def _rung(field: Field, number: int, rung: Rung) -> bool:
    """Every lane that is alive goes through one rung; False when the deadline came first."""
    found: list[tuple[Lane, list[Run]]] = []
    for lane in field.alive():
        rates = field.bench.rates(lane.loaded, lane.strategy)[: rung.rates] if number == 0 else (lane.rate,)
        runs: list[Run] = []
        for rate in rates:
            if _beyond_the_worse(field, lane, runs, rate):
                continue
            run = _tried(field, lane, rate, number, rung)
            if run is None:
                return False
            runs.append(run)
        if all(run.record.status == "diverged" for run in runs):
            rate = min(rates) * DIVERGED_RATE_SHARE
            run = _tried(field, lane, rate, number, rung)
            if run is None:
                return False
            runs.append(run)
        found.append((lane, runs))
    for lane, runs in found:
        _take(field, lane, runs, number)
    return True


def _tried(field: Field, lane: Lane, rate: float, number: int, rung: Rung) -> Run | None:
    candidate = Candidate(lane.loaded.name, lane.strategy, rate, field.seed)
    return train_lane(field, lane, candidate, number + 1, rung.steps)


def _beyond_the_worse(field: Field, lane: Lane, runs: Sequence[Run], rate: float) -> bool:
    """Whether a further rate is not worth its time: figures fall towards it, from the better of two rates to the worse.

    Only while the better one is not demonstrably worse than the solved head it started from: where
    every rate spoils the network, figures are noise and have no slope.
    """
    if len(runs) != 2 or any(run.record.status != "ok" for run in runs):
        return False
    worse, better = sorted(runs, key=field.order)
    if (worse.candidate.rate - better.candidate.rate) * (rate - worse.candidate.rate) <= 0:
        return False
    start = lane.loaded.start
    return start is None or not field.demonstrably_worse(stats_of(better), start)


def train_lane(field: Field, lane: Lane, candidate: Candidate, rung: int, steps: int) -> Run | None:
    """One training, kept in the history; None when the deadline came first."""
    record = field.bench.run(lane.loaded, candidate, steps, field.clock.deadline())
    if record is None:
        return None
    lane.seconds += float(record.facts["seconds"])
    measured = int(record.facts["steps"])
    if record.status == "ok" and measured:
        lane.loaded.forward_seconds = float(record.facts["evaluate_seconds"]) / len(field.bench.indices["val"])
        lane.step_seconds = max(lane.step_seconds, float(record.facts["seconds"]) / measured)
    field.history.append(
        {
            "model": lane.loaded.name,
            "strategy": lane.strategy,
            "rate": candidate.rate,
            "seed": candidate.seed,
            "rung": rung,
            "steps": steps,
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
                f"{lane.label} went no further: after rung {lane.rung} it was {behind:.3g} behind the leader."
            )
