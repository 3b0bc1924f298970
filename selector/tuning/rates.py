"""One configuration in one round: which learning rates it is tried at."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from selector.tuning.field import Configuration, Field, Run, stats_of

DIVERGED_RATE_SHARE = 0.1


def try_rates(
    field: Field, configuration: Configuration, rates: Sequence[float], train: Callable[[int, float], Run | None]
) -> list[Run]:
    """Train at each rate; a third that lies beyond the worse of two is left out, and where all diverge a lower one is
    tried.

    Args:
        train: (number of rates before it, rate) -> the run, or None when there was no time for it.
    """
    runs: list[Run] = []
    for before, rate in enumerate(rates):
        if _beyond_the_worse(field, configuration, runs, rate):
            continue
        run = train(before, rate)
        if run is None:
            break
        runs.append(run)
        if run.record.status == "failed":
            break  # for another reason than its rate
    if runs and all(run.record.status == "diverged" for run in runs):
        run = train(len(rates), lower_rate(rates))
        runs += [] if run is None else [run]
    return runs


def lower_rate(rates: Sequence[float]) -> float:
    """What is tried where all diverge."""
    return min(rates) * DIVERGED_RATE_SHARE


def _beyond_the_worse(field: Field, configuration: Configuration, runs: Sequence[Run], rate: float) -> bool:
    """Whether a further rate is not worth its time: metrics fall towards it, from the better of two rates to the worse.

    Only while the better one is not demonstrably worse than the linear-probe initialization it started from: where
    every rate spoils the network, metrics are noise and have no slope.
    """
    if len(runs) != 2 or any(run.record.status != "ok" for run in runs):
        return False
    worse, better = sorted(runs, key=field.order)
    if (worse.trial.rate - better.trial.rate) * (rate - worse.trial.rate) <= 0:
        return False
    start = configuration.loaded.start
    return start is None or not field.demonstrably_worse(stats_of(better), start)
