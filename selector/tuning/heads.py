"""Solved heads: the frozen strategy, and where every training starts."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import numpy as np
from torch import nn

from selector.core.errors import TrainingError
from selector.linear import LinearHead, solve_head
from selector.tuning.journal import Record
from selector.tuning.loaded import Loaded
from selector.tuning.strategies._head import head_inputs, set_head, steadied
from selector.tuning.workbench import Workbench

START_ROWS = 5000  # for solving a head at a reduced resolution
CURVE = (0.25, 0.5)  # shares of the training images, besides all of them


def solve(bench: Workbench, loaded: Loaded, deadline: float) -> Record:
    """The frozen strategy: features at the native resolution, the head solved, val chooses its strength."""
    key = bench.journal.key({**bench.facts(loaded, loaded.encoder.preprocess), "strategy": "frozen"})
    begun = time.perf_counter()
    record = bench.journal.read(key)
    rows = (
        None if record is not None and record.status == "ok" else _features(bench, loaded, ("train", "val"), deadline)
    )
    if record is None or record.status != "ok":
        if rows is None:
            raise TrainingError("the budget ended before the features were computed; give more time.")
        head = _solve(bench, rows["train"], bench.labels["train"], rows["val"])
        logits = _apply(head.weight, head.bias, rows["val"])
        facts = {
            "status": "ok",
            "strength": head.strength,
            "weight": head.weight.tolist(),
            "bias": head.bias.tolist(),
            "curve": _curve(bench, rows, logits),
            "trained_parameters": int(head.weight.size + head.bias.size),
            "seconds": time.perf_counter() - begun,
        }
        record = Record(facts, logits)
        bench.journal.write(key, record)
    loaded.frozen = record
    loaded.native_head = (
        np.asarray(record.facts["weight"], dtype=np.float32),
        np.asarray(record.facts["bias"], dtype=np.float32),
    )
    return record


def frozen_test(bench: Workbench, loaded: Loaded) -> np.ndarray:
    """Outputs of the frozen strategy on the test split."""
    assert loaded.native_head is not None
    rows = _features(bench, loaded, ("test",), math.inf)
    assert rows is not None
    return _apply(*loaded.native_head, rows["test"])


def frozen_module(bench: Workbench, loaded: Loaded) -> nn.Module:
    """The encoder with its solved head as one module."""
    assert loaded.native_head is not None
    module = loaded.encoder.with_head(bench.outputs)
    set_head(module, *loaded.native_head)
    return module.eval()


def _features(
    bench: Workbench, loaded: Loaded, splits: tuple[str, ...], deadline: float
) -> dict[str, np.ndarray] | None:
    if bench.features_for is not None:
        cached = {split: np.asarray(bench.features_for(loaded.name, bench.indices[split])) for split in splits}
        width = next(iter(cached.values())).shape[1]
        if width != loaded.encoder.num_features:
            raise TrainingError(
                f"cached features have {width} columns, but the encoder gives {loaded.encoder.num_features}; scan again."
            )
        return cached
    preprocess = loaded.encoder.preprocess
    module = loaded.encoder.with_head(bench.outputs)
    pixels = bench.pixels_for(preprocess)
    found = {}
    for split in splits:
        rows, _ = head_inputs(
            module,
            pixels,
            bench.indices[split],
            bench.normalise(preprocess),
            device=bench.device,
            bf16=bench.bf16,
            deadline=deadline,
        )
        if rows is None:
            return None
        found[split] = rows
    return found


def _curve(bench: Workbench, rows: Mapping[str, np.ndarray], logits: np.ndarray) -> list[list[float]]:
    """(training images, validation figure) of the solved head at N/4, N/2 and N."""
    metric = bench.task.default_metric
    order = np.random.default_rng(0).permutation(len(bench.indices["train"]))
    curve = []
    for share in CURVE:
        items = order[: int(share * len(order))]
        units = bench.units["train"]
        some = items if units is None else np.flatnonzero(np.isin(units, items))
        if len(np.unique(bench.labels["train"][some])) < 2:
            continue
        head = _solve(bench, rows["train"][some], bench.labels["train"][some], rows["val"])
        value = bench.metrics(_apply(head.weight, head.bias, rows["val"]), "val")[metric]
        curve.append([len(items), value])
    curve.append([len(order), bench.metrics(logits, "val")[metric]])
    return curve


def _solve(bench: Workbench, rows: np.ndarray, labels: np.ndarray, held_out: np.ndarray) -> LinearHead:
    return solve_head(
        steadied(rows), labels, held_out, bench.labels["val"], bench.outputs, label_kind=bench.task.label_kind
    )


def prepare_start(bench: Workbench, loaded: Loaded, deadline: float = math.inf) -> None:
    """Solve the head that every strategy starts from, at the resolution of the training."""
    if loaded.head is not None:
        return
    if not loaded.reduced:
        assert loaded.frozen is not None
        loaded.head, loaded.start = loaded.native_head, loaded.frozen.logits
        return
    key = bench.journal.key({**bench.facts(loaded, loaded.preprocess, loaded.bf16), "strategy": "start"})
    record = bench.journal.read(key)
    if record is None or record.logits is None:
        module = loaded.encoder.with_head(bench.outputs, loaded.size)
        pixels = bench.pixels_for(loaded.preprocess)
        some = np.random.default_rng(0).permutation(len(bench.indices["train"]))[:START_ROWS]
        rows = {}
        for split, which in (("train", bench.indices["train"][some]), ("val", bench.indices["val"])):
            found, seconds = head_inputs(
                module,
                pixels,
                which,
                bench.normalise(loaded.preprocess),
                device=bench.device,
                bf16=loaded.bf16,
                deadline=deadline,
            )
            if found is None:
                raise TrainingError("the budget ended before the first step; give more time.")
            rows[split] = found
            loaded.forward_seconds = seconds / len(which)
        head = _solve(bench, rows["train"], bench.labels["train"][some], rows["val"])
        record = Record(
            {"status": "ok", "weight": head.weight.tolist(), "bias": head.bias.tolist()},
            _apply(head.weight, head.bias, rows["val"]),
        )
        bench.journal.write(key, record)
    loaded.start = record.logits
    loaded.head = (np.asarray(record.facts["weight"], np.float32), np.asarray(record.facts["bias"], np.float32))


def _apply(weight: np.ndarray, bias: np.ndarray, rows: np.ndarray) -> np.ndarray:
    outputs: np.ndarray = (rows @ weight.T + bias).astype(np.float32)
    return outputs
