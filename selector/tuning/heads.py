"""Linear probes: the frozen strategy, and where every training starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from torch import nn

from selector.core.errors import BudgetEnded, TrainingError
from selector.core.table import Facet, RowPlan
from selector.core.task import Probe, Stats
from selector.tuning.journal import Record
from selector.tuning.workbench import HEADS, Loaded, Workbench

START_ROWS = 5000  # items for solving a probe at another resolution
CURVE = (0.25, 0.5)  # shares of the training items, besides all of them

Rows = tuple[RowPlan, np.ndarray]


def solve(bench: Workbench, loaded: Loaded, deadline: float) -> Record | None:
    """The frozen strategy: features at the native resolution, the probe solved, val chooses its strength.

    Returns:
        None where the task has no linear probe: every training then starts from a new head.
    """
    if bench.task.probe_rows == 0:
        return None
    key = bench.journal.key({**bench.facts(loaded, loaded.encoder.preprocess), "strategy": "frozen"})
    begun = bench.now()
    record = bench.journal.read(key)
    if record is None or record.status != "ok":
        native = _native(bench, loaded)
        rows = probe_rows(bench, native, ("train", "val"), deadline)
        probe = None if rows is None else bench.task.probe(bench.target, rows["train"], rows["val"])
        if rows is None or probe is None:
            return None
        stats = probe_stats(bench, native, probe, rows["val"][1], "val")
        facts = {
            "status": "ok",
            "curve": _curve(bench, rows, stats),
            "trained_parameters": sum(int(probe[name].size) for name in ("weight", "bias")),
            "seconds": bench.now() - begun,
        }
        record = Record(facts, stats, probe)
        bench.journal.write(key, record)
    loaded.frozen, loaded.native_probe = record, record.arrays
    return record


def refit(bench: Workbench, loaded: Loaded) -> bool:
    """Solve the frozen head again on train and validation items together, with the strength that validation chose.

    Only from features that are there: then it takes seconds. What validation measured stays that of the head before.
    """
    if bench.features_for is None or loaded.native_probe is None:
        return False
    items = np.concatenate([bench.indices["train"], bench.indices["val"]])
    rows = bench.plan("", items), np.asarray(bench.features_for(loaded.name, items))
    found = bench.task.refit(bench.target, rows, loaded.native_probe)
    if found is not None:
        loaded.native_probe = found
    return found is not None


def frozen_stats(
    bench: Workbench, loaded: Loaded, split: str, context: Mapping[str, object], *, saved: bool = False
) -> Stats:
    """Statistics of the frozen strategy on a split, with what validation chose.

    Args:
        saved: they are those of the model that is saved. Stored features of a lower precision will not do then: ``predict``
            computes in single precision.
    """
    assert loaded.native_probe is not None
    anew = saved and loaded.candidate.rounded and loaded.encoder.module is not None
    native = _native(bench, loaded)
    rows = None if anew else probe_rows(bench, native, (split,))
    return probe_stats(bench, native, loaded.native_probe, None if rows is None else rows[split][1], split, context)


def frozen_module(bench: Workbench, loaded: Loaded) -> nn.Module:
    """The learner with its solved probe."""
    return bench.task.learner(loaded.encoder, bench.target, loaded.native_probe).eval()


def _native(bench: Workbench, loaded: Loaded) -> Loaded:
    """At the encoder's own size and the device's precision, as features are extracted."""
    return replace(loaded, preprocess=loaded.encoder.preprocess, bf16=bench.bf16)


def probe_stats(
    bench: Workbench,
    loaded: Loaded,
    probe: Probe,
    features: np.ndarray | None,
    split: str,
    context: Mapping[str, object] | None = None,
) -> Stats:
    """From the features where outputs follow from them, else by forward passes of the learner."""
    outputs = None if features is None else bench.task.probe_outputs(probe, features)
    if outputs is not None:
        return bench.stats_of_outputs(outputs, split, context)
    module = bench.task.learner(loaded.encoder, bench.target, probe, loaded.resized)
    return bench.stats_of(loaded, module, split, context)


def probe_rows(
    bench: Workbench, loaded: Loaded, splits: tuple[str, ...], deadline: float = math.inf
) -> dict[str, Rows] | None:
    """Rows of the probe by split, extracted before where that was at this size; None where the learner has none.

    Raises:
        TrainingError: the deadline came first, or cached features are of another width.
    """
    if bench.features_for is not None and loaded.resized is None:
        cached = {s: (bench.plan(s), np.asarray(bench.features_for(loaded.name, bench.indices[s]))) for s in splits}
        width = cached[splits[0]][1].shape[1]
        if width != (expected := bench.task.width(loaded.encoder)):
            raise TrainingError(f"cached features have {width} columns, but the encoder gives {expected}; scan again.")
        return cached
    module = bench.task.learner(loaded.encoder, bench.target, size=loaded.resized)
    feed = bench.feed(loaded.preprocess)
    found = {}
    for split in splits:
        plan, rows = bench.rows_of(module, feed, bench.indices[split], bf16=loaded.bf16, deadline=deadline)
        if rows is None:
            if bench.now() >= deadline:
                raise BudgetEnded("the budget ended before the features were computed; give more time.")
            return None
        found[split] = (plan, rows)
    return found


def _curve(bench: Workbench, rows: Mapping[str, Rows], stats: Stats) -> list[list[float]]:
    """(training items, validation value) of the solved probe at N/4, N/2 and N; empty where outputs need the network."""
    metric = bench.task.default_metric
    order = np.random.default_rng(0).permutation(len(bench.indices["train"]))
    plan, features = rows["train"]
    curve = []
    for share in CURVE:
        items = order[: int(share * len(order))]
        kept = np.isin(plan.item, bench.indices["train"][items])
        probe = bench.task.probe(bench.target, (_some(plan, kept), features[kept]), rows["val"]) if kept.any() else None
        outputs = None if probe is None else bench.task.probe_outputs(probe, rows["val"][1])
        if outputs is not None:
            curve.append([len(items), bench.stats_of_outputs(outputs, "val").value(metric)])
    curve.append([len(order), stats.value(metric)])
    return curve


def _some(plan: RowPlan, kept: np.ndarray) -> RowPlan:
    def part(facet: Facet) -> Facet:
        return replace(facet, labels=facet.labels[kept], mask=None if facet.mask is None else facet.mask[kept])

    facets = {name: part(facet) for name, facet in plan.facets.items()}
    return replace(plan, item=plan.item[kept], facets=facets, place=None if plan.place is None else plan.place[kept])


def prepare_start(bench: Workbench, loaded: Loaded, deadline: float = math.inf) -> None:
    """Solve the probe that every strategy starts from, at the resolution of the training."""
    if loaded.start is not None or loaded.native_probe is None:
        return
    if loaded.resized is None:
        assert loaded.frozen is not None
        loaded.probe, loaded.start = loaded.native_probe, loaded.frozen.stats
        return
    key = _start_key(bench, loaded)
    record = bench.journal.read(key)
    started = bench.now()
    if record is None or record.stats is None:
        module = bench.task.learner(loaded.encoder, bench.target, size=loaded.size)
        feed = bench.feed(loaded.preprocess)
        some = np.random.default_rng(0).permutation(len(bench.indices["train"]))[:START_ROWS]
        rows: dict[str, Rows] = {}
        for split, which in (("train", bench.indices["train"][some]), ("val", bench.indices["val"])):
            begun = bench.now()
            plan, found = bench.rows_of(module, feed, which, bf16=loaded.bf16, deadline=deadline)
            if found is None:
                raise BudgetEnded("the budget ended before the first step; give more time.")
            rows[split] = (plan, found)
            loaded.forward_seconds = (bench.now() - begun) / len(which)
        probe = bench.task.probe(bench.target, rows["train"], rows["val"])
        if probe is None:
            loaded.probe, loaded.start = loaded.native_probe, loaded.frozen.stats if loaded.frozen else None
            return
        record = Record({"status": "ok"}, probe_stats(bench, loaded, probe, rows["val"][1], "val"), probe)
        bench.journal.write(key, record)
        bench.seconds[HEADS] += bench.now() - started
    loaded.start, loaded.probe = record.stats, record.arrays


def keep_start(bench: Workbench, loaded: Loaded) -> None:
    """Write down where trainings start, as a worker solved it at another resolution."""
    if loaded.resized and loaded.start is not None and loaded.probe is not None:
        key = _start_key(bench, loaded)
        if bench.journal.read(key) is None:
            bench.journal.write(key, Record({"status": "ok"}, loaded.start, loaded.probe))


def _start_key(bench: Workbench, loaded: Loaded) -> str:
    return bench.journal.key({**bench.facts(loaded, loaded.preprocess, loaded.bf16), "strategy": "start"})
