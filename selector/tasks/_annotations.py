"""Annotations that are an array: a class, several labels or real values an item, or a class a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

Own = TypeVar("Own", bound="ArrayAnnotations")


@dataclass(frozen=True)
class ArrayAnnotations:
    """``labels`` (N,) or (N, K), one row an item; see ``core.task.Annotations``.

    Attributes:
        where, noun: the input and what an item is, in messages.
        notes: what a person should know of them.
    """

    labels: np.ndarray
    class_names: tuple[str, ...]
    strata: np.ndarray
    where: str
    noun: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.strata)

    def __getitem__(self, index: int, /) -> Any:
        return self.labels[index]

    def digest(self, index: int) -> str:
        """The label, as hex."""
        return np.ascontiguousarray(self[index]).tobytes().hex()

    def take(self: Own, indices: np.ndarray) -> Own:
        """Those of some items."""
        return replace(self, labels=self.labels[indices], strata=self.strata[indices])

    def review(self, splits: np.ndarray, names: Sequence[str]) -> list[str]:
        """What the splits make of them; nothing by default."""
        return []
