"""The field of a tournament: its contestants, its lanes, and what has been found so far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from selector.core.metric import Metric
from selector.core.task import Stats
from selector.tuning.clock import RESERVE_SECONDS, Clock
from selector.tuning.compare import Standing, standings
from selector.tuning.journal import Record
from selector.tuning.loaded import Candidate, Loaded
from selector.tuning.plan import Lane as Cost
from selector.tuning.workbench import Workbench


@dataclass
class Run:
    """One finished training of a lane."""

    candidate: Candidate
    steps: int
    record: Record


@dataclass
class Lane:
    """A (model, strategy) pair on its way through the rungs."""

    loaded: Loaded
    strategy: str
    step_seconds: float = math.nan
    rate: float = math.nan
    best: Run | None = None  # of all its rungs
    trail: list[Stats] = field(default_factory=list)  # on the validation items at the start and after each rung
    repeats: list[Run] = field(default_factory=list)
    rung: int = 0
    alive: bool = True
    status: str = "ok"
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def label(self) -> str:
        return f"{self.loaded.name} {self.strategy}"


@dataclass
class Field:
    """All that the parts of a tournament share.

    Attributes:
        bench: trains and measures one candidate at a time.
        clock: the budget.
        settings: of the call, plain JSON.
        loaded, failed: contestants by name; the failed ones with their reason.
        lanes: (model, strategy) pairs; ``dead`` those that failed before their first rung.
        history: every candidate of every rung.
        notes: for the reader.
        settled: whether the leader was found before the last rung.
    """

    bench: Workbench
    clock: Clock
    settings: Mapping[str, Any]
    loaded: dict[str, Loaded] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    lanes: list[Lane] = field(default_factory=list)
    dead: list[Lane] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
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
        """Of the first run of every lane."""
        return int(self.settings["seed"])

    @property
    def epsilon(self) -> float:
        """How much worse, in units of the metric, is as good."""
        return float(self.settings["epsilon"])

    def alive(self) -> list[Lane]:
        """Lanes that are still in."""
        return [lane for lane in self.lanes if lane.alive]

    def key(self, lane: Lane, run: Run) -> str:
        """The address of a run in the journal."""
        return self.bench.key(lane.loaded, run.candidate, run.steps)

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

    def lane_order(self, lane: Lane) -> tuple[float, float]:
        """``order`` of where it stands; last for a lane without a run."""
        return self._order(self.standing(lane)) if lane.best else (-math.inf, 0.0)

    def standing(self, lane: Lane) -> Stats:
        """Statistics of the validation items by which a lane is compared on the way: those of its best run.

        A lane that is demonstrably below the linear-probe initialisation that it started from stands where it
        started: a rate that is too high for a short rung spoils the head before the encoder has
        learned anything, which says little of a longer training.
        """
        stats, start = stats_of(lane.best), lane.loaded.start
        return start if start is not None and self.demonstrably_worse(stats, start) else stats

    def demonstrably_worse(self, stats: Stats, than: Stats) -> bool:
        """Whether the 90 % interval of the paired difference on val lies below zero."""
        return self.standings({"stats": [stats], "than": [than]})["stats"].low > 0

    def _order(self, stats: Stats) -> tuple[float, float]:
        value, second = stats.value(self.metric), self.bench.task.tie_breaker
        merit = -math.inf if math.isnan(value) else self.declared.sign * value
        return merit, 0.0 if second is None else self.bench.task.metrics[second].sign * stats.value(second)

    def frozen_value(self, loaded: Loaded) -> float:
        """The deciding metric of the frozen strategy, oriented so that more is better."""
        value = self.value(loaded.frozen) if loaded.frozen else None
        return -math.inf if value is None else self.declared.sign * value

    def cost(self, lane: Lane) -> Cost:
        """What the lane costs, as far as it has been measured."""
        forward = lane.loaded.forward_seconds
        if math.isnan(forward):  # never measured: a step is about three forward passes
            forward = lane.step_seconds / 3 / self.bench.batch_size
        saving = 4 * lane.loaded.encoder.num_parameters / 200e6
        return Cost(lane.step_seconds, forward * len(self.bench.indices["val"]), lane.loaded.build_seconds + saving)

    def costs(self, lanes: Sequence[Lane]) -> list[Cost]:
        """``cost`` of several lanes; renews the clock's reserve for the test metrics of the one that is handed over."""
        forward = [lane.loaded.forward_seconds for lane in lanes if not math.isnan(lane.loaded.forward_seconds)]
        self.clock.reserve = RESERVE_SECONDS + max(forward, default=0.0) * len(self.bench.indices["test"])
        return [self.cost(lane) for lane in lanes]


def stats_of(run: Run | None) -> Stats:
    """Statistics of the validation items of a finished run."""
    assert run is not None
    assert run.record.stats is not None
    return run.record.stats
