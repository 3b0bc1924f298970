"""Which boxes of an image become rows: its own, each a little off, and background; the same for every model and call."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xxhash

SHIFT, SCALE = 0.25, 0.3  # of a jittered box: of its sides, and of the logarithm of its sides
BACKGROUND_IOU = 0.3  # with any true box, at most
FEWEST_BACKGROUND = 2  # of an image without boxes
_TRIES = 30
_SMALLEST = 1e-4  # side of a box, as a share of the image


@dataclass(frozen=True)
class BoxRows:
    """Rows of one image.

    Attributes:
        place: float32 (R, 4), x0, y0, x1, y1 in 0..1.
        labels: int64 (R,), the class; C for background.
        offset: float64 (R, 4), ``offsets`` of jittered boxes; NaN of all others.
    """

    place: np.ndarray
    labels: np.ndarray
    offset: np.ndarray


def rows_of(
    xyxy: np.ndarray, labels: np.ndarray, size: tuple[int, int], classes: int, count: int, content: str, seed: int = 0
) -> BoxRows:
    """Rows of an image: at most ``count`` of its boxes, as many jittered ones and as many of background.

    What is drawn for a box depends on the image's content, the box and the seed alone: rows stay what they are with
    another ``count``, other images or another order of boxes.

    Args:
        xyxy, labels: its boxes (n, 4) in pixels and their classes (n,).
        size: (height, width) in pixels.
    """
    height, width = size
    true = np.clip(xyxy.astype(np.float64) / [width, height, width, height], 0, 1)
    keys = [f"{content} {seed} " + ",".join(f"{value:.5f}" for value in box) for box in true]
    order = np.argsort([xxhash.xxh3_64_intdigest(key.encode()) for key in keys], kind="stable")[:count]
    places, found, moved = [], [], []
    for number in order.tolist():
        draw = np.random.default_rng(xxhash.xxh3_64_intdigest(f"{keys[number]} jitter".encode()))
        off = jittered(true[number], draw)
        label = int(labels[number])
        places += [true[number], off]
        found += [label, label]
        moved += [np.full(4, np.nan), offsets(off, true[number])]
    sides = (true[:, 2:] - true[:, :2])[order]
    for number in range(max(len(order), FEWEST_BACKGROUND if not len(true) else 0)):
        draw = np.random.default_rng(xxhash.xxh3_64_intdigest(f"{content} {seed} background {number}".encode()))
        box = background(
            true, draw, sides[number] if len(sides) else np.exp(draw.uniform(np.log(0.05), np.log(0.5), 2))
        )
        if box is not None:
            places.append(box)
            found.append(classes)
            moved.append(np.full(4, np.nan))
    return BoxRows(
        np.array(places, np.float32).reshape(-1, 4),
        np.array(found, np.int64),
        np.array(moved, np.float64).reshape(-1, 4),
    )


def jittered(box: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """A box moved by up to a quarter of its sides and scaled by up to e^0.3, cut at the edges of the image."""
    side = np.maximum(box[2:] - box[:2], _SMALLEST)
    center = (box[:2] + box[2:]) / 2 + draw.uniform(-SHIFT, SHIFT, 2) * side
    side = side * np.exp(draw.uniform(-SCALE, SCALE, 2))
    low = np.clip(center - side / 2, 0, 1 - _SMALLEST)
    high = np.clip(center + side / 2, low + _SMALLEST, 1)
    return np.concatenate([low, high])


def offsets(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """What moves a box onto another, (4,): dx, dy in sides of ``start``, and the logarithms of the ratios of the sides.

    >>> offsets(np.array([0.0, 0.0, 0.5, 0.5]), np.array([0.25, 0.0, 0.75, 0.5])).tolist()
    [0.5, 0.0, 0.0, 0.0]
    """
    sides = [np.maximum(box[2:] - box[:2], _SMALLEST) for box in (start, end)]
    shift = ((end[:2] + end[2:]) - (start[:2] + start[2:])) / 2 / sides[0]
    return np.concatenate([shift, np.log(sides[1] / sides[0])])


def background(true: np.ndarray, draw: np.random.Generator, side: np.ndarray) -> np.ndarray | None:
    """A box of such sides whose IoU with every true box is below 0.3; None where chance finds none."""
    side = np.clip(side, _SMALLEST, 1)
    corners = draw.uniform(0, 1, (_TRIES, 2)) * (1 - side)
    boxes = np.concatenate([corners, corners + side], 1)
    good = np.flatnonzero((ious(boxes, true) < BACKGROUND_IOU).all(axis=1))
    return boxes[good[0]] if len(good) else None


def ious(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union (n, m) of boxes (n, 4) and (m, 4), left, top, right, bottom."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    union = (a[:, 2:] - a[:, :2]).prod(axis=1)[:, None] + (b[:, 2:] - b[:, :2]).prod(axis=1) - common
    found: np.ndarray = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return found
