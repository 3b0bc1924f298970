"""Which block a row falls in: drawn from hashes, so that the order of rows does not matter.

Blocks serve twice: an interval deletes one at a time, and two of them make a fold of the
cross-fitted scores. They depend on keys, groups, labels and seed only, so all models of a target
share them and their differences can be paired.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xxhash

from selector.features.labels import Labels

NUM_BLOCKS = 10


def hash_names(names: Sequence[object] | np.ndarray, seed: int) -> np.ndarray:
    """uint64 (N,) of names (strings, bytes, ints); equal names get equal hashes."""
    return np.array(
        [xxhash.xxh3_64_intdigest(n if isinstance(n, bytes) else str(n).encode(), seed) for n in names], dtype=np.uint64
    )


def draw_blocks(labels: Labels, hashes: np.ndarray, seed: int, groups: np.ndarray | None) -> np.ndarray:
    """Stratified block of every row, (N,) in 0..9; rows of one unit share a block.

    Args:
        labels: for stratification: groups are dealt out class by class (of real values: along the
            sorted values of the first column; of multi-label rows: by the set of labels).
        hashes: uint64 (N,) of the rows; decides who goes where.
        seed: mixed into the hashes.
        groups: (N,) ids of what statistics resample, or None when each row is its own.
    """
    mixed = _mix(hashes, seed)
    strata = _strata(labels, mixed)
    if groups is None:
        order = np.lexsort((mixed, strata))
        blocks = np.empty(len(mixed), dtype=np.int64)
        blocks[order] = np.arange(len(mixed)) % NUM_BLOCKS
        return blocks
    _, unit = np.unique(groups, return_inverse=True)
    # a unit is dealt out with the stratum of its row of lowest hash
    first = np.lexsort((mixed, unit))
    starts = np.flatnonzero(np.r_[True, np.diff(unit[first]) > 0])
    heads = first[starts]
    order = np.lexsort((mixed[heads], strata[heads]))
    of_unit = np.empty(len(heads), dtype=np.int64)
    of_unit[order] = np.arange(len(heads)) % NUM_BLOCKS
    return np.asarray(of_unit[unit])


def stratified_sample(labels: Labels, hashes: np.ndarray, seed: int, count: int) -> np.ndarray:
    """Indices of about ``count`` rows, the same share of every stratum, chosen by hash."""
    mixed = _mix(hashes, seed)
    order = np.lexsort((mixed, _strata(labels, mixed)))
    if count >= len(order):
        return order
    return np.asarray(order[np.arange(count) * len(order) // count])


def _strata(labels: Labels, mixed: np.ndarray) -> np.ndarray:
    """A number per row that sorts the strata by hash, not by label id: renaming classes changes nothing."""
    groups = labels.groups()
    if groups is None:
        assert labels.columns is not None
        # ranks in runs of ten: every run of similar values is spread over all blocks
        ranks = np.lexsort((mixed, labels.columns[:, 0]))
        groups = np.empty(len(mixed), dtype=np.int64)
        groups[ranks] = np.arange(len(mixed)) // NUM_BLOCKS
        return groups
    lowest = np.full(groups.max() + 1, np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(lowest, groups, mixed)
    return np.asarray(lowest[groups])


def _mix(hashes: np.ndarray, seed: int) -> np.ndarray:
    """Another permutation of the hashes for every seed (the finalizer of splitmix64)."""
    with np.errstate(over="ignore"):
        z = hashes + np.uint64((seed * 0x9E3779B97F4A7C15) % 2**64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(z ^ (z >> np.uint64(31)))
