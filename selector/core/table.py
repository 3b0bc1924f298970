"""What a task reads, and the rows that it makes of it: plain values, no task among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash

from selector.core.contracts import Items, LabelKind

# ---------------------------------------------------------------------------- a table and what a task reads from it


@dataclass
class Table:
    """What a reader found, before any task has looked at it: columns of equal length, an item per row.

    Attributes:
        where: the input, as messages name it.
        name: for people.
        modality: what an item is.
        items: the items, lazily (see ``contracts.Items``); empty for ready features.
        names: a readable name per item (``file:line`` or a path), for messages.
        hashes: content hash of each item.
        columns: annotation columns by role or by their own name; a column is a sequence (N,), lazily read
            where it is large (masks).
        roles: which columns are annotations, by role: ``label`` (one or several), ``mask``, ``boxes``, ``words``.
        schema: what the input says of them: ``class_names``, a color table, ``ignore_index``, box format, ...
        splits: (N,) of train, val, test or ""; None where the input does not say.
        notes: what a person should know. ``origin``: what reads it again, plain JSON, or None.
        features: ready features (N, D) instead of items; ``feature_widths`` as in ``Target``.
    """

    where: str
    name: str
    modality: str
    items: Items
    names: Sequence[str]
    hashes: Sequence[str]
    columns: Mapping[str, Any] = field(default_factory=dict)
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    schema: Mapping[str, Any] = field(default_factory=dict)
    splits: Sequence[str] | None = None
    notes: list[str] = field(default_factory=list)
    origin: dict[str, object] | None = None
    features: np.ndarray | None = None
    feature_widths: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.hashes)


# ---------------------------------------------------------------------------- rows


@dataclass(frozen=True)
class Facet:
    """One row problem: what proxies are asked. ``mask`` (R,) or (R, L): True where a label is known."""

    kind: LabelKind
    labels: np.ndarray
    class_names: tuple[str, ...] = ()
    mask: np.ndarray | None = None


@dataclass(frozen=True)
class RowPlan:
    """Which rows, where they are read in their item, and what they are labeled.

    Attributes:
        item: (R,) positions in the target, ascending.
        place: (R, k) where in its item a row is read, in relative coordinates (a point: x, y in 0..1; a box:
            x0, y0, x1, y1 in 0..1; a word: its number); None where an item is a row.
        facets: row problems on the same features, by name. Classification has one; detection two.
        reader: name of the row reader in ``extract.row_readers``: pooled, word, point, box.
    """

    item: np.ndarray
    facets: Mapping[str, Facet]
    place: np.ndarray | None = None
    reader: str = "pooled"

    def __len__(self) -> int:
        return len(self.item)

    def addresses(self, hashes: Sequence[str]) -> list[str]:
        """What addresses each row in the store: the hash of its item and its place in it."""
        if self.place is None:
            return [hashes[i] for i in self.item]
        return [row_address(hashes[i], place) for i, place in zip(self.item, self.place, strict=True)]


def row_address(content: str, place: Any) -> str:
    """The address of a row at a place of an item; of a word its number, of a point or box its rounded coordinates."""
    numbers = np.atleast_1d(place)
    said = str(int(numbers[0])) if numbers.dtype.kind in "iu" else ",".join(f"{value:.5f}" for value in numbers)
    return xxhash.xxh3_128_hexdigest(f"{content} row {said}".encode())
