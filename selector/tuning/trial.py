"""One trial: trained from its linear-probe initialization, measured on val, kept in the journal."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from selector.core.contracts import Progress
from selector.core.errors import StoreError, TrainingError
from selector.core.task import NotFinite, Stats
from selector.run.executor import InProcess
from selector.tuning import strategies
from selector.tuning.journal import Record
from selector.tuning.loading import build
from selector.tuning.strategies._loop import Averaging, Optimizer, Settings, train
from selector.tuning.strategies._parts import parts_of
from selector.tuning.weights import save_weights
from selector.tuning.workbench import STEPS, VALIDATION, Loaded, Workbench

log = logging.getLogger(__name__)

RATES: Mapping[Optimizer, tuple[float, ...]] = {"sgd": (0.003, 0.03, 0.0003), "adamw": (1e-4, 3e-4, 1e-3)}
"""By preference: with a small budget only the first is tried. Measured on the textile photos and on flowers."""


@dataclass(frozen=True)
class Trial:
    """A configuration (model, strategy) at one learning rate with one seed.

    Attributes:
        all_labels: whether it trains on train and validation items, once the choice is made.
    """

    model: str
    strategy: str
    rate: float
    seed: int
    all_labels: bool = False


def run_trial(bench: Workbench, loaded: Loaded, trial: Trial, steps: int, deadline: float = math.inf) -> Record | None:
    """Train from the linear-probe initialization for so many steps, in one cycle of the rate, and measure on val.

    Returns:
        The record, from the journal when it was trained before; None when the deadline came
        first. A diverged training and one that failed are records with that status.
    Raises:
        StoreError: the disk is full.
    """
    key = key_of(bench, loaded, trial, steps)
    record = bench.journal.read(key)
    if record is not None:
        return record

    def job(deadline: float) -> tuple[Record | None, nn.Module]:
        with bench.working_on(loaded.candidate):
            return _train(bench, loaded, trial, steps, key, deadline)

    result = next(InProcess().map(job, [deadline], fatal=(StoreError,)))
    if result.value is None:
        reason = result.failure.reason if result.failure else "no reason given"
        return Record({"status": "failed", "notes": [reason], "seconds": 0.0, "steps": 0})
    record, module = result.value
    if record is None:
        return None
    if record.status == "ok":
        _keep_weights(bench, key, module)
    bench.journal.write(key, record)
    bench.journal.checkpoint(key).unlink(missing_ok=True)
    return record


def key_of(bench: Workbench, loaded: Loaded, trial: Trial, steps: int) -> str:
    """The address of a training."""
    return bench.journal.key(
        {
            **bench.facts(loaded, loaded.preprocess, loaded.bf16),
            "task": bench.task_for(trial.strategy).address,
            "strategy": strategies.address_of(trial.strategy),
            "rate": trial.rate,
            "seed": trial.seed,
            "steps": steps,
            "batch_size": bench.batch_size,
            "augment": augmentation_of(bench, loaded),
            **({} if bench.averaging == "none" else {"averaging": bench.averaging}),
            "optimizer": optimizer_of(loaded, trial.strategy),
            "start": "damped",
            **({"labels": "train and val"} if trial.all_labels else {}),
        }
    )


def augmentation_of(bench: Workbench, loaded: Loaded) -> bool | str:
    """What a training's augmentation is called in its address."""
    level = {"none": False, "light": True}.get(bench.augment, bench.augment)
    if loaded.mirror or not level:
        return level
    return "without mirror images" if level is True else f"{level} without mirror images"


def module_of(bench: Workbench, loaded: Loaded, trial: Trial, steps: int) -> nn.Module:
    """The trained module; trained again when its weights were not kept."""
    state = _weights(bench, loaded, trial, steps)
    module = build(bench, loaded, loaded.probe, trial.strategy)
    module.load_state_dict(state)
    return module.eval()


def final_stats(
    bench: Workbench, loaded: Loaded, trial: Trial, steps: int, split: str, context: Mapping[str, object]
) -> Stats:
    """Statistics of a trained trial with what validation chose; worked out once, then from the journal."""
    key = _final_key(bench, loaded, trial, steps, split, context)
    record = bench.journal.read(key)
    if record is None or record.stats is None:
        stats = bench.stats_of(loaded, module_of(bench, loaded, trial, steps), split, context)
        record = Record({"status": "ok"}, stats)
        bench.journal.write(key, record)
    assert record.stats is not None
    return record.stats


def has_final_stats(
    bench: Workbench, loaded: Loaded, trial: Trial, steps: int, split: str, context: Mapping[str, object]
) -> bool:
    """Whether ``final_stats`` takes a pass at most: without record and weights it would train again."""
    weights = bench.journal.weights(key_of(bench, loaded, trial, steps))
    return weights.is_file() or bench.journal.read(_final_key(bench, loaded, trial, steps, split, context)) is not None


