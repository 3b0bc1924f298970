"""The rounds: train, choose a rate, halve, stop when it is settled."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from selector.tuning.compare import spread_of_changes
from selector.tuning.field import Configuration, Field, Run, stats_of
from selector.tuning.plan import FEWEST_STEPS, Round, TrainingPlan, fit_rest, seconds_of
from selector.tuning.training import Planned, planned, train_configurations

FAR_BEHIND = 5  # ε behind the leader; no configuration of the recorded trainings made up for so much


def run_rounds(field: Field, plan: TrainingPlan) -> None:
    """Take the configurations through the rounds, which are fitted to what is left of the budget before each."""
    rounds = list(plan.rounds)
    number = 0
    while number < len(rounds):
        if number >= int(field.clock.state["done"]) and field.clock.budget is not None:
            rounds = _fitted(field, rounds, number)
            if number == len(rounds):
                break
        this = rounds[number]
        if number:
            _halve(field, this.configurations)
        if not _run_round(field, number, this, rounds[number + 1 :]):
            field.keep(rounds[: number + 1])
            break
        number += 1
        field.clock.state["done"] = max(number, int(field.clock.state["done"]))
        field.clock.remember()
        if not field.alive():
            break
        if number < len(rounds) and stop_if_settled(field, math.log2(max(2.0, rounds[-1].steps / this.steps))):
            # nobody is left to compare with: the leader gets the time of its rivals
            rounds = [*rounds[:number], Round(rounds[-1].steps, 1, 1)]
            field.keep(rounds)
    if field.empty_handed():
        _train_one(field)


def _train_one(field: Field) -> None:
    """A few steps of the first configuration that takes them, whatever the clock says: a budget always ends with a model."""
    for configuration in field.alive():
        for _, run in train_once(field, [planned(field, configuration, FEWEST_STEPS, seconds=math.inf)], 1):
            take(field, configuration, [run], 0)
        if configuration.best:
            return


def _fitted(field: Field, rounds: Sequence[Round], number: int) -> list[Round]:
    """The rounds, those from ``number`` on with as many steps as there is time for, by what a step takes now.

    They grow at most to a whole training, and once: a call that goes on, or another with this plan, does the same steps.
    """
    going_on = _survivors(field, rounds[number].configurations)[0] if number else field.alive()
    grown = field.clock.state.setdefault("grown", [])
    most = int(field.clock.state.get("wanted", 0)) if number and number not in grown else 0
    done = rounds[number - 1].steps if number else 0
    rest = fit_rest(rounds[number:], field.costs(going_on), max(0.0, field.clock.left), done, most, field.again)
    if not rest:
        field.clock.tell(f"The budget ended after round {number}.")
    elif rest[0].steps < rounds[number].steps or len(rest) < len(rounds) - number:
        field.clock.tell(f"Round {number + 1} and later were cut to fit the budget.")
    elif rest[0].steps > rounds[number].steps:
        field.clock.tell(f"Round {number + 1} grew to {rest[0].steps} steps: there is time for them.")
    if most:
        grown.append(number)
    fitted = [*rounds[:number], *rest]
    field.keep(fitted)
    return fitted


def _run_round(field: Field, number: int, this: Round, later: Sequence[Round] = ()) -> bool:
    """Every configuration that is alive goes through one round, the cheap ones first; False when the time is over.

    Each training may take what is left in proportion to what is planned of it, so that none takes the time of those
    behind it: one that runs slower than planned is cooled down, and measured as all others.
    """
    configurations = field.alive()
    if field.clock.budget is not None:
        configurations = sorted(configurations, key=lambda configuration: configuration.step_seconds)
    entries = []
    for c in configurations:
        rates = field.rates(c)[: this.rates] if number == 0 else (c.rate,)
        entries.append(Planned(c, rates, field.seed, this.steps, len(rates) * field.cost(c).seconds(this.steps)))
    costs = [field.cost(one) for one in configurations]
    kept = seconds_of([this, *later], costs, field.again) - seconds_of([this], costs)
    reached, begun = [], len(field.history)
    for configuration, runs in train_configurations(field, entries, kept):
        for run in runs:
            book(field, configuration, run, number + 1)
        if runs:
            take(field, configuration, runs, number)
            reached.append(configuration.label)
    order = {(c.loaded.name, c.strategy): place for place, c in enumerate(configurations)}
    field.history[begun:] = sorted(field.history[begun:], key=lambda entry: order[entry["model"], entry["strategy"]])
    missed = [configuration.label for configuration in configurations if configuration.label not in reached]
    if missed:
        field.clock.tell(
            f"The budget ended in round {number + 1}, after {len(reached)} of {len(configurations)} configurations; "
            f"not reached: {', '.join(missed)}."
        )
    return not missed


def train_once(
    field: Field, entries: Sequence[Planned], number: int | None = None
) -> Iterator[tuple[Configuration, Run]]:
    """Each configuration with its run at the only rate, as they end, kept in the history; without those that there was no
    time for.

    Args:
        number: of the round; None for that of the configuration.
    """
    for configuration, runs in train_configurations(field, entries):
        for run in runs[:1]:
            book(field, configuration, run, configuration.round if number is None else number)
            yield configuration, run


def train_on_all(field: Field, configuration: Configuration, best: Run) -> Run | None:
    """The training that was chosen once more, for as many epochs on train and validation items together.

    It stays out of the history: its value on validation items, which it has seen, says nothing but that it learned.

    Returns:
        None where there is no time for it, or where it knows these items no better than the one that has not seen them.
    """
    entry = planned(field, configuration, round(best.taken * field.once_more), best.trial.seed, all_labels=True)
    fits = field.clock.state.setdefault("on_all", entry.planned <= field.clock.left)
    field.clock.remember()
    if not fits:
        return None
    for _, runs in train_configurations(field, [entry]):
        for run in runs[:1]:
            configuration.seconds += float(run.record.facts["seconds"])
            if run.record.status == "ok" and field.order(run)[0] >= field.order(best)[0]:
                return run
    return None


def book(field: Field, configuration: Configuration, run: Run, number: int) -> None:
    """Add a run to the history; the rest of the plan goes by what it took."""
    record, measured = run.record, run.taken
    configuration.seconds += float(record.facts["seconds"])
    if record.status == "ok" and measured > 0:
        configuration.loaded.forward_seconds = float(record.facts["evaluate_seconds"]) / len(field.bench.indices["val"])
        configuration.step_seconds = float(record.facts["seconds"]) / measured
        field.renew_reserve()
    field.history.append(
        {
            "model": configuration.loaded.name,
            "strategy": configuration.strategy,
            "rate": run.trial.rate,
            "seed": run.trial.seed,
            "round": number,
            "steps": run.steps,
            "steps_done": measured,
            "status": record.status,
            "value": field.value(record),
            "losses": record.facts.get("losses", []),
            "seconds": record.facts["seconds"],
            "evaluate_seconds": record.facts.get("evaluate_seconds", 0.0),
            "processor_seconds": record.facts.get("processor_seconds", 0.0),
            "precision": record.facts.get("precision"),
            "notes": list(record.facts["notes"]),
        }
    )
    field.clock.remember()


def take(field: Field, configuration: Configuration, runs: Sequence[Run], number: int) -> None:
    """The configuration goes on from its best run; weights that nobody needs are removed."""
    good = [run for run in runs if run.record.status == "ok"]
    for run in runs:
        if run.record.status != "ok":
            reason = "; ".join(run.record.facts["notes"])
            diverged = run.record.status == "diverged"
            configuration.notes.append(f"rate {run.trial.rate:g} diverged: {reason}" if diverged else reason)
        else:
            configuration.notes += [note for note in run.record.facts["notes"] if note not in configuration.notes]
    if not good:
        configuration.alive = False
        configuration.status = "ok" if configuration.best else runs[-1].record.status
        return
    chosen = max(good, key=field.order)
    configuration.rate, configuration.round = chosen.trial.rate, number + 1
    start = [] if configuration.loaded.start is None else [configuration.loaded.start]
    configuration.trail = [*(configuration.trail or start), stats_of(chosen)]
    before = configuration.best
    # the longer training counts: the best of several rounds on few images would be the luckiest one
    if before is None or not field.demonstrably_worse(stats_of(chosen), stats_of(before)):
        configuration.best = chosen
    for run in good if before is None else [*good, before]:
        if run is not configuration.best:
            field.bench.journal.forget_weights(field.key(configuration, run))


def _halve(field: Field, configurations: int) -> None:
    """The better configurations go on; of them none that is far and demonstrably behind the leader."""
    kept, pruned = _survivors(field, configurations)
    for configuration in field.alive():
        configuration.alive = configuration in kept
    leader = kept[0]
    for configuration in pruned:
        behind = field.configuration_order(leader)[0] - field.configuration_order(configuration)[0]
        field.clock.tell(
            f"{configuration.label} was pruned: after round {configuration.round} it was {behind:.3g} below the best configuration."
        )


def _survivors(field: Field, configurations: int) -> tuple[list[Configuration], list[Configuration]]:
    """Of so many leaders those that go on, the best first, and those that are pruned."""
    leader, *others = sorted(field.alive(), key=field.configuration_order, reverse=True)[:configurations]
    pruned = [configuration for configuration in others if far_behind(field, configuration, leader)]
    return [leader, *(configuration for configuration in others if configuration not in pruned)], pruned


def far_behind(field: Field, configuration: Configuration, leader: Configuration) -> bool:
    """Whether a configuration is so far, and demonstrably, below the leader that no longer training makes up for it."""
    behind = field.configuration_order(leader)[0] - field.configuration_order(configuration)[0]
    return behind > FAR_BEHIND * field.epsilon and field.demonstrably_worse(
        field.standing(configuration), field.standing(leader)
    )


CONFIDENT = 0.95


def stop_if_settled(field: Field, doublings: float) -> bool:
    """Rivals stop when the leader is the best with 95%, or none can plausibly gain ε on it.

    Two things are uncertain: which images validation has (resampled), and what the rounds that are
    left would do to the order: they double the steps so many times, and each doubling is taken to move the
    configurations apart as much as the last round did, as independent changes.
    """
    alive = [configuration for configuration in field.alive() if configuration.best]
    if len(alive) < 2 or any(len(configuration.trail) < 2 for configuration in alive):
        return False  # nothing says yet what a round moves
    before, after = (
        [configuration.trail[-2] for configuration in alive],
        [configuration.trail[-1] for configuration in alive],
    )
    spread = spread_of_changes(before, after, field.metric)
    entrants = {configuration.label: [field.standing(configuration)] for configuration in alive}
    table = field.standings(entrants, unfinished=math.sqrt(doublings) * spread)
    leader = min(table, key=lambda label: table[label].difference)  # whom the gaps of all others are measured from
    most = max((-s.low for label, s in table.items() if label != leader), default=0.0)
    if table[leader].p_best < CONFIDENT and most >= field.epsilon:
        return False
    field.settled = True
    number = max(configuration.round for configuration in alive)
    field.clock.tell(
        f"Rivals of {leader} stopped after round {number}: it is the best with {table[leader].p_best:.0%}, and they may gain "
        f"{max(0.0, most):.2g} on it at most."
    )
    for configuration in alive:
        configuration.alive = configuration.label == leader
    return True
