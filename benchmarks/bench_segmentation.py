"""Cost of ranking for masks: rows at points against the pure forward pass and dense maps, a scan against a plain loop.

    SELECTOR_ASSETS=... python -m benchmarks.bench_segmentation [--quick]            # points
    SELECTOR_ASSETS=... python -m benchmarks.bench_segmentation --scan [--pictures 200]

Seconds are those of the processor, children included, so that other work on the machine counts little; a row holds
medians of alternating runs. The plain loop is what a person writes: every model after the other, torch in float32,
maps of pictures in batches of eight, ``grid_sample`` at the same points, and scikit-learn's logistic regression by
five folds of pictures on standardised rows.
"""

from __future__ import annotations

import argparse
import platform
import resource
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn.functional import grid_sample

import selector
from benchmarks.assets import assets_folder
from benchmarks.rows import write_rows
from selector import sources
from selector.core.contracts import Target
from selector.core.system import cpu_model
from selector.data import load_target
from selector.extract.inputs import ready
from selector.extract.rows import MapRunner, extract_rows
from selector.modalities.pixels.transform import prepare
from selector.tasks import task_of
from selector.tasks.segmentation import FEWEST_POINTS
from selector.zoo import ModelSpec, load_zoo

OUT = Path(__file__).parent / "results" / "segmentation_cost.csv"
SCAN_OUT = OUT.with_name("segmentation_scan.csv")
EIGHT = (
    "mlc_resnet8", "mnv1_025", "cifar_resnet20", "mn_edgetpu075", "mnv2_coral", "mnv1_100", "efflite0", "opennsfw",
)  # fmt: skip
MODELS = ("mnv1_100", "efflite0", "opennsfw")


class _Prepared:
    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def batch(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        return self.rows[np.asarray(indices)]


def processor_seconds() -> float:
    """Of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def seconds(run: Callable[[], None]) -> float:
    begun = processor_seconds()
    run()
    return processor_seconds() - begun


def facts() -> dict[str, object]:
    """What every row ends with."""
    return {"processor": cpu_model(), "torch": torch.__version__, "python": platform.python_version()}


def scan_against_loop(assets: Path, pictures: int, models: int) -> dict[str, object]:
    """A row: default proxies with intervals, from files to a table, against the loop."""
    zoo = [spec for spec in load_zoo(Path(__file__).parent / "assets-zoo.yaml").models if spec.name in EIGHT[:models]]
    target = load_target(assets / "data" / "camvid", max_samples=pictures)
    stopped: list[int] = []
    with tempfile.TemporaryDirectory() as folder:

        def scan() -> None:
            made = selector.rank(target, zoo=zoo, store=folder, cost="off", history=False, out=False)
            failed = [model.reason for model in made if model.status == "failed"]
            assert not failed, failed
            stopped.append(sum(model.status == "stopped" for model in made))

        ours = seconds(scan)
        print("scan", ours, flush=True)
    loop = seconds(lambda: plain_loop(target, zoo))
    row: dict[str, object] = {
        "models": len(zoo), "stopped_early": stopped[0], "pictures": len(target.indices("train", "val")), "scan_s": round(ours, 1),
        "loop_s": round(loop, 1), "ratio": round(loop / ours, 2), **facts(),
    }  # fmt: skip
    print(row, flush=True)
    return row


def plain_loop(target: Target, zoo: Sequence[ModelSpec]) -> dict[str, float]:
    """Accuracy of a probe on held-out pictures, by model."""
    task = task_of(target)
    items = target.indices("train", "val")
    plan = task.rows(target, items)
    assert plan.place is not None
    found = {}
    for spec in zoo:
        encoder = task.prepared(sources.registry.get(spec.source_name).load(spec), target)
        rows = []
        for begin in range(0, len(items), 8):
            some = items[begin : begin + 8]
            pixels = prepare([target.items[int(i)] for i in some], encoder.image_preprocess)
            with torch.no_grad():
                maps = encoder.maps(ready(pixels, encoder.preprocess))
                for number, item in enumerate(some):
                    grid = torch.from_numpy(plan.place[plan.item == item])[None, None] * 2 - 1
                    read = [
                        grid_sample(one[number : number + 1], grid, align_corners=False)[0, :, 0].T for _, one in maps
                    ]
                    rows.append(torch.cat(read, 1).numpy())
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
        scores = cross_val_score(
            probe, np.concatenate(rows), plan.facets["class"].labels, groups=plan.item, cv=GroupKFold(5)
        )
        found[spec.name] = float(scores.mean())
        print("loop", spec.name, found[spec.name], flush=True)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_segmentation", description=__doc__)
    parser.add_argument("--out", type=Path, help="the committed tables when left out")
    parser.add_argument("--scan", action="store_true", help="a whole scan against a plain loop")
    parser.add_argument("--pictures", type=int, default=200, help="of the scan")
    parser.add_argument("--quick", action="store_true", help="32 pictures, three runs; of a scan two models")
    args = parser.parse_args(argv)
    assets = assets_folder("data/")
    if assets is None:
        return 2
    torch.set_num_threads(1)
    if args.scan:
        write_rows(args.out or SCAN_OUT, [scan_against_loop(assets, args.pictures, 2 if args.quick else len(EIGHT))])
        return 0
    target = load_target(assets / "data" / "camvid")
    task = task_of(target)
    items = target.indices("train", "val")[: 32 if args.quick else 200]
    plan = task.rows(target, items)
    assert plan.place is not None
    rows = []
    for spec in load_zoo(Path(__file__).parent / "assets-zoo.yaml").models:
        if spec.name not in MODELS:
            continue
        encoder = task.prepared(sources.registry.get(spec.source_name).load(spec), target)
        pixels = prepare([target.items[int(i)] for i in items], encoder.image_preprocess)
        inputs = _Prepared(pixels)
        runner = MapRunner(encoder, "cpu", "float32")
        positions = np.searchsorted(items, plan.item)
        width, dense = task.width(encoder), 0

        def forward(encoder=encoder, pixels=pixels, size=runner.batch_size) -> None:  # type: ignore[no-untyped-def]
            with torch.inference_mode():
                for begin in range(0, len(pixels), size):
                    encoder.maps(ready(pixels[begin : begin + size], encoder.preprocess))  # as the source loads it

        def points(runner=runner, inputs=inputs, positions=positions) -> None:  # type: ignore[no-untyped-def]
            for _ in extract_rows(runner, inputs, positions, plan.place, plan.reader):
                pass

        with torch.inference_mode():
            maps = encoder.maps(ready(pixels[:1], encoder.preprocess))
            dense = sum(found.numel() for _, found in maps) * 4
        forward(), points()
        timed = [(seconds(forward), seconds(points)) for _ in range(3 if args.quick else 5)]
        pure, read = (median(column) for column in zip(*timed, strict=True))
        rows.append(
            {
                "model": spec.name, "pictures": len(items), "points": len(plan), "canvas": "x".join(map(str, encoder.image_preprocess.input_size[1:])),
                "forward_s": round(pure, 3), "points_s": round(read, 3), "ratio": round(median(b / a for a, b in timed), 3),
                "dense_bytes_a_picture": dense, "stored_bytes_a_picture": round(len(plan) / len(items) * width * 4),
                "dense_over_stored": round(dense / (len(plan) / len(items) * width * 4), 1),
                "dense_over_stored_of_2000": round(dense / (FEWEST_POINTS * width * 4), 1),
                **facts(),
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    write_rows(args.out or OUT, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
