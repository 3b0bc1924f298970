"""How far the memory that a dry run foretells is from what a scan and a training take: ``python -m benchmarks.memory_fit``.

Each figure is the largest resident memory of a fresh process (``ru_maxrss``), which holds the libraries as well; the forecast
is what the process that made it held plus what it foretold. The gate of the dry run: within a factor of 1.5 for ten models.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rows import options, write_rows

MODELS = (
    *("timm:resnet18", "timm:mobilenetv3_large_100", "timm:tf_efficientnet_lite0", "timm:vit_small_patch16_224"),
    *("timm:efficientnet_b0", "timm:resnet50", "timm:swin_tiny_patch4_window7_224", "timm:densenet121"),
    *("timm:convnext_tiny", "timm:vit_base_patch16_224"),
)
"""Architectures in full size. Their weights are a seeded start: memory does not depend on their values."""

COLUMNS = (
    *("model", "what", "batch", "foretold_bytes", "base_bytes", "measured_bytes", "ratio", "ratio_without_base"),
    *("precision", "torch", "threads"),
)
ITEMS, CLASSES, STEPS = 60, 3, 1


def main(argv: Sequence[str] | None = None) -> int:
    parser = options(__doc__, Path("benchmarks/results/memory_fit.csv"), "two small models")
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "WHAT"), help="in this process, for the parent to measure")
    given = parser.parse_args(argv)
    if given.one:
        print(json.dumps(measured(*given.one)))
        return 0
    models = ["timm:resnet18", "timm:mobilenetv3_large_100"] if given.quick else given.models
    rows: list[dict[str, Any]] = []
    for model in models:
        told = _fresh(model, "plan")
        for what in ("scan", "training"):
            peak = _fresh(model, what)["peak"]
            foretold = told["base"] + told[what]
            rows.append(
                {
                    "model": model, "what": what, "batch": told[f"{what}_batch"], "foretold_bytes": foretold,
                    "base_bytes": told["base"], "measured_bytes": peak, "ratio": round(foretold / peak, 3),
                    "ratio_without_base": round(told[what] / max(1, peak - told["base"]), 3),
                    "precision": told["precision"], "torch": told["torch"], "threads": told["threads"],
                }
            )  # fmt: skip
            print(rows[-1], flush=True)
            write_rows(given.out, rows, COLUMNS)
    far = [row for row in rows if not 1 / 1.5 <= row["ratio"] <= 1.5]
    print(f"{len(rows) - len(far)} of {len(rows)} forecasts are within a factor of 1.5 of the measured peak")
    return int(bool(far))


def _fresh(model: str, what: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.memory_fit", "--one", model, what]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{model} {what}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(model: str, what: str) -> dict[str, Any]:
    """In this process: what the plan foretells, or the peak of a scan or a training."""
    import selector
    from selector.zoo import ModelSpec

    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (ITEMS, 256, 256, 3), dtype=np.uint8)
    labels = np.arange(ITEMS) % CLASSES
    with tempfile.TemporaryDirectory() as folder:
        asked: dict[str, Any] = {
            "zoo": [ModelSpec(source=model, weights="none")], "store": Path(folder) / "store", "history": False,
            "backend": "eager", "precision": "float32", "device": "cpu", "confirm": what != "scan",
        }  # fmt: skip
        if what != "scan":
            asked |= {"strategies": "full", "max_steps": STEPS, "pilot_cost": 0}
        if what == "plan":
            return _plan(pictures, labels, asked)
        selector.rank((pictures, labels), **asked)
    return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def _plan(pictures: np.ndarray, labels: np.ndarray, asked: dict[str, Any]) -> dict[str, Any]:
    import psutil
    import torch

    import selector

    (row,) = selector.plan((pictures, labels), **asked).models
    return {
        "base": psutil.Process().memory_info().rss, "scan": row["scan_bytes"], "scan_batch": row["scan_batch"],
        "training": row["training_bytes"], "training_batch": row["training_batch"],
        "precision": row["training_precision"], "torch": torch.__version__, "threads": torch.get_num_threads(),
    }  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
