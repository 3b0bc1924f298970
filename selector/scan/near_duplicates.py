"""Images of one split that tell of another: the same photo saved again, and frames of one sequence in two splits.

Two images count as the same when their thumbnails (luminance, 32 x 32, brightness and contrast
taken out) correlate by 0.995 or more. ``benchmarks/bench_near_duplicates.py`` says what that finds and
what it takes for a copy by mistake; crops and rotations are not found.

The order of a sequence is that of the numbers in names (of files, or of rows in a table). Neighbors in it are compared
with images that are far apart in the same sequence: where a sequence is cut at random between splits, its neighbors
across the cut are alike far more often than those; where numbers mean nothing, just as often.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from selector import modalities
from selector.core.contracts import Target
from selector.core.resources import threads_for
from selector.core.stats import binomial_tail
from selector.results import Caveat

if TYPE_CHECKING:
    from selector.modalities.pixels.prepared import Pixels
    from selector.store import FeatureStore

LISTED = 20
USUAL = 0.95  # quantile of the images that are far apart: two that are more alike count as alike
LEAST_SHARE = 0.2  # of neighbors across the cut that are alike, where by chance it is 0.05
CHANCE = 1e-4  # that as many are alike by chance
_FAR, _MOST_FAR = 20, 20_000  # pairs that are far apart, an image and at most
_APART = 10  # far is a tenth of the sequence
_NUMBERED = re.compile(r"(.*?)(\d{1,18})\D*")


Likeness = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Of images at some positions (n,) and at others (n,), pair by pair (n,)."""


@dataclass(frozen=True)
class Pair:
    """Positions of a held-out image and of the one that it is like, and how they correlate."""

    held_out: int
    other: int
    similarity: float


def alike_neighbors(target: Target, likeness: Likeness) -> tuple[list[Pair], int]:
    """Held-out images that are like a neighbor of theirs in another split, and how many images have such a
    neighbor; no pairs where they are not alike more often than chance has it.

    Cost: O(N log N), and some 20 comparisons an image.
    """
    cut, similarity, usual = across_splits(target, likeness)
    pairs = [_from_held_out(pair, value, target) for pair, value in zip(cut.tolist(), similarity, strict=True)]
    checked, alike = len({pair.held_out for pair in pairs}), int((similarity > usual).sum())
    if alike < max(1, LEAST_SHARE * len(cut)) or binomial_tail(alike, len(cut), 1 - USUAL) > CHANCE:
        return [], checked
    closest = {p.held_out: p for p in sorted(pairs, key=lambda pair: pair.similarity) if p.similarity > usual}
    return list(closest.values()), checked


def across_splits(target: Target, likeness: Likeness) -> tuple[np.ndarray, np.ndarray, float]:
    """Neighbors in a sequence that are in different splits, (n, 2) positions, how alike they are (n,), and what 95% of
    the images that are far apart do not reach."""
    sequences = numbered(target)
    beside = [np.stack([order[:-1], order[1:]], 1) for order in sequences]
    pairs = np.concatenate([np.empty((0, 2), np.int64), *beside])
    cut = pairs[target.splits[pairs[:, 0]] != target.splits[pairs[:, 1]]]
    far = _far_apart(sequences)
    if not len(cut) or not len(far):
        return cut[:0], np.empty(0), np.inf
    usual = float(np.quantile(likeness(far[:, 0], far[:, 1]), USUAL))
    return cut, likeness(cut[:, 0], cut[:, 1]), usual


def numbered(target: Target) -> list[np.ndarray]:
    """Positions of the images of each sequence, in its order: the same name but for the last number in it, the same
    class where an item has one (neighbors of sorted classes are alike for another reason)."""
    classes = target.item_classes
    known = []
    for position, name in enumerate(target.names):
        parts = _NUMBERED.fullmatch(name.rsplit("/", 1)[-1])
        if parts is not None:
            known.append((parts[1], -1 if classes is None else int(classes[position]), int(parts[2]), position))
    groups = (list(group) for _, group in groupby(sorted(known), key=lambda one: one[:2]))
    return [np.array([one[3] for one in group]) for group in groups if len(group) > 1]


