"""Linear heads, solved rather than trained: L2 logistic and ridge regression.

The probe proxy and the heads that fine-tuning starts from share one solver. Rows are standardised
and rotated into the eigenbasis of their correlation matrix. There the curvature of the loss is
nearly diagonal, so a limited-memory quasi-Newton method that starts from this diagonal needs few
steps, and fewer rows than columns shrink the problem to N coordinates at no loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from selector.contracts import LabelKind
from selector.errors import ProxyError
from selector.features.arrays import as_rows
from selector.features.labels import Labels, check_labels
from selector.features.threads import capped

STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0)
"""Grid of C·D: inverse penalties in scikit-learn's sense, times the number of features, so that the
same grid suits narrow and wide features."""

_HISTORY = 6
_MAX_STEPS = 200
_CHUNK_CELLS = 2**21  # cells of the (rows, problems, outputs) arrays worked on together


# ---------------------------------------------------------------------------- heads


@dataclass(frozen=True)
class LinearHead:
    """A solved head on raw features: outputs are ``features @ weight.T + bias``.

    Attributes:
        weight: (K, D) float32; ``bias``: (K,) float32.
        strength: the inverse penalty C that the validation rows chose, in scikit-learn's sense on
            standardised features (for real values: of ridge regression).
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
    class_weight: Sequence[float] | np.ndarray | None = None,
    strengths: Sequence[float] | None = None,
    seed: int = 0,
) -> LinearHead:
    """Fit a head on the training rows, with the penalty that the validation rows prefer.

    Args:
        train_rows: (N, D) raw features, any scale; constant columns are ignored.
        train_labels: (N,) ints 0..K-1, (N, K) of 0 and 1, or (N,) / (N, K) floats.
        val_rows, val_labels: likewise; they choose the strength and are not fitted.
        num_outputs: K. Classes absent from the training rows get a very low, finite output.
        class_weight: (K,) weights of the classes in the loss.
        strengths: inverse penalties C to try; ``STRENGTHS`` / D when not given.
        seed: unused by the solver, which has no randomness; kept for strategies that pass theirs.
    Raises:
        ProxyError: features or labels are not usable.
    Cost: O(N·D·min(N, D)) and about ten products N × D × K a strength.
    """
    del seed
    x, v = as_rows(train_rows, "train_rows"), as_rows(val_rows, "val_rows") if len(val_rows) > 1 else None
    basis = standardise(x)
    grid = [s / x.shape[1] for s in STRENGTHS] if strengths is None else sorted(strengths)
    z = basis.coordinates(x)
    zv = z[:0] if v is None else basis.coordinates(v)
    if label_kind is LabelKind.REAL:
        return _solve_ridge(basis, z, train_labels, zv, val_labels, num_outputs, grid)
    labels = _Targets.of(train_labels, len(x), num_outputs, label_kind)
    val_targets = labels.like(val_labels, len(zv))
    weights = np.ones((1, len(x)))
    if class_weight is not None:
        weights = weights * labels.row_weights(np.asarray(class_weight, dtype=np.float64))
    best: tuple[float, float, np.ndarray] | None = None
    for point in logistic_path(z, basis.curvature, labels.targets, weights, grid, labels.loss):
        loss = float(-log_likelihood(zv, point.solution, val_targets, labels.loss)[0].mean()) if len(zv) else 0.0
        if best is None or loss < best[0]:
            best = (loss, point.strength, point.solution[:, 0])
        elif loss > best[0] * 1.02:
            break  # weaker penalties overfit further, and take longest
    assert best is not None
    loss, strength, solution = best
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
    def of(cls, labels: Any, count: int, outputs: int, kind: LabelKind) -> _Targets:
        array = np.asarray(labels)
        if len(array) != count:
            raise ProxyError(f"features and labels must have equal lengths. Got {count} rows and {len(array)} labels.")
        if kind is LabelKind.MULTILABEL:
            if array.ndim != 2 or array.shape[1] != outputs:
                raise ProxyError(f"multi-label labels must have the shape (N, {outputs}). Got {array.shape}.")
            return cls(array.astype(np.float32), np.arange(outputs), "sigmoid", outputs)
        array = array.astype(np.int64).reshape(count)
        if count and not (array.min() >= 0 and array.max() < outputs):
            raise ProxyError(f"class labels must lie in 0..{outputs - 1}. Got {array.min()}..{array.max()}.")
        present, codes = np.unique(array, return_inverse=True)
        return cls(codes, present, "softmax", outputs)

    def like(self, labels: Any, count: int) -> np.ndarray:
        """Validation labels in the solver's numbering; -1 for classes absent from training."""
        array = np.asarray(labels)[:count]
        if self.loss == "sigmoid":
            return array.astype(np.float32).reshape(count, -1)
        number = np.full(self.outputs, -1)
        number[self.present] = np.arange(len(self.present))
        return np.asarray(number[array.astype(np.int64).reshape(count)])

    def row_weights(self, class_weight: np.ndarray) -> np.ndarray:
        if self.loss == "sigmoid":
            return np.ones(len(self.targets))
        return np.asarray(class_weight[self.present][self.targets])

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


