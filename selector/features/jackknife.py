"""What a ridge solution becomes when a block of rows goes, from the one eigendecomposition with them.

With the rows in the eigenbasis of all, Z (N, k) and ZᵀZ = diag(S), what is left of the centered rows after a block B of
b rows has the scatter S - Z_BᵀQZ_B, Q = I + 11ᵀ/(N - b), and by Woodbury's identity

    (S + λI - Z_BᵀQZ_B)⁻¹ = R + RZ_Bᵀ G⁻¹ Z_BR,   R = (S + λI)⁻¹,   G = I - 11ᵀ/N - Z_BRZ_Bᵀ

so a decomposition of b × b takes the place of another one of k × k. Nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from selector.features.arrays import as_float
from selector.features.threads import capped, each

if TYPE_CHECKING:
    from selector.features.feature_set import FeatureSet

_SMALL = 160  # directions up to which ten decompositions take a few milliseconds each


class Deletions:
    """The blocks of a feature set, each of which can go.

    Attributes:
        spectrum: of all rows; of its directions those with a positive eigenvalue.
        rows: float64 (N, k) centered rows in these directions.
        labels: float64 (N, T) label columns about their means.
        is_classes: whether they are the columns of classes.
    """

    def __init__(self, features: FeatureSet) -> None:
        spectrum, directions = features.spectrum, features.directions
        self.live = np.flatnonzero(spectrum.values > 0)
        self.spectrum = spectrum
        self.values = spectrum.values[self.live]
        if features.uses_kernel:
            self.rows = directions[:, self.live] * np.sqrt(self.values)
        else:
            basis = directions[:, self.live]
            with capped(features.width):
                self.rows = np.concatenate(
                    [
                        np.subtract(as_float(chunk), features.mean, dtype=np.float64) @ basis
                        for _, chunk in features.chunks()
                    ]
                )
        self.labels = features.label_data.block(slice(None)) - spectrum.label_mean
        self.is_classes = features.label_data.columns is None
        self._blocks = features.blocks

    def without(self, block: int) -> Deletion:
        """What is left when a block goes."""
        return Deletion(self, np.flatnonzero(self._blocks == block))

    @cached_property
    def lengths(self) -> np.ndarray:
        """(N,) ‖z‖² of every row."""
        return np.asarray(np.einsum("ij,ij->i", self.rows, self.rows))


def deletions(features: FeatureSet) -> Deletions | None:
    """Those of a whole feature set with every label known; None where blocks are better left out by decompositions of
    their own: these take no time, or blocks are larger than half of the directions, and their own matrices take as long.
    Shared by all proxies. Memory: N·k float64."""
    if min(len(features), features.width) < _SMALL:
        return None
    if not features.is_whole or features.label_data.known is not None:
        return None
    largest = int(np.bincount(features.blocks).max())
    if 2 * largest > min(len(features), features.width) or len(features.block_ids) < 2:
        return None
    return features.shared("deletions", lambda: Deletions(features))


def without_blocks(features: FeatureSet, value: Callable[[Sequence[Deletion]], float]) -> np.ndarray | None:
    """(blocks,) what ``value`` makes of each deletion, one for every part of complete rows; None where blocks are better
    left out by decompositions of their own, or where hardly any penalty leaves an inverse that cannot be trusted."""
    every = [
        deletions(part) if np.array_equal(part.block_ids, features.block_ids) else None
        for part in features.complete_parts()
    ]
    sets = [one for one in every if one is not None]
    if len(sets) < len(every):
        return None
    try:
        return np.array(each(lambda block: value([one.without(block) for one in sets]), features.block_ids.tolist()))
    except np.linalg.LinAlgError:
        return None


@dataclass(frozen=True)
class Ridge:
    """(S + λI)⁻¹ with and without the block.

    Attributes:
        inverse: (k,) R.
        rows: (b, k) Z_BR.
        factor: Cholesky factor of G, as scipy's ``cho_factor`` gives it.
    """

    inverse: np.ndarray
    rows: np.ndarray
    factor: tuple[np.ndarray, bool]

    def solve(self, right: np.ndarray) -> np.ndarray:
        """(S + λI - Z_BᵀQZ_B)⁻¹ right, (k, T)."""
        return np.asarray(self.inverse[:, None] * right + self.rows.T @ self.of_block(self.rows @ right))

    def quadratic(self, right: np.ndarray) -> np.ndarray:
        """(T,) rightᵀ (S + λI - Z_BᵀQZ_B)⁻¹ right of each column."""
        along = self.rows @ right
        return np.asarray(self.inverse @ right**2 + np.einsum("bt,bt->t", along, self.of_block(along)))

    @property
    def trace(self) -> float:
        """Of (S + λI - Z_BᵀQZ_B)⁻¹."""
        square = gram(self.rows)
        return float(self.inverse.sum() + np.trace(self.of_block(square)))

    def of_block(self, right: np.ndarray) -> np.ndarray:
        """G⁻¹ right, (b, T)."""
        from scipy.linalg import cho_solve

        return np.asarray(cho_solve(self.factor, right, check_finite=False))


class Deletion:
    """What is left of rows and labels without a block.

    Attributes:
        every: the rows that it is taken from.
        count: rows left.
        rows: (b, k) of the block, ``labels``: (b, T), about the means of all rows.
        response: (k, T) centered cross products of rows and labels.
        label_square: (T,) squares of the centered labels; ``label_counts``: (T,) sums of the labels as they are.
    """

    def __init__(self, every: Deletions, block: np.ndarray) -> None:
        self.every, self._block = every, block
        self.rows = every.rows[block]
        self.labels = labels = every.labels[block]
        self.count = len(every.rows) - len(block)
        rest = -labels.sum(axis=0) / self.count  # mean of the labels left, about that of all
        spectrum = every.spectrum
        self.response = spectrum.response[every.live] - self.rows.T @ (labels - rest)
        self.label_square = spectrum.label_square - (labels**2).sum(axis=0) - self.count * rest**2
        self.label_counts = spectrum.label_counts - labels.sum(axis=0) - len(block) * spectrum.label_mean
        self._mean = -self.rows.sum(axis=0) / self.count  # of the rows left, about that of all

    @property
    def trace(self) -> float:
        """Σ‖x - mean‖² of the rows left."""
        every = self.every
        return float(
            every.values.sum() - every.lengths[self._block].sum() - self.count * float(self._mean @ self._mean)
        )

    @property
    def square(self) -> float:
        """Squared Frobenius norm of the scatter left."""
        values = self.every.values
        gone = np.vstack([self.rows, np.sqrt(self.count) * self._mean])
        return float(values @ values - 2 * (gone**2 @ values).sum() + (gram(gone) ** 2).sum())

    @property
    def norm4(self) -> float:
        """Σ‖x - mean‖⁴ of the rows left."""
        every, mean = self.every, self._mean
        squares = every.lengths - 2 * every.rows @ mean + float(mean @ mean)
        squares[self._block] = 0
        return float(squares @ squares)

    def ridge(self, penalty: float) -> Ridge:
        """The inverse at a penalty λ > 0.

        Raises:
            LinAlgError: the penalty is too small for what is left.
        """
        from scipy.linalg import cho_factor

        inverse = 1 / (self.every.values + penalty)
        core = -gram(self.rows * np.sqrt(inverse)) - 1 / len(self.every.rows)
        core[np.diag_indices_from(core)] += 1
        with capped(len(core)):
            factor = cho_factor(core, lower=True, overwrite_a=True, check_finite=False)
        return Ridge(inverse, self.rows * inverse, factor)


def gram(rows: np.ndarray) -> np.ndarray:
    """(b, b) inner products of rows float64 (b, k)."""
    from scipy.linalg.blas import dsyrk

    with capped(len(rows)):
        lower = np.asarray(dsyrk(1.0, np.ascontiguousarray(rows).T, trans=1, lower=1))
    return np.asarray(lower + np.tril(lower, -1).T)


def grouped(penalties: np.ndarray, most: int) -> Sequence[tuple[float, np.ndarray]]:
    """Columns of near penalties together: (their geometric mean, numbers of the columns), at most so many groups."""
    logs = np.log(penalties)
    low, high = logs.min(), logs.max()
    bins = np.zeros(len(logs), int) if high - low < 1e-9 else ((logs - low) / (high - low) * most).astype(int)
    bins = np.minimum(bins, most - 1)
    groups = [np.flatnonzero(bins == number) for number in np.unique(bins)]
    return [(float(np.exp(logs[columns].mean())), columns) for columns in groups]
