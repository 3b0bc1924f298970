"""What a small budget becomes in each of the eight tasks: a model, and where every second of it went.

    SELECTOR_ASSETS=... python -m benchmarks.bench_task_budgets [--tasks ...] [--budget 120] [--loads quiet busy] [--work DIR]

One row a task, budget and load, written as it is measured; rows that are there already are not measured again. A scan of two
encoders comes first and is in no figure; the row is of its confirmation. ``used`` is the share of the budget in optimizer
steps and in passes that are used: validation, heads, pilot runs and the test split, with the loading of models. ``busy`` is a loop
on one core beside it, or other programs; ``load_average`` that of the last minute when it ended, its own included.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import selector
from benchmarks.assets import assets_folder
from benchmarks.rows import facts, one_thread_count, options, other_programs, read_rows, write_rows
from benchmarks.suite.image_sets import WITHOUT_SPLIT, decode

OUT = Path(__file__).parent / "results"
PICTURES, TEXTS = "efficientnet-lite0,efficientnet-lite1", "*minilm*"
LOADS = ("quiet", "busy")
UNUSED = ("estimates", "between trainings")


TASKS: dict[str, tuple[str, Callable[[Path], dict[str, Any]]]] = {
    "classification": (PICTURES, lambda assets: {"target": assets / "data" / "flowers", "max_samples": 600}),
    "texts": (TEXTS, lambda assets: {"target": assets / "text" / "trec", "max_samples": 800}),
    "tagging": (TEXTS, lambda assets: {"target": assets / "text" / "atis_slots", "max_samples": 800}),
    "multilabel": (
        PICTURES, lambda assets: {"target": assets / "data" / "coco128", "label_column": "supercategories", "task": "multilabel"},
    ),
    "regression": (
        PICTURES, lambda assets: {"target": assets / "data" / "houses", "label_column": "log_price", "task": "regression"},
    ),
    "segmentation": (PICTURES, lambda assets: {"target": assets / "data" / "camvid", "max_samples": 150}),
    "detection": (PICTURES, lambda assets: {"target": assets / "data" / "bccd", "max_samples": 94}),
    "adaptation": (
        "digits-mnist,digits-svhn", lambda assets: {"target": _digits(), "source_domain": assets / "data" / "mnist"},
    ),
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the table."""
    parser = options(__doc__, OUT)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--budget", type=float, default=120.0, help="seconds")
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=list(LOADS))
    parser.add_argument("--work", type=Path, help="folder of the store; else a temporary one")
    args = parser.parse_args(argv)
    assets = assets_folder("data/ and text/")
    one_thread_count()
    table = args.out / "task_budgets.csv"
    for task, load in itertools.product(args.tasks, args.loads):
        cell = {"task": task, "budget_s": f"{args.budget:g}", "load": load}
        rows = read_rows(table)
        if any(all(row[name] == value for name, value in cell.items()) for row in rows):
            continue
        with tempfile.TemporaryDirectory() as temporary:
            row = {**cell, **_measured(task, args.budget, load, assets, args.work or Path(temporary), Path(temporary))}
        write_rows(table, [*rows, row])
        print(row, flush=True)
    return 0


def _measured(task: str, budget: float, load: str, assets: Path, work: Path, folder: Path) -> dict[str, Any]:
    models, described = TASKS[task]
    asked: dict[str, Any] = {"models": models, "store": work / task, "seed": 0, **described(assets)}
    target = asked.pop("target")
    ranking = None if task == "adaptation" else selector.rank(target, out=folder / "run", **asked)
    with other_programs(load == "busy"):
        if ranking is None:
            result = selector.rank(target, out=folder / "run", confirm=True, budget=budget, **asked)
        else:
            result = selector.confirm(ranking, budget=budget, top_k=2)
        average = os.getloadavg()[0]
    parts = result.confirmation.get("seconds", {})
    spent = float(sum(parts.values())) or float(result.seconds["confirm"])
    used = sum(seconds for part, seconds in parts.items() if part not in UNUSED)
    best = result.best
    chosen = None if best is None else best.best_measurement()
    return {
        "spent_s": round(spent, 1), "used": round(used / budget, 3), "in_steps": round(parts.get("optimizer steps", 0.0) / budget, 3),
        "model": best.name if best else "", "strategy": chosen.strategy if chosen else "", "steps": chosen.steps if chosen else "",
        "metric": chosen.metric if chosen else "", "test": f"{chosen.test_value:.4f}" if chosen else "", "saved": (folder / "run" / "best").is_dir(),
        "parts": "; ".join(f"{part} {seconds:.1f}" for part, seconds in parts.items()), "load_average": round(average, 1), **facts("selector", "torch", "timm", "cpu"), "threads": torch.get_num_threads(),
    }  # fmt: skip


def _digits() -> Any:
    """scikit-learn's handwritten digits, as images with labels that only the last figure is read from."""
    raw, labels = WITHOUT_SPLIT["digits"]()
    return np.stack([np.asarray(decode(one)) for one in raw]), labels


if __name__ == "__main__":
    sys.exit(main())