def _solve_ridge(
    basis: Basis, z: np.ndarray, labels: Any, zv: np.ndarray, val_labels: Any, outputs: int, grid: Sequence[float]
) -> LinearHead:
    y = np.asarray(labels, dtype=np.float64).reshape(len(z), -1)
    yv = np.asarray(val_labels, dtype=np.float64)[: len(zv)].reshape(len(zv), -1)
    if y.shape[1] != outputs:
        raise ProxyError(f"real labels must have the shape (N, {outputs}). Got {np.shape(labels)}.")
    mean, scale = y.mean(axis=0), np.maximum(y.std(axis=0), 1e-12)
    wide = z[:, :-1].astype(np.float64)
    gram, cross = wide.T @ wide, wide.T @ ((y - mean) / scale)
    best: tuple[float, float, np.ndarray] | None = None
    for strength in grid:
        penalised = gram + np.eye(len(gram)) / strength
        solution = np.vstack([np.linalg.solve(penalised, cross), np.zeros(outputs)])
        loss = 0.5 * float(((zv @ solution - (yv - mean) / scale) ** 2).mean()) if len(zv) else 0.0
        if best is None or loss < best[0]:
            best = (loss, strength, solution)
    assert best is not None
    weight, bias = basis.raw(best[2] * scale)
    return LinearHead(weight.astype(np.float32), (bias + mean).astype(np.float32), best[1], best[0])


