"""Cost of ranking for masks: rows at points against the pure forward pass and dense maps, a scan against a plain loop.

    SELECTOR_ASSETS=... python -m benchmarks.bench_segmentation [--quick]            # points
    SELECTOR_ASSETS=... python -m benchmarks.bench_segmentation --scan           # a scan of eight encoders
    SELECTOR_ASSETS=... python -m benchmarks.bench_segmentation --loop 100       # the plain loop, points a picture

Seconds are those of the processor, children included, so that other work on the machine counts little; a row holds
medians of alternating runs. The plain loop is what a person writes: every model after the other, torch in float32,
maps of pictures in batches of eight, ``grid_sample`` at points, and scikit-learn's logistic regression by five folds of
pictures on standardised rows. It has a row a model, and the same call goes on after those that are there; a scan reads
few points of each picture, so that both a loop over the same points and one over a hundred are measured.
"""

from __future__ import annotations

import argparse
import platform
import resource
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
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
from benchmarks.rows import read_rows, write_rows
from selector import sources
from selector.core.contracts import Target
from selector.core.system import cpu_model
from selector.core.task import Task
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


def scan(zoo: Sequence[ModelSpec], target: Target) -> dict[str, object]:
    """A row: default proxies with intervals, from files to a table; what the store holds beside dense maps of all."""
    items = target.indices("train", "val")
    with tempfile.TemporaryDirectory() as folder:
        made: list[selector.Ranking] = []
        spent = seconds(
            lambda: made.append(selector.rank(target, zoo=zoo, store=folder, cost="off", history=False, out=False))  # type: ignore[arg-type]
        )
        (ranking,) = made
        failed = [model.reason for model in ranking if model.status == "failed"]
        assert not failed, failed
        stored = sum(path.stat().st_size for path in (Path(folder) / "entries").rglob("*") if path.is_file())
    task = task_of(target)
    return {
        "what": "scan", "model": f"{len(zoo)} encoders", "points": round(len(task.rows(target, items)) / len(items)),
        "pictures": len(items), "seconds": round(spent, 1), "stopped_early": sum(m.status == "stopped" for m in ranking),
        "stored_bytes": stored, "dense_bytes": sum(dense_bytes(task, spec, target) for spec in zoo) * len(items),
        "value": "", **facts(),
    }  # fmt: skip


def dense_bytes(task: Task, spec: ModelSpec, target: Target) -> int:
    """Of the maps of a picture, in float32."""
    encoder = task.prepared(sources.registry.get(spec.source_name).load(spec), target)
    with torch.inference_mode():
        pixels = prepare([target.items[0]], encoder.image_preprocess)
        return sum(found.numel() for _, found in encoder.maps(ready(pixels, encoder.preprocess))) * 4


def plain_loop(spec: ModelSpec, target: Target, points: int) -> dict[str, object]:
    """A row: accuracy of a probe of one model on points of held-out pictures."""
    found: list[float] = []
    items = target.indices("train", "val")
    spent = seconds(lambda: found.append(probed(spec, target, points)))
    return {
        "what": "loop", "model": spec.name, "points": points, "pictures": len(items), "seconds": round(spent, 1),
        "stopped_early": "", "stored_bytes": "", "dense_bytes": "", "value": round(found[0], 4), **facts(),
    }  # fmt: skip


def probed(spec: ModelSpec, target: Target, points: int) -> float:
    """The loop's work on one model."""
    task = task_of(target)
    items = target.indices("train", "val")
    plan = task.probe_plan(target, items)
    place, labels = plan.place, plan.facets["class"].labels
    assert place is not None
    some = np.concatenate([np.flatnonzero(plan.item == item)[:: max(1, round(100 / points))] for item in items])
    encoder = task.prepared(sources.registry.get(spec.source_name).load(spec), target)
    rows = []
    for begin in range(0, len(items), 8):
        batch = items[begin : begin + 8]
        pixels = prepare([target.items[int(i)] for i in batch], encoder.image_preprocess)
        with torch.no_grad():
            maps = encoder.maps(ready(pixels, encoder.preprocess))
            for number, item in enumerate(batch):
                grid = torch.from_numpy(place[some[plan.item[some] == item]])[None, None] * 2 - 1
                read = [grid_sample(one[number : number + 1], grid, align_corners=False)[0, :, 0].T for _, one in maps]
                rows.append(torch.cat(read, 1).numpy())
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    scores = cross_val_score(probe, np.concatenate(rows), labels[some], groups=plan.item[some], cv=GroupKFold(5))
    return float(scores.mean())


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_segmentation", description=__doc__)
    parser.add_argument("--out", type=Path, help="the committed tables when left out")
    parser.add_argument("--scan", action="store_true", help="a whole scan")
    parser.add_argument("--loop", type=int, metavar="POINTS", help="the plain loop, with so many points a picture")
    parser.add_argument("--quick", action="store_true", help="32 pictures, three runs; of a scan or loop two models")
    args = parser.parse_args(argv)
    assets = assets_folder("data/")
    if assets is None:
        return 2
    torch.set_num_threads(1)
    target = load_target(assets / "data" / "camvid")
    if args.scan or args.loop:
        out = args.out or SCAN_OUT
        chosen = EIGHT[:2] if args.quick else EIGHT
        zoo = [spec for spec in load_zoo(Path(__file__).parent / "assets-zoo.yaml").models if spec.name in chosen]
        known = read_rows(out)
        done = {(row["model"], row["points"]) for row in known if row["what"] == "loop"}
        todo = [spec for spec in zoo if args.loop and (spec.name, str(args.loop)) not in done]
        for make in [partial(scan, zoo, target)] * args.scan + [
            partial(plain_loop, one, target, args.loop) for one in todo
        ]:
            known.append(make())
            print(known[-1], flush=True)
            write_rows(out, known)
        return 0
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
