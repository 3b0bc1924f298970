"""Cost of rows at boxes against the pure forward pass at the same size.

    SELECTOR_ASSETS=... python -m benchmarks.bench_detection [--quick]

A row holds medians of alternating runs, in seconds of the processor. ``dense_scans`` times whole scans.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.assets import assets_folder
from benchmarks.bench_segmentation import _Prepared, seconds
from benchmarks.rows import write_rows
from selector import sources
from selector.core.contracts import Target
from selector.core.system import cpu_model
from selector.data import load_target
from selector.extract.inputs import ready
from selector.extract.rows import MapRunner, extract_rows
from selector.modalities.pixels.transform import prepare
from selector.tasks import task_of
from selector.zoo import ModelSpec, load_zoo

OUT = Path(__file__).parent / "results" / "detection_cost.csv"
TIMED = ("mnv1_100", "efflite0", "opennsfw")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_detection", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--quick", action="store_true", help="one model, 32 images, three runs")
    args = parser.parse_args(argv)
    assets = assets_folder("data/ and models/")
    if assets is None:
        return 2
    target = load_target(assets / "data" / "bccd")
    zoo = {spec.name: spec for spec in load_zoo(Path(__file__).parent / "assets-zoo.yaml").models}
    about = {"processor": cpu_model(), "torch": torch.__version__, "python": platform.python_version()}
    rows: list[dict[str, Any]] = []

    def keep(row: dict[str, Any]) -> None:
        rows.append({**row, **about})
        print(rows[-1], flush=True)
        names = list(dict.fromkeys(name for one in rows for name in one))
        write_rows(args.out, [{name: one.get(name, "") for name in names} for one in rows])

    for name in TIMED[: 1 if args.quick else None]:
        keep(_extraction(zoo[name], target, 32 if args.quick else 96, 3 if args.quick else 5))
    return 0


def _extraction(spec: ModelSpec, target: Target, count: int, runs: int) -> dict[str, Any]:
    task = task_of(target)
    items = target.indices("train", "val")[:count]
    plan = task.rows(target, items)
    assert plan.place is not None
    encoder = task.prepared(sources.registry.get(spec.source_name).load(spec), target)
    pixels = prepare([target.items[int(i)] for i in items], encoder.image_preprocess)
    inputs, runner = _Prepared(pixels), MapRunner(encoder, "cpu", "float32")
    positions = np.searchsorted(items, plan.item)

    def forward() -> None:
        with torch.inference_mode():
            for begin in range(0, len(pixels), runner.batch_size):
                encoder.maps(ready(pixels[begin : begin + runner.batch_size], encoder.preprocess))

    def boxes() -> None:
        for _ in extract_rows(runner, inputs, positions, plan.place, plan.reader):
            pass

    forward()
    boxes()
    timed = [(seconds(forward), seconds(boxes)) for _ in range(runs)]
    pure, read = (median(column) for column in zip(*timed, strict=True))
    return {
        "what": "extraction", "model": spec.name, "pictures": len(items), "boxes": len(plan),
        "canvas": "x".join(map(str, encoder.image_preprocess.input_size[1:])), "baseline_s": round(pure, 3),
        "ours_s": round(read, 3), "ratio": round(median(b / a for a, b in timed), 3),
    }  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
