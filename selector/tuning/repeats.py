"""The leaders again, with other seeds."""

from __future__ import annotations

from selector.tuning.field import Configuration, Field, Run
from selector.tuning.plan import Round, seconds_of
from selector.tuning.rounds import train_configuration
from selector.tuning.trial import Trial


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
        cost = sum(
            seconds_of([Round(_steps(configuration), 1, 1)], [field.cost(configuration)]) for configuration in leaders
        )
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
