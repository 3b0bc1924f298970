"""Adaptation that trains the network, on real data: MNIST -> MNIST-M as published, by each strategy of networks.

    SELECTOR_ASSETS=... python -m benchmarks.da_networks [--strategies full,dann] [--mnist FOLDER] [--out FILE]

``full`` is the same training without a look at the target: what the others have to beat. The network has the convolutions
of the LeNet of Ganin et al. 2016, from scratch, and their rate of 0.01; the loop, its schedule and its checkpoints are the
package's. ``--head fresh`` starts the last layer at 0; ``solved`` as a transfer does, from the head that is solved on the
features before the training: of random convolutions, one whose predictions on the target are sure and wrong.
A run that was killed goes on from its last checkpoint when it is called again; rows that the file holds are not
computed again. Labels of the target are read for the last two columns alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

import selector
from benchmarks import da_pairs
from benchmarks.assets import assets_folder
from benchmarks.da import labels_of, read_rows, stacked, write_rows
from selector.core.contracts import UNLABELED, Progress, no_progress
from selector.core.system import versions
from selector.data import load_target
from selector.scan.extraction import Extraction
from selector.store import FeatureStore
from selector.tasks.adaptation import Adaptation
from selector.tuning import TuningCandidate
from selector.tuning.adapted_networks import outputs_of, started
from selector.tuning.journal import Journal
from selector.tuning.trial import Trial, module_of, run_trial
from selector.tuning.workbench import Workbench
from selector.zoo import ModelSpec

RESULTS = Path(__file__).parent / "results" / "da_networks.csv"
FIELDS = (
    "pair", "digits", "model", "head", "strategy", "steps", "batch_size", "rate", "seed", "source_val_accuracy", "accuracy",
    "test_accuracy", "train_seconds", "notes", "versions",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=("lenet", "lenet-conv"), default="lenet")
    parser.add_argument("--head", choices=("fresh", "solved"), default="fresh")
    parser.add_argument("--strategies", default="full,dann,deep-coral,cdan,mcc")
    parser.add_argument("--mnist", type=Path, default=None, help="folder of MNIST's t10k files; see da_pairs.published")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch-size", type=int, default=64, help="of each domain")
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    assets = assets_folder("digits and photographs")
    if assets is None:
        return 0
    pair = da_pairs.published(assets, args.mnist)
    classes = np.array(pair.classes)
    source = stacked(pair.source, None), classes[pair.source.labels]
    # the held-out items are a target of their own: no training sees them
    target, held = (load_target(stacked(part, None), source_domain=source) for part in (pair.target, pair.target_test))
    task, store = Adaptation(), FeatureStore(None)
    spec = ModelSpec(
        source="python:benchmarks.architectures:lenet", name=args.model, preprocess=_PREPROCESS,
        kwargs={"hidden": args.model == "lenet"},
    )  # fmt: skip
    benches = {}
    for name, data in (("target", target), ("held", held)):
        extraction = Extraction(data, store, "cpu", "auto", "auto", "skip", True, no_progress)
        journal = Journal(store.trainings_folder / f"{args.head} heads", task.stats_type)
        benches[name] = Workbench(data, task, extraction.inputs, journal, "cpu", args.batch_size, False, notify=_tell)
    bench = benches["target"]
    loaded = started(bench, TuningCandidate(args.model, partial(extraction.load, spec), spec.feature_settings()))
    if args.head == "fresh":
        assert loaded.probe is not None
        loaded.probe = {name: np.zeros_like(part) for name, part in loaded.probe.items()}
    for strategy in args.strategies.split(","):
        settings = {
            "digits": len(pair.source), "model": args.model, "head": args.head, "strategy": strategy, "steps": args.steps, "batch_size": args.batch_size,
            "rate": args.rate, "seed": args.seed,
        }  # fmt: skip
        known = [{name: row[name] for name in settings} for row in read_rows(args.out)]
        if {name: str(value) for name, value in settings.items()} in known:
            continue
        trial = Trial(args.model, strategy, args.rate, args.seed)
        record = run_trial(bench, loaded, trial, args.steps)
        assert record is not None
        if record.status != "ok":
            raise RuntimeError(f"{strategy}: {record.facts['notes']}")
        module = module_of(bench, loaded, trial, args.steps)
        said = {
            name: outputs_of(b, loaded, module, b.target.indices(UNLABELED)).argmax(axis=1)
            for name, b in benches.items()
        }
        accuracies = {
            "accuracy": float((said["target"] == labels_of(target, pair.target, None)).mean()),
            "test_accuracy": float((said["held"] == labels_of(held, pair.target_test, None)).mean()),
        }
        row = {
            "pair": pair.name, **settings,
            "source_val_accuracy": record.stats.value("accuracy") if record.stats else float("nan"),
            **accuracies,
            "train_seconds": round(record.facts["seconds"], 1), "notes": "; ".join(record.facts["notes"]),
            "versions": f"selector {selector.__version__}, torch {versions().get('torch', '')}, {versions().get('cpu', '')}",
        }  # fmt: skip
        write_rows(args.out, [row], FIELDS)
        print(row, flush=True)
    return 0


_PREPROCESS = {
    "input_size": [3, 28, 28],
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "interpolation": "bilinear",
    "crop_pct": 1.0,
}


def _tell(progress: Progress) -> None:
    if progress.stage == "train" and progress.done % 200 == 0:
        print(progress.note, progress.done, flush=True)


if __name__ == "__main__":
    sys.exit(main())
