"""Coordinates in which the curvature of a linear model's loss is nearly diagonal.

Rows are standardised and rotated into the eigenbasis of their correlation matrix; fewer rows than
columns shrink to N coordinates at no loss. No label is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from selector.core.errors import ProxyError
from selector.features.threads import capped


@dataclass(frozen=True)
class Basis:
    """Standardised rows in the eigenbasis of their correlation matrix, with a column of ones last.

    Attributes:
        mean: (D,); ``scale``: (D,) 1 / standard deviation, 0 for constant columns.
        vectors: (D, k) float32.
        curvature: (k + 1,) sums of squares of the coordinates.
    """

    mean: np.ndarray
    scale: np.ndarray
    vectors: np.ndarray
    curvature: np.ndarray

    def coordinates(self, rows: np.ndarray) -> np.ndarray:
        """float32 (n, k + 1)."""
        out = np.empty((len(rows), self.vectors.shape[1] + 1), dtype=np.float32)
        step = max(256, 2**20 // rows.shape[1])
        for start in range(0, len(rows), step):
            standard = _standard(rows[start : start + step], self.mean, self.scale)
            np.matmul(standard, self.vectors, out=out[start : start + step, :-1])
        out[:, -1] = 1
        return out

    def raw(self, solution: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weight (K, D) and bias (K,) on raw features, of a solution (k + 1, K)."""
        weight = (self.vectors.astype(np.float64) @ solution[:-1]).T * self.scale
        return weight, solution[-1] - weight @ self.mean


def standardise(rows: np.ndarray) -> Basis:
    """The basis of rows (N, D), N ≥ 2. Cost: a product N·D·min(N, D) in float32 and one eigh."""
    from scipy.linalg import eigh

    n, d = rows.shape
    mean = rows.mean(axis=0, dtype=np.float64)
    if rows.dtype != np.float64:
        # rows are centred in their own precision, exactly about this value
        mean = mean.astype(np.float32).astype(np.float64)
    step = max(256, 2**20 // d)
    square = np.zeros(d)
    for start in range(0, n, step):
        z = np.subtract(rows[start : start + step], mean, dtype=np.float64)
        square += np.einsum("ij,ij->j", z, z)
    deviation = np.sqrt(square / n)
    # rounding leaves a constant column with a deviation of some units in the last place of its value
    live = deviation > 1e-6 * np.abs(mean)
    live &= deviation > 0
    if not live.any():
        raise ProxyError("the features are constant: every column has one value only.")
    scale = np.zeros(d)
    scale[live] = 1 / deviation[live]

    order = min(n, d)
    with capped(order):
        if d <= n:
            gram = np.zeros((d, d), dtype=np.float32)
            for start in range(0, n, step):
                z = _standard(rows[start : start + step], mean, scale)
                gram += z.T @ z
            values, vectors = eigh(gram, driver="evd", overwrite_a=True, check_finite=False)
        else:
            z = _standard(rows, mean, scale)
            values, u = eigh((z @ z.T).astype(np.float64), driver="evd", overwrite_a=True, check_finite=False)
            kept = values > values[-1] * n * 1e-7
            values = values[kept]
            vectors = z.T @ (u[:, kept] / np.sqrt(values)).astype(np.float32)
    values = np.maximum(values, 0)
    return Basis(mean, scale, np.ascontiguousarray(vectors, dtype=np.float32), np.append(values, n))


def _standard(rows: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """float32 standardised rows."""
    chunk = np.asarray(rows)
    precision = np.float64 if chunk.dtype == np.float64 else np.float32
    standard = np.subtract(chunk, mean.astype(precision), dtype=precision)
    standard *= scale.astype(precision)
    return np.asarray(standard, dtype=np.float32)
