"""Which pixels of a mask become rows: as evenly by class as it allows, the same for every model and every call."""

from __future__ import annotations

import functools

import numpy as np
import xxhash


def points_of(mask: np.ndarray, count: int, ignore: int, content: str, seed: int = 0) -> np.ndarray:
    """Pixels of a mask, int64 (<= count, 2): row and column.

    Classes share ``count`` evenly; what a small one leaves goes to the larger ones. Within a class the pixels
    with the smallest keys are taken, and keys are drawn from the picture's content, not from its class: with a
    larger count, or another set of classes on the same pictures, most points stay where they were.

    Args:
        mask: integers (H, W).
        ignore: value that is no class.
        content: hash of the picture.
    Cost: a random number a pixel.
    """
    keys = _keys(content, mask.shape[0], mask.shape[1], seed)
    flat = mask.ravel()
    known = np.flatnonzero(flat != ignore)
    classes, inverse, sizes = np.unique(flat[known], return_inverse=True, return_counts=True)
    taken = []
    left = count
    for place, number in enumerate(np.argsort(sizes, kind="stable")):
        share = min(int(sizes[number]), left // (len(classes) - place))
        own = known[inverse == number]
        taken.append(own[np.argsort(keys[own], kind="stable")[:share]])
        left -= share
    chosen = np.sort(np.concatenate(taken)) if taken else np.empty(0, np.int64)
    return np.stack(np.divmod(chosen, mask.shape[1]), 1)


def relative(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Middles of pixels (R, 2) as x, y in 0..1, float32."""
    height, width = size
    return np.stack([(points[:, 1] + 0.5) / width, (points[:, 0] + 0.5) / height], 1).astype(np.float32)


@functools.lru_cache(maxsize=4)
def _keys(content: str, height: int, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(xxhash.xxh3_64_intdigest(f"{content} points {seed}".encode()))
    return rng.random(height * width, dtype=np.float32)
