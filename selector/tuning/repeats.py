"""What is left of a budget after the rounds: rivals as long as the leaders, then the leaders with other seeds."""

from __future__ import annotations

from selector.tuning.field import Configuration, Field, Run
from selector.tuning.plan import Round, seconds_of
from selector.tuning.rounds import far_behind, take, train_configuration
from selector.tuning.trial import Trial


def train_rivals(field: Field) -> None:
    """Configurations that stopped after a short round, for as many steps as the last round had, the best first.

    A short round orders imprecisely; what is left of a budget goes to those that may still be the best: all but those
    far and demonstrably behind the leader, as far as each fits. Without a budget nothing is left.
    """
    ranked = sorted((c for c in field.configurations if c.best), key=field.configuration_order, reverse=True)
    leaders = [configuration for configuration in ranked if configuration.alive]
    if field.clock.budget is None or field.settled or not leaders:
        return
    steps, number = max(_steps(leader) for leader in leaders), max(leader.round for leader in leaders)
    begun = field.clock.state.setdefault("rivals", [])
    for rival in ranked:
        if rival.alive or _steps(rival) >= steps or far_behind(field, rival, leaders[0]):
            continue
        if rival.label not in begun:
            if field.clock.state.get("rivals_over") or _seconds(field, rival, steps) > field.clock.left:
                continue
            begun.append(rival.label)
            field.clock.remember()
        trial = Trial(rival.loaded.name, rival.strategy, rival.rate, field.seed)
        run = train_configuration(field, rival, trial, number, steps)
        if run is not None:
            take(field, rival, [run], number - 1)
            rival.alive = rival.status == "ok"
    field.clock.state["rivals_over"] = True
    field.clock.remember()


def _seconds(field: Field, configuration: Configuration, steps: int) -> float:
    return seconds_of([Round(steps, 1, 1)], [field.cost(configuration)])


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
        runs = [_repeat(field, configuration, field.seed + number) for configuration in leaders]
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


def _repeat(field: Field, configuration: Configuration, seed: int) -> Run | None:
    assert configuration.best is not None
    trial = Trial(configuration.loaded.name, configuration.strategy, configuration.best.trial.rate, seed)
    return train_configuration(field, configuration, trial, configuration.round, _steps(configuration))


def _steps(configuration: Configuration) -> int:
    assert configuration.best is not None
    return configuration.best.steps
