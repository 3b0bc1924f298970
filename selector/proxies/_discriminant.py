"""Linear discriminants with one pooled, shrunk covariance: what lda, sfda and ncti have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from selector.core.errors import NotApplicable
from selector.features import FeatureSet, Moments, accumulate
from selector.features.arrays import as_float, chunk_rows
from selector.features.feature_set import NUM_FOLDS
from selector.features.moments import merge
from selector.features.threads import capped

_FLOAT64_WORK = 2e9  # N·D·C up to which the posterior is computed in float64


@dataclass(frozen=True)
class Space:
    """The rows that a discriminant works on: as they are, or their min(N, D) coordinates.

    Attributes:
        rows: (N, k); ``width``: the D that a shrinkage target divides the trace by.
        shift: (k,) that moments are about.
        training: moments of the rows outside one fold, newly made.
        whole: moments of all rows.
    """

    rows: np.ndarray
    width: int
    shift: np.ndarray
    training: Callable[[int], Moments]
    whole: Callable[[], Moments]

    @classmethod
    def of(cls, features: FeatureSet) -> Space:
        """For N < D the coordinates, in which nothing is lost and every matrix is N × N."""
        if features.uses_kernel:
            return features.shared("discriminant space", lambda: cls._reduced(features))
        return cls(
            features.rows, features.width, features.moments.shift, features.training_moments, lambda: features.moments
        )

    @classmethod
    def _reduced(cls, features: FeatureSet) -> Space:
        rows = features.coordinates()
        if not rows.shape[1]:
            raise NotApplicable("the features are constant")
        parts = accumulate(rows, features.label_data, features.folds, NUM_FOLDS)
        return cls(
            rows,
            features.width,
            parts[0].shift,
            lambda fold: merge([part for number, part in enumerate(parts) if number != fold]),
            lambda: merge(parts),
        )

    def chunks(self, precision: type = np.float64) -> Iterator[tuple[int, np.ndarray]]:
        """(first index, rows - shift)."""
        shift: np.ndarray = self.shift.astype(precision)
        size = chunk_rows(self.rows)
        for start in range(0, len(self.rows), size):
            yield start, np.subtract(as_float(self.rows[start : start + size]), shift, dtype=precision)

    def precision(self, classes: int) -> type:
        """float64 where it costs little."""
        return np.float64 if self.rows.size * classes <= _FLOAT64_WORK else np.float32


def class_means(moments: Moments) -> np.ndarray:
    """(C, D) relative to the shift; zero for classes without rows."""
    return np.asarray(moments.cross / np.maximum(moments.label_total, 1)[:, None])


def within_scatter(moments: Moments, means: np.ndarray, *, overwrite: bool = False) -> np.ndarray:
    """(D, D) Σ(x - class mean)(x - class mean)ᵀ, lower triangle; in place of ``moments.gram`` if asked."""
    from scipy.linalg.blas import dsyrk

    scaled = np.sqrt(moments.label_total)[:, None] * means
    gram = moments.gram if overwrite else moments.gram.copy(order="F")
    return np.asarray(dsyrk(-1.0, scaled.T, beta=1.0, c=gram, lower=1, overwrite_c=1))


def frobenius_square(lower: np.ndarray) -> float:
    """Squared norm of a symmetric matrix of which the lower triangle is filled."""
    below = 0.0
    step = 256
    for start in range(0, len(lower), step):
        block = np.tril(lower[start : start + step, : start + step], k=start)
        below += float(np.einsum("ij,ij->", block, block))
    return 2 * below - float((np.diagonal(lower) ** 2).sum())


@dataclass(frozen=True)
class Discriminant:
    """Logits of a row z = x - shift: ``z @ weight + bias``; -inf for classes without rows."""

    weight: np.ndarray
    bias: np.ndarray

    def log_posterior(self, rows: np.ndarray) -> np.ndarray:
        """(n, C) log p(class | row)."""
        logits = rows @ self.weight.astype(rows.dtype, copy=False) + self.bias.astype(rows.dtype)
        logits -= logits.max(axis=1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return np.asarray(logits)


def fit(
    scatter: np.ndarray,
    means: np.ndarray,
    counts: np.ndarray,
    shrinkage: float,
    width: int,
    precision: type = np.float64,
) -> Discriminant:
    """A discriminant from the within-class scatter (lower triangle, destroyed) and class means.

    The covariance is (1 - shrinkage)·scatter/N + shrinkage·trace/(N·width)·I; priors are the class
    shares.

    Raises:
        NotApplicable: no spread within classes, or a singular covariance.
    """
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    n = counts.sum()
    trace = float(np.trace(scatter)) / n
    scale = float((counts @ means**2).sum()) / n
    if trace <= 1e-12 * scale or trace <= 0:
        raise NotApplicable("the rows of every class are equal (or each class has one row): no spread within classes")
    scatter *= (1 - shrinkage) / n
    scatter[np.diag_indices_from(scatter)] += shrinkage * trace / width
    present = counts > 0
    with capped(len(scatter)):
        try:
            factor = cho_factor(scatter, lower=True, overwrite_a=True, check_finite=False)
        except LinAlgError:
            raise NotApplicable(
                f"the covariance within classes is singular at shrinkage {shrinkage:.3g}; give a larger one"
            ) from None
        weight = cho_solve(factor, means[present].T, overwrite_b=True, check_finite=False)
    bias = np.full(len(counts), -np.inf)
    bias[present] = -0.5 * np.einsum("cd,dc->c", means[present], weight) + np.log(counts[present] / n)
    # a term common to all classes cancels in the posterior, but costs digits in single precision
    weight -= weight.mean(axis=1, keepdims=True)
    bias[present] -= bias[present].mean()
    full: np.ndarray = np.zeros((len(means[0]), len(counts)), dtype=precision)
    full[:, present] = weight
    return Discriminant(full, bias)
