"""Micro trials of every encoder of the image suite, by the protocol of ``selector.tuning.micro_trials``.

    SELECTOR_ASSETS=... python -m benchmarks.suite.trial_cells [--sets ...] [--encoders ...]

Resumable: appends rows to ``../results/suite/trials.csv``. The networks, pixels and optimiser are those of the suite's
ground truth, so that a trial predicts the training that the truth comes from. A probe on 400 of train + val, 24 steps
of 16 others, 200 more judge; test is not read. Seconds are of the processor, of extraction (train + val) and trial in
one run.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.assets import assets_folder
from benchmarks.suite import suites, table, training
from benchmarks.suite.ground_truth import cpu_name
from benchmarks.suite.image_suite import SUITE
from benchmarks.suite.image_training import ImageLearner
from benchmarks.suite.sets import LabelledSet
from selector.tuning.micro_trials import BATCH, HELD_OUT, PROBE_ITEMS, RATES, STEPS

COLUMNS = (
    "set", "encoder", "rate", "steps", "batch", "held_out", "before", "after", "before_log_loss", "after_log_loss",
    "extract_seconds", "trial_seconds", "torch", "cpu", "status", "reason",
)  # fmt: skip
RATE = RATES["sgd"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the missing cells."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suite.trial_cells", description=__doc__)
    suites.add_arguments(parser)
    parser.add_argument("--out", type=Path, default=SUITE.table("trials"))
    args = parser.parse_args(argv)
    assets = assets_folder(SUITE.needs)
    if assets is None:
        return 2
    names = [
        n for n in suites.chosen(parser, "encoders", args.encoders, list(SUITE.encoders(assets))) if "vit" not in n
    ]
    for set_name in suites.chosen(parser, "sets", args.sets, SUITE.sets):
        done = {(row["set"], row["encoder"]) for row in table.whole_rows(args.out)}
        data = SUITE.load_set(set_name, assets, SUITE.budget)
        for name in names:
            if (set_name, name) in done:
                continue
            learner = SUITE.open(name, data, assets)
            row = {"set": set_name, "encoder": name, **trial(learner, data), "torch": torch.__version__}
            table.append(args.out, row | {"cpu": cpu_name()}, COLUMNS)
            print(row, flush=True)
    return 0


def trial(learner: ImageLearner, data: LabelledSet) -> dict[str, object]:
    """One cell: what the probe and the trained network reach on the same held-out items, and what both took."""
    drawn = np.random.default_rng(1).permutation(data.rows("train", "val"))
    held_out, rest = drawn[:HELD_OUT], drawn[HELD_OUT:]
    wanted = STEPS * BATCH
    count = wanted if wanted <= len(rest) - 300 else min(wanted, len(rest) // 2)
    stream, probed = rest[:count], rest[count : count + PROBE_ITEMS]
    _ = learner._pixels  # decoding is paid by neither
    begun = time.process_time()
    features = learner.encoder.features(learner._pixels[torch.from_numpy(drawn)])[0]
    extracted = time.process_time() - begun
    whole = np.zeros((len(data.labels), features.shape[1]), np.float32)
    whole[drawn] = features
    head = training.solve_head(whole, data.labels, probed, held_out, data.classes)
    before = training.figures(head.logits(whole[held_out]), data.labels[held_out])
    learner.set_head(head)
    begun = time.process_time()
    finite = fit(learner, data, stream)
    after = training.figures(learner.logits(held_out), data.labels[held_out])
    seconds = time.process_time() - begun
    return {
        "rate": RATE, "steps": STEPS, "batch": BATCH, "held_out": len(held_out), "before": before[0], "after": after[0],
        "before_log_loss": before[1], "after_log_loss": after[1], "extract_seconds": round(extracted, 2),
        "trial_seconds": round(seconds, 2), "status": "ok" if finite else "diverged",
    }  # fmt: skip


def fit(learner: ImageLearner, data: LabelledSet, stream: np.ndarray) -> bool:
    """One cycle over the stream, without augmentation; False when the loss stopped being finite."""
    torch.manual_seed(0)
    learner.train_mode()
    parameters = list(learner.module.parameters())
    optimiser = torch.optim.SGD(parameters, RATE, momentum=0.9, weight_decay=1e-4)
    for step in range(STEPS):
        rows = stream[(np.arange(BATCH) + step * BATCH) % len(stream)]
        for group in optimiser.param_groups:
            group["lr"] = RATE * training.schedule(step, STEPS)
        optimiser.zero_grad()
        inputs = learner.encoder.normalise(learner._pixels[torch.from_numpy(rows)])
        outputs = learner.module(inputs.contiguous(memory_format=learner._layout)).float()
        loss = F.cross_entropy(outputs, torch.from_numpy(data.labels[rows]).long())
        if not math.isfinite(float(loss.detach())):
            return False
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, training.CLIP)
        optimiser.step()
    return True


if __name__ == "__main__":
    sys.exit(main())