def _final_key(
    bench: Workbench, loaded: Loaded, trial: Trial, steps: int, split: str, context: Mapping[str, object]
) -> str:
    return bench.journal.key({"of": key_of(bench, loaded, trial, steps), "split": split, "context": dict(context)})


def optimizer_of(loaded: Loaded, strategy: str) -> Optimizer:
    """Which one a configuration trains with."""
    own = strategies.plan_of(strategy).optimizer
    return loaded.optimizer if own is None else cast(Optimizer, own)


def rates_of(loaded: Loaded, strategy: str) -> tuple[float, ...]:
    """The learning rates to try, by preference."""
    factor = strategies.plan_of(strategy).rate_factor
    return tuple(rate * factor for rate in RATES[optimizer_of(loaded, strategy)])


def _train(
    bench: Workbench,
    loaded: Loaded,
    trial: Trial,
    steps: int,
    key: str,
    deadline: float,
) -> tuple[Record | None, nn.Module]:
    strategy = strategies.plan_of(trial.strategy)
    module = build(bench, loaded, loaded.probe, trial.strategy)
    module = strategy.wrap(module)
    groups = strategy.groups(parts_of(module, loaded.encoder.blocks), layer_decay=loaded.layer_decay)
    optimizer = optimizer_of(loaded, trial.strategy)
    settings = Settings(
        steps=steps,
        batch_size=bench.batch_size,
        rate=trial.rate,
        optimizer=optimizer,
        seed=trial.seed,
        bf16=loaded.bf16,
        device=bench.device,
        averaging=cast(Averaging, bench.averaging),
        weight_decay=1e-4 if optimizer == "sgd" else 0.05,
    )
    processor = time.process_time()
    fit = train(
        module,
        groups,
        bench.feed(loaded.preprocess, augment=True, mirror=loaded.mirror),
        np.concatenate([bench.indices[split] for split in (("train", "val") if trial.all_labels else ("train",))]),
        settings,
        checkpoint=bench.journal.checkpoint(key),
        deadline=deadline - _evaluate_seconds(bench, loaded),
        clock=bench.now,
        on_loss=lambda step, loss: bench.notify(
            Progress(
                "train", step, steps, "steps", loaded.name, f"{trial.strategy}, rate {trial.rate:g}", {"loss": loss}
            )
        ),
    )
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    module = strategy.unwrap(module)
    if fit.status == "stopped":
        return None, module
    begun = bench.now()
    status, stats = fit.status, None
    if status == "ok":
        try:
            stats = bench.stats_of(loaded, module, "val")
        except NotFinite:
            status = "diverged"
            fit.notes.append("outputs on the validation items are not finite")
    bench.seconds[STEPS] += fit.seconds
    bench.seconds[VALIDATION] += bench.now() - begun
    facts = {
        "status": status,
        "steps": fit.steps,
        "losses": thinned(fit.losses),
        "loss": fit.losses[-1] if fit.losses and math.isfinite(fit.losses[-1]) else None,
        "seconds": fit.seconds,
        "evaluate_seconds": bench.now() - begun,
        "processor_seconds": time.process_time() - processor,  # other work on the machine does not count
        "notes": fit.notes,
        "precision": "bfloat16" if loaded.bf16 else "float32",
        "trained_parameters": trained,
        "memory_bytes": fit.memory_bytes,
    }
    return Record(facts, stats), module


def thinned(losses: Sequence[float]) -> list[list[float]]:
    """(last step, mean loss) of at most 60 stretches of a training.

    >>> thinned([4.0, 2.0, 1.0])
    [[1, 4.0], [2, 2.0], [3, 1.0]]
    """
    ends = sorted({round(len(losses) * (i + 1) / CURVE_POINTS) for i in range(CURVE_POINTS)} - {0})
    begins = [0, *ends[:-1]]
    return [[end, float(np.mean(losses[begin:end]))] for begin, end in zip(begins, ends, strict=True)]


CURVE_POINTS = 60


def _evaluate_seconds(bench: Workbench, loaded: Loaded) -> float:
    """What one pass over the validation items takes, as far as it is known."""
    known = loaded.forward_seconds
    return 0.0 if math.isnan(known) else known * len(bench.indices["val"])


def _weights(bench: Workbench, loaded: Loaded, trial: Trial, steps: int) -> dict[str, torch.Tensor]:
    """Of a finished training; trained again when they were not kept or are damaged."""
    key = key_of(bench, loaded, trial, steps)
    path = bench.journal.weights(key)
    if path.is_file():
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            log.warning("weights %s are damaged (%s); they are trained again", path, error)
    (bench.journal.folder / f"{key}.npz").unlink(missing_ok=True)
    record = run_trial(bench, loaded, trial, steps)
    if record is None or record.status != "ok":
        raise TrainingError(f"{loaded.name} {trial.strategy} could not be trained again for its weights.")
    return load_file(path)


def _keep_weights(bench: Workbench, key: str, module: nn.Module) -> None:
    state = {name: value.detach().to("cpu").contiguous().clone() for name, value in module.state_dict().items()}
    save_weights(bench.journal.weights(key), state)
