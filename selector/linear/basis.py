"""Coordinates in which the curvature of a linear model's loss is nearly diagonal.

Rows are standardized and rotated into the eigenbasis of their correlation matrix; fewer rows than
columns shrink to N coordinates at no loss. No label is looked at.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np

from selector.core.errors import ProxyError
from selector.features.arrays import CHUNK_BYTES
from selector.features.spectrum import mirror
from selector.features.threads import capped


class Basis(ABC):
    """Standardized rows in the eigenbasis of their correlation matrix, with a column of ones last.

    Attributes:
        mean: (D,); ``scale``: (D,) 1 / standard deviation, 0 for constant columns.
        curvature: (k + 1,) sums of squares of the coordinates.
    """

    mean: np.ndarray
    scale: np.ndarray
    curvature: np.ndarray

    @property
    @abstractmethod
    def own(self) -> np.ndarray:
        """float32 (N, k + 1) coordinates of the rows that the basis was made of."""

    @abstractmethod
    def coordinates(self, rows: np.ndarray) -> np.ndarray:
        """float32 (n, k + 1) of other rows (n, D)."""

    @abstractmethod
    def raw(self, solution: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weight (K, D) and bias (K,) on raw features, of a solution (k + 1, K)."""


def standardize(rows: np.ndarray, order: np.ndarray | None = None) -> Basis:
    """The basis of rows (N, D), N ≥ 2; in another order where one is given, (N,) indices.

    Cost: a product N·D·min(N, D) in float32 and one eigh. Memory: D × D, and a copy of the rows where they have to be
    put in order; with fewer rows than columns N × N alone, since it is columns that are taken some at a time.

    Raises:
        ProxyError: every column has one value only.
    """
    if rows.shape[0] < rows.shape[1]:
        return _Wide(rows, np.arange(len(rows)) if order is None else order)
    return _Narrow(rows if order is None else rows[order])


class _Narrow(Basis):
    """No fewer rows than columns: the eigenvectors (D, k) of the D × D side."""

    def __init__(self, rows: np.ndarray) -> None:
        from scipy.linalg import eigh

        n, d = rows.shape
        self.mean = _rounded(rows.mean(axis=0, dtype=np.float64), rows)
        step = max(256, 2**20 // d)
        square = np.zeros(d)
        for start in range(0, n, step):
            z = np.subtract(rows[start : start + step], self.mean, dtype=np.float64)
            square += np.einsum("ij,ij->j", z, z)
        self.scale = _scale(self.mean, np.sqrt(square / n))
        with capped(d):
            gram = np.zeros((d, d), dtype=np.float32)
            for start in range(0, n, step):
                z = _standard(rows[start : start + step], self.mean, self.scale)
                gram += z.T @ z
            values, vectors = eigh(gram, driver="evd", overwrite_a=True, check_finite=False)
        self._vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        self.curvature = np.append(np.maximum(values, 0), n)
        self._rows = rows

    @property
    def own(self) -> np.ndarray:
        return self.coordinates(self._rows)

    def coordinates(self, rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), self._vectors.shape[1] + 1), dtype=np.float32)
        step = max(256, 2**20 // rows.shape[1])
        for start in range(0, len(rows), step):
            standard = _standard(rows[start : start + step], self.mean, self.scale)
            np.matmul(standard, self._vectors, out=out[start : start + step, :-1])
        out[:, -1] = 1
        return out

    def raw(self, solution: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weight = (self._vectors.astype(np.float64) @ solution[:-1]).T * self.scale
        return weight, solution[-1] - weight @ self.mean


class _Wide(Basis):
    """Fewer rows than columns: Z = U·√S·Vᵀ by the eigenvectors U of the N × N side; V = ZᵀU/√S is never written down."""

    def __init__(self, rows: np.ndarray, order: np.ndarray) -> None:
        from scipy.linalg import eigh
        from scipy.linalg.blas import ssyrk

        n, d = rows.shape
        self._rows, self._order = rows, order
        self.mean, self.scale = np.empty(d), np.empty(d)
        for part in self._parts(n):
            columns = rows[:, part][order]
            mean = _rounded(columns.mean(axis=0, dtype=np.float64), rows)
            z = np.subtract(columns, mean, dtype=np.float64)
            self.mean[part], self.scale[part] = mean, np.sqrt(np.einsum("ij,ij->j", z, z) / n)
        self.scale = _scale(self.mean, self.scale)
        gram: np.ndarray = np.zeros((n, n), dtype=np.float32, order="F")
        with capped(n):
            for part in self._parts(n):
                gram = ssyrk(1.0, self._columns(part).T, beta=1.0, c=gram, trans=1, lower=1, overwrite_c=1)
            mirror(gram)
            values, u = eigh(gram.astype(np.float64), driver="evd", overwrite_a=True, check_finite=False)
        kept = values > values[-1] * n * 1e-7
        self._roots, self._directions = np.sqrt(values[kept]), u[:, kept]
        self.curvature = np.append(values[kept], n)

    @property
    def own(self) -> np.ndarray:
        out = np.ones((len(self._order), len(self.curvature)), dtype=np.float32)
        np.multiply(self._directions, self._roots, out=out[:, :-1], casting="same_kind")
        return out

    def coordinates(self, rows: np.ndarray) -> np.ndarray:
        along: np.ndarray = np.zeros((len(rows), len(self._order)), dtype=np.float32)
        for part in self._parts(len(self._order) + len(rows)):
            along += _standard(rows[:, part], self.mean[part], self.scale[part]) @ self._columns(part).T
        out = np.ones((len(rows), len(self.curvature)), dtype=np.float32)
        np.matmul(along, (self._directions / self._roots).astype(np.float32), out=out[:, :-1])
        return out

    def raw(self, solution: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        along = ((self._directions / self._roots) @ solution[:-1]).T.astype(np.float32)  # (K, N)
        weight = np.empty((len(along), len(self.mean)))
        for part in self._parts(len(self._order)):
            weight[:, part] = along @ self._columns(part)
        weight *= self.scale
        return weight, solution[-1] - weight @ self.mean

    def _parts(self, count: int) -> Iterator[slice]:
        """Columns taken together, so that those of ``count`` rows in float64 take about one chunk."""
        step = max(256, CHUNK_BYTES // (8 * count))
        return (slice(start, start + step) for start in range(0, len(self.mean), step))

    def _columns(self, part: slice) -> np.ndarray:
        """float32 (N, columns) standardized, in order."""
        return _standard(self._rows[:, part][self._order], self.mean[part], self.scale[part])


def _rounded(mean: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows are centered in their own precision, exactly about this value."""
    return mean if rows.dtype == np.float64 else mean.astype(np.float32).astype(np.float64)


def _scale(mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    # rounding leaves a constant column with a deviation of some units in the last place of its value
    live = deviation > 1e-6 * np.abs(mean)
    live &= deviation > 0
    if not live.any():
        raise ProxyError("the features are constant: every column has one value only.")
    scale = np.zeros(len(mean))
    scale[live] = 1 / deviation[live]
    return scale


def _standard(rows: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """float32 standardized rows."""
    chunk = np.asarray(rows)
    precision = np.float64 if chunk.dtype == np.float64 else np.float32
    standard = np.subtract(chunk, mean.astype(precision), dtype=precision)
    standard *= scale.astype(precision)
    return np.asarray(standard, dtype=np.float32)
