"""One eigendecomposition of the centered rows, from which every second-order score is read.

The scores that have no intercept (LogME as published) see the uncentered Gram matrix, which is the
centered one plus N·mean·meanᵀ: a rank-one term that is added exactly at every strength instead of
decomposing again. Adding it is stable; large offsets then cost no digits, where a decomposition of
the uncentered matrix drowns the small eigenvalues.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from selector.features.arrays import CHUNK_BYTES, as_float
from selector.features.device import eigh as on_device
from selector.features.labels import Labels
from selector.features.moments import Moments
from selector.features.threads import capped


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Centered rows Xc = U·√S·Vᵀ and what the scores need of them in this basis.

    Figures only: neither rows, moments nor bases hang on it, so that it can be kept for every block.

    Attributes:
        count: N; ``width``: D.
        values: (k,) S, eigenvalues of XcᵀXc, ascending, k = min(N, D); those that are rounding
            noise are exactly 0.
        response: (k, T) VᵀXcᵀy; zero where S is.
        offset: (k,) √N·Vᵀmean.
        offset_outside: √N times the length of the part of the mean outside the span of V.
        label_mean: (T,); ``label_square``: (T,) Σ(y - mean of y)².
        label_counts: (T,) Σy; for classes the class counts.
        norm4: Σ‖x - mean‖⁴, for Ledoit-Wolf.
    """

    count: int
    width: int
    values: np.ndarray
    response: np.ndarray
    offset: np.ndarray
    offset_outside: float
    label_mean: np.ndarray
    label_square: np.ndarray
    label_counts: np.ndarray
    norm4: float

    @property
    def trace(self) -> float:
        """Σ‖x - mean‖²."""
        return float(self.values.sum())

    @property
    def energy(self) -> np.ndarray:
        """(k, T) (uᵀy)²: the part of every label column along each direction."""
        out = np.zeros_like(self.response)
        np.divide(self.response**2, self.values[:, None], out=out, where=self.values[:, None] > 0)
        return out

    @cached_property
    def residual(self) -> np.ndarray:
        """(T,) the part of every centered label column outside the span of the rows."""
        rest = self.label_square - self.energy.sum(axis=0)
        # below the rounding of the two terms it is nothing
        return np.where(rest > 1e-12 * self.label_square, rest, 0.0)

    def standardized(self) -> Spectrum:
        """The same with label columns of mean 0 and deviation 1."""
        deviation = np.sqrt(self.label_square / self.count)
        deviation = np.where(deviation > 0, deviation, 1.0)
        return replace(
            self,
            response=self.response / deviation,
            label_mean=np.zeros_like(self.label_mean),
            label_square=self.label_square / deviation**2,
            label_counts=np.zeros_like(self.label_counts),
        )


def from_moments(moments: Moments, device: str | None = None) -> tuple[Spectrum, np.ndarray]:
    """The D × D side: the spectrum and V (D, k). Cost: one eigendecomposition, and one D × D × T product."""
    width = len(moments.total)
    values, basis = _eigh(moments.centered_gram(), device)
    with capped(width):
        response = basis.T @ moments.centered_cross().T
    response[values == 0] = 0
    offset = np.sqrt(moments.count) * (basis.T @ moments.mean)
    spectrum = Spectrum(
        count=moments.count,
        width=width,
        values=values,
        response=response,
        offset=offset,
        offset_outside=0.0,
        label_mean=moments.label_total / moments.count,
        label_square=moments.label_square - moments.label_total**2 / moments.count,
        label_counts=moments.label_total,
        norm4=moments.centered_norm4(),
    )
    return spectrum, basis


@dataclass(frozen=True, eq=False)
class Kernel:
    """The N × N side, for fewer rows than columns.

    Attributes:
        gram: (N, N) Zᵀ Z of z = x - shift.
        along: (N,) z·shift.
        shift_square: ‖shift‖².
    """

    gram: np.ndarray
    along: np.ndarray
    shift_square: float

    @classmethod
    def of(cls, rows: np.ndarray, shift: np.ndarray) -> Kernel:
        """From rows (N, D), some columns at a time: no float64 copy of all of them."""
        from scipy.linalg.blas import dsyrk

        n = len(rows)
        gram, along = np.zeros((n, n), order="F"), np.zeros(n)
        step = max(256, CHUNK_BYTES // (8 * n))
        with capped(n):
            for start in range(0, rows.shape[1], step):
                part = slice(start, start + step)
                z = np.subtract(as_float(rows[:, part]), shift[part], dtype=np.float64)
                # z.T is Fortran-ordered as it lies: no copy, and the result grows in place
                gram = dsyrk(1.0, z.T, beta=1.0, c=gram, trans=1, lower=1, overwrite_c=1)
                along += z @ shift[part]
        mirror(gram)
        return cls(gram, along, float(shift @ shift))

    def take(self, rows: np.ndarray) -> Kernel:
        """Rows and columns of some items."""
        return Kernel(self.gram[np.ix_(rows, rows)], self.along[rows], self.shift_square)

    def centered(self) -> np.ndarray:
        """(N, N) inner products of centered rows."""
        means = self.gram.mean(axis=0)
        inner = self.gram - means
        inner -= means[:, None]
        inner += means.mean()
        return np.asarray(inner)


def from_kernel(kernel: Kernel, labels: Labels, width: int, device: str | None = None) -> tuple[Spectrum, np.ndarray]:
    """The N × N side: the spectrum and U (N, k). Cost: one eigendecomposition of N × N."""
    n = len(labels)
    inner = kernel.centered()
    norm4 = float((np.diagonal(inner) ** 2).sum())
    values, u = _eigh(inner, device)
    root = np.sqrt(values)
    columns = labels.block(slice(None))
    label_mean = columns.mean(axis=0)
    centered = columns - label_mean
    response = root[:, None] * (u.T @ centered)
    # Xc·mean from inner products alone: mean = shift + delta
    delta_along = kernel.gram.mean(axis=0)
    with_mean = kernel.along + delta_along
    with_mean = with_mean - with_mean.mean()
    offset = np.zeros(n)
    np.divide(np.sqrt(n) * (u.T @ with_mean), root, out=offset, where=root > 0)
    square = n * (kernel.shift_square + 2 * kernel.along.mean() + delta_along.mean())

    spectrum = Spectrum(
        count=n,
        width=width,
        values=values,
        response=response,
        offset=offset,
        offset_outside=float(np.sqrt(max(square - float(offset @ offset), 0.0))),
        label_mean=label_mean,
        label_square=np.einsum("it,it->t", centered, centered),
        label_counts=columns.sum(axis=0),
        norm4=norm4,
    )
    return spectrum, u


def mirror(lower: np.ndarray) -> None:
    """Fill the upper triangle from the lower one, in place."""
    for start in range(0, len(lower), 256):
        part = slice(start, start + 256)
        square = lower[part, part]
        square[:] = np.tril(square) + np.tril(square, -1).T
        lower[part, start + 256 :] = lower[start + 256 :, part].T


def _eigh(lower: np.ndarray, device: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (ascending, noise set to 0) and vectors; destroys ``lower``."""
    from scipy.linalg import eigh

    order = len(lower)
    if device is not None:
        values, vectors = on_device(lower, device)
    else:
        with capped(order):
            values, vectors = eigh(lower, lower=True, driver="evd", overwrite_a=True, check_finite=False)
    noise = max(values[-1], 0.0) * order * np.finfo(np.float64).eps
    return np.where(values > noise, values, 0.0), vectors
