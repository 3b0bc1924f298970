"""Sums over rows that every second-order score is a function of; they add and subtract.

Accumulated in float64 about a shift near the mean, so that an offset which is large against the
spread costs no digits. A float32 Gram matrix is wrong in the second digit for such features.
"""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from selector.core.errors import ProxyError
from selector.features.arrays import as_float, chunk_rows, chunks
from selector.features.device import TorchSums
from selector.features.labels import Labels
from selector.features.threads import capped


@dataclass(frozen=True)
class Moments:
    """Sums of z = x - shift and of the label columns y.

    Attributes:
        count: N.
        shift: (D,).
        total: (D,) Σz.
        gram: (D, D) Σzzᵀ; only the lower triangle is filled.
        cross: (T, D) Σyzᵀ; for classes the table of class sums.
        label_total: (T,) Σy; for classes the class counts.
        label_square: (T,) Σy².
        norm4: Σ‖z‖⁴, and ``norm2_rows`` (D,) Σ‖z‖²z: what Ledoit-Wolf needs beyond second order.
    """

    count: int
    shift: np.ndarray
    total: np.ndarray
    gram: np.ndarray
    cross: np.ndarray
    label_total: np.ndarray
    label_square: np.ndarray
    norm4: float
    norm2_rows: np.ndarray

    def __add__(self, other: Moments) -> Moments:
        """Moments of both sets of rows together; shards merge."""
        return self._combined(other, 1)

    def __sub__(self, other: Moments) -> Moments:
        """Moments of these rows without those of ``other``."""
        return self._combined(other, -1)

    def _combined(self, other: Moments, sign: int) -> Moments:
        if len(self.total) != len(other.total) or len(self.label_total) != len(other.label_total):
            raise ProxyError(
                "moments can be combined only for equal widths and label columns. Got "
                f"{len(self.total)} and {len(other.total)} features, {len(self.label_total)} and {len(other.label_total)} columns."
            )
        if other.shift is not self.shift and not np.array_equal(other.shift, self.shift):
            other = other.shifted_to(self.shift)
        return replace(self, **{name: getattr(self, name) + sign * getattr(other, name) for name in _SUMS})

    @property
    def delta(self) -> np.ndarray:
        """(D,) mean - shift."""
        return np.asarray(self.total / self.count)

    @property
    def mean(self) -> np.ndarray:
        """(D,)."""
        return np.asarray(self.shift + self.delta)

    @property
    def norm2(self) -> float:
        """Σ‖z‖²."""
        return float(np.trace(self.gram))

    def centered_gram(self) -> np.ndarray:
        """(D, D) Σ(x - mean)(x - mean)ᵀ, a new array, lower triangle."""
        return rank_one(self.gram.copy(order="F"), self.delta, -self.count)

    def centered_cross(self) -> np.ndarray:
        """(T, D) Σ(y - mean of y)(x - mean)ᵀ."""
        return np.asarray(self.cross - np.outer(self.label_total, self.delta))

    def centered_norm4(self) -> float:
        """Σ‖x - mean‖⁴."""
        return self._shifted_fourth(self.delta)[0]

    def columns(self, kept: np.ndarray) -> Moments:
        """The same rows with fewer label columns."""
        if len(kept) == len(self.label_total):
            return self
        return replace(
            self, cross=self.cross[kept], label_total=self.label_total[kept], label_square=self.label_square[kept]
        )

    def shifted_to(self, shift: np.ndarray) -> Moments:
        """The same rows about another shift."""
        d = shift - self.shift
        norm4, norm2_rows = self._shifted_fourth(d)
        gram = rank_one(self.gram.copy(order="F"), d, self.count)
        return replace(
            self,
            shift=shift,
            total=self.total - self.count * d,
            gram=rank_two(gram, d, self.total, -1.0),
            cross=self.cross - np.outer(self.label_total, d),
            norm4=norm4,
            norm2_rows=norm2_rows,
        )

    def _shifted_fourth(self, d: np.ndarray) -> tuple[float, np.ndarray]:
        """Σ‖z-d‖⁴ and Σ‖z-d‖²(z-d), multiplied out."""
        n, along, square = self.count, float(self.total @ d), float(d @ d)
        gram_d = symmetric_times(self.gram, d)
        norm4 = (
            self.norm4
            + 4 * float(d @ gram_d)
            + n * square**2
            - 4 * float(d @ self.norm2_rows)
            + 2 * self.norm2 * square
            - 4 * along * square
        )
        rows = self.norm2_rows - self.norm2 * d - 2 * gram_d + 2 * along * d + square * self.total - n * square * d
        return norm4, rows


_SUMS = tuple(field.name for field in fields(Moments) if field.name != "shift")


