"""Images of one split that are nearly those of another: the same photo saved again, resized or relit.

Two images count as the same when their thumbnails (luminance, 32 x 32, brightness and contrast
taken out) correlate by 0.995 or more. ``benchmarks/bench_near_duplicates.py`` says what that finds and
what it takes for a copy by mistake; crops and rotations are not found.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from selector import modalities
from selector.core.contracts import Target
from selector.results import Caveat
from selector.scan import sequences
from selector.scan.sequences import Pair, listed

if TYPE_CHECKING:
    from selector.modalities.pixels.prepared import Pixels
    from selector.store import FeatureStore

SAME = 0.995
SIDE = 32
_SEARCH = 16  # side of what the nearest image is searched with
_FLAT = 3.0  # gray levels of deviation: a blank image is like every other blank one
_PRODUCTS = 3e9  # compared pairs: seconds on two cores; beyond, an even share of the held-out images is looked at
_BATCH = 256
_VERSION = 2


def leak_caveats(target: Target, pixels: Pixels | None, store: FeatureStore) -> list[Caveat]:
    """The warnings of a target about images of one split that tell of another, from the store where it was looked
    for before: near duplicates, and neighbors in a sequence (``scan.sequences``).

    ``pixels`` are its decoded images; None when this run decoded nothing, and then only what an
    earlier run found is told.
    """
    if not modalities.of(target).resizable:
        return []
    key = {"leaks of": target.fingerprint, "version": _VERSION}
    found = store.get("caveat", key)
    if found is None:
        if pixels is None:
            return []
        thumbs = thumbnails(pixels)
        pairs, checked = near_duplicates(thumbs, target.splits, target.hashes)
        frames, compared = sequences.alike_neighbors(target, partial(likeness_of, thumbs))
        found = {
            "duplicates": {"checked": checked, "pairs": [astuple(pair) for pair in pairs]},
            "frames": {"checked": compared, "pairs": [astuple(pair) for pair in frames]},
        }
        store.put("caveat", key, found)
    told = ((found["duplicates"], _told), (found["frames"], sequences.told))
    caveats = [tell([Pair(*pair) for pair in part["pairs"]], int(part["checked"]), target) for part, tell in told]
    return [caveat for caveat in caveats if caveat is not None]


def thumbnails(pixels: Pixels) -> np.ndarray:
    """Luminance (N, 32, 32) in uint8, each pixel the mean of the area that it stands for."""
    made = np.empty((len(pixels), SIDE, SIDE), np.uint8)

    def shrink(start: int) -> None:
        rows = pixels.batch(np.arange(start, min(start + _BATCH, len(pixels))))
        for i, row in enumerate(rows):
            made[start + i] = np.asarray(Image.fromarray(row).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(shrink, range(0, len(pixels), _BATCH)))
    return made


def near_duplicates(thumbs: np.ndarray, splits: np.ndarray, hashes: Sequence[str]) -> tuple[list[Pair], int]:
    """Held-out images that are nearly one of another split, and how many were looked at.

    Args:
        thumbs: (N, 32, 32) in uint8.
        splits: (N,) of train, val, test: val is compared with train, test with both.
        hashes: of the contents; equal ones are no *near* duplicates.
    Cost: O(held out · others) products of 256 numbers; memory for 256 floats an image.
    """
    busy = thumbs.reshape(len(thumbs), -1).std(axis=1) > _FLAT
    pairs: list[Pair] = []
    checked = 0
    for split, against in (("val", ("train",)), ("test", ("train", "val"))):
        base = np.flatnonzero(np.isin(splits, against) & busy)
        queries = np.flatnonzero((splits == split) & busy)
        if not len(base) or not len(queries):
            continue
        most = max(1, int(_PRODUCTS / len(base)))
        queries = queries[:: -(-len(queries) // most)]
        checked += len(queries)
        others = nearest(thumbs, queries, base)
        pairs += [
            Pair(i, j, float(value))
            for i, j, value in zip(
                queries.tolist(), others.tolist(), likeness(thumbs[queries], thumbs[others]), strict=True
            )
            if value >= SAME and hashes[i] != hashes[j]
        ]
    return pairs, checked


def nearest(thumbs: np.ndarray, queries: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Of the images at ``base`` the one most like each of ``queries``: positions (len(queries),)."""
    coarse = thumbs.reshape(len(thumbs), _SEARCH, 2, _SEARCH, 2).mean(axis=(2, 4), dtype=np.float32)
    units = _units(_flat(coarse))
    known = units[base].T
    best = [np.argmax(units[queries[i : i + _BATCH]] @ known, axis=1) for i in range(0, len(queries), _BATCH)]
    return np.asarray(base[np.concatenate(best)])


def likeness(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlation of thumbnails pair by pair: (n,) in -1..1."""
    return np.asarray(np.einsum("ij,ij->i", _units(_flat(first)), _units(_flat(second))))


def likeness_of(thumbs: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """``likeness`` of the thumbnails at some positions and at others."""
    parts = [
        likeness(thumbs[first[i : i + _BATCH]], thumbs[second[i : i + _BATCH]]) for i in range(0, len(first), _BATCH)
    ]
    return np.concatenate(parts)


def _flat(thumbs: np.ndarray) -> np.ndarray:
    return thumbs.reshape(len(thumbs), -1).astype(np.float32)


def _units(rows: np.ndarray) -> np.ndarray:
    """Rows (n, d) without their mean, of length 1."""
    centered = rows - rows.mean(axis=1, keepdims=True)
    return np.asarray(centered / np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), 1e-9))


def _told(pairs: Sequence[Pair], checked: int, target: Target) -> Caveat | None:
    if not pairs:
        return None
    pairs = sorted(pairs, key=lambda p: -p.similarity)
    first = pairs[0]
    other_label = sum(not np.array_equal(target.labels[p.held_out], target.labels[p.other]) for p in pairs)
    labels = f" {other_label} of them have another label than the image they are like." if other_label else ""
    return Caveat(
        "near-duplicates",
        f"{len(pairs)} of {checked} held-out images are nearly one of another split, such as "
        f"{target.names[first.held_out]} ({target.splits[first.held_out]}) and {target.names[first.other]} "
        f"({target.splits[first.other]}): test metrics are likely optimistic (data leakage).{labels} run.json lists them.",
        {"pairs": len(pairs), "checked": checked, "other_label": other_label, "listed": listed(pairs, target)},
    )
