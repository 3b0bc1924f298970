"""The target as a scan uses it: loaded, cleared of known bad images, in a stratified order."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import xxhash

from selector import data as targets
from selector.core.contracts import LabelKind, Modality, Target
from selector.core.errors import BadImagesError
from selector.core.task import Facet
from selector.modalities.text import why_unusable
from selector.store import FeatureStore


def without_known_bad(target: Target, store: FeatureStore, on_bad: str) -> Target:
    """Leave out items that are known to be unusable, so that a warm scan, which decodes nothing, says the same as a cold one.

    Of images those that an earlier scan could not decode; texts are looked at.

    Raises:
        BadImagesError: there are some, and ``on_bad`` is ``fail``.
    """
    known = store.bad_images()
    bad = {i: known[h] for i, h in enumerate(target.hashes) if h in known}
    if target.modality is Modality.TEXT:
        reasons = ((i, why_unusable(target.items[i])) for i in range(len(target)))
        bad |= {i: reason for i, reason in reasons if reason}
    if not bad:
        return target
    if on_bad != "skip":
        raise _unusable(bad, target)
    return targets.without(target, bad)


def _unusable(bad: Mapping[int, str], target: Target) -> BadImagesError:
    if target.modality is Modality.TEXT:
        from selector.extract.tokens import bad_texts

        return bad_texts(bad, target.names)
    from selector.extract.pixels import bad_images

    return bad_images(bad, target.names)


MOST_WORDS = 10_000
"""Words that are scored: beyond, the most frequent label is thinned out first (``Rows``)."""


class Rows:
    """The rows of some items of a target, as every model of a round sees them: worked out once, not once a model.

    Of a tagging target with more than ``MOST_WORDS`` words only so many are scored, the same for every
    model and chosen by content and seed. First those of the most frequent label are thinned out, which
    mostly is O and tells little, as far as they outnumber all others; then all labels alike.

    Attributes:
        target: whose items.
        indices: (n,) positions of the items in it.
        hashes: what addresses the rows in the store.
        labels: (rows,), (rows, L) or (rows, T); of the first facet.
        facets: row problems by name; see ``core.task.Facet``.
        units: (rows,) which item a row belongs to, by content; None where an item is a row.
    """

    def __init__(self, target: Target, indices: np.ndarray, most: int = MOST_WORDS) -> None:
        self.target = target
        self.indices = indices
        self.hashes = target.row_hashes(indices)
        self.labels: np.ndarray = target.labels_of(indices)
        self.units: np.ndarray | None = None
        if (places := target.units_of(indices)) is not None:
            # copies of a text are one unit, so that they never fall into different folds
            self.units = np.unique([target.hashes[i] for i in indices], return_inverse=True)[1][places]
            if len(self.labels) > most:
                kept = thinned(self.labels, self.hashes, most, target.seed)
                self.hashes = [self.hashes[i] for i in kept]
                self.labels, self.units = self.labels[kept], self.units[kept]
        self.facets: dict[str, Facet] = {"label": Facet(target.label_kind, self.labels, target.class_names)}

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {name: _digest(facet, self.hashes) for name, facet in self.facets.items()}

    @property
    def digest(self) -> str:
        """What addresses the scores of these rows on their first facet."""
        return next(iter(self._digests.values()))

    def digest_of(self, facet: str) -> str:
        """What addresses the scores of these rows: their content and labels, in any order."""
        return self._digests[facet]


def _digest(facet: Facet, hashes: Sequence[str]) -> str:
    digest = xxhash.xxh3_128(str(facet.kind).encode())
    known = ((content, np.ascontiguousarray(row).tobytes()) for content, row in zip(hashes, facet.labels, strict=True))
    for content, label in sorted(known):
        digest.update(content.encode())
        digest.update(label)
    return digest.hexdigest()


def thinned(labels: np.ndarray, hashes: Sequence[str], most: int, seed: int) -> np.ndarray:
    """Positions, ascending, of ``most`` rows: see ``Rows``.

    Args:
        labels: int (N,), N > ``most``.
        hashes: of the rows: decide, with the seed, which ones stay.
    """
    order = np.argsort(
        np.array([xxhash.xxh3_64_intdigest(value.encode(), seed) for value in hashes], np.uint64), kind="stable"
    )
    counts = np.bincount(labels)
    frequent = int(counts.argmax())
    others = len(labels) - int(counts[frequent])
    wanted = max(most - others, min(others, int(counts[frequent])))  # at least as many as all others together
    ours = order[labels[order] == frequent][:wanted]
    left = np.sort(np.concatenate([ours, np.flatnonzero(labels != frequent)]))
    if len(left) <= most:
        return left
    shuffled = order[np.isin(order, left)]
    by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
    return np.sort(by_label[np.arange(most) * len(by_label) // most])


def stratified(target: Target, indices: np.ndarray) -> np.ndarray:
    """``indices`` so ordered that every prefix has the classes in proportion (by content, not position)."""
    by_content = indices[np.argsort([target.hashes[i] for i in indices], kind="stable")]
    if target.label_kind is not LabelKind.CLASSES or target.row_starts is not None:
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