def merge(parts: Sequence[Moments]) -> Moments:
    """Moments of all parts together; parts of equal shift are added in place, without copies between."""
    first = parts[0]
    if any(not np.array_equal(part.shift, first.shift) for part in parts):
        return functools.reduce(operator.add, parts)
    sums = {name: copy.deepcopy(getattr(first, name)) for name in _SUMS}
    for part in parts[1:]:
        for name in _SUMS:
            sums[name] += getattr(part, name)
    return replace(first, **sums)


def accumulate(
    rows: np.ndarray,
    labels: Labels,
    parts: np.ndarray | None = None,
    num_parts: int = 1,
    only: int | None = None,
    shift: np.ndarray | None = None,
    device: str | None = None,
) -> list[Moments]:
    """Moments of each part of the rows, in one pass over them.

    Args:
        rows: (N, D), any float type, memory-mapped or not.
        labels: N of them.
        parts: (N,) in 0..num_parts-1, or None for a single part.
        num_parts: how many moments to return.
        only: accumulate this part alone.
        shift: (D,); the first chunk's mean when not given.
        device: where torch accumulates; numpy on the CPU when not given.
    Cost: N·D² multiplications in float64; memory (num_parts + 1) D² · 8 bytes and a chunk.
    """
    width, columns = rows.shape[1], labels.num_columns
    size = max(chunk_rows(rows), 256)
    if parts is not None:
        size *= 2  # a chunk is divided among the parts
    if shift is None:
        shift = as_float(rows[:size]).mean(axis=0, dtype=np.float64)
    wanted = list(range(num_parts)) if only is None else [only]
    sums: dict[int, _Sums | TorchSums]
    if device is None:
        sums = {part: _Sums(width, columns) for part in wanted}
    else:
        sums = {part: TorchSums(width, columns, device) for part in wanted}
    with capped(width):
        for start, chunk in chunks(rows, size):
            for part in wanted:
                index: Any = slice(start, start + len(chunk))
                z = chunk
                if parts is not None:
                    inside = np.flatnonzero(parts[start : start + len(chunk)] == part)
                    if not len(inside):
                        continue
                    z, index = chunk[inside], start + inside
                sums[part].add(z, shift, labels, index)
    return [Moments(shift=shift, **sums[part].arrays()) for part in wanted]


class _Sums:
    """One part while it grows."""

    def __init__(self, width: int, columns: int) -> None:
        self.count = 0
        self.total = np.zeros(width)
        self.gram = np.zeros((width, width), order="F")
        self.cross = np.zeros((columns, width))
        self.label_total = np.zeros(columns)
        self.label_square = np.zeros(columns)
        self.norm4 = 0.0
        self.norm2_rows = np.zeros(width)

    def add(self, rows: np.ndarray, shift: np.ndarray, labels: Labels, index: slice | np.ndarray) -> None:
        from scipy.linalg.blas import dsyrk

        z = np.subtract(rows, shift, dtype=np.float64)
        self.count += len(z)
        self.total += z.sum(axis=0)
        # z.T is Fortran-ordered as it lies: no copy, and the result grows in place
        self.gram = dsyrk(1.0, z.T, beta=1.0, c=self.gram, lower=1, overwrite_c=1)
        self.cross += labels.sums(z, index)
        if labels.columns is None:
            counts = np.bincount(labels.codes[index], minlength=len(self.label_total))
            self.label_total += counts
            self.label_square += counts
        else:
            self.label_total += labels.columns[index].sum(axis=0)
            self.label_square += (labels.columns[index] ** 2).sum(axis=0)
        norms = np.einsum("ij,ij->i", z, z)
        self.norm4 += float(norms @ norms)
        self.norm2_rows += norms @ z

    def arrays(self) -> dict[str, Any]:
        return dict(self.__dict__)


def rank_one(lower: np.ndarray, vector: np.ndarray, factor: float) -> np.ndarray:
    """lower + factor · vvᵀ in place, in the lower triangle of a Fortran-ordered matrix."""
    from scipy.linalg.blas import dsyr

    return np.asarray(dsyr(factor, vector, a=lower, lower=1, overwrite_a=1))


def rank_two(lower: np.ndarray, u: np.ndarray, v: np.ndarray, factor: float) -> np.ndarray:
    """lower + factor · (uvᵀ + vuᵀ) in place."""
    from scipy.linalg.blas import dsyr2

    return np.asarray(dsyr2(factor, u, v, a=lower, lower=1, overwrite_a=1))


def symmetric_times(lower: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Matrix times vector, where only the lower triangle is filled."""
    from scipy.linalg.blas import dsymv

    return np.asarray(dsymv(1.0, lower, vector, lower=1))
