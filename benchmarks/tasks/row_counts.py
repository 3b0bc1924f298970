"""How few rows of masks and boxes order encoders as well? Scores of the package's own rows against the ground truth.

    SELECTOR_ASSETS=... python -m benchmarks.tasks.row_counts [--sets ...] [--encoders ...]

Every encoder of the ground truth reads each image once; rows of all plans are read off its maps. ``value`` is the mean
normalized score of the members on a plan's rows, without a prior; ``seconds`` are the processor's for all usual proxies with
intervals. Rows are written encoder by encoder, and the same command goes on after those that are there.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.agreement import mean_agreement
from benchmarks.assets import assets_folder
from benchmarks.rows import hardware, read_rows, write_rows
from benchmarks.tasks import cells, detection, mask_sets
from benchmarks.tasks.agreement import questions
from selector import proxies, sources
from selector.core.contracts import Target
from selector.core.errors import SelectorError
from selector.core.task import RowPlan
from selector.data import load_target
from selector.extract.row_readers import registry
from selector.extract.rows import canvas_encoder, extract_rows, open_map_runner
from selector.features import FeatureSet
from selector.modalities.image import canvas_of
from selector.modalities.pixels.maps import canvas_side
from selector.modalities.pixels.prepared import open_pixels_many
from selector.proxies import default_proxies
from selector.ranking.combination import LabelFacts, combine, score_key
from selector.tasks import task_of
from selector.zoo import ModelSpec, load_zoo

OUT = cells.RESULTS / "row_counts.csv"
SETS = ("bccd", "flowers_on_textures", "camvid", "dtd10_mosaics")
BOXES = (3_000, 2_000, 1_500, 1_000)  # rows at most
POINTS = (10, 7, 5)  # an image


def main(argv: Sequence[str] | None = None) -> int:
    """Score what is missing, then print the agreement of every plan."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tasks.row_counts", description=__doc__)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--encoders", nargs="+", help="all of the ground truth when left out")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(argv)
    assets = assets_folder("models/ and data/")
    if assets is None:
        return 2
    torch.set_num_threads(1)
    asked, rows = questions(cells.read(cells.TRUTH)), read_rows(args.out)
    zoo = {spec.name: spec for spec in load_zoo(Path(__file__).parents[1] / "assets-zoo.yaml").models}
    for name in args.sets:
        target = target_of(name, assets)
        for encoder in dict.fromkeys(e for q in asked if q.set == name for e in q.truth if e in zoo):
            known = (name, encoder) in {(row["set"], row["encoder"]) for row in rows}
            if not known and (args.encoders is None or encoder in args.encoders):
                rows += [{"set": name, "encoder": encoder, **row, **hardware()} for row in scored(zoo[encoder], target)]
                write_rows(args.out, rows)
                print("scored", name, encoder, flush=True)
    for question in asked:
        own = [row for row in rows if row["set"] == question.set]
        for plan in dict.fromkeys(str(row["plan"]) for row in own):
            values = {row["encoder"]: float(row["value"]) for row in own if row["plan"] == plan}
            both = [e for e in question.truth if e in values]
            if len(both) > 4:
                pair = [[values[e] for e in both]], [[question.truth[e] for e in both]]
                found = [
                    mean_agreement(*pair, measure, draws=200, resample="models")
                    for measure in ("weighted_tau", "regret@1")
                ]
                shown = "  ".join(f"{one.value:6.2f} [{one.low:.2f}, {one.high:.2f}]" for one in found)
                count = next(row["rows"] for row in own if row["plan"] == plan)
                print(f"{question.target:40} {len(both):3} encoders  {plan:>6} ({count} rows)  {shown}")
    return 0


def target_of(name: str, assets: Path) -> Target:
    """A set of the ground truth as the package loads it."""
    if name in ("bccd", "camvid"):
        return load_target(assets / "data" / name)
    if name in mask_sets.SETS:
        masks = mask_sets.load_set(name, assets)
        marks = masks.masks
        pictures = F.interpolate(masks.pixels, size=marks.shape[1:], mode="bilinear").permute(0, 2, 3, 1)
        return load_target([
            {"image": np.asarray(picture), "mask": np.asarray(mark).astype(np.uint8), "split": str(split)}
            for picture, mark, split in zip(pictures, marks, masks.splits, strict=True)
        ], name=name)  # fmt: skip
    boxes = detection.load_set(name, assets)
    return load_target([
        {"image": image.permute(1, 2, 0).numpy(), "boxes": box.tolist(), "labels": [boxes.classes[i] for i in label.tolist()], "split": str(split)}
        for image, box, label, split in zip(boxes.images, boxes.boxes, boxes.labels, boxes.splits, strict=True)
    ], name=name)  # fmt: skip


def plans_of(target: Target) -> dict[str, RowPlan]:
    """The rows of each way to choose them."""
    task, items = task_of(target), target.indices("train", "val")
    if task.name == "detection":
        return {str(limit): task.rows(target, items, limit) for limit in BOXES}
    return {str(count): task._points(target, items, count, 20_000) for count in POINTS}  # type: ignore[attr-defined]


def scored(spec: ModelSpec, target: Target) -> Iterator[dict[str, object]]:
    """A row a plan."""
    plain = sources.registry.get(spec.source_name).load(spec)
    encoder = canvas_encoder(plain, canvas_of(target.items, canvas_side(plain)))
    opened, _ = open_pixels_many(target.items, target.hashes, target.names, [encoder.image_preprocess], folder=None)
    (pixels,) = opened.values()
    plans = plans_of(target)
    runner = open_map_runner(encoder, device="cpu", sample=pixels.batch(target.indices("train")[:8]))
    whole = list(plans.values())
    item = np.concatenate([plan.item for plan in whole])
    place = np.concatenate([plan.place for plan in whole if plan.place is not None])
    variant = registry.get(whole[0].reader).variants(encoder.strides)[0]
    found = np.empty((len(item), 0), np.float32)
    for chunk in extract_rows(runner, pixels, item, place, whole[0].reader, variants=[variant]):
        part = chunk.features[variant]
        if not found.shape[1]:
            found = np.empty((len(item), part.shape[1]), np.float32)
        found[chunk.rows] = part
    begin = 0
    for label, plan in plans.items():
        features = found[begin : begin + len(plan)]
        begin += len(plan)
        yield {"plan": label, "rows": len(plan), "width": features.shape[1], **_value(features, plan, target)}


def _value(features: np.ndarray, plan: RowPlan, target: Target) -> dict[str, object]:
    task = task_of(target)
    names = task.proxies or default_proxies(target.label_kind)
    groups = np.unique([target.hashes[i] for i in plan.item], return_inverse=True)[1]
    first, scores, started = None, {}, time.process_time()
    for facet, problem in plan.facets.items():
        if first is None:
            first = one = FeatureSet(
                features, problem.labels, label_kind=problem.kind, keys=plan.addresses(target.hashes), groups=groups
            )
        else:
            one = first.with_labels(problem.labels, problem.kind)
        for proxy in names:
            try:
                scores[score_key(facet, proxy, len(plan.facets))] = proxies.evaluate(one, proxy, intervals=True)
            except SelectorError:
                continue
    spent = time.process_time() - started
    members = task.members.get(target.modality, ())
    facts = {facet: LabelFacts.of(one.labels, one.kind, members) for facet, one in plan.facets.items()}
    (made,) = combine({"": scores}, facts).values()
    width = (made.high or 0) - (made.low or 0)
    return {"value": repr(made.normalized_score), "interval": round(width, 4), "seconds": round(spent, 2)}


if __name__ == "__main__":
    sys.exit(main())
