"""Linear heads, solved rather than trained: L2 logistic and ridge regression.

The probe proxy and the heads that fine-tuning starts from share one solver. Rows are standardized
and rotated into the eigenbasis of their correlation matrix (``basis``). There the curvature of the
loss is nearly diagonal, so a limited-memory quasi-Newton method that starts from this diagonal
(``quasi_newton``) needs few steps on the logistic problems (``logistic``), whose penalty held-out
rows choose (``best_strength``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from selector.core.contracts import LabelKind
from selector.core.errors import ProxyError
from selector.features.arrays import as_rows
from selector.linear.basis import Basis, standardize
from selector.linear.logistic import Logistic, Solved, label_log_likelihood, log_likelihood

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
    train_labels: Any,
    val_rows: Any,
    val_labels: Any,
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

    def like(self, labels: Any, count: int) -> np.ndarray:
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


def _checked_length(labels: Any, count: int) -> np.ndarray:
    array = np.asarray(labels)
    if len(array) != count:
        raise ProxyError(f"features and labels must have equal lengths. Got {count} rows and {len(array)} labels.")
    return array


def _solve_ridge(
    basis: Basis, z: np.ndarray, labels: Any, zv: np.ndarray, val_labels: Any, outputs: int, grid: Sequence[float]
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
    problems: Logistic,
    strengths: Sequence[float],
    held_out: Callable[[np.ndarray], np.ndarray],
    tolerance: float,
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
