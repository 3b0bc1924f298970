"""The fine-tuning stage, from top to bottom: load, solve the heads, plan, rounds, repeats, verdict."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from selector.core.contracts import AnyPreprocess, ProgressCallback, Target, no_progress
from selector.core.errors import BudgetEnded, ConfigError, StoreError, did_you_mean
from selector.core.task import Task
from selector.run.executor import Executor, InProcess
from selector.run.job import Shared
from selector.tuning import strategies as strategy_room
from selector.tuning.clock import Clock
from selector.tuning.field import Configuration, Field
from selector.tuning.heads import solve
from selector.tuning.job import Kit, Supplies
from selector.tuning.journal import Journal
from selector.tuning.loaded import Loaded
from selector.tuning.loading import load
from selector.tuning.planner import plan_rounds
from selector.tuning.repeats import name_untrained, repeat_leaders, train_longer, train_rivals
from selector.tuning.rounds import run_rounds
from selector.tuning.strategies._loop import PixelBatches
from selector.tuning.types import Cache, FineTuningResult, TuningCandidate
from selector.tuning.verdict import verdict
from selector.tuning.workbench import Workbench, device_of

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
    max_steps: int | None = None,
    metric: str | None = None,
    epsilon: float | None = None,
    rates: Mapping[str, float] | None = None,
    resolution: int | None = None,
    device: str = "auto",
    seed: int = 0,
    augment: bool = True,
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
        max_steps: of the winner's training at most; None for 20 epochs, within 100..3000.
        metric: decides; None for the task's own.
        epsilon: how much worse, in units of the metric, is as good; None for what the metric declares.
        rates: learning rates that are tried first, by ``model strategy``: those of earlier trainings.
        resolution: short side in pixels to train at; None for the native one, reduced only when the
            budget needs it. Metrics at a reduced resolution are marked.
        augment: light augmentation of the training images.
        batch_size: items a step, equal for all; the task's own when not given.
        repeats: further seeds for the two leading configurations, when time is left.
        refit: solve the head of a frozen model that is saved again on train and validation items, from cached features.
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
    batch_size = task.batch_size if batch_size is None else batch_size
    _check(candidates, target, task, strategies, budget_seconds, max_steps, metric, epsilon, resolution, batch_size)
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
        "augment": augment,
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
        features_for,
        progress or no_progress,
        now,
        given_up=given_up or {},
    )
    times = [bench.now()]
    kit = Kit(bench, candidates, supplies, device, settings)
    clock = Clock(settings, bench.journal, cache, now)
    field = Field(bench, clock, settings, executor or InProcess(), Shared(kit), loaded=kit.loaded)
    field.notes += task.notes(target)
    _load(field, candidates)
    _enter_configurations(field, strategies, decoders)
    times.append(bench.now())
    plan = plan_rounds(field) if field.configurations else None
    times.append(bench.now())
    if plan is not None:
        run_rounds(field, plan)
        train_rivals(field)
        name_untrained(field)
        train_longer(field)
        repeat_leaders(field)
    times.append(bench.now())
    result = verdict(field)
    return replace(result, seconds=_where_time_went([*times, bench.now()], bench.seconds))


def _where_time_went(times: Sequence[float], trainings: Mapping[str, float]) -> dict[str, float]:
    """Seconds by part, from the times at which parts began and the last one ended, and what trainings spent."""
    heads, plan, rounds, end = (after - before for before, after in itertools.pairwise(times))
    between = max(0.0, rounds - sum(trainings.values()))  # building, saving, comparing; waiting for workers
    return {
        "models and frozen heads": heads,
        "heads at the size of the training, estimates": plan,
        **trainings,
        "between trainings": between,
        "test split and verdict": end,
    }


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
    budget_seconds: float | None,
    max_steps: int | None,
    metric: str | None,
    epsilon: float | None,
    resolution: int | None,
    batch_size: int,
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
    for name, value, least in (
        ("budget", budget_seconds, 0.0),
        ("max_steps", max_steps, 1),
        ("resolution", resolution, 16),
        ("batch_size", batch_size, 2),
        ("epsilon", epsilon, 0.0),
    ):
        if value is not None and (not math.isfinite(value) or value < least):
            raise ConfigError(f"{name} must be a number in the range [{least:g}, inf). Got {value}.")
    task.check(target)
