"""Scores of frozen features for every set of the coming tasks, as a table beside the ground truth.

    SELECTOR_ASSETS=... python -m benchmarks.tasks.scores [--sets ...] [--encoders ...]

Only encoders that have a row in the ground truth are scored, from train and validation items alone. Resumable: an
encoder's set is done when all of its rows are there. README.md says what the rows of each task are.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.ops import roi_align

from benchmarks.assets import assets_folder
from benchmarks.suite import table
from benchmarks.tasks import cells, detection, maps, mask_sets, segmentation, vectors
from benchmarks.tasks.detection import BoxSet
from benchmarks.tasks.maps import MapNetwork
from benchmarks.tasks.vector_sets import MULTILABEL
from selector.core.contracts import LabelKind, Score
from selector.core.errors import SelectorError
from selector.features import FeatureSet
from selector.proxies import evaluate, registry
from selector.ranking.combination import MEMBERS, LabelFacts, combine

SCORES = cells.RESULTS / "scores.csv"
COLUMNS = (
    "set", "encoder", "variant", "facet", "score", "value", "seconds", "rows", "width", "version", "numpy", "torch", "cpu",
    "status", "reason",
)  # fmt: skip
COMBINED = "combined"  # mean normalized score of the members, without a prior
FOR_CLASSES = ("knn", "probe", "logme", "lda", "gbc", "hscore", "ridge", "nearest-class-mean")
"""Of the proxies that need a partition into classes; the others take minutes on thousands of points or boxes."""
POINTS = 10  # an image
BOXES, BACKGROUND = 4, 2  # an image
POOL = 7  # cells a side of RoI-Align, averaged afterwards


@dataclass(frozen=True)
class Facet:
    """One row problem: features (R, D), labels of a kind, and the image of each row (R,)."""

    variant: str
    name: str
    kind: LabelKind
    features: np.ndarray
    labels: np.ndarray
    groups: np.ndarray


def main(argv: Sequence[str] | None = None) -> int:
    """Score what is missing, in the order of the ground truth."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tasks.scores", description=__doc__)
    parser.add_argument("--sets", nargs="+", help="all when left out")
    parser.add_argument("--encoders", nargs="+", help="all when left out")
    parser.add_argument("--truth", type=Path, default=cells.TRUTH)
    parser.add_argument("--out", type=Path, default=SCORES)
    args = parser.parse_args(argv)
    assets = assets_folder("models/, data/ and text/")
    if assets is None:
        return 2
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    for name, encoder in measured(args.truth):
        if (args.sets and name not in args.sets) or (args.encoders and encoder not in args.encoders):
            continue
        if (name, encoder) not in done(args.out):
            score_encoder(name, encoder, assets, args.out)
    return 0


def measured(truth: Path) -> list[tuple[str, str]]:
    """Set and encoder of every cell that worked, once."""
    return list(dict.fromkeys((cell.set, cell.encoder) for cell in cells.read(truth) if cell in cells.finished(truth)))


def done(out: Path) -> set[tuple[str, str]]:
    """Set and encoder of those whose last row, which ends them, is there."""
    return {(row["set"], row["encoder"]) for row in table.whole_rows(out) if row["score"] == "end"}


def score_encoder(name: str, encoder: str, assets: Path, out: Path) -> None:
    """Append all rows of an encoder on a set."""
    about = {"set": name, "encoder": encoder, "cpu": cells.cpu_name()}
    about |= {package: metadata.version(package) for package in ("numpy", "torch")}
    for facet in facets(name, encoder, assets):
        found: dict[str, Score] = {}
        shape = {"rows": len(facet.features), "width": facet.features.shape[1]}
        where = {"variant": facet.variant, "facet": facet.name}
        features: FeatureSet | None = None
        for score in scores_of(facet.kind):
            row: dict[str, object] = {**about, **shape, **where, "score": score, "version": registry.get(score).version}
            try:
                if features is None:
                    features = FeatureSet(facet.features, facet.labels, label_kind=facet.kind, groups=facet.groups)
                found[score] = evaluate(features, score)
            except SelectorError as error:
                row |= {"status": "failed", "reason": str(error)}
            else:
                row |= {"value": repr(found[score].value), "seconds": f"{found[score].seconds:.3f}", "status": "ok"}
            table.append(out, row, COLUMNS)
        if set(MEMBERS[facet.kind]) <= set(found):
            mean = combine({encoder: found}, LabelFacts.of(facet.labels, facet.kind))[encoder].normalized_score
            whole: dict[str, object] = {
                **about,
                **shape,
                **where,
                "score": COMBINED,
                "value": repr(mean),
                "status": "ok",
            }
            table.append(out, whole, COLUMNS)
    table.append(out, {**about, "score": "end", "status": "ok"}, COLUMNS)
    print("scored", name, encoder, flush=True)


def scores_of(kind: LabelKind) -> list[str]:
    """Proxies that take this kind of labels and no source head."""
    takes = [
        n for n in registry.names() if kind in registry.get(n).label_kinds and not registry.get(n).needs_source_logits
    ]
    return [n for n in takes if n in FOR_CLASSES] if kind is LabelKind.CLASSES else takes


