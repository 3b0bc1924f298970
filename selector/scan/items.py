"""The target as a scan uses it: loaded, cleared of known bad images, in a stratified order."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal

import numpy as np
import xxhash

from selector import targets
from selector.contracts import LabelKind, Target
from selector.store import FeatureStore

Trust = Literal["stat", "content"]


def load(
    target: Any,
    max_samples: int | None,
    seed: int,
    trust: Trust = "stat",
    text_column: str | Sequence[str] | None = None,
    label_column: str | None = None,
) -> Target:
    """The target of a run, from anything that ``load_target`` takes."""
    if isinstance(target, Target):
        return target if max_samples is None else targets.subsample(target, max_samples, seed)
    return targets.load_target(
        target,
        max_samples=max_samples,
        seed=seed,
        trust=trust,
        text_column=text_column,
        label_column=label_column,
    )


def without_known_bad(target: Target, store: FeatureStore, on_bad: str) -> Target:
    """Leave out images that an earlier scan found undecodable, so that a warm scan decodes nothing."""
    if on_bad != "skip":
        return target
    known = store.bad_images()
    bad = {i: known[h] for i, h in enumerate(target.hashes) if h in known}
    return targets.without(target, bad) if bad else target


def hashes_of(target: Target, indices: np.ndarray) -> list[str]:
    """Content hashes of some items: what addresses their rows in the store."""
    return [target.hashes[i] for i in indices]


class Rows:
    """Some items of a target, as every model of a round sees them: worked out once, not once a model.

    Attributes:
        target: whose items.
        indices: (n,) positions in it.
        hashes: their content hashes.
    """

    def __init__(self, target: Target, indices: np.ndarray) -> None:
        self.target = target
        self.indices = indices
        self.hashes = hashes_of(target, indices)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def labels(self) -> np.ndarray:
        """(n,), (n, L) or (n, T)."""
        labels: np.ndarray = self.target.labels[self.indices]
        return labels

    @cached_property
    def digest(self) -> str:
        """What addresses the scores of these rows: their content and labels, in any order."""
        label = {i: np.ascontiguousarray(self.target.labels[i]).tobytes() for i in self.indices}
        digest = xxhash.xxh3_128(str(self.target.label_kind).encode())
        for content, i in sorted(zip(self.hashes, self.indices, strict=True)):
            digest.update(content.encode())
            digest.update(label[i])
        return digest.hexdigest()


def stratified(target: Target, indices: np.ndarray) -> np.ndarray:
    """``indices`` so ordered that every prefix has the classes in proportion (by content, not position)."""
    by_content = indices[np.argsort([target.hashes[i] for i in indices], kind="stable")]
    if target.label_kind is not LabelKind.CLASSES:
        return by_content
    labels = target.labels[by_content].astype(int)
    position = np.zeros(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    return by_content[np.argsort(position, kind="stable")]


@contextmanager
def offline_hub(offline: bool) -> Iterator[None]:
    """Hub libraries read this variable on every call; it is set for the length of the run only."""
    if not offline:
        yield
        return
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before
