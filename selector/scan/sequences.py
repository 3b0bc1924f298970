"""Held-out images whose neighbors in a numbered sequence are in another split: frames of a video, slices of a scan.

The order is that of the numbers in names (of files, or of rows in a table). Neighbors in it are compared with images
that are far apart in the same sequence: where a sequence is cut at random between splits, its neighbors across the cut
are alike far more often than those; where numbers mean nothing, just as often.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from selector.core.contracts import Target
from selector.core.stats import binomial_tail
from selector.results import Caveat

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


def told(pairs: Sequence[Pair], checked: int, target: Target) -> Caveat | None:
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