# ---------------------------------------------------------------------------- coordinates


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
        step = max(256, 2**22 // rows.shape[1])
        for start in range(0, len(rows), step):
            chunk = np.asarray(rows[start : start + step])
            standard = (np.subtract(chunk, self.mean, dtype=np.float64) * self.scale).astype(np.float32)
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
    step = max(256, 2**22 // d)
    square = np.zeros(d)
    for start in range(0, n, step):
        square += (np.subtract(rows[start : start + step], mean, dtype=np.float64) ** 2).sum(axis=0)
    deviation = np.sqrt(square / n)
    # rounding leaves a constant column with a deviation of some units in the last place of its value
    live = deviation > 1e-6 * np.abs(mean)
    live &= deviation > 0
    if not live.any():
        raise ProxyError("the features are constant: every column has one value only.")
    scale = np.zeros(d)
    scale[live] = 1 / deviation[live]

    def standard(start: int, stop: int) -> np.ndarray:
        return np.asarray((np.subtract(rows[start:stop], mean, dtype=np.float64) * scale).astype(np.float32))

    order = min(n, d)
    with capped(order):
        if d <= n:
            gram = np.zeros((d, d), dtype=np.float32)
            for start in range(0, n, step):
                z = standard(start, start + step)
                gram += z.T @ z
            values, vectors = eigh(gram, driver="evd", overwrite_a=True, check_finite=False)
        else:
            z = standard(0, n)
            values, u = eigh((z @ z.T).astype(np.float64), driver="evd", overwrite_a=True, check_finite=False)
            kept = values > values[-1] * n * 1e-7
            values = values[kept]
            vectors = z.T @ (u[:, kept] / np.sqrt(values)).astype(np.float32)
    values = np.maximum(values, 0)
    return Basis(mean, scale, np.ascontiguousarray(vectors, dtype=np.float32), np.append(values, n))


# ---------------------------------------------------------------------------- the solver


@dataclass(frozen=True)
class PathPoint:
    """Solutions of all problems at one strength: (k + 1, problems, outputs) float32."""

    strength: float
    solution: np.ndarray
    steps: int


def logistic_path(
    z: np.ndarray,
    curvature: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    strengths: Sequence[float],
    loss: str = "softmax",
    tolerance: float = 1e-6,
    start: np.ndarray | None = None,
) -> Iterator[PathPoint]:
    """L2 logistic regressions along a path of strengths, several at once, each warm-started.

    Minimises Σ_i weight_i · loss_i + ‖W‖² / (2C), the intercept free. Problems differ in the
    weights of the rows: 0 holds a row out, so that the folds of a cross-validation share products.

    Args:
        z: float32 (N, k + 1) of ``Basis.coordinates``; the last column is ones.
        curvature: (k + 1,) sums of squares of its columns.
        targets: codes (N,) for softmax, 0/1 (N, L) for sigmoid.
        weights: (F, N) row weights of each problem.
        strengths: C, ascending.
        loss: ``softmax`` or ``sigmoid``.
        tolerance: on the predicted decrease of the objective, nats a row.
        start: (k + 1, F, outputs) to begin from; the class shares when not given. It must not have
            seen rows that a problem holds out.
    Yields:
        One point a strength.
    """
    outputs = int(targets.max()) + 1 if loss == "softmax" else targets.shape[1]
    problems = len(weights)
    sizes = weights.sum(axis=1)
    rates = _rates(targets, weights, outputs, loss)
    solution: np.ndarray = np.zeros((z.shape[1], problems, outputs), dtype=np.float32)
    if start is not None:
        solution[:] = start
    else:
        solution[-1] = np.log(rates) - (
            np.log1p(-rates) if loss == "sigmoid" else np.log(rates).mean(axis=1, keepdims=True)
        )
    objective = _Objective(z, targets, weights.astype(np.float32), loss)
    share = sizes / len(z)
    spread = rates * (1 - rates) if start is None else objective.spread(solution) / sizes[:, None]
    memory: list[_Pair] = []
    last_ridge: np.ndarray | None = None
    previous: np.ndarray | None = None
    for strength in strengths:
        # two classes are one logit for scikit-learn, whose penalty then counts once, not twice
        penalty = (2.0 if loss == "softmax" and outputs == 2 else 1.0) / strength
        ridge = np.full(z.shape[1], penalty, dtype=np.float32)
        ridge[-1] = 0
        if last_ridge is not None:
            # the penalty is quadratic, so what was learned of the curvature holds at the new one
            memory = [pair.at_ridge(ridge - last_ridge) for pair in memory]
            spread = objective.spread(solution) / sizes[:, None]
        diagonal = curvature[:, None, None] * share[:, None] * np.maximum(spread, 1e-6) + ridge[:, None, None]
        # solutions move evenly along a path of even ratios: going on as before halves the steps
        guess = solution if previous is None else 2 * solution - previous
        previous = solution
        solution, steps, memory = _minimise(
            objective, guess, ridge, diagonal.astype(np.float32), tolerance * sizes, memory
        )
        last_ridge = ridge
        yield PathPoint(strength, solution, steps)


def log_likelihood(z: np.ndarray, solution: np.ndarray, targets: np.ndarray, loss: str = "softmax") -> np.ndarray:
    """float64 (problems, N) of the rows under solutions (k + 1, problems, outputs).

    Classes that the solution does not know (-1) count as half a row of training would.
    """
    problems, outputs = solution.shape[1:]
    result = np.empty((problems, len(z)))
    step = max(16, _CHUNK_CELLS // (problems * outputs))
    flat = solution.reshape(len(solution), -1)
    for start in range(0, len(z), step):
        chunk = z[start : start + step]
        logits = (chunk @ flat).reshape(len(chunk), problems, outputs)
        _, values = (
            _softmax(logits, targets[start : start + step])
            if loss == "softmax"
            else _sigmoid(logits, targets[start : start + step])
        )
        result[:, start : start + step] = values.T
    return result


def _rates(targets: np.ndarray, weights: np.ndarray, outputs: int, loss: str) -> np.ndarray:
    """(problems, outputs) share of each output, kept away from 0 and 1."""
    if loss == "softmax":
        counts = np.stack([np.bincount(targets, weights=w, minlength=outputs) for w in weights])
    else:
        counts = weights @ targets
    sizes = weights.sum(axis=1, keepdims=True)
    return np.asarray((counts + 0.5) / (sizes + (0.5 * outputs if loss == "softmax" else 1.0)))


class _Objective:
    """Loss and gradient of all problems, in chunks of rows."""

    def __init__(self, z: np.ndarray, targets: np.ndarray, weights: np.ndarray, loss: str) -> None:
        self.z, self.targets, self.loss = z, targets, loss
        self.weights = np.ascontiguousarray(weights.T)  # (N, F)

    def __call__(self, solution: np.ndarray, problems: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Σ weight·loss (F',) in float64 and its gradient (k + 1, F', outputs), of some problems."""
        width, count, outputs = solution.shape
        gradient = np.zeros_like(solution)
        value = np.zeros(count)
        weights = self.weights if count == self.weights.shape[1] else self.weights[:, problems]
        step = max(64, _CHUNK_CELLS // (count * outputs))
        flat: np.ndarray = np.empty(0)
        live: np.ndarray = np.zeros(count, dtype=bool)
        for start in range(0, len(self.z), step):
            z = self.z[start : start + step]
            now = np.asarray(weights[start : start + step].any(axis=0))
            if not now.any():
                continue
            if (now != live).any():  # rows sorted by fold spare the products of the problem that holds them out
                live = now
                flat = np.ascontiguousarray(solution[:, live]).reshape(width, -1)
            w = weights[start : start + step, live]
            logits = (z @ flat).reshape(len(z), -1, outputs)
            targets = self.targets[start : start + step]
            if self.loss == "softmax":
                residual, likelihood = _softmax(logits, targets)
                residual[np.arange(len(z)), :, targets] -= 1
            else:
                residual, likelihood = _sigmoid(logits, targets, mean=False)
                residual -= targets[:, None, :]
            residual *= w[:, :, None]
            value[live] -= (likelihood * w).sum(axis=0)
            gradient[:, live] += (z.T @ residual.reshape(len(z), -1)).reshape(width, -1, outputs)
        return value, gradient

    def spread(self, solution: np.ndarray) -> np.ndarray:
        """(problems, outputs) Σ weight·p(1 - p): the scale of the curvature."""
        width, count, outputs = solution.shape
        flat = np.ascontiguousarray(solution).reshape(width, -1)
        total = np.zeros((count, outputs))
        # a tenth of the rows tells a scale well enough
        rows = np.arange(0, len(self.z), 10) if len(self.z) >= 2000 else np.arange(len(self.z))
        step = max(64, _CHUNK_CELLS // (count * outputs))
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            logits = (self.z[some] @ flat).reshape(len(some), count, outputs)
            p = (_softmax if self.loss == "softmax" else _sigmoid)(logits, self.targets[some])[0]
            total += np.einsum("nfc,nf->fc", p - p * p, self.weights[some])
        return total * (len(self.z) / len(rows))


def _softmax(logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, in place, and the log-likelihood float64 (n, problems) of the targets."""
    logits -= logits.max(axis=2, keepdims=True)
    own = logits[np.arange(len(logits)), :, targets].astype(np.float64)
    np.exp(logits, out=logits)
    total = logits.sum(axis=2, keepdims=True)
    logits /= total
    likelihood = own - np.log(total[:, :, 0].astype(np.float64))
    return logits, likelihood


def _sigmoid(logits: np.ndarray, targets: np.ndarray, mean: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and the log-likelihood (n, problems), a mean or a sum over the labels."""
    signed = np.where(targets[:, None, :] > 0, logits, -logits)
    losses = -np.logaddexp(0, -signed)
    likelihood = losses.mean(axis=2, dtype=np.float64) if mean else losses.sum(axis=2, dtype=np.float64)
    return 1 / (1 + np.exp(-logits)), likelihood


@dataclass(frozen=True)
class _Pair:
    """What one step taught about the curvature: its change of the gradient."""

    step: np.ndarray
    change: np.ndarray
    inverse: np.ndarray  # (problems,) 1 / their product, 0 where the pair is of no use

    @classmethod
    def of(cls, step: np.ndarray, change: np.ndarray) -> _Pair:
        product = _dot(step, change)
        curved = product > 1e-8 * np.sqrt(_dot(step, step) * _dot(change, change))
        return cls(step, change, np.where(curved, 1 / np.where(curved, product, 1), 0).astype(np.float32))

    def at_ridge(self, added: np.ndarray) -> _Pair:
        """The same step under another penalty."""
        return _Pair.of(self.step, self.change + added[:, None, None] * self.step)


def _minimise(
    objective: _Objective,
    solution: np.ndarray,
    ridge: np.ndarray,
    diagonal: np.ndarray,
    tolerance: np.ndarray,
    memory: Sequence[_Pair] = (),
) -> tuple[np.ndarray, int, list[_Pair]]:
    """Limited-memory BFGS of several problems in lockstep, each with its own step length.

    It starts from the inverse of ``diagonal`` instead of the identity. A problem stops when the
    decrease that its next step promises falls below its tolerance.
    """
    problems = np.arange(solution.shape[1])
    penalty = ridge[:, None, None]
    history = list(memory)

    def at(point: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value, gradient = objective(point, which)
        return value + 0.5 * _dot(point, penalty * point), gradient + penalty * point

    value, gradient = at(solution, problems)
    active = problems
    for steps in range(1, _MAX_STEPS + 1):
        direction = _direction(gradient, diagonal, history)
        slope = _dot(direction, gradient)
        active = active[-0.5 * slope[active] > tolerance[active]]
        if not len(active):
            return solution, steps, history
        length = np.zeros(len(problems), dtype=np.float32)
        length[active] = 1
        new, new_value, new_gradient = solution.copy(), value.copy(), gradient.copy()
        trying = active
        for _ in range(20):
            new[:, trying] = solution[:, trying] + length[trying, None] * direction[:, trying]
            new_value[trying], new_gradient[:, trying] = at(new[:, trying], trying)
            # single precision cannot see smaller decreases than this
            slack = 1e-6 * np.abs(value[trying])
            trying = trying[~(new_value[trying] <= value[trying] + 1e-4 * length[trying] * slope[trying] + slack)]
            if not len(trying):
                break
            length[trying] /= 3
        if len(trying):  # no descent is left within the precision
            new[:, trying], new_gradient[:, trying] = solution[:, trying], gradient[:, trying]
            new_value[trying] = value[trying]
            active = np.setdiff1d(active, trying)
        history.append(_Pair.of(new - solution, new_gradient - gradient))
        del history[:-_HISTORY]
        solution, value, gradient = new, new_value, new_gradient
    return solution, _MAX_STEPS, history


def _direction(gradient: np.ndarray, diagonal: np.ndarray, history: Sequence[_Pair]) -> np.ndarray:
    """The quasi-Newton step -Hg by the two-loop recursion."""
    q = gradient.copy()
    factors = []
    for pair in reversed(history):
        factor = (pair.inverse * _dot(pair.step, q)).astype(np.float32)
        q -= factor[:, None] * pair.change
        factors.append(factor)
    scale = np.ones(q.shape[1])
    if history:
        last = history[-1]
        square = _dot(last.change, last.change / diagonal)
        used = (last.inverse > 0) & (square > 0)
        scale[used] = 1 / (last.inverse[used] * square[used])
    q *= scale[:, None].astype(np.float32)
    q /= diagonal
    for pair, factor in zip(history, reversed(factors), strict=True):
        back = (pair.inverse * _dot(pair.change, q)).astype(np.float32)
        q += (factor - back)[:, None] * pair.step
    return -q


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(problems,) inner products over coordinates and outputs."""
    return np.asarray(np.einsum("kfc,kfc->f", a, b), dtype=np.float64)


__all__ = [
    "STRENGTHS",
    "Basis",
    "Labels",
    "LinearHead",
    "PathPoint",
    "check_labels",
    "log_likelihood",
    "logistic_path",
    "solve_head",
    "standardise",
]
