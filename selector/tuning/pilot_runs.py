"""Pilot runs: a few steps of real fine-tuning of a model, judged on validation items.

What frozen features cannot show is how well a network trains. A pilot run measures it for about what extraction
cost: a linear probe on some training items, then one short cycle of full fine-tuning on others, each seen once, at a
low resolution, then one pass over validation items (few items are seen several times). Where the network cannot be reduced the probe is solved on features that
the scan has extracted, for nothing. What a pilot run costs is counted in forward passes before it begins, not by the clock, so
that a repeated run does the same steps; the clock only ends what would leave a budget too little for the trainings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from selector.core.contracts import Progress, ProgressCallback, Target, no_progress
from selector.core.errors import StoreError, TrainingError
from selector.core.preprocess import AnyPreprocess
from selector.core.task import Probe, Stats, Task
from selector.run.executor import Executor, InProcess
from selector.run.job import Shared
from selector.tuning import strategies
from selector.tuning.heads import probe_rows, probe_stats
from selector.tuning.job import Kit, Supplies
from selector.tuning.journal import Journal, Record
from selector.tuning.loading import build, load, resize, settle_precision
from selector.tuning.plan import BACKWARD
from selector.tuning.strategies._loop import Optimizer, PixelBatches, Settings, train
from selector.tuning.strategies._parts import parts_of
from selector.tuning.trial import optimizer_of
from selector.tuning.types import TuningCandidate
from selector.tuning.workbench import Loaded, Workbench, device_of

STEPS = 24  # at most
LEAST_STEPS = 8  # fewer move nothing
BATCH = 16  # many small steps rather than few large ones: what is seen in a pass is the same
PROBE_ITEMS = 400  # that the probe is solved on, at most
HELD_OUT = 200  # validation items that judge, at most
SIDE = 96  # pixels that images are reduced to, at most
RATES: Mapping[Optimizer, float] = {"sgd": 0.01, "adamw": 1e-4}
"""A short cycle has to move far, and not so far that it ruins a network: at 3e-4 a vision transformer fell from 0.64 to 0.23 on
flowers (0.59 at 1e-4, on 150 items), and a reader of texts gained less than at 1e-4 on two sets."""
STRATEGY = "full"


@dataclass(frozen=True)
class PilotRun:
    """What became of one model.

    Attributes:
        status: ``ok``, ``diverged``, ``failed``, or ``not run`` with its ``reason``.
        before, after: the metric on the held-out items, of the linear probe and after the steps; None where the pilot run did
            not end well.
        losses: of each batch before its step: a learning curve. Where there are items for all steps the network had not been
            trained on them.
        stats, probe_stats: of the held-out items, after the steps and of the probe; the same items for every model.
    """

    name: str
    status: str = "ok"
    reason: str = ""
    before: float | None = None
    after: float | None = None
    steps: int = 0
    held_out: int = 0
    size: tuple[int, int] | None = None
    seconds: float = 0.0
    losses: tuple[float, ...] = ()
    stats: Stats | None = None
    probe_stats: Stats | None = None

    def judged(self, *, probe_too: bool) -> list[Stats]:
        """The statistics whose mean value counts."""
        kept = (self.stats, self.probe_stats if probe_too else None)
        return [stats for stats in kept if stats is not None]


def pilot_runs(
    candidates: Sequence[TuningCandidate],
    target: Target,
    task: Task,
    pixels_for: Callable[[AnyPreprocess], PixelBatches],
    *,
    metric: str | None = None,
    share: float = 1.0,
    budget_seconds: float | None = None,
    device: str = "auto",
    seed: int = 0,
    folder: Path,
    features_for: Callable[[str, np.ndarray], np.ndarray] | None = None,
    progress: ProgressCallback | None = None,
    executor: Executor | None = None,
    supplies: Supplies | None = None,
    given_up: Mapping[str, str] | None = None,
) -> list[PilotRun]:
    """One pilot run a candidate.

    Args:
        candidates: the models.
        target: train and val must not be empty; test is not read.
        pixels_for: as for ``run_fine_tuning``.
        metric: that judges; None for the task's own.
        share: forward passes that a pilot run may cost, as a share of what the extraction of train and val costs at the
            model's own resolution.
        budget_seconds: for all of them, shared out evenly among those that are left; a pilot run whose time ends before
            its last step counts from ``LEAST_STEPS`` steps on, and is not run otherwise.
        seed: of the items that are drawn; they are the same for every model.
        folder: of the journal; a pilot run that stands in it is not run again.
        features_for: as for ``run_fine_tuning``: what a pilot run at the native resolution solves its probe on, at no cost. Workers
            have none and extract them anew, at their cost.
        executor, supplies, given_up: as for ``run_fine_tuning``.
    Returns:
        In the order of the candidates. A candidate that fails is a pilot run with that status.
    Raises:
        StoreError: the disk is full.
    Cost: at most ``share`` times the extraction a model, and the loading of it.
    """
    bench = Workbench(
        target, task, pixels_for, Journal(folder, task.stats_type), device_of(device), BATCH, augment="none",
        features_for=features_for, notify=progress or no_progress, given_up=given_up or {},
    )  # fmt: skip
    metric = metric or task.default_metric
    kit = Shared(Kit(bench, candidates, supplies, device, {}))
    executor = executor or InProcess()
    ends = math.inf if budget_seconds is None else bench.now() + budget_seconds

    def jobs() -> Iterator[_Job]:
        for done, candidate in enumerate(candidates):
            rest = len(candidates) - done
            seconds = (ends - bench.now()) * min(executor.width, rest) / rest
            yield _Job(kit, candidate.name, metric, share, seed, seconds)

    results = executor.map(_run_job, jobs(), fatal=(StoreError,), needs=lambda job: kit.value.needs(job.name))
    found = {}
    for done, result in enumerate(results, 1):
        name = result.job.name
        bench.notify(Progress("pilot runs", done, len(candidates), "models", name))
        reason = result.failure.reason if result.failure else "unknown"
        found[name] = result.value or PilotRun(name, "failed", reason)
    return [found[candidate.name] for candidate in candidates]


@dataclass(frozen=True)
class _Job:
    """Job: a pilot run of one model."""

    kit: Shared[Kit]
    name: str
    metric: str
    share: float
    seed: int
    seconds: float


def _run_job(job: _Job) -> PilotRun:
    kit = job.kit.value
    bench = replace(kit.bench)
    return _run(bench, job.metric, job.share, job.seed, bench.now() + job.seconds, kit.candidate(job.name))


def draw(items: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most so many of the items, in an order that the seed decides."""
    return np.asarray(items[np.random.default_rng((seed, len(items))).permutation(len(items))[:most]])


