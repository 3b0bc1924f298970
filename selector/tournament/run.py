"""The tournament, from top to bottom: load, solve the heads, plan, rungs, repeats, test, verdict."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from selector import strategies as strategy_room
from selector.contracts import LabelKind, Preprocess, ProgressCallback, Target, Task, no_progress
from selector.engine import LocalEngine
from selector.errors import ConfigError, StoreError, TargetError, did_you_mean
from selector.results import Measurement
from selector.strategies._loop import PixelBatches
from selector.tournament.advice import advise
from selector.tournament.compare import Standing, sign, standings
from selector.tournament.journal import Journal, Record
from selector.tournament.plan import MIN_EPOCHS, MIN_STEPS, Plan, Rung, fit_rest, make_plan, seconds_of
from selector.tournament.plan import Lane as Cost
from selector.tournament.types import Cache, Contestant, EpsilonMember, TournamentResult, Trained
from selector.tournament.workbench import Candidate, Loaded, Workbench
from selector.units import format_duration

log = logging.getLogger(__name__)

CONFIDENT = 0.95
BATCH_SIZE = 32
EPOCHS = 20  # of the winner, when neither budget nor steps are given
STEPS_AT_LEAST, STEPS_AT_MOST = 100, 3000
FACTORS = (1.0, 0.72, 0.58, 0.43)  # of the native side: 224, 160, 128, 96
SMALLEST_SIDE = 64
GOOD_EPOCHS = 3  # of the winner: below it a smaller resolution is taken first
RESERVE_SECONDS = 3.0
DIVERGED_RATE_SHARE = 0.1


@dataclass
class _Run:
    """One finished training of a lane."""

    candidate: Candidate
    lineage: tuple[int, ...]
    record: Record


@dataclass
class _Lane:
    """A (model, strategy) pair on its way through the rungs."""

    loaded: Loaded
    strategy: str
    step_seconds: float = math.nan
    lineage: tuple[int, ...] = ()
    rate: float = math.nan
    best: _Run | None = None  # of all its rungs
    repeats: list[_Run] = field(default_factory=list)
    rung: int = 0
    alive: bool = True
    status: str = "ok"
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def label(self) -> str:
        return f"{self.loaded.name} {self.strategy}"


def run_tournament(
    contestants: Sequence[Contestant],
    target: Target,
    task: Task,
    pixels_for: Callable[[Preprocess], PixelBatches],
    *,
    strategies: Sequence[str] = ("frozen", "full"),
    budget_seconds: float | None = None,
    max_steps: int | None = None,
    metric: str | None = None,
    epsilon: float = 0.01,
    resolution: int | None = None,
    device: str = "auto",
    seed: int = 0,
    augment: bool = True,
    batch_size: int = BATCH_SIZE,
    repeats: int = 2,
    features_for: Callable[[str, np.ndarray], np.ndarray] | None = None,
    cache: Cache | None = None,
    checkpoint_folder: Path,
    progress: ProgressCallback | None = None,
) -> TournamentResult:
    """Fine-tune contestants within a budget; validation images choose, test images are read at the end.

    Args:
        contestants: the models.
        target: its train, val and test splits must not be empty.
        task: head, loss and metrics.
        pixels_for: decoded images for a preprocessing; ``.batch(indices)`` gives uint8 (B, H, W, C)
            for positions in the target.
        strategies: ``frozen``, ``partial``, ``full``, ``lora``; ``frozen`` is always measured.
        budget_seconds: kept: at most 110 % and 15 s of it are used.
        max_steps: of the winner at most; None for 20 epochs, within 100..3000.
        metric: decides; None for the task's own.
        epsilon: how much worse, in units of the metric, is as good.
        resolution: side in pixels to train at; None for the native one, reduced only when the
            budget needs it. Reduced figures are marked.
        augment: light augmentation of the training images.
        batch_size: images a step, equal for all.
        repeats: further seeds for the two leading lanes, when time is left.
        features_for: (contestant, positions) -> cached features (N, D) at the native resolution.
        cache: keeps plans and finished measurements for later runs.
        checkpoint_folder: records, weights and checkpoints; the same call goes on from them.
    Returns:
        The result. A contestant that fails is a failed measurement.
    Raises:
        ConfigError: an unknown strategy or metric, a number out of range.
        TargetError: an empty split, or a single class among the training images.
        StoreError: the disk is full; finished trainings are kept.
    """
    _check(contestants, target, task, strategies, budget_seconds, max_steps, metric, epsilon, resolution, batch_size)
    settings = {
        "target": target.fingerprint,
        "task": task.name,
        "contestants": [{"name": c.name, **c.identity} for c in contestants],
        "strategies": sorted(strategies),
        "budget": budget_seconds,
        "max_steps": max_steps,
        "metric": metric or task.default_metric,
        "epsilon": epsilon,
        "resolution": resolution,
        "device": device,
        "seed": seed,
        "augment": augment,
        "batch_size": batch_size,
        "repeats": repeats,
    }
    bench = Workbench(
        target,
        task,
        pixels_for,
        Journal(Path(checkpoint_folder)),
        _device(device),
        batch_size,
        augment,
        features_for,
        progress or no_progress,
    )
    return _Tournament(bench, settings, cache, [s for s in strategies if strategy_room.registry.get(s).trains]).run(
        contestants
    )


class _Tournament:
    def __init__(
        self, bench: Workbench, settings: Mapping[str, Any], cache: Cache | None, trained_strategies: Sequence[str]
    ) -> None:
        self.bench = bench
        self.settings = settings
        self.cache = cache
        self.strategies = trained_strategies
        self.metric = str(settings["metric"])
        self.seed = int(settings["seed"])
        self.budget: float | None = settings["budget"]
        self.name = f"tournament-{Journal.key(settings)}"
        self.state: dict[str, Any] = self._remembered()
        self.begun = time.perf_counter()
        self.loaded: dict[str, Loaded] = {}
        self.failed: dict[str, str] = {}
        self.lanes: list[_Lane] = []
        self.dead: list[_Lane] = []  # failed before their first rung
        self.history: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.settled = False

    def run(self, contestants: Sequence[Contestant]) -> TournamentResult:
        self._note_absent_classes()
        self._load(contestants)
        if self.strategies:
            self._enter_lanes()
        if self.lanes and (plan := self._plan()) is not None:
            self._rungs(plan)
            self._repeat_leaders()
        return self._verdict()

    # -------------------------------------------------------------------- time

    @property
    def spent(self) -> float:
        """Seconds, those before an interruption included."""
        return float(self.state["spent"]) + time.perf_counter() - self.begun

    @property
    def left(self) -> float:
        return math.inf if self.budget is None else self.budget - self.spent - self._reserve()

    def _reserve(self) -> float:
        """For the test figures of two lanes and for saving."""
        forward = [m.forward_seconds for m in self.loaded.values() if not math.isnan(m.forward_seconds)]
        return RESERVE_SECONDS + 2 * max(forward, default=0.0) * len(self.bench.indices["test"])

    def _deadline(self) -> float:
        """Past 105 % of the budget no step begins."""
        if self.budget is None:
            return math.inf
        return time.perf_counter() + max(0.0, 1.05 * self.budget - self.spent - self._reserve())

    def _remembered(self) -> dict[str, Any]:
        state = self.bench.journal.read_json(self.name)
        if state is None and self.cache is not None:
            plan = self.cache.get("tournament", dict(self.settings))
            state = dict(plan) if plan else None  # the same plan as last time, so that the table is the same
            if state is not None:
                state |= {"spent": 0.0, "done": 0}
        if state is not None and state.get("finished"):
            state["spent"] = 0.0  # everything is read again, nothing is trained
        return state or {"spent": 0.0, "rungs": [], "done": 0}

    def _remember(self) -> None:
        document = {**self.state, "spent": self.spent}
        self.bench.journal.write_json(self.name, document)

    # -------------------------------------------------------------------- entering

    def _note_absent_classes(self) -> None:
        if self.bench.target.label_kind is not LabelKind.CLASSES:
            return
        names = self.bench.target.class_names
        for split in ("train", "val", "test"):
            present = set(self.bench.labels[split].tolist())
            absent = [name for i, name in enumerate(names) if i not in present]
            if absent:
                shown = ", ".join(absent[:5]) + (" ..." if len(absent) > 5 else "")
                effect = "cannot be learned" if split == "train" else f"are in no {split} figure"
                self.notes.append(f"{len(absent)} class(es) without images in {split} {effect}: {shown}.")

    def _load(self, contestants: Sequence[Contestant]) -> None:
        def enter(contestant: Contestant) -> Loaded:
            loaded = self.bench.load(contestant)
            self.bench.solve(loaded, self._deadline())
            return loaded

        for outcome in LocalEngine().map(enter, contestants, fatal=(StoreError,)):
            if outcome.result is not None:
                self.loaded[outcome.item.name] = outcome.result
            else:
                self.failed[outcome.item.name] = outcome.failure.reason if outcome.failure else "unknown"

    def _enter_lanes(self) -> None:
        for loaded in self.loaded.values():
            if loaded.encoder.module is None:
                self.notes.append(
                    f"{loaded.name} cannot be trained (no torch network); only its frozen figure is given."
                )
                continue
            self.lanes += [_Lane(loaded, strategy) for strategy in self.strategies]

    # -------------------------------------------------------------------- planning

    def _plan(self) -> Plan | None:
        train = len(self.bench.indices["train"])
        batch = min(self.bench.batch_size, train)
        an_epoch = max(1, train // batch)
        wanted = self.settings["max_steps"] or min(max(EPOCHS * an_epoch, STEPS_AT_LEAST), STEPS_AT_MOST)
        if self.state["rungs"]:
            self._set_factor(float(self.state["factor"]))
            self._prepare()
            rungs = tuple(Rung(*rung) for rung in self.state["rungs"])
            self.notes += self.state["notes"]
            self.lanes = [lane for lane in self.lanes if lane.label in self.state["step_seconds"]]
            for lane in self.lanes:
                lane.step_seconds = float(self.state["step_seconds"][lane.label])
            return Plan(rungs, 0.0) if self.lanes else None
        noted = len(self.notes)
        factor = self._choose_factor(wanted, an_epoch)
        plan = None
        while self.lanes:
            plan = make_plan(self._costs(), budget=self._finite_left(), max_steps=wanted, steps_an_epoch=an_epoch)
            if plan is not None or len(self.lanes) == 1:
                break
            # too little for all: the lane that starts from the worst frozen figure leaves first
            worst = min(self.lanes, key=lambda lane: (self._frozen_value(lane.loaded), -lane.step_seconds))
            self.notes.append(f"{worst.label} was not trained: the budget is too short for {len(self.lanes)} lanes.")
            self.lanes.remove(worst)
        if plan is None:
            if self.lanes:
                need = self._least_seconds(an_epoch)
                self.notes.append(
                    f"the budget of {format_duration(self.budget or 0)} is shorter than one rung (about "
                    f"{format_duration(need)} more are needed): the frozen encoders with solved heads are compared instead."
                )
            self.lanes = []
            return None
        self.state["rungs"] = [[r.steps, r.lanes, r.rates] for r in plan.rungs]
        self.state["factor"] = factor
        self.state["step_seconds"] = {lane.label: lane.step_seconds for lane in self.lanes}
        told = ", ".join(f"{r.lanes} lane(s) x {r.rates} rate(s) x {r.steps} steps" for r in plan.rungs)
        log.info("plan: %s; about %s", told, format_duration(plan.seconds))
        self.notes.append(f"plan: {told}; batch {batch}; about {format_duration(plan.seconds)}.")
        self.state["notes"] = self.notes[noted:]
        self._remember()
        return plan

    def _finite_left(self) -> float | None:
        return None if self.budget is None else max(0.0, self.left)

    def _choose_factor(self, wanted: int, an_epoch: int) -> float:
        """Share of the native side to train at: 1 unless the budget needs less."""
        resolution = self.settings["resolution"]
        if resolution is not None or self.budget is None:
            self._set_factor(1.0)
            self._prepare()
            return 1.0
        self._set_factor(FACTORS[-1])
        self._prepare()  # measured where it is cheapest, and scaled by area
        areas = {lane.label: lane.loaded.size[0] * lane.loaded.size[1] for lane in self.lanes}
        # rather small images and a training worth its name than a few steps at full size
        for epochs, least_rates in ((GOOD_EPOCHS, 2), (GOOD_EPOCHS, 1), (0, 2), (0, 1)):
            for factor in FACTORS:
                costs = []
                for lane in self.lanes:
                    height, width = _side(lane.loaded, factor)
                    grown = height * width / areas[lane.label]
                    cost = self._cost(lane)
                    costs.append(Cost(cost.step * grown, cost.evaluate * grown, cost.start))
                left = max(0.0, self.left)
                if factor != FACTORS[-1]:  # measuring again and solving the heads again take time as well
                    left -= sum(4 * cost.step for cost in costs) + self._start_seconds(factor, areas)
                if make_plan(
                    costs,
                    budget=left,
                    max_steps=wanted,
                    steps_an_epoch=an_epoch,
                    min_rates=least_rates,
                    min_total=epochs * an_epoch,
                ):
                    if factor != FACTORS[-1]:
                        self._set_factor(factor)
                        self._prepare()
                    return factor
        return FACTORS[-1]

    def _start_seconds(self, factor: float, areas: Mapping[str, int]) -> float:
        if factor == 1.0:
            return 0.0  # the head solved at the native resolution is there
        total = 0.0
        for loaded in {lane.loaded.name: lane.loaded for lane in self.lanes}.values():
            if not math.isnan(loaded.forward_seconds):
                height, width = _side(loaded, factor)
                total += loaded.forward_seconds * height * width / (loaded.size[0] * loaded.size[1]) * 5000
        return total

    def _set_factor(self, factor: float) -> None:
        resolution = self.settings["resolution"]
        for loaded in {lane.loaded.name: lane.loaded for lane in self.lanes}.values():
            native = loaded.encoder.preprocess.input_size[1:]
            size = _side(loaded, factor)
            if resolution is not None:
                size = (resolution, resolution) if resolution < min(native) else (native[0], native[1])
            if not self.bench.reduce(loaded, size):
                self.notes.append(
                    f"{loaded.name} stays at {native[0]} x {native[1]}: its architecture allows no other size."
                )

    def _prepare(self) -> None:
        """Solve the heads at the training resolution and measure a step of every lane."""

        def measure(lane: _Lane) -> float:
            self.bench.prepare_start(lane.loaded, self._deadline())
            if lane.label in self.state.get("step_seconds", {}):
                return float(self.state["step_seconds"][lane.label])
            return self.bench.measure_step(lane.loaded, lane.strategy)

        for outcome in LocalEngine().map(measure, list(self.lanes), fatal=(StoreError,)):
            lane = outcome.item
            if outcome.result is None:
                lane.status = "failed"
                lane.alive = False
                lane.notes.append(outcome.failure.reason if outcome.failure else "unknown")
                self._out(lane)
            else:
                lane.step_seconds = outcome.result

    def _out(self, lane: _Lane) -> None:
        """A lane that failed before its first rung: measured as failed."""
        self.lanes.remove(lane)
        self.history.append(
            {"model": lane.loaded.name, "strategy": lane.strategy, "status": "failed", "notes": lane.notes}
        )
        self.dead.append(lane)

    def _cost(self, lane: _Lane) -> Cost:
        forward = lane.loaded.forward_seconds
        if math.isnan(forward):  # never measured: a step is about three forward passes
            forward = lane.step_seconds / 3 / self.bench.batch_size
        saving = 4 * lane.loaded.encoder.num_parameters / 200e6
        return Cost(lane.step_seconds, forward * len(self.bench.indices["val"]), lane.loaded.build_seconds + saving)

    def _costs(self) -> list[Cost]:
        return [self._cost(lane) for lane in self.lanes]

    def _least_seconds(self, an_epoch: int) -> float:
        steps = max(MIN_STEPS, math.ceil(MIN_EPOCHS * an_epoch))
        return min(seconds_of([Rung(steps, 1, 1)], [cost]) for cost in self._costs())

    # -------------------------------------------------------------------- rungs

    def _rungs(self, plan: Plan) -> None:
        rungs = list(plan.rungs)
        number = 0
        while number < len(rungs):
            rung = rungs[number]
            if number >= int(self.state["done"]) and self.budget is not None:
                alive = [self._cost(lane) for lane in self._alive()]
                rest = fit_rest(rungs[number:], alive, max(0.0, self.left))
                if rest != tuple(rungs[number:]):
                    self.notes.append(
                        f"rung {number + 1} and later were cut to fit the budget."
                        if rest
                        else f"the budget ended after rung {number}."
                    )
                rungs = rungs[:number] + list(rest)
                self.state["rungs"] = [[r.steps, r.lanes, r.rates] for r in rungs]
                self._remember()
                if not rest:
                    break
                rung = rungs[number]
            if number:
                self._halve(rung.lanes)
            if not self._rung(number, rung):
                self.notes.append(f"the budget ended during rung {number + 1}; its figures are not used.")
                self.state["rungs"] = [[r.steps, r.lanes, r.rates] for r in rungs[:number]]
                self._remember()
                break
            number += 1
            self.state["done"] = max(number, int(self.state["done"]))
            self._remember()
            if not self._alive():
                break
            if number < len(rungs):
                self._stop_if_settled()

    def _rung(self, number: int, rung: Rung) -> bool:
        """Every lane that is alive goes through one rung; False when the deadline came first."""
        found: list[tuple[_Lane, list[_Run]]] = []
        for lane in self._alive():
            rates = self.bench.rates(lane.loaded, lane.strategy)[: rung.rates] if number == 0 else (lane.rate,)
            runs = []
            for rate in rates:
                run = self._train(lane, Candidate(lane.loaded.name, lane.strategy, rate, self.seed), number, rung.steps)
                if run is None:
                    return False
                runs.append(run)
            if all(run.record.status == "diverged" for run in runs):
                rate = min(rates) * DIVERGED_RATE_SHARE
                run = self._train(lane, Candidate(lane.loaded.name, lane.strategy, rate, self.seed), number, rung.steps)
                if run is None:
                    return False
                runs.append(run)
            found.append((lane, runs))
        for lane, runs in found:
            self._take(lane, runs, number)
        return True

    def _train(self, lane: _Lane, candidate: Candidate, number: int, steps: int) -> _Run | None:
        lineage = (*lane.lineage, steps)
        record = self.bench.run(lane.loaded, candidate, lineage, self._deadline())
        if record is None:
            return None
        lane.seconds += float(record.facts["seconds"])
        measured = int(record.facts["steps"])
        if record.status == "ok" and measured:
            lane.loaded.forward_seconds = float(record.facts["evaluate_seconds"]) / len(self.bench.indices["val"])
            lane.step_seconds = max(lane.step_seconds, float(record.facts["seconds"]) / measured)
        self.history.append(
            {
                "model": lane.loaded.name,
                "strategy": lane.strategy,
                "rate": candidate.rate,
                "seed": candidate.seed,
                "rung": number + 1,
                "steps": sum(lineage),
                "status": record.status,
                "value": self._value(record),
                "seconds": record.facts["seconds"],
                "notes": list(record.facts["notes"]),
            }
        )
        self._remember()
        return _Run(candidate, lineage, record)

    def _take(self, lane: _Lane, runs: Sequence[_Run], number: int) -> None:
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
        chosen = max(good, key=self._order)
        lane.rate, lane.lineage, lane.rung = chosen.candidate.rate, chosen.lineage, number + 1
        keep = {self._key(lane, chosen)}
        if lane.best is None or self._order(chosen) >= self._order(lane.best):
            lane.best = chosen
        keep.add(self._key(lane, lane.best))
        for run in good:
            if self._key(lane, run) not in keep:
                self.bench.journal.forget_weights(self._key(lane, run))
        if len(lane.lineage) > 1:
            before = _Run(chosen.candidate, chosen.lineage[:-1], chosen.record)
            if self._key(lane, before) not in keep:
                self.bench.journal.forget_weights(self._key(lane, before))

    def _halve(self, lanes: int) -> None:
        ranked = sorted(self._alive(), key=self._lane_order, reverse=True)
        for lane in ranked[lanes:]:
            lane.alive = False

    def _stop_if_settled(self) -> None:
        """Rivals stop when the leader is the best with 95 %, or none can plausibly gain ε on it."""
        alive = self._alive()
        if len(alive) < 2:
            return
        entrants = {lane.label: [_logits(lane.best)] for lane in alive if lane.best}
        table = standings(entrants, self.bench.labels["val"], self.bench.task, self.metric, self.seed)
        leader = max(table, key=lambda label: table[label].p_best)
        most = max((-s.low for label, s in table.items() if label != leader), default=0.0)
        if table[leader].p_best >= CONFIDENT or most < float(self.settings["epsilon"]):
            self.settled = True
            self.notes.append(
                f"{leader} was settled after rung {max(lane.rung for lane in alive)} (P(best) {table[leader].p_best:.2f}); its rivals stopped."
            )
            for lane in alive:
                lane.alive = lane.label == leader

    def _repeat_leaders(self) -> None:
        """The two leading lanes again with other seeds, the same rungs, as far as time allows."""
        leaders = sorted((lane for lane in self._alive() if lane.best), key=self._lane_order, reverse=True)[:2]
        if len(leaders) < 2 or self.settled:
            return
        allowed = int(self.state.get("repeats", self.settings["repeats"]))
        for number in range(1, allowed + 1):
            cost = sum(
                seconds_of([Rung(steps, 1, 1) for steps in lane.lineage], [self._cost(lane)]) for lane in leaders
            )
            if "repeats" not in self.state and cost > self.left:
                self.state["repeats"] = number - 1
                break
            runs = [self._repeat(lane, self.seed + number) for lane in leaders]
            if any(run is None for run in runs):
                self.state["repeats"] = number - 1
                break
            for lane, run in zip(leaders, runs, strict=True):
                assert run is not None
                if run.record.status == "ok":
                    lane.repeats.append(run)
                else:
                    lane.notes.append(f"seed {run.candidate.seed} {run.record.status}")
        self.state.setdefault("repeats", allowed)
        self._remember()

    def _repeat(self, lane: _Lane, seed: int) -> _Run | None:
        assert lane.best is not None
        candidate = Candidate(lane.loaded.name, lane.strategy, lane.rate, seed)
        run: _Run | None = None
        for number in range(len(lane.best.lineage)):
            lineage = lane.best.lineage[: number + 1]
            record = self.bench.run(lane.loaded, candidate, lineage, self._deadline())
            if record is None:
                return None
            run = _Run(candidate, lineage, record)
            lane.seconds += float(record.facts["seconds"])
            self._remember()
            if record.status != "ok":
                break
            if number:
                self.bench.journal.forget_weights(self.bench.key(lane.loaded, candidate, lineage[:-1]))
        assert run is not None
        self.history.append(
            {
                "model": lane.loaded.name,
                "strategy": lane.strategy,
                "rate": lane.rate,
                "seed": seed,
                "rung": lane.rung,
                "steps": sum(run.lineage),
                "status": run.record.status,
                "value": self._value(run.record),
                "seconds": run.record.facts["seconds"],
                "notes": list(run.record.facts["notes"]),
            }
        )
        return run

    # -------------------------------------------------------------------- verdict

    def _verdict(self) -> TournamentResult:
        entered = [lane for lane in self.lanes if lane.best is not None]
        entrants: dict[str, list[np.ndarray]] = {}
        for loaded in self.loaded.values():
            assert loaded.frozen is not None
            assert loaded.frozen.logits is not None
            entrants[f"{loaded.name} frozen"] = [loaded.frozen.logits]
        for lane in entered:
            entrants[lane.label] = [_logits(run) for run in [lane.best, *lane.repeats] if run is not None]
        if not entrants:
            return TournamentResult(self._measurements({}, {}), None, notes=tuple(self.notes))
        table = standings(entrants, self.bench.labels["val"], self.bench.task, self.metric, self.seed)
        best_label = self._best_label(table)
        tests, best = self._test(table, best_label, entered)
        epsilon_best = tuple(self._epsilon_best(table))
        advice = advise(
            {name: loaded.frozen.facts["curve"] for name, loaded in self.loaded.items() if loaded.frozen},
            {name: [lane.strategy for lane in entered if lane.loaded.name == name] for name in self.loaded},
            entrants,
            self.bench.labels["val"],
            self.bench.task,
            self.metric,
            float(self.settings["epsilon"]),
            self.seed,
        )
        if self.cache is not None and self.state["rungs"]:
            self.cache.put("tournament", dict(self.settings), {**self.state, "spent": self.spent})
        self.state["finished"] = True
        self._remember()
        self._tidy(best_label)
        return TournamentResult(
            measurements=self._measurements(table, tests),
            best=best,
            epsilon_best=epsilon_best,
            history=tuple(self.history),
            notes=tuple(dict.fromkeys(self.notes)),
            advice=tuple(advice),
            p_best=table[best_label].p_best,
            settled=self.settled,
        )

    def _best_label(self, table: Mapping[str, Standing]) -> str:
        """The first by value; among equals the one that was found with fewer trained parameters."""
        trainable = {f"{name} frozen" for name, loaded in self.loaded.items() if loaded.encoder.module is not None}
        trainable |= {lane.label for lane in self.lanes}
        labels = [label for label in table if label in trainable] or list(table)
        return max(labels, key=lambda label: (sign(self.metric) * table[label].value, label.endswith(" frozen")))

    def _test(
        self, table: Mapping[str, Standing], best_label: str, entered: Sequence[_Lane]
    ) -> tuple[dict[str, dict[str, float]], Trained | None]:
        """The test split is read here, once, for the finalists; the best model first."""
        tests: dict[str, dict[str, float]] = {}
        if not len(self.bench.indices["test"]):
            self.notes.append("there is no test split: the validation figures chose the model and are optimistic.")
        finalists = [lane for lane in entered if lane.alive or lane.label == best_label]
        models = {lane.loaded.name for lane in finalists} | {best_label.rpartition(" ")[0]}
        if not entered:
            ranked = sorted(table, key=lambda label: sign(self.metric) * table[label].value, reverse=True)
            models |= {label.rpartition(" ")[0] for label in ranked[:2]}
        best: Trained | None = None
        order = sorted(
            [(lane.label, lane) for lane in finalists]
            + [(f"{name} frozen", None) for name in self.loaded if name in models],
            key=lambda pair: (pair[0] != best_label, -sign(self.metric) * table[pair[0]].value),
        )
        for label, lane in order:
            if label != best_label and self.budget is not None and self.spent > 1.05 * self.budget:
                self.notes.append("the budget ended before every finalist's test figure was read.")
                break
            loaded = self.loaded[label.rpartition(" ")[0]]
            if lane is None:
                temperature = self._temperature(loaded.frozen)
                logits = self.bench.frozen_test(loaded) if len(self.bench.indices["test"]) else None
                if label == best_label and loaded.encoder.module is not None:
                    best = self._trained(loaded, None, None, temperature)
            else:
                run = max([r for r in [lane.best, *lane.repeats] if r is not None], key=self._order)
                temperature = self._temperature(run.record)
                if label == best_label:
                    best = self._trained(
                        loaded, run, self.bench.module_of(loaded, run.candidate, run.lineage), temperature
                    )
                logits = (
                    self.bench.test_outputs(loaded, run.candidate, run.lineage)
                    if len(self.bench.indices["test"])
                    else None
                )
            if logits is not None:
                tests[label] = self.bench.task.metrics(logits / temperature, self.bench.labels["test"])
        return tests, best

    def _tidy(self, best_label: str) -> None:
        """Keep the weights of the best model only; what was measured of the others is in their records."""
        for lane in self.lanes:
            for run in [lane.best, *lane.repeats]:
                if run is not None and lane.label != best_label:
                    self.bench.journal.forget_weights(self._key(lane, run))
        self.bench.journal.tidy()

    def _trained(self, loaded: Loaded, run: _Run | None, module: Any, temperature: float) -> Trained:
        size = loaded.size if run is not None and loaded.reduced else None
        recipe = loaded.encoder.recipe(self.bench.outputs, size)
        return Trained(
            name=loaded.name,
            strategy=run.candidate.strategy if run else "frozen",
            module=(module if module is not None else self.bench.frozen_module(loaded)).cpu().eval(),
            source=str(recipe["source"]),
            recipe=recipe,
            preprocess=loaded.preprocess if run else loaded.encoder.preprocess,
            class_names=tuple(self.bench.target.class_names),
            temperature=temperature,
            task=self.bench.task.name,
            learning_rate=run.candidate.rate if run else None,
            seed=run.candidate.seed if run else self.seed,
            steps=sum(run.lineage) if run else 0,
        )

    def _temperature(self, record: Record | None) -> float:
        fit = getattr(self.bench.task, "temperature", None)
        if fit is None or record is None or record.logits is None:
            return 1.0
        return float(fit(record.logits, self.bench.labels["val"]))

    def _epsilon_best(self, table: Mapping[str, Standing]) -> list[EpsilonMember]:
        members = []
        for label, standing in table.items():
            name, _, strategy = label.rpartition(" ")
            if standing.low <= float(self.settings["epsilon"]):
                loaded = self.loaded[name]
                members.append(
                    EpsilonMember(
                        name,
                        strategy,
                        standing.value,
                        standing.difference,
                        standing.low,
                        standing.high,
                        loaded.encoder.num_parameters,
                        loaded.contestant.latency,
                    )
                )
        return sorted(members, key=lambda m: (math.inf if m.latency is None else m.latency, m.parameters, m.difference))

    def _measurements(
        self, table: Mapping[str, Standing], tests: Mapping[str, Mapping[str, float]]
    ) -> dict[str, tuple[Measurement, ...]]:
        found: dict[str, list[Measurement]] = {name: [] for name in [*self.loaded, *self.failed]}
        for name, reason in self.failed.items():
            found[name].append(Measurement("frozen", self.metric, {}, status="failed", note=reason))
        for name, loaded in self.loaded.items():
            label = f"{name} frozen"
            if loaded.frozen is not None and label in table:
                found[name].append(self._frozen_measurement(loaded, table[label], tests.get(label, {})))
        for lane in [*self.lanes, *self.dead]:
            found[lane.loaded.name].append(
                self._lane_measurement(lane, table.get(lane.label), tests.get(lane.label, {}))
            )
        return {name: tuple(measurements) for name, measurements in found.items()}

    def _frozen_measurement(self, loaded: Loaded, standing: Standing, test: Mapping[str, float]) -> Measurement:
        record = loaded.frozen
        assert record is not None
        assert record.logits is not None
        native = loaded.encoder.preprocess.input_size
        return Measurement(
            "frozen",
            self.metric,
            val=self.bench.task.metrics(record.logits, self.bench.labels["val"]),
            test=test,
            seed=self.seed,
            seconds=float(record.facts["seconds"]),
            resolution=(native[1], native[2]),
            trained_parameters=int(record.facts["trained_parameters"]),
            extra={
                **self._compared(standing),
                "learning_curve": record.facts["curve"],
                "strength": record.facts["strength"],
                "temperature": self._temperature(record),
            },
        )

    def _lane_measurement(self, lane: _Lane, standing: Standing | None, test: Mapping[str, float]) -> Measurement:
        if lane.best is None or standing is None:
            status: Any = lane.status if lane.status != "ok" else "failed"
            note = "; ".join(lane.notes) or "the budget ended before it was measured"
            return Measurement(lane.strategy, self.metric, {}, status=status, note=note, seconds=lane.seconds)
        run = max([lane.best, *lane.repeats], key=self._order)
        assert run.record.logits is not None
        return Measurement(
            lane.strategy,
            self.metric,
            val=self.bench.task.metrics(run.record.logits, self.bench.labels["val"]),
            test=test,
            seed=run.candidate.seed,
            steps=sum(run.lineage),
            learning_rate=run.candidate.rate,
            seconds=lane.seconds,
            resolution=lane.loaded.size,
            reduced=lane.loaded.reduced,
            trained_parameters=int(run.record.facts["trained_parameters"]),
            note="; ".join(lane.notes),
            rung=lane.rung,
            extra={
                **self._compared(standing),
                "temperature": self._temperature(run.record),
                "seed_values": [self._value(r.record) for r in [lane.best, *lane.repeats]],
                "optimiser": self.bench.optimiser(lane.loaded, lane.strategy),
                "memory_bytes": run.record.facts["memory_bytes"],
                "batch_size": self.bench.batch_size,
            },
        )

    def _compared(self, standing: Standing) -> dict[str, Any]:
        return {
            "difference": standing.difference,
            "difference_low": standing.low,
            "difference_high": standing.high,
            "p_best": standing.p_best,
            "epsilon_best": standing.low <= float(self.settings["epsilon"]),
        }

    # -------------------------------------------------------------------- small things

    def _alive(self) -> list[_Lane]:
        return [lane for lane in self.lanes if lane.alive]

    def _key(self, lane: _Lane, run: _Run) -> str:
        return self.bench.key(lane.loaded, run.candidate, run.lineage)

    def _value(self, record: Record) -> float | None:
        if record.logits is None:
            return None
        return self.bench.task.metrics(record.logits, self.bench.labels["val"]).get(self.metric)

    def _order(self, run: _Run) -> tuple[float, float]:
        """The deciding metric, then the log-loss: accuracy ties are common on few images."""
        assert run.record.logits is not None
        figures = self.bench.task.metrics(run.record.logits, self.bench.labels["val"])
        return sign(self.metric) * figures.get(self.metric, -math.inf), -figures.get("log_loss", 0.0)

    def _lane_order(self, lane: _Lane) -> tuple[float, float]:
        return self._order(lane.best) if lane.best else (-math.inf, 0.0)

    def _frozen_value(self, loaded: Loaded) -> float:
        value = self._value(loaded.frozen) if loaded.frozen else None
        return -math.inf if value is None else sign(self.metric) * value


def _logits(run: _Run | None) -> np.ndarray:
    assert run is not None
    assert run.record.logits is not None
    return run.record.logits


def _side(loaded: Loaded, factor: float) -> tuple[int, int]:
    """The native (height, width) times ``factor``, in multiples of 32, never below 64."""
    _, height, width = loaded.encoder.preprocess.input_size
    if factor == 1.0 or min(height, width) <= SMALLEST_SIDE:
        return height, width
    return max(SMALLEST_SIDE, round(height * factor / 32) * 32), max(SMALLEST_SIDE, round(width * factor / 32) * 32)


def _device(device: str) -> str:
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N. Got '{device}'.") from None
    if kind.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device '{device}' was asked for, but torch sees no CUDA device; use --device cpu.")
    return device


def _check(
    contestants: Sequence[Contestant],
    target: Target,
    task: Task,
    strategies: Sequence[str],
    budget_seconds: float | None,
    max_steps: int | None,
    metric: str | None,
    epsilon: float,
    resolution: int | None,
    batch_size: int,
) -> None:
    if not contestants:
        raise ConfigError("a tournament needs at least one contestant. Got none.")
    names = [c.name for c in contestants]
    if len(set(names)) < len(names):
        raise ConfigError(f"contestants must have different names. Got {', '.join(sorted(names))}.")
    if not strategies:
        raise ConfigError(f"name at least one strategy out of {', '.join(strategy_room.registry.names())}.")
    for name in strategies:
        strategy_room.registry.get(name)
    if metric is not None:
        from selector.tasks.classification import METRICS

        known = getattr(task, "metric_names", METRICS)
        if metric not in known:
            raise ConfigError(f"unknown metric '{metric}'{did_you_mean(metric, known)} Known: {', '.join(known)}.")
    for name, value, least in (
        ("budget", budget_seconds, 0.0),
        ("max_steps", max_steps, 1),
        ("resolution", resolution, 16),
        ("batch_size", batch_size, 2),
        ("epsilon", epsilon, 0.0),
    ):
        if value is not None and (not math.isfinite(value) or value < least):
            raise ConfigError(f"{name} must be a number in the range [{least:g}, inf). Got {value}.")
    for split in ("train", "val"):
        if not len(target.indices(split)):
            raise TargetError(f"target '{target.name}' has no images in {split}; fine-tuning needs train and val.")
    if target.label_kind is LabelKind.CLASSES and len(np.unique(target.labels[target.indices("train")])) < 2:
        raise TargetError(f"the training images of '{target.name}' are all of one class; there is nothing to learn.")
