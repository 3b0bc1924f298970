"""Fewer items of a target: a stratified sample, or without those that cannot be used."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from selector.core.contracts import SPLITS, UNLABELED, Target
from selector.core.errors import ConfigError, TargetError
from selector.core.label_kinds import noun_of
from selector.data._items import SubsetItems
from selector.data.assembly import fingerprint
from selector.data.splits import draw_order
from selector.tasks._read_labels import cell_counts


def _take(target: Target, keep: np.ndarray, notes: Iterable[str], step: dict[str, Any], whole: str = "") -> Target:
    """The items at ``keep`` (sorted positions); ``step`` is what ``load_origin`` repeats."""
    origin = target.origin
    if origin is not None:
        origin = {**origin, "steps": [*origin.get("steps", []), step]}
    smaller = replace(
        target,
        items=SubsetItems(target.items, keep),
        names=[target.names[i] for i in keep.tolist()],
        labels=target.labels_of(keep),
        splits=target.splits[keep],
        hashes=tuple(target.hashes[i] for i in keep.tolist()),
        features=None if target.features is None else target.features[keep],
        notes=(*target.notes, *notes),
        origin=origin,
        row_starts=target.starts_of(keep),
        annotations=None if target.annotations is None else target.annotations.take(keep),
        whole_fingerprint=whole,
    )
    return replace(smaller, fingerprint=fingerprint(smaller))


def subsample(target: Target, max_samples: int, seed: int = 0) -> Target:
    """At most ``max_samples`` items, with the shares of splits and classes kept (of splits, where words have labels).

    Which items stay is decided by a hash of content and seed, so the order of the items does not
    matter, and a larger sample mostly contains a smaller one (features are reused).

    Raises:
        ConfigError: ``max_samples`` is not positive.
        TargetError: fewer than one item a class and split.
    """
    if max_samples < 1:
        raise ConfigError(
            f"The 'max_samples' parameter must be an int in the range [1, inf). Got {max_samples} instead."
        )
    if max_samples >= len(target):
        return target
    cells: dict[tuple[str, int], list[int]] = defaultdict(list)
    classes = target.item_classes
    for index, split in enumerate(target.splits.tolist()):
        cells[split, 0 if classes is None else int(classes[index])].append(index)
    if max_samples < len(cells):
        raise TargetError(
            f"{target.name}: max_samples = {max_samples} is too small: {len({c for _, c in cells})} classes in "
            f"{len({split for split, _ in cells})} splits need at least {len(cells)}, one each."
        )
    sizes = _allocate({key: len(members) for key, members in cells.items()}, max_samples)
    ranks = draw_order(target.hashes, seed)
    keep = [i for key, members in cells.items() for i in sorted(members, key=lambda i: (ranks[i], i))[: sizes[key]]]
    how = "by split" if classes is None else "by split and class"
    note = f"{max_samples} of {len(target)} items were drawn, {how}, with seed {seed}"
    step = {"subsample": {"max_samples": max_samples, "seed": seed}}
    return _take(target, np.array(sorted(keep)), [note], step)


def without(
    target: Target, bad_indices: Sequence[int] | np.ndarray | Mapping[int, str], reasons: Sequence[str] = ()
) -> Target:
    """The target without items that cannot be used; fingerprint and notes are renewed.

    Args:
        bad_indices: positions of the items to drop, or reasons by position.
        reasons: why, one an item, for the note.

    Raises:
        TargetError: a class would lose its last item in a split, or nothing would be left.
    """
    if isinstance(bad_indices, Mapping):
        reasons = list(bad_indices.values())
        bad_indices = list(bad_indices)
    bad = np.unique(np.asarray(bad_indices, dtype=np.int64))
    if len(bad) == 0:
        return target
    keep = np.setdiff1d(np.arange(len(target)), bad)
    if target.item_classes is not None:
        before, after = (
            cell_counts(target.labels, target.splits),
            cell_counts(target.labels[keep], target.splits[keep]),
        )
        for (label, split), number in sorted(before.items()):
            if label >= 0 and not after[label, split]:
                raise TargetError(
                    f"{target.name}: none of the {number} {noun_of(target.modality)}s of class '{target.class_names[label]}' in {split} can "
                    f"be used, so the class would disappear there; replace the files or remove the class."
                )
    for split in (*SPLITS, UNLABELED):
        if (target.splits == split).any() and not (target.splits[keep] == split).any():
            raise TargetError(f"{target.name}: no item of {split} can be used; replace the files.")
    by_index = dict(zip(np.asarray(bad_indices).tolist(), reasons, strict=False))
    first = ", ".join(f"{target.names[i]}" + (f" ({by_index[i]})" if i in by_index else "") for i in bad[:3].tolist())
    more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
    note = f"{len(bad)} of {len(target)} items skipped: {first}{more}"
    step = {"without": [[target.hashes[i], by_index.get(i, "")] for i in bad.tolist()]}
    return _take(target, keep, [note], step, whole=target.identity)


def repeated(target: Target, steps: Iterable[Mapping[str, Any]]) -> Target:
    """The target after the steps that another loading of the same data recorded: items drawn, items left out."""
    for step in steps:
        if "subsample" in step:
            target = subsample(target, **step["subsample"])
        else:
            reasons = dict(step["without"])
            target = without(target, {i: reasons[value] for i, value in enumerate(target.hashes) if value in reasons})
    return target


def _allocate(sizes: dict[tuple[str, int], int], total: int) -> dict[tuple[str, int], int]:
    """Shares of ``total`` in proportion to ``sizes``, at least 1 each (largest remainders)."""
    whole = sum(sizes.values())
    exact = {key: total * size / whole for key, size in sizes.items()}
    given = {key: min(sizes[key], max(1, math.floor(value))) for key, value in exact.items()}
    keys = sorted(sizes)
    while (left := total - sum(given.values())) != 0:
        step = 1 if left > 0 else -1
        able = [key for key in keys if (given[key] < sizes[key] if step > 0 else given[key] > 1)]
        key = max(able, key=lambda k: (step * (exact[k] - given[k]), k))
        given[key] += step
    return given
