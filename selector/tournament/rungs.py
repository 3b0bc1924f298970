"""The rungs: train, choose a rate, halve, stop when it is settled, repeat the leaders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from selector.tournament.field import Field, Lane, Run, logits_of
from selector.tournament.plan import Plan, Rung, fit_rest, seconds_of
from selector.tournament.workbench import Candidate

CONFIDENT = 0.95
DIVERGED_RATE_SHARE = 0.1


def run_rungs(field: Field, plan: Plan) -> None:
    """Take the lanes through the rungs; what is left of the budget cuts those that are left."""
    rungs = list(plan.rungs)
    number = 0
    while number < len(rungs):
        rung = rungs[number]
        if number >= int(field.clock.state["done"]) and field.clock.budget is not None:
            alive = field.costs(field.alive())
            rest = fit_rest(rungs[number:], alive, max(0.0, field.clock.left))
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
        if number < len(rungs) and _stop_if_settled(field):
            # nobody is left to compare with: one long cycle instead of several short ones
            rungs = [*rungs[:number], Rung(sum(r.steps for r in rungs[number:]), 1, 1)]
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
            run = _train(field, lane, Candidate(lane.loaded.name, lane.strategy, rate, field.seed), number, rung.steps)
            if run is None:
                return False
            runs.append(run)
        if all(run.record.status == "diverged" for run in runs):
            rate = min(rates) * DIVERGED_RATE_SHARE
            run = _train(field, lane, Candidate(lane.loaded.name, lane.strategy, rate, field.seed), number, rung.steps)
            if run is None:
                return False
            runs.append(run)
        found.append((lane, runs))
    for lane, runs in found:
        _take(field, lane, runs, number)
    return True


def _beyond_the_worse(field: Field, lane: Lane, runs: Sequence[Run], rate: float) -> bool:
    """Whether a further rate is not worth its time: figures fall towards it, from the better of two rates to the worse.

    Only while the better one is not demonstrably worse than the frozen head it started from: where
    every rate spoils the network, figures are noise and have no slope.
    """
    if len(runs) != 2 or any(run.record.status != "ok" for run in runs):
        return False
    worse, better = sorted(runs, key=field.order)
    if (worse.candidate.rate - better.candidate.rate) * (rate - worse.candidate.rate) <= 0:
        return False
    start = lane.loaded.frozen
    assert start is not None
    assert start.logits is not None
    return not _demonstrably_worse(field, logits_of(better), start.logits)


def _demonstrably_worse(field: Field, outputs: np.ndarray, than: np.ndarray) -> bool:
    """Whether the 90 % interval of the paired difference on val lies below zero."""
    entrants = {"outputs": [outputs], "than": [than]}
    table = field.standings(entrants)
    return table["outputs"].low > 0


def _train(field: Field, lane: Lane, candidate: Candidate, number: int, steps: int) -> Run | None:
    lineage = (*lane.lineage, steps)
    record = field.bench.run(lane.loaded, candidate, lineage, field.clock.deadline())
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
            "rung": number + 1,
            "steps": sum(lineage),
            "status": record.status,
            "value": field.value(record),
            "seconds": record.facts["seconds"],
            "processor_seconds": record.facts.get("processor_seconds", 0.0),
            "notes": list(record.facts["notes"]),
        }
    )
    field.clock.remember()
    return Run(candidate, lineage, record)


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
    lane.rate, lane.lineage, lane.rung = chosen.candidate.rate, chosen.lineage, number + 1
    keep = {field.key(lane, chosen)}
    # the longer training counts: the best of several rungs on few images would be the luckiest one
    if lane.best is None or not _demonstrably_worse(field, logits_of(chosen), logits_of(lane.best)):
        lane.best = chosen
    keep.add(field.key(lane, lane.best))
    for run in good:
        if field.key(lane, run) not in keep:
            field.bench.journal.forget_weights(field.key(lane, run))
    if len(lane.lineage) > 1:
        before = Run(chosen.candidate, chosen.lineage[:-1], chosen.record)
        if field.key(lane, before) not in keep:
            field.bench.journal.forget_weights(field.key(lane, before))


def _halve(field: Field, lanes: int) -> None:
    ranked = sorted(field.alive(), key=field.lane_order, reverse=True)
    for lane in ranked[lanes:]:
        lane.alive = False


def _stop_if_settled(field: Field) -> bool:
    """Rivals stop when the leader is the best with 95 %, or none can plausibly gain ε on it."""
    alive = field.alive()
    if len(alive) < 2:
        return False
    entrants = {lane.label: [logits_of(lane.best)] for lane in alive if lane.best}
    table = field.standings(entrants)
    leader = max(table, key=lambda label: table[label].p_best)
    most = max((-s.low for label, s in table.items() if label != leader), default=0.0)
    if table[leader].p_best < CONFIDENT and most >= field.epsilon:
        return False
    field.settled = True
    field.clock.tell(
        f"{leader} was settled after rung {max(lane.rung for lane in alive)} (P(best) {table[leader].p_best:.2f}); "
        "its rivals stopped."
    )
    for lane in alive:
        lane.alive = lane.label == leader
    return True


def repeat_leaders(field: Field) -> None:
    """The two leading lanes again with other seeds, the same rungs, as far as time allows."""
    leaders = sorted((lane for lane in field.alive() if lane.best), key=field.lane_order, reverse=True)[:2]
    if len(leaders) < 2 or field.settled:
        return
    allowed = int(field.clock.state.get("repeats", field.settings["repeats"]))
    for number in range(1, allowed + 1):
        cost = sum(seconds_of([Rung(steps, 1, 1) for steps in lane.lineage], [field.cost(lane)]) for lane in leaders)
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
    candidate = Candidate(lane.loaded.name, lane.strategy, lane.rate, seed)
    run: Run | None = None
    for number in range(len(lane.best.lineage)):
        lineage = lane.best.lineage[: number + 1]
        record = field.bench.run(lane.loaded, candidate, lineage, field.clock.deadline())
        if record is None:
            return None
        run = Run(candidate, lineage, record)
        lane.seconds += float(record.facts["seconds"])
        field.clock.remember()
        if record.status != "ok":
            break
        if number:
            field.bench.journal.forget_weights(field.bench.key(lane.loaded, candidate, lineage[:-1]))
    assert run is not None
    field.history.append(
        {
            "model": lane.loaded.name,
            "strategy": lane.strategy,
            "rate": lane.rate,
            "seed": seed,
            "rung": lane.rung,
            "steps": sum(run.lineage),
            "status": run.record.status,
            "value": field.value(run.record),
            "seconds": run.record.facts["seconds"],
            "processor_seconds": run.record.facts.get("processor_seconds", 0.0),
            "notes": list(run.record.facts["notes"]),
        }
    )
    return run
