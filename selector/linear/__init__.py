"""Linear heads, solved rather than trained: L2 logistic and ridge regression.

The probe proxy and the heads that fine-tuning starts from share one solver. Rows are standardized
and rotated into the eigenbasis of their correlation matrix (fewer rows than columns shrink to N coordinates at no loss;
no label is looked at). There the curvature of the loss is nearly diagonal, so a limited-memory quasi-Newton method that starts from this diagonal
(``quasi_newton``) needs few steps on the logistic problems (``logistic``), whose penalty held-out
rows choose (``best_strength``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from selector.core.contracts import LabelKind
from selector.core.errors import ProxyError
from selector.features.arrays import CHUNK_BYTES, as_rows
from selector.features.spectrum import mirror
from selector.features.threads import capped
from selector.linear.logistic import Logistic, Solved, label_log_likelihood, log_likelihood


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


__all__ = [
    "STRENGTHS",
    "Basis",
    "LinearHead",
    "Logistic",
    "Solved",
    "best_strength",
    "label_log_likelihood",
    "log_likelihood",
    "solve_head",
    "standardize",
]


_TOLERANCE = 1e-6  # predicted decrease of the loss, nats a row


@dataclass(frozen=True)
class LinearHead:
    """A linear probe on raw features: outputs are ``features @ weight.T + bias``.

    Attributes:
        weight: (K, D) float32; ``bias``: (K,) float32.
        strength: the inverse penalty C that the validation rows chose, in scikit-learn's sense on
            standardized features (for real values: of ridge regression).
        val_log_loss: of the validation rows, nats a row (multi-label: a label; real: half the mean
            squared error).
    """

    weight: np.ndarray
    bias: np.ndarray
    strength: float
    val_log_loss: float


def solve_head(
    train_rows: Any,
    train_labels: object,
    val_rows: Any,
    val_labels: object,
    num_outputs: int,
    *,
    label_kind: LabelKind = LabelKind.CLASSES,
    strengths: Sequence[float] | None = None,
    weights: np.ndarray | None = None,
    val_weights: np.ndarray | None = None,
) -> LinearHead:
    """Fit a head on the training rows, with the penalty that the validation rows prefer.

    Args:
        train_rows: (N, D) raw features, any scale; constant columns are ignored.
        train_labels: (N,) ints 0..K-1, (N, K) of 0 and 1, or (N,) / (N, K) floats; of the last two an entry may be
            NaN: unknown, and not fitted.
        val_rows, val_labels: likewise; they choose the strength and are not fitted.
        num_outputs: K. Classes absent from the training rows get a very low, finite output.
        strengths: inverse penalties C to try; ``STRENGTHS`` / D when not given. Without validation rows the
            smallest is taken.
        weights, val_weights: (N,) and (V,) how much each row counts (classes and several labels); 1 when not given.
    Raises:
        ProxyError: features or labels are not usable.
    Cost: O(N·D·min(N, D)) and some forty products N × D × K.
    """
    x, v = as_rows(train_rows, "train_rows"), as_rows(val_rows, "val_rows") if len(val_rows) > 1 else None
    basis = standardize(x)
    grid = [s / x.shape[1] for s in STRENGTHS] if strengths is None else sorted(strengths)
    z = basis.own
    zv = z[:0] if v is None else basis.coordinates(v)
    targets = _TARGETS.get(label_kind)
    if targets is None:
        return _solve_ridge(basis, z, train_labels, zv, val_labels, num_outputs, grid)
    labels = targets(_checked_length(train_labels, len(x)), num_outputs)
    val_targets = labels.like(val_labels, len(zv))
    rows = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64) * (len(x) / weights.sum())
    problem = Logistic(z, basis.curvature, labels.targets, rows[None], labels.loss)

    def held_out(solution: np.ndarray) -> np.ndarray:
        found = np.asarray(log_likelihood(zv, solution, val_targets, labels.loss)[0])
        return found if val_weights is None else found * (val_weights / val_weights.mean())

    if len(zv):
        solved, found = best_strength(problem, grid, held_out, _TOLERANCE)
        loss = -float(np.nanmean(found))
    else:
        solved, loss = problem.solve(grid[0], _TOLERANCE), 0.0
    strength, solution = solved.strength, solved.solution[:, 0]
    weight, bias = basis.raw(solution)
    weight, bias = labels.spread(weight, bias, x, num_outputs)
    return LinearHead(weight.astype(np.float32), bias.astype(np.float32), strength, loss)


@dataclass(frozen=True)
class _Targets:
    """Training labels as the solver wants them, with classes that do not occur taken out."""

    targets: np.ndarray  # codes (N,) or 0/1 (N, L)
    present: np.ndarray  # output numbers that the solver sees
    loss: str
    outputs: int

    @classmethod
    def of_columns(cls, array: np.ndarray, outputs: int) -> _Targets:
        if array.ndim != 2 or array.shape[1] != outputs:
            raise ProxyError(f"multi-label labels must have the shape (N, {outputs}). Got {array.shape}.")
        return cls(array.astype(np.float32), np.arange(outputs), "sigmoid", outputs)

    @classmethod
    def of_classes(cls, array: np.ndarray, outputs: int) -> _Targets:
        array = array.astype(np.int64).reshape(len(array))
        if len(array) and not (array.min() >= 0 and array.max() < outputs):
            raise ProxyError(f"class labels must lie in 0..{outputs - 1}. Got {array.min()}..{array.max()}.")
        present, codes = np.unique(array, return_inverse=True)
        return cls(codes, present, "softmax", outputs)

    def like(self, labels: object, count: int) -> np.ndarray:
        """Validation labels in the solver's numbering; -1 for classes absent from training."""
        array = np.asarray(labels)[:count]
        if self.loss == "sigmoid":
            return array.astype(np.float32).reshape(count, self.outputs)
        number = np.full(self.outputs, -1)
        number[self.present] = np.arange(len(self.present))
        return np.asarray(number[array.astype(np.int64).reshape(count)])

    def spread(
        self, weight: np.ndarray, bias: np.ndarray, rows: np.ndarray, outputs: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """(K, D) and (K,) with a low output for absent classes."""
        if len(self.present) == outputs:
            return weight, bias
        sample = rows[:: max(1, len(rows) // 2000)].astype(np.float64)
        lowest = float((sample @ weight.T + bias).min())
        full_weight, full_bias = np.zeros((outputs, weight.shape[1])), np.full(outputs, lowest - np.log(len(rows) + 1))
        full_weight[self.present], full_bias[self.present] = weight, bias
        return full_weight, full_bias


_TARGETS = {LabelKind.CLASSES: _Targets.of_classes, LabelKind.MULTILABEL: _Targets.of_columns}
"""Kinds of labels that a logistic loss is for; others are regressed on."""


def _checked_length(labels: object, count: int) -> np.ndarray:
    array = np.asarray(labels)
    if len(array) != count:
        raise ProxyError(f"features and labels must have equal lengths. Got {count} rows and {len(array)} labels.")
    return array


def _solve_ridge(
    basis: Basis, z: np.ndarray, labels: Any, zv: np.ndarray, val_labels: object, outputs: int, grid: Sequence[float]
) -> LinearHead:
    y = np.asarray(labels, dtype=np.float64).reshape(len(z), -1)
    if y.shape[1] != outputs:
        raise ProxyError(f"real labels must have the shape (N, {outputs}). Got {np.shape(labels)}.")
    yv = np.asarray(val_labels, dtype=np.float64)[: len(zv)].reshape(len(zv), outputs)
    known = ~np.isnan(y)
    if not known.any(axis=0).all():
        raise ProxyError(f"real column {int(np.argmin(known.any(axis=0)))} is unknown for all training rows.")
    mean, scale = np.nanmean(y, axis=0), np.maximum(np.nanstd(y, axis=0), 1e-12)
    wide, target, wanted = z[:, :-1].astype(np.float64), (y - mean) / scale, (yv - mean) / scale
    # columns that are known for the same rows are solved together, about the mean of those rows
    patterns, member = np.unique(known, axis=1, return_inverse=True)
    problems = []
    for number, rows in enumerate(patterns.T):
        columns = np.flatnonzero(member.ravel() == number)
        center = wide[rows].mean(axis=0)
        centered = wide[rows] - center
        problems.append((columns, center, centered.T @ centered, centered.T @ target[np.ix_(rows, columns)]))
    best: tuple[float, float, np.ndarray] | None = None
    for strength in grid:
        solution = np.zeros((len(basis.curvature), outputs))
        for columns, center, gram, cross in problems:
            solution[:-1, columns] = np.linalg.solve(gram + np.eye(len(gram)) / strength, cross)
            solution[-1, columns] = -center @ solution[:-1, columns]
        loss = 0.5 * float(np.nanmean((zv @ solution - wanted) ** 2)) if np.isfinite(wanted).any() else 0.0
        if best is None or loss < best[0]:
            best = (loss, strength, solution)
    assert best is not None
    weight, bias = basis.raw(best[2] * scale)
    return LinearHead(weight.astype(np.float32), (bias + mean).astype(np.float32), best[1], best[0])


STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0)
"""Grid of C·D: inverse penalties in scikit-learn's sense, times the number of features, so that the
same grid suits narrow and wide features."""

_COARSE = 1e-3
"""Tolerance at which strengths are compared, nats a row; of the objective's value where that is large."""
_COARSE_SHARE = 5e-3
_MARGIN = 0.1
"""A strength whose coarse value is worse by this share is out: coarse values are wrong by about that,
and all of them towards the early-stopped side."""


def best_strength(
    problems: Logistic, strengths: Sequence[float], held_out: Callable[[np.ndarray], np.ndarray], tolerance: float
) -> tuple[Solved, np.ndarray]:
    """The solutions at the strength with the highest mean held-out log-likelihood, and those likelihoods.

    The grid is walked upwards from its second strength, every one warm-started from the one before and
    solved coarsely, until one is clearly worse than the best: weaker penalties overfit further, and take
    longest. The strongest penalty is looked at only when the second won: the way to it from nothing is
    as long as to the second, and few sets want it. What is within a tenth of the best is then solved to
    the tolerance and compared again. Held-out rows choose; they never start a solution.

    Args:
        problems: fitted rows.
        strengths: C, ascending.
        held_out: log-likelihoods of held-out rows under solutions (k + 1, problems, outputs), nats, ≤ 0.
        tolerance: of the final solutions, nats a row.
    Cost: some ten evaluations of loss and gradient for the walk, three to ten for the solutions.
    """
    first = min(1, len(strengths) - 1)

    def value(solution: np.ndarray) -> float:
        return float(held_out(solution).mean())

    walked = _walk(problems, strengths[first:], value, tolerance)
    if max(walked, key=lambda pair: pair[1]) is walked[0]:
        below = (problems.solve(s, max(_COARSE, tolerance), walked[0][0].solution) for s in strengths[:first])
        walked += [(solved, value(solved.solution)) for solved in below]
    return _refined(problems, walked, held_out, tolerance)


def _walk(
    problems: Logistic, strengths: Sequence[float], value: Callable[[np.ndarray], float], tolerance: float
) -> list[tuple[Solved, float]]:
    walked: list[tuple[Solved, float]] = []
    near: Solved | None = None
    previous: np.ndarray | None = None
    coarse = _COARSE
    for strength in strengths:
        # solutions move evenly along a path of even ratios: going on as before halves the steps
        start = None if near is None else near.solution if previous is None else 2 * near.solution - previous
        previous = None if near is None else near.solution
        near = problems.solve(strength, max(coarse, tolerance), start, near)
        coarse = max(_COARSE, _COARSE_SHARE * near.objective)
        walked.append((near, value(near.solution)))
        if walked[-1][1] < (1 + _MARGIN) * max(found for _, found in walked):
            break
    return walked


def _refined(
    problems: Logistic,
    walked: Sequence[tuple[Solved, float]],
    held_out: Callable[[np.ndarray], np.ndarray],
    tolerance: float,
) -> tuple[Solved, np.ndarray]:
    best: tuple[Solved, np.ndarray] | None = None
    for coarse, rough in sorted(walked, key=lambda pair: -pair[1]):
        if best is not None and rough < (1 + _MARGIN) * best[1].mean():
            break
        # stale curvature promises too small a decrease: one step must be looked at before it is believed
        solved = problems.solve(coarse.strength, tolerance, coarse.solution, coarse, least_steps=1)
        found = solved, held_out(solved.solution)
        if best is None or found[1].mean() > best[1].mean():
            best = found
    assert best is not None
    return best
