"""The field of a fine-tuning stage: its candidates, its configurations, and what has been found so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from selector.core.stats import Metric
from selector.core.task import Stats
from selector.run.executor import Executor
from selector.run.job import Shared
from selector.tuning.clock import RESERVE_SECONDS, Clock
from selector.tuning.compare import Standing, standings
from selector.tuning.journal import Record
from selector.tuning.plan import BACKWARD, STEPS_AT_LEAST, Round, StrategyCost
from selector.tuning.trial import Trial, key_of, rates_of
from selector.tuning.workbench import Loaded, Workbench

SINGLE = 3  # times as long as in bfloat16 a pass in single precision takes at most, in eager torch on a CPU with AMX


@dataclass
class Run:
    """One finished training of a configuration."""

    trial: Trial
    steps: int
    record: Record

    @property
    def taken(self) -> int:
        """Steps that it took: fewer than planned where time was over."""
        return int(self.record.facts["steps"])


@dataclass
class Configuration:
    """A (model, strategy) pair on its way through the rounds; where several decoders are compared, ``strategy`` begins with
    one: ``fcos/full``."""

    loaded: Loaded
    strategy: str
    step_seconds: float = math.nan
    estimated_seconds: float = math.nan  # of a step, before any was taken
    rate: float = math.nan
    best: Run | None = None  # of all its rounds
    trail: list[Stats] = field(default_factory=list)  # on the validation items at the start and after each round
    repeats: list[Run] = field(default_factory=list)
    round: int = 0
    alive: bool = True
    status: str = "ok"
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def label(self) -> str:
        return f"{self.loaded.name} {self.strategy}"

    @property
    def runs(self) -> list[Run]:
        """What is compared in the end: its best run, and those with other seeds."""
        return [] if self.best is None else [self.best, *self.repeats]


@dataclass
class Field:
    """All that the parts of a fine-tuning stage share.

    Attributes:
        bench: trains and measures one trial at a time.
        clock: the budget.
        settings: of the call, plain JSON.
        executor: runs timings and trainings as jobs; ``kit`` is what they share.
        loaded, failed, not_run: candidates by name; the failed ones, and those that the budget ended before, with their
            reason.
        configurations: (model, strategy) pairs; ``waiting`` those that the budget seemed too short for, the best first;
            ``dead`` those that failed before their first round.
        history: every trial of every round.
        notes: for the reader.
        refitted: what was fitted again on train and validation items, by label, in a sentence.
        settled: whether the leader was found before the last round.
    """

    bench: Workbench
    clock: Clock
    settings: Mapping[str, Any]
    executor: Executor
    kit: Shared[Any]  # a ``job.Kit``
    loaded: dict[str, Loaded] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)
    configurations: list[Configuration] = field(default_factory=list)
    waiting: list[Configuration] = field(default_factory=list)
    dead: list[Configuration] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    refitted: dict[str, str] = field(default_factory=dict)
    settled: bool = False

    @property
    def metric(self) -> str:
        """The metric that decides."""
        return str(self.settings["metric"])

    @property
    def declared(self) -> Metric:
        """Its declaration."""
        return self.bench.task.metrics[self.metric]

    @property
    def seed(self) -> int:
        """Of the first run of every configuration."""
        return int(self.settings["seed"])

    @property
    def epsilon(self) -> float:
        """How much worse, in units of the metric, is as good."""
        return float(self.settings["epsilon"])

    @property
    def once_more(self) -> float:
        """Steps on train and validation items for each step on the train items: as many epochs."""
        train, val = (len(self.bench.indices[split]) for split in ("train", "val"))
        return (train + val) / train

    @property
    def again(self) -> float:
        """As many of the winner's steps have time for a last training on all labels; see ``plan.TrainingPlan``."""
        return float(self.clock.state.get("again", 0.0))

    def alive(self) -> list[Configuration]:
        """Configurations that are still in."""
        return [configuration for configuration in self.configurations if configuration.alive]

    def keep(self, rounds: Sequence[Round]) -> None:
        """The rounds that the same call goes on with."""
        self.clock.state["rounds"] = [[r.steps, r.configurations, r.rates] for r in rounds]
        self.clock.remember()

    def rates(self, configuration: Configuration) -> tuple[float, ...]:
        """The learning rates to try, by preference: first the one of an earlier training."""
        usual = rates_of(configuration.loaded, configuration.strategy)
        before = self.settings.get("rates", {}).get(configuration.label)
        return usual if before is None else (before, *(rate for rate in usual if rate != before))

    def incomplete(self, configuration: Configuration) -> bool:
        """Whether its best run saw less than an epoch, and took fewer steps than a training worth the name or the call asks
        for: its value says nothing and has no share in the choice."""
        if configuration.best is None:
            return True
        steps, items = configuration.best.taken, len(self.bench.indices["train"])
        an_epoch = max(1, items // min(self.bench.batch_size, items))  # batches that are left over are not trained on
        return steps < min(an_epoch, STEPS_AT_LEAST, self.settings["max_steps"] or STEPS_AT_LEAST)

    def empty_handed(self) -> bool:
        """Whether no model could be saved as things stand."""
        frozen = any(loaded.frozen is not None and loaded.encoder.module is not None for loaded in self.loaded.values())
        return not frozen and not any(configuration.best for configuration in self.configurations)

    def key(self, configuration: Configuration, run: Run) -> str:
        """The address of a run in the journal."""
        return key_of(self.bench, configuration.loaded, run.trial, run.steps)

    def value(self, record: Record) -> float | None:
        """The deciding metric on val."""
        value = math.nan if record.stats is None else record.stats.value(self.metric)
        return None if math.isnan(value) else value

    def standings(self, entrants: Mapping[str, Sequence[Stats]], *, unfinished: float = 0.0) -> dict[str, Standing]:
        """Entrants compared on the validation items by the deciding metric; see ``compare.standings``."""
        return standings(entrants, self.metric, self.declared, self.seed, unfinished=unfinished)

    def order(self, run: Run) -> tuple[float, float]:
        """The deciding metric, then the task's tie-breaker: ties are common on few items."""
        return self._order(stats_of(run))

    def configuration_order(self, configuration: Configuration) -> tuple[float, float]:
        """``order`` of where it stands; last for a configuration without a run."""
        return self._order(self.standing(configuration)) if configuration.best else (-math.inf, 0.0)

    def standing(self, configuration: Configuration) -> Stats:
        """Statistics of the validation items by which a configuration is compared on the way: those of its best run.

        A configuration that is demonstrably below the linear-probe initialization that it started from stands where it
        started: a rate that is too high for a short round spoils the head before the encoder has
        learned anything, which says little of a longer training.
        """
        stats, start = stats_of(configuration.best), configuration.loaded.start
        return start if start is not None and self.demonstrably_worse(stats, start) else stats

    def demonstrably_worse(self, stats: Stats, than: Stats) -> bool:
        """Whether the 90% interval of the paired difference on val lies below zero."""
        return self.standings({"stats": [stats], "than": [than]})["stats"].low > 0

    def _order(self, stats: Stats) -> tuple[float, float]:
        value, second = stats.value(self.metric), self.bench.task.tie_breaker
        merit = -math.inf if math.isnan(value) else self.declared.sign * value
        return merit, 0.0 if second is None else self.bench.task.metrics[second].sign * stats.value(second)

    def frozen_value(self, loaded: Loaded) -> float:
        """The deciding metric of the frozen strategy, oriented so that more is better."""
        value = self.value(loaded.frozen) if loaded.frozen else None
        return -math.inf if value is None else self.declared.sign * value

    def cost(self, configuration: Configuration) -> StrategyCost:
        """What the configuration costs, as far as it has been measured."""
        forward = configuration.loaded.forward_seconds
        if math.isnan(forward):  # never measured
            forward = configuration.step_seconds / BACKWARD / self.bench.batch_size
        saving = 4 * configuration.loaded.encoder.num_parameters / 200e6
        return StrategyCost(
            configuration.step_seconds,
            forward * len(self.bench.indices["val"]),
            configuration.loaded.build_seconds + saving,
        )

    def costs(self, configurations: Sequence[Configuration]) -> list[StrategyCost]:
        """``cost`` of several configurations; renews the clock's reserve."""
        self.renew_reserve()
        return [self.cost(configuration) for configuration in configurations]

    def renew_reserve(self) -> None:
        """Keep as much of the budget as the test metrics of the model that is saved will take, by what passes take
        now."""
        passes = map(self.test_seconds, self.loaded.values())  # a configuration that is out may be the best in the end
        self.clock.reserve = RESERVE_SECONDS + max(passes, default=0.0)

    def test_seconds(self, loaded: Loaded) -> float:
        """What reading the test items takes at most, as far as it is known: the frozen encoder reads them at its own
        size."""
        forward = 0.0
        if not math.isnan(loaded.forward_seconds):
            grown = math.prod(loaded.encoder.preprocess.extent) / math.prod(loaded.size)
            forward = loaded.forward_seconds * max(1.0, grown)
        if (
            loaded.frozen is not None and self.bench.features_for is None
        ):  # its rows were passed here, with what that takes
            passed = len(self.bench.indices["train"]) + len(self.bench.indices["val"])
            forward = max(forward, float(loaded.frozen.facts["seconds"]) / passed)
        if loaded.candidate.rounded:
            # what is known is of the lower precision, which was chosen because it is faster; the latency is of an item
            # by itself, of a text of many words: it would keep half of five minutes for 600 short texts
            forward = SINGLE * forward if forward else 2 * (loaded.candidate.latency or 0.0)
        return forward * len(self.bench.indices["test"])


def stats_of(run: Run | None) -> Stats:
    """Statistics of the validation items of a finished run."""
    assert run is not None
    assert run.record.stats is not None
    return run.record.stats


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