def steps_within(forwards: float, fixed: int) -> int:
    """Steps that so many forward passes allow beside ``fixed`` ones for the probe and the judgment.

    >>> steps_within(2000, 800), steps_within(1200, 800), steps_within(1000, 800)
    (24, 8, 0)
    """
    steps = min(STEPS, int((forwards - fixed) / (BACKWARD * BATCH)))
    return steps if steps >= LEAST_STEPS else 0


def share_needed(items: int, fixed: int, reduction: float) -> float:
    """``share`` from which the fewest steps that move anything fit, rounded up to a tenth.

    Args:
        items: of train and val, which the extraction passes.
        fixed: passes for the probe and the judgment.
        reduction: pixels at the pilot run's resolution over those at the model's own.

    >>> share_needed(1000, 800, 1.0), share_needed(1000, 800, 0.25), share_needed(100, 20, 1.0)
    (1.2, 0.3, 4.1)
    """
    return math.ceil(10 * (fixed + LEAST_STEPS * BACKWARD * BATCH) * reduction / items - 1e-9) / 10


def _run(
    bench: Workbench, metric: str, share: float, seed: int, deadline: float, candidate: TuningCandidate
) -> PilotRun:
    """One candidate, on record: load, probe, train, judge; or what the journal has of it."""
    target = bench.target
    drawn = draw(target.indices("train"), PROBE_ITEMS + STEPS * BATCH, seed)
    probed = min(PROBE_ITEMS, len(drawn) // 2)
    stream, held_out = drawn[probed:], draw(target.indices("val"), HELD_OUT, seed)
    bench.indices = {"train": drawn[:probed], "val": held_out, "test": np.empty(0, np.int64)}
    if bench.task.probe_rows == 0:
        return PilotRun(candidate.name, "not run", "the task has no linear probe that a few steps could start from")
    with bench.working_on(candidate):
        return _tried(bench, stream, metric, share, seed, deadline, candidate)


def _tried(
    bench: Workbench,
    stream: np.ndarray,
    metric: str,
    share: float,
    seed: int,
    deadline: float,
    candidate: TuningCandidate,
) -> PilotRun:
    loaded = load(bench, candidate)
    if loaded.encoder.module is None:
        return PilotRun(candidate.name, "not run", "no torch network, so it cannot be trained")
    native = math.prod(loaded.size)
    if loaded.resolution is not None:
        resize(bench, loaded, (min(SIDE, loaded.size[0]), min(SIDE, loaded.size[1])))
    settle_precision(bench, loaded)
    of_probe = 0 if _extracted(bench, loaded) else len(bench.indices["train"]) + len(bench.indices["val"])
    items, fixed = len(bench.target.indices("train", "val")), of_probe + len(bench.indices["val"])
    reduction = math.prod(loaded.size) / native
    steps = steps_within(share * items / reduction, fixed)
    if not steps:
        needed = share_needed(items, fixed, reduction)
        reason = f"{LEAST_STEPS} steps cost {needed:g} times the extraction and {share:g} is allowed; raise pilot_cost to {needed:g}"
        return PilotRun(candidate.name, "not run", reason)
    key = bench.journal.key(_address(bench, loaded, stream, steps, seed))
    record = bench.journal.read(key)
    if record is None:
        if bench.now() >= deadline:
            return PilotRun(candidate.name, "not run", "the time for pilot runs ended; raise budget")
        record = _measure(bench, loaded, stream, steps, seed, deadline)
        if not record.facts["cut"]:
            bench.journal.write(key, record)
    facts = record.facts
    probe_stats = bench.task.stats_type(record.arrays, facts["probe_summary"])
    before, after = (None if stats is None else stats.value(metric) for stats in (probe_stats, record.stats))
    found = PilotRun(
        candidate.name,
        record.status,
        "; ".join(facts["notes"]),
        before,
        after,
        int(facts["steps"]),
        len(bench.indices["val"]),
        loaded.resolution,
        float(facts["seconds"]),
        tuple(facts["losses"]),
        record.stats,
        probe_stats,
    )
    if before != before or after != after:  # NaN
        return replace(found, status="failed", reason=f"{metric} is undefined on these items", before=None, after=None)
    return found


def _extracted(bench: Workbench, loaded: Loaded) -> bool:
    """Whether features of the probe's items are there already: those of the scan, of the native resolution."""
    return bench.features_for is not None and loaded.resized is None


def _address(bench: Workbench, loaded: Loaded, stream: np.ndarray, steps: int, seed: int) -> dict[str, object]:
    return {
        **bench.facts(loaded, loaded.preprocess, loaded.bf16),
        "strategy": f"micro {STRATEGY}",
        "steps": steps,
        "batch_size": BATCH,
        "rate": RATES[optimizer_of(loaded, STRATEGY)],
        "items": [len(bench.indices["train"]), len(stream), len(bench.indices["val"])],
        "probe": "extracted before" if _extracted(bench, loaded) else "here",
        "seed": seed,
    }


def _measure(bench: Workbench, loaded: Loaded, stream: np.ndarray, steps: int, seed: int, deadline: float) -> Record:
    begun = bench.now()
    probe, before = _probe(bench, loaded)
    of_steps = BACKWARD * BATCH * steps
    left = (deadline - bench.now()) * of_steps / (of_steps + len(bench.indices["val"]))  # the judgment needs the rest
    module = build(bench, loaded, probe)
    optimizer = optimizer_of(loaded, STRATEGY)
    fit = train(
        module,
        strategies.registry.get(STRATEGY).groups(
            parts_of(module, loaded.encoder.blocks), layer_decay=loaded.layer_decay
        ),
        bench.feed(loaded.preprocess),
        stream,
        Settings(
            steps=steps,
            batch_size=BATCH,
            rate=RATES[optimizer],
            optimizer=optimizer,
            seed=seed,
            bf16=loaded.bf16,
            device=bench.device,
            weight_decay=0.0,  # too few steps for it to matter
        ),
        deadline=bench.now() + left,
        clock=bench.now,
    )
    cut = fit.status != "diverged" and fit.steps < steps
    short = cut and fit.steps < LEAST_STEPS
    if short:
        fit.notes.append(f"the time for pilot runs allowed {fit.steps} of {steps} steps; raise budget")
    stats = bench.stats_of(loaded, module, "val") if fit.status == "ok" and not short else None
    facts = {
        "status": "not run" if short else fit.status,
        "cut": cut,
        "probe_summary": before.summary,
        "steps": fit.steps,
        "losses": fit.losses,
        "notes": fit.notes,
        "seconds": bench.now() - begun,
    }
    return Record(facts, stats, before.arrays)


def _probe(bench: Workbench, loaded: Loaded) -> tuple[Probe, Stats]:
    """The linear probe at the resolution of the pilot run, and what it reaches on the held-out items."""
    rows = probe_rows(bench, loaded, ("train", "val"))
    if rows is None:
        raise TrainingError("the task reads no rows off the network, so no linear probe can be solved.")
    probe = bench.task.probe(bench.target, rows["train"], rows["val"])
    if probe is None:
        raise TrainingError("the task solves no linear probe on these rows.")
    return probe, probe_stats(bench, loaded, probe, rows["val"][1], "val")
