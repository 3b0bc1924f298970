"""Average precision from matches an image: COCO's protocol, in two steps.

``match`` pairs the predicted boxes of one image with its true ones, once, at every IoU threshold and for every range
of sizes. ``precisions`` is what any set of images, repeats included, makes of their matches: a bootstrap
pairs nothing again. Equal to pycocotools (``tests/tasks/test_detection.py``).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from selector.core.contracts import spread
from selector.core.task import NotFinite, Stats
from selector.tasks.detection.box_rows import ious

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
