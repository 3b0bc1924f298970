"""Seconds of a training step and of a forward pass: remembered from earlier trainings on this machine, or estimated."""

from __future__ import annotations

import math

import torch

from selector.core.system import cpu_model
from selector.tuning import strategies
from selector.tuning.loaded import Loaded
from selector.tuning.loading import build, settle_precision
from selector.tuning.strategies._loop import predict
from selector.tuning.workbench import Workbench

PASSES_A_STEP = 3  # forward passes that a step takes as long as


def remembered_costs(bench: Workbench, loaded: Loaded, strategy: str) -> dict[str, float] | None:
    """Seconds of a ``step`` and of a ``forward`` pass of an item, as an earlier training on this machine took them."""
    found = bench.journal.read_json(_name(bench, loaded, strategy))
    return None if found is None else {name: float(found[name]) for name in ("step", "forward")}


def remember_costs(bench: Workbench, loaded: Loaded, strategy: str, step: float, forward: float) -> None:
    """Keep what a training took, so that the next call plans with it instead of measuring again."""
    bench.journal.write_json(_name(bench, loaded, strategy), {"step": step, "forward": forward})


def _name(bench: Workbench, loaded: Loaded, strategy: str) -> str:
    asked = {
        "encoder": loaded.encoder.identity,
        "preprocess": loaded.preprocess.to_dict(),
        "task": bench.task_for(strategy).address,
        "strategy": strategies.plan_of(strategy).name,
        "batch_size": bench.batch_size,
        "bf16": loaded.bf16,
        "machine": f"{cpu_model()}, {torch.get_num_threads()} threads"
        if torch.device(bench.device).type == "cpu"
        else torch.cuda.get_device_name(bench.device),
    }
    return f"costs-{bench.journal.key(asked)}"


def estimated_step(bench: Workbench, loaded: Loaded, strategy: str) -> float:
    """Seconds of one step: remembered from a training on this machine, or what a pass over one batch takes, times three.

    No step is timed before the first training: its own steps say what the next ones take, and a training that is slower
    than estimated is cooled down in time.
    """
    settle_precision(bench, loaded)
    if (known := remembered_costs(bench, loaded, strategy)) is not None:
        loaded.forward_seconds = known["forward"]
        return known["step"]
    with bench.working_on(loaded.candidate):
        forward = _forward_seconds(bench, loaded, strategy)
    if math.isnan(loaded.forward_seconds):
        loaded.forward_seconds = forward
    return forward * PASSES_A_STEP * min(bench.batch_size, len(bench.indices["train"]))


def _forward_seconds(bench: Workbench, loaded: Loaded, strategy: str) -> float:
    """Seconds an item of the second of two passes over half a batch; the first one pays for what is prepared once."""
    module, feed = build(bench, loaded, adaptation=strategy), bench.feed(loaded.preprocess)
    some = bench.indices["train"][: max(1, bench.batch_size // 2)]
    for _ in range(2):
        begun = bench.now()
        predict(module, feed, some, lambda *_: None, device=bench.device, bf16=loaded.bf16, batch_size=len(some))
        seconds = bench.now() - begun
    return seconds / len(some)
