"""Boxes for people and programs: COCO JSON, CSV with a row a box, and boxes drawn on copies of their images."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, cast

import numpy as np
from PIL import Image, ImageDraw

from selector.core.contracts import spread
from selector.core.errors import SelectorError
from selector.core.prediction import Prediction, Predictions
from selector.core.task import NotFinite, Stats
from selector.modalities.image import data_uri, read_image
from selector.tasks.detection.box_rows import ious
from selector.tasks.segmentation.mask_predictions import OVERLAYS, SMALL, free_name
from selector.tasks.segmentation.reading import voc_palette

if TYPE_CHECKING:
    import pandas
    from torchvision.tv_tensors import BoundingBoxes

COCO, CSV = "boxes.json", "boxes.csv"


class TrueBoxes(TypedDict):
    """What is known of an image: boxes in its pixels, and the number of the class of each (n,)."""

    boxes: BoundingBoxes
    labels: np.ndarray


class FoundBox(TypedDict):
    """A box: the name of its class, and left, top, right, bottom in pixels; with a score where a detector found it."""

    label: str
    box: list[float]
    score: NotRequired[float]


@dataclass(frozen=True)
class FoundBoxes(Prediction):
    """One image: the boxes that were found in it, the surest first.

    Attributes:
        source: the image as it was given. ``values`` hold ``size`` (height, width) and ``boxes``: of each ``label``,
            ``score`` and ``box`` (left, top, right, bottom in pixels of the upright image).
    """

    source: Any = field(default=None, repr=False, compare=False)

    @property
    def boxes(self) -> list[FoundBox]:
        """Of each box ``label``, ``score`` and ``box``; empty for an image that could not be read."""
        return list(self.values.get("boxes", ()))

    def __str__(self) -> str:
        return f"{self.item}: {self.error or _counts(self.boxes)}"


class FoundInImages(Predictions):
    """Images in the order in which they were given."""

    def __init__(self, rows: Sequence[Prediction], class_names: Sequence[str]) -> None:
        super().__init__(rows, np.empty((len(rows), 0)), class_names)

    def __iter__(self) -> Iterator[FoundBoxes]:
        return cast("Iterator[FoundBoxes]", super().__iter__())

    @property
    def boxes(self) -> list[list[FoundBox]]:
        """The boxes of each image: ``label``, ``score``, ``box`` (left, top, right, bottom in pixels)."""
        return [row.boxes for row in self]

    def to_coco(self) -> dict[str, object]:
        """A COCO document: images, categories, and annotations with a ``score``; a box is left, top, width, height.

        Its ``annotations`` are what pycocotools' ``loadRes`` reads as results.
        """
        images: list[dict[str, object]] = []
        annotations: list[dict[str, object]] = []
        for number, row in enumerate(iter(self), start=1):
            if row.error is not None:
                continue
            height, width = row.values["size"]
            images.append({"id": number, "file_name": row.item, "height": height, "width": width})
            for one in row.boxes:
                left, top, right, bottom = one["box"]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": self.class_names.index(one["label"]) + 1,
                        "bbox": [left, top, right - left, bottom - top],
                        "area": (right - left) * (bottom - top),
                        "iscrowd": 0,
                        "score": one["score"],
                    }
                )
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(self.class_names)]
        return {"images": images, "annotations": annotations, "categories": categories}

    def to_dataframe(self) -> pandas.DataFrame:
        """A row a box: item, label, score, left, top, right, bottom in pixels, error; one row of an image without."""
        import pandas as pd

        columns = ["item", "label", "score", "left", "top", "right", "bottom", "error"]
        rows: list[list[object]] = []
        for row in self:
            rows += [[row.item, one["label"], one["score"], *one["box"], None] for one in row.boxes]
            if not row.boxes:
                rows.append([row.item, *[None] * 6, row.error])
        return pd.DataFrame(rows, columns=columns)

    def table(self, top: int) -> tuple[list[str], list[list[str]]]:
        """Headers and cells for a terminal: how many boxes of each class, and the surest ``top`` of them."""
        rows = []
        for row in self:
            sure = ", ".join(f"{one['label']} {one['score']:.2f}" for one in row.boxes[:top])
            rows.append([row.item, row.error or _counts(row.boxes), sure])
        return ["item", "boxes", "surest"], rows

    def write(self, folder: str | os.PathLike[str], *, overlay: bool = False) -> FoundInImages:
        """Write ``boxes.json`` (COCO) and ``boxes.csv`` into a folder.

        Args:
            overlay: also write ``overlays/NAME.jpg``, a copy of each image with its boxes.
        Raises:
            SelectorError: the folder cannot be written.
        """
        root = Path(folder)
        taken: set[str] = set()
        try:
            (root / OVERLAYS if overlay else root).mkdir(parents=True, exist_ok=True)
            (root / COCO).write_text(json.dumps(self.to_coco(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            (root / CSV).write_text(self.to_csv(), encoding="utf-8")
            for row in self:
                if overlay and row.error is None:
                    name = free_name(Path(row.item).stem or "picture", taken)
                    picture = with_boxes(read_image(row.source), row.boxes, self.class_names)
                    picture.save(root / OVERLAYS / f"{name}.jpg", quality=90)
        except OSError as error:
            raise SelectorError(
                f"boxes cannot be written to {root} ({error.strerror or error}); name another folder."
            ) from error
        return self


def _counts(boxes: Sequence[FoundBox]) -> str:
    labels = [one["label"] for one in boxes]
    return ", ".join(f"{labels.count(name)} {name}" for name in dict.fromkeys(labels)) or "nothing"


def in_pixels(found: Mapping[str, Any], size: tuple[int, int]) -> list[FoundBox]:
    """Boxes of an entry of ``Task.predictions`` as ``label``, ``score`` and ``box`` in pixels of (height, width)."""
    height, width = size
    boxes = np.clip(found["boxes"], 0, 1) * np.array([width, height, width, height], np.float32)
    return [
        {"label": label, "score": round(float(score), 4), "box": [round(float(value), 2) for value in box]}
        for label, score, box in zip(found["labels"], found["scores"], boxes, strict=True)
    ]


def with_boxes(
    picture: np.ndarray, boxes: Sequence[FoundBox], class_names: Sequence[str], small: int | None = None
) -> Image.Image:
    """A copy of an image uint8 (H, W, 3) with its boxes in the colors of their classes.

    Args:
        boxes: of each ``label`` and ``box``; ``score`` is written beside it where there is one.
        small: longest side of the copy, in pixels.
    """
    image = Image.fromarray(picture)
    before = image.width
    if small is not None:
        image.thumbnail((small, small))
    scale, colors = image.width / before, voc_palette()
    draw = ImageDraw.Draw(image)
    for one in reversed(boxes):  # the surest on top
        color = colors[(class_names.index(one["label"]) + 1) % 256]  # the first of the palette is black
        left, top, right, bottom = (scale * value for value in one["box"])
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=color, width=1 if small else 2)
        if small is None and "score" in one:
            draw.text((left + 3, top + 1), f"{one['label']} {one['score']:.2f}", fill=color)
    return image


def small_copy(picture: np.ndarray, boxes: Sequence[FoundBox], class_names: Sequence[str]) -> str:
    """A small copy of ``with_boxes`` as a ``data:`` URI."""
    return data_uri(with_boxes(picture, boxes, class_names, SMALL), quality=85)


THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
SIZES: dict[str, tuple[float, float]] = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
MOST = 100  # boxes an image and class that count
_BITS = 1 << np.arange(len(THRESHOLDS), dtype=np.uint16)
_OF_BOXES = ("score", "category", "matched", "ignored", "box")


def match(
    true: np.ndarray, labels: np.ndarray, boxes: np.ndarray, scores: np.ndarray, said: np.ndarray, classes: int
) -> dict[str, np.ndarray]:
    """The matches of one image.

    Args:
        true, labels: (g, 4) left, top, right, bottom in pixels, and their classes (g,).
        boxes, scores, said: (d, 4), (d,) and the classes (d,) that were predicted.
    Returns:
        ``score`` (n,), ``category`` (n,) and ``box`` (n, 4) of the boxes that count (at most 100 a class, the surest
        first), ``matched`` and ``ignored`` (n, 4): a column a range of sizes, a bit an IoU threshold; and ``truth``
        (C, 4), true boxes by class and size.
    Raises:
        NotFinite: boxes or scores that are no numbers.
    """
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise NotFinite("predicted boxes and scores must be finite; some are not.")
    true, boxes = true.astype(np.float64), boxes.astype(np.float64)
    truth = np.zeros((classes, len(SIZES)), np.int32)
    kept, matched, ignored = [], [], []
    area = _area(true)
    outside = np.stack([(area < low) | (area > high) for low, high in SIZES.values()])  # (S, g)
    for number in range(classes):
        own = np.flatnonzero(labels == number)
        truth[number] = (~outside[:, own]).sum(axis=1)
        mine = np.flatnonzero(said == number)
        mine = mine[np.argsort(-scores[mine], kind="stable")][:MOST]
        if len(mine):
            kept.append(mine)
            pair = _pair(true[own], outside[:, own], boxes[mine])
            matched.append(pair[0])
            ignored.append(pair[1])
    order = np.concatenate(kept) if kept else np.empty(0, np.int64)
    empty = np.empty((0, len(SIZES)), np.uint16)
    return {
        "score": scores[order].astype(np.float32),
        "category": said[order].astype(np.int32),
        "box": boxes[order].astype(np.float32),
        "matched": np.concatenate(matched) if matched else empty,
        "ignored": np.concatenate(ignored) if ignored else empty,
        "truth": truth,
    }


def _area(boxes: np.ndarray) -> np.ndarray:
    found: np.ndarray = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return found


def _pair(true: np.ndarray, outside: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(matched, ignored) as bits (d, S) of predicted boxes of one class, the most confident first.

    Each takes, of the true boxes that are left, the one with the largest IoU at or above the threshold, one within
    the range of sizes before one outside of it; at equal IoU the later one, as pycocotools does.
    """
    overlap = ious(boxes, true)
    least = np.minimum(THRESHOLDS, 1 - 1e-10)
    ranges, count = outside.shape
    free = np.ones((ranges, len(THRESHOLDS), count), bool)
    matched = np.zeros((len(boxes), ranges, len(THRESHOLDS)), bool)
    ignored = np.zeros_like(matched)
    area = _area(boxes)
    own_outside = np.stack([(area < low) | (area > high) for low, high in SIZES.values()], 1)  # (d, S)
    for row, each in enumerate(overlap):
        possible = free & (each >= least[:, None])
        if possible.any():
            within = possible & ~outside[:, None, :]
            possible = np.where(within.any(axis=2, keepdims=True), within, possible)
            values = np.where(possible, each, -1.0)[:, :, ::-1]
            taken = count - 1 - values.argmax(axis=2)
            hit = possible.any(axis=2)
            matched[row] = hit
            s, t = np.nonzero(hit)
            free[s, t, taken[s, t]] = False
            ignored[row, s, t] = outside[s, taken[s, t]]
        ignored[row] |= ~matched[row] & own_outside[row][:, None]
    return (matched * _BITS).sum(axis=2, dtype=np.uint16), (ignored * _BITS).sum(axis=2, dtype=np.uint16)


