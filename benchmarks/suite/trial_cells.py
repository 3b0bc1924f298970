"""Pilot runs of every encoder of a suite, by the protocol of ``selector.tuning.pilot_runs``.

    SELECTOR_ASSETS=... python -m benchmarks.suite.trial_cells [--suite images|texts|held_out] [--sets ...] [--encoders ...]

Resumable: appends rows to ``../results/suite/trials.csv``. The networks, inputs and optimizer are those of the suite's
ground truth, so that a trial predicts the training that the truth comes from. A probe on 400 of train + val, 24 steps
of 16 others, 200 more judge; test is not read. ``curve`` has accuracy/log-loss of the held-out items on the way,
``right`` a bit for each of them at the end (hexadecimal), for paired errors. Seconds are of the processor, of
extraction (train + val) and trial in one run; what the points of the curve took is not counted.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.assets import assets_folder
from benchmarks.rows import packed
from benchmarks.suite import saved, suites, table, training
from benchmarks.suite.ground_truth import cpu_name
from benchmarks.suite.sets import LabeledSet
from benchmarks.suite.training import Learner
from selector.tuning.pilot_runs import BATCH, HELD_OUT, PROBE_ITEMS, RATES, STEPS

COLUMNS = (
    "set", "encoder", "rate", "steps", "batch", "held_out", "before", "after", "before_log_loss", "after_log_loss",
    "curve", "losses", "right", "extract_seconds", "trial_seconds", "torch", "cpu", "status", "reason",
)  # fmt: skip
CURVE = (8, 16)  # steps after which the held-out items are looked at beside the last


def main(argv: Sequence[str] | None = None) -> int:
    """Run the missing cells."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suite.trial_cells", description=__doc__)
    suites.add_arguments(parser)
    parser.add_argument("--out", type=Path, help="the table; the suite's own when left out")
    args = parser.parse_args(argv)
    suite = suites.find(args.suite)
    out = args.out or suite.table("trials")
    assets = assets_folder(suite.needs)
    if assets is None:
        return 2
    # the suite trains without layer decay: at the rate of trials that ruins the vision transformer (digits 0.94 -> 0.11)
    names = [
        n for n in suites.chosen(parser, "encoders", args.encoders, list(suite.encoders(assets))) if "vit" not in n
    ]
    for set_name in suites.chosen(parser, "sets", args.sets, suite.sets):
        done = {(row["set"], row["encoder"]) for row in table.whole_rows(out)}
        missing = [name for name in names if (set_name, name) not in done]
        data = suite.load_set(set_name, assets, suite.budget) if missing else None
        for name in missing:
            assert data is not None
            learner = suite.open(name, data, assets)
            row = {"set": set_name, "encoder": name, **trial(learner, data, saved.folder() / set_name / f"{name}.npz")}
            table.append(out, row | {"torch": torch.__version__, "cpu": cpu_name()}, COLUMNS)
            print({k: v for k, v in row.items() if k not in ("losses", "right")}, flush=True)
    return 0


def trial(learner: Learner, data: LabeledSet, kept: Path) -> dict[str, object]:
    """One cell: what the probe and the trained network reach on the same held-out items, and what both took.

    Args:
        kept: the saved features of train and val; extracted where there are none.
    """
    items = draw(data)
    features = features_of(learner, data, kept)
    head = training.solve_head(features, data.labels, items.probed, items.held_out, data.classes)
    before = training.figures(head.logits(features[items.held_out]), data.labels[items.held_out])
    learner.set_head(head)
    optimizer = "adamw" if max(learner.rates) < 1e-3 else "sgd"
    _ = learner.logits(items.held_out[:2])  # decoding and warming up are paid by neither
    begun = time.process_time()
    _ = learner.logits(items.held_out)
    a_pass = time.process_time() - begun
    curve: list[str] = []
    begun = time.process_time()
    losses, apart = fit(learner, data, items, RATES[optimizer], curve)
    logits = learner.logits(items.held_out)
    seconds = time.process_time() - begun - apart
    after = training.figures(logits, data.labels[items.held_out])
    right = (logits.argmax(1).numpy() == data.labels[items.held_out]).astype(np.uint8)
    return {
        "rate": RATES[optimizer], "steps": STEPS, "batch": BATCH, "held_out": len(items.held_out), "before": before[0],
        "after": after[0], "before_log_loss": before[1], "after_log_loss": after[1], "curve": ";".join(curve),
        "losses": ";".join(f"{loss:.3f}" for loss in losses), "right": packed(right),
        "extract_seconds": round(a_pass * len(data.rows("train", "val")) / len(items.held_out), 2),
        "trial_seconds": round(seconds, 2), "status": "ok" if len(losses) == STEPS else "diverged",
    }  # fmt: skip


@dataclass(frozen=True)
class Items:
    """Positions of train + val, apart: those that judge, that are trained on in this order, that the probe is solved on."""

    held_out: np.ndarray
    stream: np.ndarray
    probed: np.ndarray


def draw(data: LabeledSet) -> Items:
    """The same for every encoder of a set."""
    drawn = np.random.default_rng(1).permutation(data.rows("train", "val"))
    held_out, rest = drawn[:HELD_OUT], drawn[HELD_OUT:]
    wanted = STEPS * BATCH
    count = wanted if wanted <= len(rest) - 300 else min(wanted, len(rest) // 2)
    return Items(held_out, rest[:count], rest[count : count + PROBE_ITEMS])


def features_of(learner: Learner, data: LabeledSet, kept: Path) -> np.ndarray:
    """(N, D), zero for test."""
    if not kept.exists():
        saved.save(kept, data, learner.size, *learner.features())
    with np.load(kept) as arrays:
        rows = arrays["features"]
    whole = np.zeros((len(data.labels), rows.shape[1]), np.float32)
    whole[data.rows("train", "val")] = rows
    return whole


def fit(learner: Learner, data: LabeledSet, items: Items, rate: float, curve: list[str]) -> tuple[list[float], float]:
    """One cycle over the stream, without augmentation: the loss of each batch before its step, until one is not finite,
    and the processor time of the points of the curve."""
    torch.manual_seed(0)
    learner.train_mode()
    parameters = [p for p in learner.module.parameters() if p.requires_grad]
    optimizer = learner.optimizer(parameters, rate)
    losses: list[float] = []
    apart = 0.0
    for step in range(STEPS):
        rows = items.stream[(np.arange(BATCH) + step * BATCH) % len(items.stream)]
        for group in optimizer.param_groups:
            group["lr"] = rate * training.schedule(step, STEPS)
        optimizer.zero_grad()
        loss = F.cross_entropy(learner.forward(rows).float(), torch.from_numpy(data.labels[rows]).long())
        if not math.isfinite(float(loss.detach())):
            break
        losses.append(float(loss.detach()))
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, training.CLIP)
        optimizer.step()
        if step + 1 in CURVE:
            begun = time.process_time()
            accuracy, log_loss = training.figures(learner.logits(items.held_out), data.labels[items.held_out])
            curve.append(f"{step + 1}:{accuracy:.4f}/{log_loss:.4f}")
            learner.train_mode()
            apart += time.process_time() - begun
    return losses, apart


if __name__ == "__main__":
    sys.exit(main())
