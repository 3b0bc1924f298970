"""A whole scan of eight encoders for masks (camvid) and for boxes (bccd) against the loop that a person writes.

    SELECTOR_ASSETS=... python -m benchmarks.dense_scans --set camvid --scan
    SELECTOR_ASSETS=... python -m benchmarks.dense_scans --set camvid --loop [--points 100]

Seconds are those of the processor, children included, so that other work on the machine counts little. The scan is the
usual one: two rounds of early stopping, default proxies with intervals, from files to a table. The loop takes one model
after the other: float32 maps of images in batches of eight, rows read off them, then scikit-learn on standardized rows by
five folds of images: logistic regression of classes, and of boxes ridge regression of the offsets as well. It has a row
a model, and the same call goes on after those that are there. A scan reads few points of each image (``points``), so
that a loop over as many and one over a hundred are both of interest. ``passes`` are the seconds of either that were in the
networks, from pixels to maps: what a scan cannot do without. ``value`` of a scan is its order. Stored bytes are those of the scan's rows on disk,
dense bytes those of all maps of all models in float32. Rows ``scan at COMMIT`` are of that state, in one run with the next row.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import selector
from benchmarks.assets import assets_folder
from benchmarks.rows import hardware, options, processor_seconds, read_rows, write_rows
from selector import sources
from selector.core.contracts import LabelKind, Target
from selector.core.table import RowPlan
from selector.core.task import Task
from selector.data import load_target
from selector.extract import row_readers
from selector.extract.inputs import ready
from selector.modalities.pixels.transform import prepare
from selector.sources._encoder import TorchEncoder
from selector.tasks import task_of
from selector.zoo import ModelSpec, load_zoo

OUT = Path(__file__).parent / "results" / "dense_scans.csv"
EIGHT = (
    "mlc_resnet8", "mnv1_025", "cifar_resnet20", "mn_edgetpu075", "mnv2_coral", "mnv1_100", "efflite0", "opennsfw",
)  # fmt: skip
BATCH = 8
COLUMNS = ("set", "what", "model", "points", "rows", "pictures", "seconds", "passes", "stopped_early", "stored_bytes", "dense_bytes", "value", *hardware())  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = options(__doc__, OUT, "two models")
    parser.add_argument("--set", choices=("camvid", "bccd"), required=True)
    parser.add_argument("--scan", action="store_true", help="the scan")
    parser.add_argument("--loop", action="store_true", help="the loop over the models that have no row yet")
    parser.add_argument("--points", type=int, help="of the loop, an image; as the scan when left out")
    args = parser.parse_args(argv)
    assets = assets_folder("data/ and models/")
    torch.set_num_threads(1)
    target = load_target(assets / "data" / args.set)
    chosen = EIGHT[:2] if args.quick else EIGHT
    zoo = [spec for spec in load_zoo(Path(__file__).parent / "assets-zoo.yaml").models if spec.name in chosen]
    plan = rows_of(target, args.points)
    known = read_rows(args.out)
    done = {(row["set"], row["model"], int(row["rows"])) for row in known if row["what"] == "loop"}
    jobs = [partial(scan, zoo, target)] * args.scan
    jobs += [
        partial(loop, spec, target, plan) for spec in zoo if args.loop and (args.set, spec.name, len(plan)) not in done
    ]
    for job in jobs:
        known.append({"set": args.set, **job(), **hardware()})
        print(known[-1], flush=True)
        write_rows(args.out, known, COLUMNS)
    return 0


def rows_of(target: Target, points: int | None) -> RowPlan:
    """The rows of a scan, or of so many points an image."""
    task, items = task_of(target), target.indices("train", "val")
    if points is None:
        return task.rows(target, items, task.most_rows)
    plan = task.probe_plan(target, items)
    step = max(1, round(len(plan) / len(items) / points))
    kept = np.concatenate([np.flatnonzero(plan.item == item)[::step] for item in items])
    assert plan.place is not None
    facets = {name: replace(one, labels=one.labels[kept]) for name, one in plan.facets.items()}
    return RowPlan(plan.item[kept], facets, plan.place[kept], plan.reader)


def scan(zoo: Sequence[ModelSpec], target: Target) -> dict[str, object]:
    """The row of a scan, and what the store holds beside dense maps of all models."""
    task, items = task_of(target), target.indices("train", "val")
    made: list[selector.Ranking] = []
    with tempfile.TemporaryDirectory() as folder:

        def run() -> None:
            made.append(
                selector.rank(target, zoo=list(zoo), store=folder, measure_cost="never", history=False, out=False)
            )

        with timed_passes() as passes:
            spent = processor_seconds(run)
        stored = sum(path.stat().st_size for path in (Path(folder) / "entries").rglob("*") if path.is_file())
    (ranking,) = made
    failed = [model.reason for model in ranking if model.status == "failed"]
    assert not failed, failed
    plan = rows_of(target, None)
    return {
        "what": "scan", "model": f"{len(zoo)} encoders", "points": round(len(plan) / len(items), 1), "rows": len(plan),
        "pictures": len(items), "seconds": round(spent, 1), "passes": round(sum(passes), 1), "stopped_early": sum(m.status == "stopped" for m in ranking),
        "stored_bytes": stored, "dense_bytes": sum(dense_bytes(task, spec, target) for spec in zoo) * len(items),
        "value": " ".join(model.name for model in ranking),
    }  # fmt: skip


@contextmanager
def timed_passes() -> Iterator[list[float]]:
    """Seconds of the processor of every forward pass to maps inside, on the thread that makes it."""
    spent: list[float] = []
    own = TorchEncoder.maps

    def maps(self: TorchEncoder, batch: torch.Tensor) -> list[tuple[int, torch.Tensor]]:
        begun = time.thread_time()
        found = own(self, batch)
        spent.append(time.thread_time() - begun)
        return found

    with mock.patch.object(TorchEncoder, "maps", maps):
        yield spent


def dense_bytes(task: Task, spec: ModelSpec, target: Target) -> int:
    """Of the maps of an image, in float32."""
    encoder = task.prepared(sources.registry.get(spec.source_name).load(spec), target)
    with torch.inference_mode():
        pixels = prepare([target.items[0]], encoder.image_preprocess)
        return sum(found.numel() for _, found in encoder.maps(ready(pixels, encoder.preprocess))) * 4


def loop(spec: ModelSpec, target: Target, plan: RowPlan) -> dict[str, object]:
    """The row of one model; its value is the mean of accuracy and, of boxes, R²."""
    values: list[float] = []
    with timed_passes() as passes:
        spent = processor_seconds(lambda: values.extend(probed(spec, target, plan)))
    pictures = len(target.indices("train", "val"))
    return {
        "what": "loop", "model": spec.name, "points": round(len(plan) / pictures, 1), "rows": len(plan),
        "pictures": pictures, "seconds": round(spent, 1), "passes": round(sum(passes), 1), "value": round(float(np.mean(values)), 4),
    }  # fmt: skip


def probed(spec: ModelSpec, target: Target, plan: RowPlan) -> list[float]:
    """What the loop finds of a model, a figure a facet."""
    task, read = task_of(target), row_readers.registry.get(plan.reader)
    encoder = task.prepared(sources.registry.get(spec.source_name).load(spec), target)
    items, found = np.unique(plan.item), []
    assert plan.place is not None
    with torch.inference_mode():
        for begin in range(0, len(items), BATCH):
            some = items[begin : begin + BATCH]
            pixels = prepare([target.items[int(item)] for item in some], encoder.image_preprocess)
            maps = encoder.maps(ready(pixels, encoder.preprocess))
            own = np.isin(plan.item, some)
            item = torch.from_numpy(np.searchsorted(some, plan.item[own]))
            found.append(read.read(maps, item, torch.from_numpy(plan.place[own]), read.variants(encoder.strides)[0]))  # fmt: skip
    rows, values = torch.cat(found).numpy(), []
    for facet in plan.facets.values():
        known = np.ones(len(rows), bool) if facet.mask is None else facet.mask.reshape(len(rows), -1).all(1)
        model = (
            LogisticRegression(max_iter=2_000) if facet.kind is LabelKind.CLASSES else RidgeCV(np.logspace(-2, 5, 8))
        )
        probe = make_pipeline(StandardScaler(), model)
        scores = cross_val_score(probe, rows[known], facet.labels[known], groups=plan.item[known], cv=GroupKFold(5))
        values.append(float(scores.mean()))
    return values


if __name__ == "__main__":
    raise SystemExit(main())
