"""Adaptation that trains the whole network: one trial per model and strategy, looked at as a candidate."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any, cast

import numpy as np
from torch import nn

from selector import modalities
from selector.core.contracts import UNLABELED
from selector.core.errors import TrainingError
from selector.core.stats import softmax
from selector.core.task import Learner
from selector.tasks._learner import head_layer
from selector.tasks.adaptation import Adaptation
from selector.tuning.domains import AdaptedHead
from selector.tuning.heads import prepare_start, solve
from selector.tuning.loading import load, settle_precision
from selector.tuning.plan import usual_steps
from selector.tuning.strategies._loop import Feed, predict
from selector.tuning.trial import Trial, module_of, rates_of, run_trial
from selector.tuning.types import TuningCandidate
from selector.tuning.workbench import Loaded, Workbench

ONE_SIDED = 1.282  # standard errors: 90% of a normal distribution are below
SURE = 1e-3  # least probability whose logarithm counts: one item that is surely wrong decides nothing


def started(bench: Workbench, candidate: TuningCandidate) -> Loaded:
    """The candidate in memory, with the head of the source domain that every training starts from.

    Raises:
        TrainingError: it cannot be trained.
    """
    loaded = load(bench, candidate)
    if loaded.encoder.module is None:
        raise TrainingError(
            f"{candidate.name} cannot be trained (no torch network); use strategies of frozen features."
        )
    settle_precision(bench, loaded)
    solve(bench, loaded, math.inf)
    prepare_start(bench, loaded)
    loaded.mirror = bench.augment == "none" or mirrored_alike(bench, loaded)
    return loaded


def mirrored_alike(bench: Workbench, loaded: Loaded) -> bool:
    """Whether mirror images of the source's validation items cost the head no more loss than the items, within the error
    of the paired difference (90%, one-sided): of photographs they do not, of digits they do, and a training must not
    see those.

    Cost: two passes over the validation items; none for items without mirror images.
    """
    modality = modalities.of(bench.target)
    items = bench.indices["val"]
    feed = bench.feed(loaded.preprocess)
    if modality.mirrored(feed.prepared(items[:1])) is None:
        return True
    module = bench.task.learner(loaded.encoder, bench.target, loaded.probe, loaded.size).eval()
    turned = replace(feed, normalize=lambda batch: feed.normalize(modality.mirrored(batch)))
    labels = cast(Adaptation, bench.task).labels(bench.target.labels_of(items))
    plain, mirror = (
        np.log(np.maximum(softmax(outputs_of(bench, loaded, module, items, f))[np.arange(len(items)), labels], SURE))
        for f in (feed, turned)
    )
    lost = plain - mirror
    return bool(lost.mean() <= ONE_SIDED * lost.std() / math.sqrt(len(lost)))


def steps_of(bench: Workbench, most: int | None) -> int:
    """How many steps a training has."""
    return usual_steps(Fraction(len(bench.indices["train"]), bench.batch_size)) if most is None else most


def network_outputs(
    bench: Workbench, loaded: Loaded, strategy: str, steps: int, deadline: float, seed: int
) -> tuple[nn.Module, AdaptedHead, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Train, or read the journal's training: the learner, its head, outputs (val, unlabeled) and features by split.

    Raises:
        TrainingError: it failed, diverged, or the budget ended before its first step.
    """
    trial = Trial(loaded.name, strategy, rates_of(loaded, strategy)[0], seed)
    record = run_trial(bench, loaded, trial, steps, deadline)
    if record is None:
        raise TrainingError("the budget ended before its first step.")
    if record.status != "ok":
        raise TrainingError("; ".join(record.facts["notes"]) or record.status)
    module = module_of(bench, loaded, trial, steps)
    feed = bench.feed(loaded.preprocess)
    outputs = {split: outputs_of(bench, loaded, module, bench.target.indices(split)) for split in ("val", UNLABELED)}
    features: dict[str, np.ndarray] = {}
    for split in ("train", "val", UNLABELED):
        rows = bench.rows_of(module, feed, bench.target.indices(split), bf16=loaded.bf16)[1]
        assert rows is not None
        features[split] = rows
    head = head_layer(cast(Learner, module).network)
    weight, bias = (part.detach().float().cpu().numpy() for part in (head.weight, head.bias))
    facts = {
        "steps": float(record.facts["steps"]), "learning_rate": trial.rate,
        **({"mirror_images": float(loaded.mirror)} if bench.augment != "none" else {}),
    }  # fmt: skip
    cut = "; ".join(record.facts["notes"]) if record.facts["steps"] < steps else ""
    return module, AdaptedHead(weight, bias, facts, note=cut), outputs, features


def outputs_of(
    bench: Workbench, loaded: Loaded, module: nn.Module, items: np.ndarray, feed: Feed | None = None
) -> np.ndarray:
    """(N, C) outputs of a learner on some items of the target (positions)."""
    found: list[Any] = []

    def take(some: object, _: np.ndarray) -> None:
        found.append(some)

    feed = bench.feed(loaded.preprocess) if feed is None else feed
    predict(module, feed, items, take, device=bench.device, bf16=loaded.bf16)
    return np.concatenate(found)
