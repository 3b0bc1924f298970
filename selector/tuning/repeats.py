"""What is left of a budget after the rounds: rivals and those that wait as long as the leaders, then these with other seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selector.tuning.field import Configuration, Field, Run
from selector.tuning.heads import prepare_start
from selector.tuning.loading import settle_precision
from selector.tuning.plan import SHARE_OF_BUDGET, Round, seconds_of
from selector.tuning.rounds import book, far_behind, take, train_configuration
from selector.tuning.training import Planned, train_configurations
from selector.tuning.trial import Trial

LONGER = 1.5  # times the steps of the last round: fewer more would not show


def train_rivals(field: Field) -> None:
    """Configurations that stopped after a short round, for as many steps as the last round had or at least half of them,
    the best first.

    Behind them come configurations that wait, because the plan had no time for them, the best first.
    A short round orders imprecisely; what is left of a budget goes to those that may still be the best: all but those
    far and demonstrably behind the leader, as far as each fits. Without a budget nothing is left.
    """
    ranked = sorted((c for c in field.configurations if c.best), key=field.configuration_order, reverse=True)
    leaders = [configuration for configuration in ranked if configuration.alive]
    if field.clock.budget is None or not leaders:
        return
    steps, number = max(_steps(leader) for leader in leaders), max(leader.round for leader in leaders)
    begun: dict[str, int] = field.clock.state.setdefault("rivals", {})  # steps by label
    together: list[Configuration] = []  # as many as can be under way at once
    for rival in [*([] if field.settled else ranked), *field.waiting]:
        if rival.best and (rival.alive or _steps(rival) >= steps or far_behind(field, rival, leaders[0])):
            continue
        if rival.label not in begun:
            left = field.clock.left - sum(_seconds(field, other, begun[other.label]) for other in together)
            one, two = (_seconds(field, rival, some) for some in (1, 2))
            fits = min(steps, 1 + int((left - one) / (two - one))) if two > one else steps
            if field.clock.state.get("rivals_over") or fits < max(steps / 2, 1 + (_steps(rival) if rival.best else 0)):
                continue
            begun[rival.label] = fits
            field.clock.remember()
        if not rival.best and rival.loaded.start is None:
            settle_precision(field.bench, rival.loaded)
            prepare_start(field.bench, rival.loaded)
        together.append(rival)
        if len(together) >= field.executor.width:
            _train_rivals(field, together, begun, number)
            together = []
    _train_rivals(field, together, begun, number)
    field.clock.state["rivals_over"] = True
    field.clock.remember()


def _train_rivals(field: Field, rivals: Sequence[Configuration], steps: Mapping[str, int], number: int) -> None:
    entries = [
        Planned(c, (_rate(field, c),), field.seed, steps[c.label], _seconds(field, c, steps[c.label])) for c in rivals
    ]
    for rival, runs in train_configurations(field, entries):
        for run in runs[:1]:
            book(field, rival, run, number)
            _enter(field, rival, run, number)


def name_untrained(field: Field) -> None:
    """One note about all that the budget left no time for."""
    if field.waiting:
        field.notes.append(
            f"{len(field.waiting)} of {len(field.waiting) + len(field.configurations)} configurations not trained, "
            f"because the budget is too short for all: {', '.join(c.label for c in field.waiting)}."
        )


def _enter(field: Field, rival: Configuration, run: Run, number: int) -> None:
    take(field, rival, [run], number - 1)
    rival.alive = rival.status == "ok"
    if rival in field.waiting:
        field.waiting.remove(rival)
        field.configurations.append(rival)


def _seconds(field: Field, configuration: Configuration, steps: int) -> float:
    """What a training takes; one that was only estimated is corrected by what the others took of their estimates."""
    seconds = seconds_of([Round(steps, 1, 1)], [field.cost(configuration)])
    took = [c.step_seconds / c.estimated_seconds for c in field.configurations if c.best]
    return seconds if configuration.best or not took else seconds * max(took)


def train_longer(field: Field) -> None:
    """The leader anew for as many steps as there is time for, where that is half as many again at least.

    Estimates keep something back for a slower machine; what they kept goes to the model that will be saved.
    """
    done: list[int] = field.clock.state.setdefault("longer", [])
    wanted = int(field.clock.state.get("wanted", 0))
    leader = max((c for c in field.alive() if c.best), key=field.configuration_order, default=None)
    if field.clock.budget is None or leader is None:
        return
    if not done:
        one, two = (_seconds(field, leader, some) for some in (1, 2))
        fits = 1 + int((SHARE_OF_BUDGET * field.clock.left - one) / (two - one)) if two > one else 0
        steps = min(fits, wanted)
        done.append(steps if steps >= LONGER * _steps(leader) else 0)
        field.clock.remember()
    if done[0]:
        trial = Trial(leader.loaded.name, leader.strategy, _rate(field, leader), field.seed)
        run = train_configuration(field, leader, trial, leader.round + 1, done[0])
        if run is not None:
            take(field, leader, [run], leader.round)


def repeat_leaders(field: Field) -> None:
    """The two leading configurations again with other seeds, as long as they trained before, as far as time allows."""
    leaders = sorted(
        (configuration for configuration in field.alive() if configuration.best),
        key=field.configuration_order,
        reverse=True,
    )[:2]
    if len(leaders) < 2 or field.settled:
        return
    allowed = int(field.clock.state.get("repeats", field.settings["repeats"]))
    for number in range(1, allowed + 1):
        cost = sum(_seconds(field, configuration, _steps(configuration)) for configuration in leaders)
        if "repeats" not in field.clock.state and cost > field.clock.left:
            field.clock.state["repeats"] = number - 1
            break
        runs = _trained(field, leaders, field.seed + number)
        if any(run is None for run in runs):
            field.clock.state["repeats"] = number - 1
            break
        for configuration, run in zip(leaders, runs, strict=True):
            assert run is not None
            if run.record.status == "ok":
                configuration.repeats.append(run)
            else:
                configuration.notes.append(f"seed {run.trial.seed} {run.record.status}")
    field.clock.state.setdefault("repeats", allowed)
    field.clock.remember()


def _trained(field: Field, leaders: Sequence[Configuration], seed: int) -> list[Run | None]:
    """A run of each with this seed; None where time was too short."""
    entries = [Planned(c, (_rate(field, c),), seed, _steps(c), _seconds(field, c, _steps(c))) for c in leaders]
    found: dict[str, Run | None] = {}
    for configuration, runs in train_configurations(field, entries):
        for run in runs[:1]:
            book(field, configuration, run, configuration.round)
            found[configuration.label] = run
    return [found.get(configuration.label) for configuration in leaders]


def _rate(field: Field, configuration: Configuration) -> float:
    """Of its best run; the first by preference for one that has not been trained."""
    if configuration.best is None:
        return field.rates(configuration)[0]
    return configuration.best.trial.rate


def _steps(configuration: Configuration) -> int:
    assert configuration.best is not None
    return configuration.best.steps
