"""What linearised fine-tuning sees of the encoders of a suite: scores of rows of projected gradients.

    SELECTOR_ASSETS=... python -m benchmarks.suite.ntk_cells --sets digits --encoders usps_cnn ...

Resumable: appends rows to ``../results/suite/ntk.csv`` and prints, by set, how each score agrees with the ground truth. A
probe on 400 of train + val gives the head; the gradients are those of two mixtures of its outputs (random signs) on 128
other items, by all weights but the head's. Scores of the plain features of the same items stand beside them. Seconds are
of the processor, for the gradients alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.assets import assets_folder
from benchmarks.suite import saved, suites, table, training
from benchmarks.suite.agreement_table import FEWEST_ENCODERS, fine_tuned
from benchmarks.suite.ground_truth import cpu_name
from benchmarks.suite.sets import LabelledSet
from benchmarks.suite.trial_cells import draw, features_of
from selector.features import FeatureSet
from selector.features.gradients import gradient_rows
from selector.proxies import evaluate
from selector.ranking.agreement import weighted_tau

ITEMS, MIXTURES = 128, 2
SCORES = ("ridge", "knn", "logme")
COLUMNS = (
    "set", "encoder", "items", "width", *(f"{rows}_{s}" for rows in ("features", "gradients") for s in SCORES),
    "seconds", "cpu", "status", "reason",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the missing cells, then compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suite.ntk_cells", description=__doc__)
    suites.add_arguments(parser)
    parser.add_argument("--out", type=Path, help="the table; the suite's own when left out")
    args = parser.parse_args(argv)
    suite = suites.find(args.suite)
    out = args.out or suite.table("ntk")
    assets = assets_folder(suite.needs)
    if assets is None:
        return 2
    for set_name in suites.chosen(parser, "sets", args.sets, suite.sets):
        data = suite.load_set(set_name, assets, suite.budget)
        for name in suites.chosen(parser, "encoders", args.encoders, list(suite.encoders(assets))):
            if (set_name, name) in {(row["set"], row["encoder"]) for row in table.whole_rows(out)}:
                continue
            learner = suite.open(name, data, assets)
            kept = saved.folder() / set_name / f"{name}.npz"
            row = {"set": set_name, "encoder": name, **cell(learner, data, kept), "cpu": cpu_name(), "status": "ok"}
            table.append(out, row, COLUMNS)
            print(row, flush=True)
    show(table.whole_rows(out), fine_tuned(suite.table("ground_truth"), "full"))
    return 0


def cell(learner: training.Learner, data: LabelledSet, kept: Path) -> dict[str, object]:
    """Scores of features and gradients of the same items."""
    items = draw(data)
    features = features_of(learner, data, kept)
    head = training.solve_head(features, data.labels, items.probed, items.held_out, data.classes)
    some = np.concatenate([items.held_out, items.stream])[:ITEMS]
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (MIXTURES, data.classes)).astype(np.float32)
    learner.set_head(training.Head(signs @ head.weight, signs @ head.bias))
    module = learner.module.eval()
    own = {id(p) for p in module.get_classifier().parameters()}  # type: ignore[operator]
    body = [p for p in module.parameters() if p.requires_grad and id(p) not in own]
    begun = time.process_time()
    gradients = gradient_rows(lambda row: learner.forward(np.array([row]))[0].float(), some, body)
    seconds = time.process_time() - begun
    found = {}
    for label, rows in (("features", features[some]), ("gradients", gradients)):
        row_set = FeatureSet(rows, data.labels[some])
        found |= {f"{label}_{s}": round(evaluate(row_set, s).value, 4) for s in SCORES}
    return {"items": len(some), "width": gradients.shape[1], **found, "seconds": round(seconds, 2)}


def show(rows: Sequence[dict[str, str]], truth: dict[str, dict[str, float]]) -> None:
    """Weighted tau of each score with full fine-tuning, a line a set."""
    for name in dict.fromkeys(row["set"] for row in rows):
        own = [row for row in rows if row["set"] == name and row["encoder"] in truth.get(name, ())]
        if len(own) >= FEWEST_ENCODERS:
            accuracy = [truth[name][row["encoder"]] for row in own]
            taus = {c: round(weighted_tau([float(r[c]) for r in own], accuracy), 2) for c in COLUMNS if c.count("_") == 1 and "s_" in c}  # fmt: skip
            print(f"{name}, {len(own)} encoders: {taus}")


if __name__ == "__main__":
    sys.exit(main())