def precisions(score: np.ndarray, matched: np.ndarray, ignored: np.ndarray, positives: int) -> np.ndarray:
    """Precision at 101 recalls and each threshold (101, 10) of the boxes of one class and one range of sizes.

    Args:
        score: (n,), images one after the other, within each the most confident first.
        matched, ignored: bits (n,).
        positives: true boxes; without any the value is NaN.
    """
    if not positives:
        return np.full((len(RECALLS), len(THRESHOLDS)), np.nan)
    order = np.argsort(-score, kind="stable")
    hit = (matched[order, None] & _BITS) > 0
    counts = (ignored[order, None] & _BITS) == 0
    right = np.cumsum(hit & counts, axis=0, dtype=np.float64)
    wrong = np.cumsum(~hit & counts, axis=0, dtype=np.float64)
    recall = right / positives
    precision = right / (right + wrong + np.spacing(1))
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    found = np.zeros((len(RECALLS), len(THRESHOLDS)))
    for number in range(len(THRESHOLDS)):
        places = np.searchsorted(recall[:, number], RECALLS, side="left")
        reached = places[places < len(envelope)]
        found[: len(reached), number] = envelope[reached, number]
    return found


class DetectionStats(Stats):
    """Of each image ``boxes`` (how many predicted boxes count) and ``truth`` (C, 4), its true boxes by class and size;
    of each predicted box, image after image, ``score``, ``category``, ``matched``, ``ignored`` (see ``match``) and
    ``box`` (4,) in pixels.
    """

    def __len__(self) -> int:
        return len(self.arrays["boxes"])

    def __getitem__(self, items: np.ndarray) -> DetectionStats:
        """Images with all their boxes."""
        rows = spread(self.starts, np.asarray(items))
        found = {name: array[rows if name in _OF_BOXES else items] for name, array in self.arrays.items()}
        return type(self)(found, self.summary)

    @property
    def starts(self) -> np.ndarray:
        """(N + 1,) where the boxes of each image begin."""
        return np.concatenate([[0], np.cumsum(self.arrays["boxes"])])

    @property
    def groups(self) -> np.ndarray:
        """(n,) the image of each predicted box."""
        return np.repeat(np.arange(len(self)), self.arrays["boxes"])

    def value(self, metric: str) -> float:
        """``map`` (0.50:0.95), ``map50``, ``map75``, ``map_small``, ``map_medium``, ``map_large``."""
        size = metric.removeprefix("map_") if metric.startswith("map_") else "all"
        table = self.by_class(size)
        if metric in ("map50", "map75"):
            table = table[:, [0 if metric == "map50" else 5]]
        elif metric != "map" and size not in SIZES:
            raise KeyError(metric)
        known = table[table == table]
        return float(known.mean()) if len(known) else float("nan")

    def curves(self, size: str = "all") -> np.ndarray:
        """Precision (C, 101, 10) by class, recall and threshold; NaN for classes without true boxes of that size."""
        column = list(SIZES).index(size)
        positives = self.arrays["truth"][:, :, column].sum(axis=0)
        score, category = self.arrays["score"], self.arrays["category"]
        matched, ignored = self.arrays["matched"][:, column], self.arrays["ignored"][:, column]
        rows = []
        for number, count in enumerate(positives):
            own = category == number
            rows.append(precisions(score[own], matched[own], ignored[own], int(count)))
        return np.stack(rows)

    def by_class(self, size: str = "all") -> np.ndarray:
        """Average precision (C, 10) by class and threshold; NaN for classes without true boxes of that size."""
        found: np.ndarray = self.curves(size).sum(axis=1) / len(RECALLS)
        return found

    def best_f1(self) -> tuple[float, float]:
        """(least score, F1) of the threshold at which the F1 of all boxes, at IoU 0.5, is highest."""
        positives = int(self.arrays["truth"][:, :, 0].sum())
        score = self.arrays["score"]
        if not len(score) or not positives:
            return 0.5, 0.0
        order = np.argsort(-score, kind="stable")
        hit = np.cumsum((self.arrays["matched"][order, 0] & 1) > 0)
        last = np.append(score[order][1:] != score[order][:-1], True)  # equal scores pass together
        f1 = np.where(last, 2 * hit / (np.arange(1, len(score) + 1) + positives), -1.0)
        best = int(f1.argmax())
        return float(score[order][best]), float(f1[best])

    def hits(self, least: float) -> Iterator[tuple[int, int, int]]:
        """(found, missed, false) boxes of each image at IoU 0.5, of those predicted with at least this score."""
        sure = self.arrays["score"] >= least
        right = sure & ((self.arrays["matched"][:, 0] & 1) > 0)
        found = np.bincount(self.groups[right], minlength=len(self))
        false = np.bincount(self.groups[sure & ~right], minlength=len(self))
        truth = self.arrays["truth"][:, :, 0].sum(axis=1)
        yield from zip(found.tolist(), (truth - found).tolist(), false.tolist(), strict=True)