def report_frames(pairs: Sequence[Pair], checked: int, target: Target) -> Caveat | None:
    """The warning, where there are such images."""
    if not pairs:
        return None
    first = max(pairs, key=lambda pair: pair.similarity)
    return Caveat(
        "neighboring-frames",
        f"{len(pairs)} of {checked} held-out images whose neighbor by number is in another split resemble it, such as "
        f"{target.names[first.held_out]} ({target.splits[first.held_out]}) and {target.names[first.other]} "
        f"({target.splits[first.other]}), as frames of one video or slices of one scan do: metrics of these splits are "
        "likely optimistic. Give train/, val/ and test/ by recording; run.json lists them.",
        {"pairs": len(pairs), "checked": checked, "listed": listed(pairs, target)},
    )


def listed(pairs: Sequence[Pair], target: Target) -> list[Mapping[str, Any]]:
    """The pairs that are most alike, by name."""
    return [
        {
            "held_out": target.names[pair.held_out],
            "split": str(target.splits[pair.held_out]),
            "like": target.names[pair.other],
            "like_split": str(target.splits[pair.other]),
            "similarity": round(pair.similarity, 4),
        }
        for pair in sorted(pairs, key=lambda pair: -pair.similarity)[:LISTED]
    ]


def _far_apart(sequences: Sequence[np.ndarray]) -> np.ndarray:
    """(n, 2) positions of images of one sequence that are at least two places and a tenth of it apart."""
    rng = np.random.default_rng(0)
    found = [np.empty((0, 2), np.int64)]
    for order in sequences:
        first, second = rng.integers(0, len(order), (2, _FAR * len(order)))
        far = np.abs(first - second) > max(1, len(order) // _APART)
        found.append(np.stack([order[first[far]], order[second[far]]], 1))
    pairs = np.concatenate(found)
    return pairs[rng.permutation(len(pairs))[:_MOST_FAR]]


def _from_held_out(pair: tuple[int, int], value: float, target: Target) -> Pair:
    """Of two images the one of test comes first, or of val where none is."""
    rank = {"test": 0, "val": 1}
    held_out, other = sorted(pair, key=lambda position: rank.get(str(target.splits[position]), 2))
    return Pair(held_out, other, float(value))


SAME = 0.995
SIDE = 32
_SEARCH = 16  # side of what the nearest image is searched with
_FLAT = 3.0  # gray levels of deviation: a blank image is like every other blank one
_PRODUCTS = 3e9  # compared pairs: seconds on two cores; beyond, an even share of the held-out images is looked at
_BATCH = 256
_VERSION = 2


def leak_caveats(target: Target, pixels: Pixels | None, store: FeatureStore) -> list[Caveat]:
    """The warnings of a target about images of one split that tell of another, from the store where it was looked
    for before: near duplicates, and neighbors in a sequence.

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
        frames, compared = alike_neighbors(target, partial(likeness_of, thumbs))
        found = {
            "duplicates": {"checked": checked, "pairs": [astuple(pair) for pair in pairs]},
            "frames": {"checked": compared, "pairs": [astuple(pair) for pair in frames]},
        }
        store.put("caveat", key, found)
    told = ((found["duplicates"], _report_copies), (found["frames"], report_frames))
    caveats = [tell([Pair(*pair) for pair in part["pairs"]], int(part["checked"]), target) for part, tell in told]
    return [caveat for caveat in caveats if caveat is not None]


def thumbnails(pixels: Pixels) -> np.ndarray:
    """Luminance (N, 32, 32) in uint8, each pixel the mean of the area that it stands for."""
    made = np.empty((len(pixels), SIDE, SIDE), np.uint8)

    def shrink(start: int) -> None:
        rows = pixels.batch(np.arange(start, min(start + _BATCH, len(pixels))))
        for i, row in enumerate(rows):
            made[start + i] = np.asarray(Image.fromarray(row).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))

    with threads_for(2, "thumbnails") as pool:
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


def _report_copies(pairs: Sequence[Pair], checked: int, target: Target) -> Caveat | None:
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
