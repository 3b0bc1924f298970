"""Seconds of a training step and of a forward pass: remembered from earlier trainings on this machine, or measured."""

from __future__ import annotations

import math

import torch

from selector.core.contracts import Progress
from selector.core.system import cpu_model
from selector.tuning import strategies
from selector.tuning.heads import prepare_start
from selector.tuning.loaded import Loaded
from selector.tuning.loading import build, settle_precision
from selector.tuning.strategies._loop import train
from selector.tuning.strategies._parts import parts_of
from selector.tuning.trial import Trial, settings_of
from selector.tuning.workbench import Workbench


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


def measured_step(bench: Workbench, loaded: Loaded, strategy: str, deadline: float = math.inf) -> float:
    """Seconds of one step, remembered or measured; where trainings start is solved on the way."""
    settle_precision(bench, loaded)
    prepare_start(bench, loaded, deadline)
    known = remembered_costs(bench, loaded, strategy)
    if known is not None:
        loaded.forward_seconds = known["forward"]
        return known["step"]
    bench.notify(Progress("load", 0, 1, "models", loaded.name, "timing a training step"))
    with bench.working_on(loaded.candidate, f"training: a step of {strategy}"):
        return measure_step(bench, loaded, strategy)


def measure_step(bench: Workbench, loaded: Loaded, strategy: str, steps: int = 3) -> float:
    """Seconds of one step, from those after a first; the module is thrown away."""
    times: list[float] = []
    plan = strategies.plan_of(strategy)
    module = plan.wrap(build(bench, loaded, adaptation=strategy))
    train(
        module,
        plan.groups(parts_of(module, loaded.encoder.blocks), layer_decay=loaded.layer_decay),
        bench.feed(loaded.preprocess, augment=bench.augment),
        bench.indices["train"],
        settings_of(bench, loaded, Trial(loaded.name, strategy, 1e-6, 0), steps),
        clock=bench.now,
        on_step=lambda _: times.append(bench.now()),
    )
    return (times[-1] - times[0]) / max(len(times) - 1, 1) if len(times) > 1 else math.inf
