"""How far a whole run ends behind the best fully fine-tuned model of its pool: the replay of ``regret_curve``, for real.

    SELECTOR_ASSETS=... python -m benchmarks.suite.whole_runs [--sets flowers] [--minutes 2 5 20] [--core 0]

Each run is ``selector scan`` in a process of its own, with an empty store, on the split of the suite, over every image
encoder of the assets; a row is written when it ends, and what has one is not run again. ``test`` is the accuracy that the
run read once, of the model it saved. The best of the pool is by ``ground_truth.csv``, or ``unseen_ground_truth.csv``: fully
trained at the suite's sizes, the mean over seeds, known to nobody who chooses.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import selector
from benchmarks.assets import assets_folder
from benchmarks.rows import commit, facts, options, read_rows, write_rows
from benchmarks.suite import image_sets
from benchmarks.suite.agreement_table import fine_tuned
from benchmarks.suite.suites import RESULTS, find

TABLE = RESULTS / "whole_runs.csv"
TRUTHS = ("ground_truth.csv", "unseen_ground_truth.csv")  # of the suite, and of ``unseen_sets``
ZOO = Path(__file__).parents[1] / "assets-zoo.yaml"


def main(argv: Sequence[str] | None = None) -> int:
    """Run what has no row yet."""
    parser = options(__doc__, TABLE)
    parser.add_argument("--sets", nargs="+", default=["flowers"])
    parser.add_argument("--minutes", nargs="+", type=float, default=[2, 5, 20])
    parser.add_argument("--core", type=int, help="the one core that it runs on")
    args = parser.parse_args(argv)
    assets = assets_folder("models/ and data/")
    for name, minutes in itertools.product(args.sets, args.minutes):
        cell = {"set": name, "minutes": f"{minutes:g}", "cores": "all" if args.core is None else "1"}
        rows = read_rows(args.out)
        if any(all(row[key] == value for key, value in cell.items()) for row in rows):
            continue
        with tempfile.TemporaryDirectory() as temporary:
            write_rows(args.out, [*rows, {**cell, **measured(name, minutes, args.core, assets, Path(temporary))}])
    return 0


def measured(name: str, minutes: float, core: int | None, assets: Path, work: Path) -> dict[str, Any]:
    """One run, and the truth beside it."""
    data = image_sets.load(name, assets / "data", *find("images").items)
    for split in ("train", "val", "test"):
        for row in data.rows(split):
            path = work / "items" / split / f"class-{data.labels[row]:02d}" / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            data.images[row].save(path)
    command = [sys.executable, "-m", "selector", "scan", str(work / "items"), "--zoo", str(ZOO), "--trust-zoo", "--budget",
               f"{minutes:g}m", "--no-history", "--store", str(work / "store"), "--out", str(work / "run")]  # fmt: skip
    begun = time.perf_counter()
    subprocess.run([*([] if core is None else ["taskset", "-c", str(core)]), *command], check=True)
    seconds = time.perf_counter() - begun
    best = selector.load_ranking(work / "run").best
    saved = best.best_measurement()
    assert saved is not None
    truth = {k: v for table in TRUTHS for k, v in fine_tuned(RESULTS / table, "full").items()}[name]
    leader = max(truth, key=lambda encoder: truth[encoder])
    return {
        "seconds": round(seconds, 1), "model": best.name, "strategy": saved.strategy, "steps": saved.steps,
        "val": f"{saved.val_value:.4f}", "test": f"{saved.test_value:.4f}", "best_of_pool": leader, "its_test": f"{truth[leader] / 100:.4f}",
        "regret": f"{truth[leader] - 100 * saved.test_value:.1f}", "load_average": round(os.getloadavg()[0], 1),
        "commit": commit(), **facts("selector", "torch", "timm", "openvino", "cpu"),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
