"""Boxes with classes: torchvision's detectors on the maps of an encoder, average precision from matches an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from selector.core.contracts import Encoder, LabelKind, Target
from selector.core.errors import TargetError
from selector.core.prediction import Prediction
from selector.core.stats import Metric
from selector.core.table import Facet, RowPlan
from selector.core.task import Evaluator, Probe, Section, Stats, Traced
from selector.modalities.image import read_image
from selector.tasks import task
from selector.tasks._error_analysis import rounded
from selector.tasks._maps import MapTask, telling
from selector.tasks.detection.box_predictions import (
    RECALLS,
    SIZES,
    DetectionStats,
    FoundBox,
    FoundBoxes,
    FoundInImages,
    TrueBoxes,
    in_pixels,
    match,
    small_copy,
)
from selector.tasks.detection.box_rows import rows_of
from selector.tasks.detection.reading import BoxAnnotations, Boxes, DetectionReading
from selector.tasks.segmentation.mask_predictions import picture_size, swatch

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torchvision.tv_tensors import BoundingBoxes

    from selector.tasks.detection.detectors import DetectionNetwork

METRICS: Mapping[str, Metric] = {
    name: Metric() for name in ("map", "map50", "map75", "map_small", "map_medium", "map_large")
}
ROWS_A_CLASS, LEAST_ROWS, MOST_ROWS = 150, 2_000, 12_000  # of all images; scores cost more than forward passes
MOST_BOXES = 20  # an image; each gives three rows
LEAST_SIDE = 2.0  # pixels of what augmentation leaves of a box
BACKGROUND = "background"
MOST_LEGEND = 30
MOST_CURVES, CURVE_STEP = 10, 5  # classes whose precision is drawn, at each fifth of COCO's recalls


@task("detection")
class Detection(DetectionReading, MapTask):
    """See ``core.task.Task``.

    Attributes:
        decoder: the detector on the maps: ``fasterrcnn`` (two stages), ``retinanet``, ``fcos`` or ``ssd`` (one stage).
    """

    name = "detection"
    metrics = METRICS
    stats_type: ClassVar[type[DetectionStats]] = DetectionStats
    prediction_type = FoundBoxes
    tie_breaker = "map50"
    proxies = ("logme", "hscore", "knn", "probe", "loo-ridge")  # of both facets; the target's labels name one kind
    reader = "box"
    most_rows = MOST_ROWS
    probe_rows = 0
    optimizer = "adamw"
    decoders = ("fasterrcnn", "retinanet", "fcos", "ssd")
    decoder = "fasterrcnn"
    decoder_noun = "detector"
    lacking = "have no box in {split}, such as {names}: the mean is over the others."

    # rows

    def annotations(self, target: Target, indices: np.ndarray) -> Sequence[TrueBoxes]:
        """Of each item ``boxes`` (``tv_tensors.BoundingBoxes``, in pixels of its image) and ``labels`` (n,)."""
        import torch
        from torchvision import tv_tensors

        known = _boxes(target)
        return [
            {
                "boxes": tv_tensors.BoundingBoxes(
                    torch.from_numpy(one.xyxy.reshape(-1, 4)), format="XYXY", canvas_size=one.size
                ),
                "labels": one.labels,
            }
            for one in (known[int(index)] for index in indices)
        ]

    def rows(self, target: Target, indices: np.ndarray, limit: int | None = None, seed: int = 0) -> RowPlan:
        """True boxes, each of them jittered, and background (IoU below 0.3 with every true box): up to 20 of each a
        image, fewer where all images would have more than ``limit`` rows, or 150 a class (2,000 to 12,000 in all).

        Facet ``what``: the class, or background. Facet ``where``: (R, 4) what moves a jittered box onto its true one,
        in its own sides (dx, dy, log dw, log dh); unknown (NaN) of all other rows.
        """
        enough = min(MOST_ROWS, max(LEAST_ROWS, ROWS_A_CLASS * len(target.class_names)))
        limit = enough if limit is None else min(enough, max(limit, 1))
        known, indices = _boxes(target), np.sort(np.asarray(indices))
        if 3 * len(indices) > limit:
            indices = np.sort(sorted(indices.tolist(), key=lambda i: target.hashes[i])[: max(1, limit // 3)])
        every = np.union1d(indices, target.indices("train", "val"))  # the first images of a scan show no more
        count = _boxes_each([len(known[int(i)]) for i in every], limit)
        classes = len(target.class_names)
        found = [
            rows_of(one.xyxy, one.labels, one.size, classes, count, target.hashes[i], seed)
            for i in indices.tolist()
            if all((one := known[i]).size)
        ]
        shown = [i for i in indices.tolist() if all(known[i].size)]
        labels = np.concatenate([one.labels for one in found]) if found else np.empty(0, np.int64)
        offset = np.concatenate([one.offset for one in found]) if found else np.empty((0, 4))
        return RowPlan(
            item=np.repeat(np.array(shown, np.int64), [len(one.labels) for one in found]),
            place=np.concatenate([one.place for one in found]) if found else np.empty((0, 4), np.float32),
            facets={
                "what": Facet(LabelKind.CLASSES, labels, (*target.class_names, BACKGROUND)),
                "where": Facet(LabelKind.REAL, offset, ("dx", "dy", "dw", "dh"), mask=~np.isnan(offset)),
            },
            reader=self.reader,
        )

    def check(self, target: Target) -> None:
        """Also: boxes in train and in val."""
        super().check(target)
        known = _boxes(target)
        for split in ("train", "val"):
            if not any(len(known[int(i)]) for i in target.indices(split)):
                raise TargetError(
                    f"target '{target.name}' has no box in {split}; there is nothing to learn or to measure."
                )

    def shows(self, target: Target, items: np.ndarray) -> np.ndarray:
        """See ``MapTask``."""
        return np.asarray(_boxes(target).take(items).strata.any(axis=0))

    # learning

    def learner(
        self,
        encoder: Encoder,
        target: Target,
        init: Probe | None = None,
        size: tuple[int, int] | None = None,
        **settings: object,
    ) -> nn.Module:
        """The encoder's maps with a feature pyramid and a detector, all new but for the encoder; of a whole detector the
        class layers are new; from one seed."""
        import torch

        from selector.tasks.detection.detectors import DetectionLearner

        maps = encoder.map_module(size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return DetectionLearner(self.network(maps, len(target.class_names)))

    def network(self, maps: nn.Module, outputs: int) -> DetectionNetwork:
        """See ``MapTask``; a whole detector keeps its neck and its heads."""
        from selector.tasks.detection.detectors import is_whole, network_of, whole_network

        inner = cast(Any, maps).network
        return whole_network(inner, outputs) if is_whole(inner) else network_of(self.decoder, maps, outputs)

    def decoders_for(self, encoder: Encoder, named: Sequence[str]) -> Sequence[str]:
        """None for a whole detector: it has its own."""
        from selector.tasks.detection.detectors import is_whole

        return () if is_whole(encoder.module) else named

    def augment(self, batch: object, annotations: Sequence[TrueBoxes]) -> tuple[object, Sequence[TrueBoxes]]:
        """Boxes of which a crop has left less than two pixels are dropped."""
        kept: list[TrueBoxes] = []
        for known in annotations:
            boxes = known["boxes"]
            sides = boxes[:, 2:] - boxes[:, :2]
            keep = (sides >= LEAST_SIDE).all(dim=1)
            kept.append({"boxes": _some(boxes, keep), "labels": known["labels"][keep.numpy()]})
        return batch, kept

    def evaluator(self, target: Target, context: Mapping[str, Any] | None = None) -> Evaluator:
        """Takes the boxes of ``Learner.predict`` and pairs them with the true ones, image by image."""
        known = {name: value for name, value in (context or {}).items() if name == "min_score"}
        return _Matching(_boxes(target), len(target.class_names), known)

    def calibrate(self, stats: Stats) -> dict[str, object]:
        """``min_score``: where the F1 of all boxes at IoU 0.5 is highest."""
        assert isinstance(stats, DetectionStats)
        least, f1 = stats.best_f1()
        return {"min_score": least, "f1": f1}

    def baseline(self, target: Target, metric: str, split: str = "test") -> float | None:
        """Finding nothing."""
        return 0.0 if len(target.indices(split)) and metric in self.metrics else None

    # use

    def output(self, network: nn.Module, batch: torch.Tensor) -> list[dict[str, np.ndarray]]:
        """Boxes of each image; see ``_detector.shares``."""
        from selector.tasks.detection.detectors import shares

        return shares(cast(Any, network)(batch), (batch.shape[2], batch.shape[3]))

    def traced(self, network: nn.Module, context: Mapping[str, object]) -> Traced:
        """See ``_detector.OnePicture``."""
        from selector.tasks.detection.detectors import OnePicture, unlike

        facts = {"min_score": str(context.get("min_score", 0.5))}
        return Traced(OnePicture(cast(Any, network)), OnePicture.names, unlike, facts)

    def predictions(
        self, outputs: Sequence[Mapping[str, np.ndarray]], class_names: Sequence[str], context: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """``boxes`` (n, 4) in shares of the image, ``scores`` (n,) and ``labels`` (n names), the most confident first; those
        below the least score that validation chose are left out."""
        least = float(context.get("min_score", 0.5))
        found = []
        for one in outputs:
            order = np.argsort(-one["scores"], kind="stable")
            order = order[one["scores"][order] >= least]
            found.append(
                {
                    "boxes": one["boxes"][order],
                    "scores": one["scores"][order],
                    "labels": [class_names[i] for i in one["labels"][order]],
                }
            )
        return found

    def prediction(
        self,
        name: str,
        item: object,
        output: Sequence[Mapping[str, np.ndarray]],
        class_names: Sequence[str],
        context: Mapping[str, object],
        top: int,
    ) -> FoundBoxes:
        """Boxes in pixels of the image."""
        size = picture_size(item)
        (found,) = self.predictions(output, class_names, context)
        return FoundBoxes(name, values={"size": list(size), "boxes": in_pixels(found, size)}, source=item)

    def gathered(
        self, rows: Sequence[Prediction], class_names: Sequence[str], context: Mapping[str, object]
    ) -> FoundInImages:
        """Boxes of several images."""
        return FoundInImages(rows, class_names)

    def drawn(
        self, outputs: Sequence[Any], target: Target, items: np.ndarray, context: Mapping[str, object]
    ) -> list[dict[str, object]]:
        """Small copies of each image: with its true boxes, and with those that are predicted as ``predict`` hands them
        over, from the score on that validation chose."""
        known, names = _boxes(target), target.class_names
        drawn: list[dict[str, object]] = []
        for output, item in zip(outputs, items, strict=True):
            picture, true = read_image(target.items[int(item)]), known[int(item)]
            truth: list[FoundBox] = [
                {"label": names[label], "box": box} for box, label in zip(true.xyxy.tolist(), true.labels, strict=True)
            ]
            found = in_pixels(self.predictions([output], names, context)[0], picture.shape[:2])
            pictures: dict[str, Sequence[FoundBox]] = {"truth": truth, "predicted": found}
            shown = [{"title": title, "uri": small_copy(picture, boxes, names)} for title, boxes in pictures.items()]
            drawn.append({"pictures": shown})
        return drawn

    def report(self, stats: Stats, class_names: Sequence[str]) -> Section:
        """Average precision a class, boxes found, missed and false by size, and the worst, median and best images."""
        assert isinstance(stats, DetectionStats)
        return _section(stats, class_names)


def _boxes(target: Target) -> BoxAnnotations:
    found = target.annotations
    assert isinstance(found, BoxAnnotations), "a target of this task has boxes"
    return found


def _some(boxes: BoundingBoxes, keep: torch.Tensor) -> BoundingBoxes:
    from torchvision import tv_tensors

    return tv_tensors.wrap(boxes[keep], like=boxes)


def _boxes_each(counts: Sequence[int], limit: int) -> int:
    """The largest number of boxes an image, up to 20, with which all images have no more than ``limit`` rows."""
    sizes = np.asarray(counts)
    for count in range(MOST_BOXES, 1, -1):
        if 3 * np.minimum(np.maximum(sizes, 1), count).sum() <= limit:
            return count
    return 1


class _Matching:
    """See ``core.task.Evaluator``."""

    def __init__(self, known: BoxAnnotations, classes: int, summary: Mapping[str, object]) -> None:
        self._known, self._classes, self._summary = known, classes, summary
        self._found: list[dict[str, np.ndarray]] = []

    def update(self, outputs: Sequence[Mapping[str, np.ndarray]], items: np.ndarray) -> None:
        """``outputs``: a mapping per image, as ``_detector.shares`` gives it."""
        for one, item in zip(outputs, items, strict=True):
            true: Boxes = self._known[int(item)]
            height, width = true.size
            boxes = one["boxes"] * np.array([width, height, width, height])
            self._found.append(match(true.xyxy, true.labels, boxes, one["scores"], one["labels"], self._classes))

    def stats(self) -> DetectionStats:
        """In the order in which the items came."""
        return stats_of(self._found, self._summary)


def stats_of(found: Sequence[Mapping[str, np.ndarray]], summary: Mapping[str, object] | None = None) -> DetectionStats:
    """Statistics of images, each as ``match`` gave it."""
    names = ("score", "category", "matched", "ignored", "box")
    arrays = {name: np.concatenate([one[name] for one in found]) for name in names}
    arrays["boxes"] = np.array([len(one["score"]) for one in found], np.int64)
    arrays["truth"] = np.stack([one["truth"] for one in found])
    return DetectionStats(arrays, summary)


def _section(stats: DetectionStats, class_names: Sequence[str]) -> Section:
    chosen = stats.summary.get("min_score")  # on validation; of validation itself, before it was chosen, its own
    least = stats.best_f1()[0] if chosen is None else float(chosen)
    sure = stats.arrays["score"] >= least
    right = (stats.arrays["matched"][:, 0] & 1) > 0
    truth, category = stats.arrays["truth"], stats.arrays["category"]
    table = stats.by_class()
    counts = truth[:, :, 0].sum(axis=0)
    classes = []
    for number, name in enumerate(class_names):
        own = sure & (category == number)
        hit = int((own & right).sum())
        classes.append(
            {
                "class": name,
                "boxes": int(counts[number]),
                "ap": rounded(float(np.nanmean(table[number])) if counts[number] else np.nan),
                "ap50": rounded(float(table[number, 0])),
                "found": hit,
                "missed": int(counts[number]) - hit,
                "false": int(own.sum()) - hit,
            }
        )
    sizes = []
    for column, name in enumerate(SIZES):
        if name == "all":
            continue
        matched = (stats.arrays["matched"][:, column] & 1) > 0
        ignored = (stats.arrays["ignored"][:, column] & 1) > 0
        total = int(truth[:, :, column].sum())
        hit = int((sure & matched & ~ignored).sum())
        sizes.append(
            {
                "size": name,
                "boxes": total,
                "ap": rounded(stats.value(f"map_{name}")),
                "found": hit,
                "missed": total - hit,
                "false": int((sure & ~matched & ~ignored).sum()),
            }
        )
    each = np.array([2 * f / (2 * f + m + x) if f + m + x else np.nan for f, m, x in stats.hits(least)])
    hits = list(stats.hits(least))
    samples = []
    for row, group in telling(each, 3).items():
        found, missed, false = hits[row]
        samples.append({"row": row, "group": group, "note": f"{found} found, {missed} missed, {false} false"})
    legend = [{"class": name, "picture": swatch(i + 1)} for i, name in enumerate(class_names[:MOST_LEGEND])]
    title = f"boxes by size, at a score of {least:.2f} or more and an IoU of 0.5"
    drawn = stats.curves()[:, ::CURVE_STEP, 0]
    curves = {
        class_names[i]: [
            [round(x, 2), round(float(y), 4)] for x, y in zip(RECALLS[::CURVE_STEP], drawn[i], strict=True) if y
        ]
        for i in np.argsort(-counts, kind="stable")[:MOST_CURVES]
        if counts[i]
    }
    figures = {"counted": "boxes", "legend": legend, "precision by recall": {k: v for k, v in curves.items() if v}}
    return Section({"AP a class": classes, title: sizes}, samples, figures)
