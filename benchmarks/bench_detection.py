"""Cost of rows at boxes: against the pure forward pass at the same size, and a whole scan against a plain loop.

Run: SELECTOR_ASSETS=... python -m benchmarks.bench_detection --quick. A row holds medians of alternating runs; ``scan``
compares one scan of the models on bccd, intervals included, with a loop that decodes, resizes and forwards every picture
for each model in float32, reads the same boxes and scores both facets with the same proxies, one after the other.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

import selector
from benchmarks.assets import assets_folder
from benchmarks.bench_segmentation import _Prepared, seconds
from benchmarks.rows import write_rows
from selector import sources
from selector.core.contracts import Target
from selector.core.system import cpu_model
from selector.core.task import RowPlan
from selector.data import load_target
from selector.extract import readers
from selector.extract.inputs import ready
from selector.extract.readers import Outputs
from selector.extract.rows import MapRunner, extract_rows
from selector.features import FeatureSet
from selector.modalities.pixels.transform import prepare
from selector.proxies import evaluate
from selector.ranking.combination import MEMBERS
from selector.tasks import task_of
from selector.zoo import ModelSpec, load_zoo

OUT = Path(__file__).parent / "results" / "detection_cost.csv"
MODELS = (
    "mnv1_025",
    "mlc_resnet8",
    "cifar_resnet20",
    "mnv1_100",
    "efflite0",
    "mnv2_coral",
    "mn_edgetpu075",
    "opennsfw",
)
LOOP_BATCH = 16
TIMED = ("mnv1_100", "efflite0", "opennsfw")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_detection", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--quick", action="store_true", help="one model, 32 pictures, three runs; no scan")
    parser.add_argument("--scan", action="store_true", help="the scan against the loop alone")
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

    if not args.scan:
        for name in TIMED[: 1 if args.quick else None]:
            keep(_extraction(zoo[name], target, 32 if args.quick else 96, 3 if args.quick else 5))
    if not args.quick:
        keep(_scan([zoo[name] for name in MODELS], target))
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


def _scan(specs: Sequence[ModelSpec], target: Target) -> dict[str, Any]:
    """Once each, since both take minutes; the loop goes first, so that files are warm for neither alone."""
    for item in range(len(target)):
        target.items[item]
    plain = seconds(lambda: [_loop(spec, target) for spec in specs] and None)
    with tempfile.TemporaryDirectory() as folder:
        ours = seconds(lambda: selector.rank(target, zoo=list(specs), store=folder, history=False, cost="off") and None)
    return {
        "what": "scan", "model": f"{len(specs)} encoders", "pictures": len(target.indices("train", "val")),
        "baseline_s": round(plain, 3), "ours_s": round(ours, 3), "ratio": round(plain / ours, 3),
    }  # fmt: skip


def _loop(spec: ModelSpec, target: Target) -> None:
    """One model as a script would do it: in batches, in float32, without a store, rounds or intervals."""
    task = task_of(target)
    encoder = task.prepared(sources.registry.get(spec.source_name).load(spec), target)
    plan = task.rows(target, target.indices("train", "val"))
    assert plan.place is not None
    found, read, items = [], readers.registry.get(plan.reader), np.unique(plan.item)
    with torch.inference_mode():
        for begin in range(0, len(items), LOOP_BATCH):
            some = items[begin : begin + LOOP_BATCH]
            pixels = prepare([target.items[int(item)] for item in some], encoder.image_preprocess)
            features, maps = encoder.encode_maps(ready(pixels, encoder.preprocess))
            own = np.isin(plan.item, some)
            place, item = torch.from_numpy(plan.place[own]), torch.from_numpy(np.searchsorted(some, plan.item[own]))
            variant = read.variants(encoder.strides)[0]
            found.append(read.read(Outputs(features, maps=maps), item, place, variant))
    _score(torch.cat(found).numpy(), plan)


def _score(rows: np.ndarray, plan: RowPlan) -> None:
    for facet in plan.facets.values():
        known = np.ones(len(rows), bool) if facet.mask is None else facet.mask.reshape(len(rows), -1).all(1)
        features = FeatureSet(rows[known], facet.labels[known], label_kind=facet.kind, units=plan.item[known])
        for name in MEMBERS[facet.kind]:
            evaluate(features, name)


if __name__ == "__main__":
    raise SystemExit(main())