# ---------------------------------------------------------------------------- rows by task


def facets(name: str, encoder: str, assets: Path) -> Iterator[Facet]:
    """The row problems of a set with the features of one encoder."""
    if name in mask_sets.SETS:
        yield from _points(name, encoder, assets)
    elif name in detection.SETS:
        yield from _boxes(name, encoder, assets)
    else:
        yield from _pooled(name, encoder, assets)


def _pooled(name: str, encoder: str, assets: Path) -> Iterator[Facet]:
    data = vectors.load_set(name, assets)
    rows = data.rows("train", "val")
    scaled, _, _ = vectors.standardized(data, data.rows("train"))
    features, _ = vectors.open_learner(encoder, data, scaled, assets).features()
    x, y = features[rows], data.labels[rows].astype(np.float64)
    if data.kind == MULTILABEL:
        mixed = (y.sum(axis=0) > 0) & (y.sum(axis=0) < len(y))
        yield Facet("pooled", "labels", LabelKind.MULTILABEL, x, y[:, mixed].astype(int), rows)
        return
    for i, output in enumerate(data.outputs):
        yield Facet("pooled", output, LabelKind.REAL, x, y[:, i], rows)


def _points(name: str, encoder: str, assets: Path) -> Iterator[Facet]:
    data = mask_sets.load_set(name, assets)
    network = maps.load(encoder, assets)
    parts = [segmentation.point_features(network, data, split, POINTS) for split in ("train", "val")]
    x, y, groups = (np.concatenate([part[i] for part in parts]) for i in range(3))
    yield Facet("all maps", "pixels", LabelKind.CLASSES, x, y, groups)
    yield Facet("last map", "pixels", LabelKind.CLASSES, x[:, -network.channels[-1] :], y, groups)


@torch.no_grad()
def _boxes(name: str, encoder: str, assets: Path) -> Iterator[Facet]:
    data, network = detection.load_set(name, assets), maps.load(encoder, assets).eval()
    images = np.concatenate([data.rows("train"), data.rows("val")])
    rng = torch.Generator().manual_seed(0)
    what, kinds, where, moved, pooled, units_what, units_where = [], [], [], [], [], [], []
    for i in images:
        picture, boxes, labels = _drawn(data, int(i), rng)
        shaken = detection.jittered(boxes, rng)
        none = detection.background(data.boxes[i], BACKGROUND, data.images[i].shape[2], data.images[i].shape[1], rng)
        scale = picture.shape[-1] / data.images[i].shape[2]
        layers = network(picture)
        rows = regions(network, layers, torch.cat([boxes, none, shaken]) * scale, picture.shape[-2:])
        first, second = len(boxes), len(boxes) + len(none)
        what.append(rows[:second])
        kinds.append(torch.cat([labels, torch.full((len(none),), len(data.classes))]))
        where.append(rows[second:])
        moved.append(detection.offsets(shaken, boxes))
        units_what.append(np.full(second, i))
        units_where.append(np.full(first, i))
        pooled.append(layers[-1].mean((2, 3)))
    x, y = torch.cat(what).numpy(), torch.cat(kinds).numpy()
    yield Facet("regions", "what", LabelKind.CLASSES, x, y, np.concatenate(units_what))
    x, offsets = torch.cat(where).numpy(), torch.cat(moved).double().numpy()
    yield Facet("regions", "where", LabelKind.REAL, x, offsets, np.concatenate(units_where))
    there = np.zeros((len(images), len(data.classes)), int)
    for row, i in enumerate(images):
        there[row, data.labels[i].unique().numpy()] = 1
    mixed = np.minimum(there.sum(axis=0), len(there) - there.sum(axis=0)) >= 5
    yield Facet("whole image", "labels", LabelKind.MULTILABEL, torch.cat(pooled).numpy(), there[:, mixed], images)


def _drawn(data: BoxSet, i: int, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """An image at the size that training reads it (1, 3, H, W), and some of its boxes with their labels."""
    image = data.images[i].float()[None] / 255
    factor = min(detection.SIDE / min(image.shape[-2:]), detection.LONGEST / max(image.shape[-2:]))
    size = [round(side * factor) for side in image.shape[-2:]]
    chosen = torch.randperm(len(data.boxes[i]), generator=rng)[:BOXES]
    return (
        F.interpolate(image, size=size, mode="bilinear", antialias=True),
        data.boxes[i][chosen],
        data.labels[i][chosen],
    )


def regions(
    network: MapNetwork, layers: list[torch.Tensor], boxes: torch.Tensor, size: tuple[int, ...]
) -> torch.Tensor:
    """(boxes, D) mean of RoI-Align over the maps that the pyramid of the detector reads, side by side."""
    used = sorted({detection.choose(network.strides, level) for level in detection.LEVELS})
    parts = [
        roi_align(layers[i], [boxes], POOL, layers[i].shape[-1] / size[-1], sampling_ratio=2, aligned=True).mean((2, 3))
        for i in used
    ]
    return torch.cat(parts, dim=1)


if __name__ == "__main__":
    sys.exit(main())
