"""The fine-tuning stage, from top to bottom: load, solve the heads, plan, rounds, repeats, verdict."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from selector.core.contracts import ProgressCallback, Target, no_progress
from selector.core.errors import BudgetEnded, ConfigError, StoreError, did_you_mean
from selector.core.preprocess import AnyPreprocess
from selector.core.task import Task
from selector.run.executor import Executor, InProcess
from selector.run.job import Shared
from selector.tuning import strategies as strategy_room
from selector.tuning.clock import BETWEEN, Clock, seconds_by_part
from selector.tuning.field import Configuration, Field
from selector.tuning.heads import prepare_start, solve
from selector.tuning.job import Kit, Supplies
from selector.tuning.journal import Journal
from selector.tuning.loading import load, settle_precision
from selector.tuning.plan import SHARE_OF_BUDGET
from selector.tuning.planner import plan_rounds
from selector.tuning.rounds import far_behind, run_rounds, take, train_once
from selector.tuning.strategies._loop import PixelBatches
from selector.tuning.training import planned, seconds_for
from selector.tuning.types import Cache, FineTuningResult, TuningCandidate
from selector.tuning.verdict import verdict
from selector.tuning.workbench import Loaded, Workbench, device_of

LEAST = {"budget": 0.0, "max_steps": 1, "resolution": 16, "batch_size": 2, "epsilon": 0.0}
PARTS = ("models and frozen heads", "estimates", BETWEEN, "test split and verdict")
QUARTER = 0.25  # of the budget, for loading encoders and solving heads


def run_fine_tuning(
    candidates: Sequence[TuningCandidate],
    target: Target,
    task: Task,
    pixels_for: Callable[[AnyPreprocess], PixelBatches],
    *,
    strategies: Sequence[str] = ("frozen", "full"),
    decoders: Sequence[str] = (),
    budget_seconds: float | None = None,
    spent_seconds: float = 0.0,
    max_steps: int | None = None,
    metric: str | None = None,
    epsilon: float | None = None,
    rates: Mapping[str, float] | None = None,
    resolution: int | None = None,
    device: str = "auto",
    seed: int = 0,
    augment: str = "light",
    averaging: str = "none",
    batch_size: int | None = None,
    repeats: int = 2,
    refit: bool = True,
    features_for: Callable[[str, np.ndarray], np.ndarray] | None = None,
    cache: Cache | None = None,
    checkpoint_folder: Path,
    progress: ProgressCallback | None = None,
    now: Callable[[], float] = time.perf_counter,
    executor: Executor | None = None,
    supplies: Supplies | None = None,
    given_up: Mapping[str, str] | None = None,
) -> FineTuningResult:
    """Fine-tune candidates within a budget; validation images choose, test images are read at the end.

    Args:
        candidates: the models.
        target: its train, val and test splits must not be empty.
        task: head, loss and metrics.
        pixels_for: prepared items for a preprocessing; ``.batch(indices)`` gives uint8 (B, H, W, C) or
            tokens for positions in the target.
        strategies: ``frozen``, ``partial``, ``full``, ``lora``; ``frozen`` is always measured.
        decoders: of a task on maps, to be compared: each is trained by each strategy, and measured as ``fcos/full``; the
            first one is that of ``task``. Empty for that of ``task`` alone.
        budget_seconds: kept: every training that is begun is cooled down and measured within it.
        spent_seconds: of the budget, before this call (scan, pilot runs); the same call goes on with those of the first one.
        max_steps: of the winner's training at most; None for 20 epochs, within 100..3000.
        metric: decides; None for the task's own.
        epsilon: how much worse, in units of the metric, is as good; None for what the metric declares.
        rates: learning rates that are tried first, by ``model strategy``: those of earlier trainings.
        resolution: short side in pixels to train at; None for the native one, reduced only when the
            budget needs it. Metrics at a reduced resolution are marked.
        augment, averaging: of the training images, and of the weights over the steps; see ``selector.options.training``.
        batch_size: items a step, equal for all; the task's own when not given.
        repeats: further seeds for the two leading configurations, when time is left.
        refit: fit the model that is saved again on train and validation items: a frozen head from cached features, a training
            where there is time for it.
        features_for: (candidate, positions) -> cached features (N, D) at the native resolution.
        cache: keeps plans and finished measurements for later runs.
        checkpoint_folder: records, weights and checkpoints; the same call goes on from them.
        now: the clock that the budget is kept by.
        executor, supplies: where trainings run, and how workers load models and read items; in this process when not
            given. The budget is time on devices: what all workers take together.
        given_up: candidates that are not worked on, with the reason.
    Returns:
        The result. A candidate that fails is a failed measurement.
    Raises:
        ConfigError: an unknown strategy or metric, a number out of range.
        TargetError: an empty split, or a single class among the training images.
        StoreError: the disk is full; finished trainings are kept.
    """
    batch_size = task.batch(len(target.indices("train"))) if batch_size is None else batch_size
    _check(
        candidates, target, task, strategies, metric,
        budget=budget_seconds, max_steps=max_steps, resolution=resolution, batch_size=batch_size, epsilon=epsilon,
    )  # fmt: skip
    settings = {
        "target": target.fingerprint,
        "task": task.address,
        "candidates": [{"name": c.name, **c.identity} for c in candidates],
        "strategies": sorted(strategies),
        "decoders": list(decoders),
        "budget": budget_seconds,
        "max_steps": max_steps,
        "metric": metric or task.default_metric,
        "epsilon": task.metrics[metric or task.default_metric].epsilon if epsilon is None else epsilon,
        "resolution": resolution,
        "device": device,
        "seed": seed,
        "augment": {"none": False, "light": True}.get(augment, augment),
        **({} if averaging == "none" else {"averaging": averaging}),
        "batch_size": batch_size,
        "repeats": repeats,
        "refit": refit,
        **({"rates": dict(rates)} if rates else {}),
    }
    bench = Workbench(
        target,
        task,
        pixels_for,
        Journal(Path(checkpoint_folder), task.stats_type),
        device_of(device),
        batch_size,
        augment,
        averaging,
        features_for,
        progress or no_progress,
        now,
        given_up=given_up or {},
    )
    moments = [bench.moment()]
    kit = Kit(bench, candidates, supplies, device, settings)
    clock = Clock(settings, bench.journal, cache, now, spent_seconds)
    field = Field(bench, clock, settings, executor or InProcess(), Shared(kit), loaded=kit.loaded)
    field.notes += task.notes(target)
    _load(field, candidates)
    _enter_configurations(field, strategies, decoders)
    moments.append(bench.moment())
    plan = plan_rounds(field) if field.configurations else None
    moments.append(bench.moment())
    if plan is not None:
        run_rounds(field, plan)
        train_rivals(field)
        name_untrained(field)
        train_longer(field)
        repeat_leaders(field)
    moments.append(bench.moment())
    result = verdict(field)
    return replace(result, seconds=seconds_by_part(PARTS, [*moments, bench.moment()]))


def _load(field: Field, candidates: Sequence[TuningCandidate]) -> None:
    """Bring the encoders into memory and solve their heads: the frozen strategy.

    The first that can be used is solved whatever the budget is, so that there is a model; the others as far as they begin
    within its first quarter.
    """
    quarter = field.clock.now() + QUARTER * field.clock.left

    def enter(candidate: TuningCandidate) -> Loaded:
        first = not field.loaded
        if not first and field.clock.now() >= quarter:
            raise BudgetEnded("the budget is too short for so many models; give more time.")
        with field.bench.working_on(candidate):
            loaded = load(field.bench, candidate)
            solve(field.bench, loaded, math.inf if first else max(quarter, field.clock.now()))
            return loaded

    for result in InProcess().map(enter, candidates, fatal=(StoreError,)):
        if result.value is not None:
            field.loaded[result.job.name] = result.value
        elif result.failure is not None and isinstance(result.failure.error, BudgetEnded):
            field.not_run[result.job.name] = result.failure.reason
        else:
            field.failed[result.job.name] = result.failure.reason if result.failure else "unknown"
    # metrics import libraries that take seconds: paid before the plan, where the budget counts them
    solved = [loaded.frozen.stats for loaded in field.loaded.values() if loaded.frozen and loaded.frozen.stats]
    for stats in solved[:1]:
        stats.values(field.bench.task.metrics)


def _enter_configurations(field: Field, strategies: Sequence[str], decoders: Sequence[str]) -> None:
    """A configuration for every strategy that takes steps; where the task has no linear probe, ``frozen`` does as well."""
    for loaded in field.loaded.values():
        own = []
        for place, decoder in enumerate(field.bench.task.decoders_for(loaded.encoder, decoders) or ("",)):
            solved = loaded.frozen is not None and place == 0  # by the probe, which the first one starts from
            taken = [name for name in strategies if strategy_room.registry.get(name).trains or not solved]
            own += [f"{decoder}/{name}" if decoder else name for name in taken]
        if not loaded.encoder.num_parameters and loaded.encoder.module is not None:
            continue  # ready features: there is nothing under the head
        if loaded.encoder.module is None and own:
            field.notes.append(f"{loaded.name} cannot be trained (no torch network); only its frozen metric is given.")
            continue
        field.configurations += [Configuration(loaded, strategy) for strategy in own]


def _check(
    candidates: Sequence[TuningCandidate],
    target: Target,
    task: Task,
    strategies: Sequence[str],
    metric: str | None,
    **numbers: float | None,
) -> None:
    if not candidates:
        raise ConfigError("fine-tuning needs at least one candidate. Got none.")
    names = [c.name for c in candidates]
    if len(set(names)) < len(names):
        raise ConfigError(f"candidates must have different names. Got {', '.join(sorted(names))}.")
    if not strategies:
        raise ConfigError(f"name at least one strategy out of {', '.join(strategy_room.registry.names())}.")
    for name in strategies:
        strategy_room.registry.get(name)
    if metric is not None and metric not in task.metrics:
        known = list(task.metrics)
        raise ConfigError(f"unknown metric '{metric}'{did_you_mean(metric, known) or '.'} Known: {', '.join(known)}.")
    for name, value in numbers.items():
        least = LEAST[name]
        if value is not None and (not math.isfinite(value) or value < least):
            raise ConfigError(f"{name} must be a number in the range [{least:g}, inf). Got {value}.")
    task.check(target)


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
            left = (
                field.clock.left
                - _once_more(field, leaders[0])
                - sum(seconds_for(field, other, begun[other.label]) for other in together)
            )
            one, two = (seconds_for(field, rival, some) for some in (1, 2))
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
    for rival, run in train_once(field, [planned(field, c, steps[c.label]) for c in rivals], number):
        take(field, rival, [run], number - 1)
        rival.alive = rival.status == "ok"
        if rival in field.waiting:
            field.waiting.remove(rival)
            field.configurations.append(rival)


def name_untrained(field: Field) -> None:
    """One note about all that the budget left no time for."""
    if field.waiting:
        field.notes.append(
            f"{len(field.waiting)} of {len(field.waiting) + len(field.configurations)} configurations not trained, "
            f"because the budget is too short for all: {', '.join(c.label for c in field.waiting)}."
        )


def train_longer(field: Field) -> None:
    """The leader anew for as many steps as there is time for, where that is half as many again at least.

    Estimates keep something back for a slower machine; what they kept goes to the model that will be saved. Where the plan
    has a last training on all labels, that one has as many more epochs.
    """
    done: list[int] = field.clock.state.setdefault("longer", [])
    wanted = int(field.clock.state.get("wanted", 0))
    leader = max((c for c in field.alive() if c.best), key=field.configuration_order, default=None)
    if field.clock.budget is None or leader is None:
        return
    if not done:
        one, two = (seconds_for(field, leader, some) for some in (1, 2))
        each = (two - one) * (1 + field.again)
        fits = 1 + int((SHARE_OF_BUDGET * field.clock.left - one) / each) if each > 0 else 0
        steps = min(fits, wanted)
        done.append(steps if steps >= LONGER * _steps(leader) else 0)
        field.clock.remember()
    if done[0]:
        for _, run in train_once(field, [planned(field, leader, done[0])], leader.round + 1):
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
        cost = sum(seconds_for(field, configuration, _steps(configuration)) for configuration in leaders)
        if "repeats" not in field.clock.state and cost > field.clock.left - _once_more(field, leaders[0]):
            field.clock.state["repeats"] = number - 1
            break
        entries = [planned(field, c, _steps(c), field.seed + number) for c in leaders]
        runs = {configuration.label: run for configuration, run in train_once(field, entries)}
        if len(runs) < len(leaders):
            field.clock.state["repeats"] = number - 1
            break
        for configuration in leaders:
            run = runs[configuration.label]
            if run.record.status == "ok":
                configuration.repeats.append(run)
            else:
                configuration.notes.append(f"seed {run.trial.seed} {run.record.status}")
    field.clock.state.setdefault("repeats", allowed)
    field.clock.remember()


def _once_more(field: Field, leader: Configuration) -> float:
    """Seconds that are kept for a last training of the leader on all labels."""
    return seconds_for(field, leader, round(_steps(leader) * field.again)) if field.again else 0.0


def _steps(configuration: Configuration) -> int:
    assert configuration.best is not None
    return configuration.best.steps
