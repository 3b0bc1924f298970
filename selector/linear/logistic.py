"""L2 logistic regressions on ``Basis`` coordinates, several at once.

Minimized is Σ_i weight_i · loss_i + ‖W‖² / (2C), the intercept free. Problems differ in the weights
of the rows: 0 holds a row out, so that the folds of a cross-validation share products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

MAX_STEPS = 200
_HISTORY = 6
_SLACK = 1e-6  # of the value: single precision cannot see smaller decreases

Function = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(points (k, F', outputs), numbers of the F' problems) -> values (F',) in float64 and gradients."""


@dataclass(frozen=True)
class CurvaturePair:
    """What one step taught about the curvature: its change of the gradient."""

    step: np.ndarray
    change: np.ndarray
    inverse: np.ndarray  # (problems,) 1 / their product, 0 where the pair is of no use

    @classmethod
    def of(cls, step: np.ndarray, change: np.ndarray) -> CurvaturePair:
        """The pair, switched off for problems that did not move or see no curvature."""
        product = dot(step, change)
        curved = product > 1e-8 * np.sqrt(dot(step, step) * dot(change, change))
        return cls(step, change, np.where(curved, 1 / np.where(curved, product, 1), 0).astype(np.float32))

    def at_ridge(self, added: np.ndarray) -> CurvaturePair:
        """The same step under another penalty: it is quadratic, so what was learned still holds."""
        return CurvaturePair.of(self.step, self.change + added[:, None, None] * self.step)


@dataclass(frozen=True)
class SearchPoint:
    """Where the problems are.

    Attributes:
        solution: (k, problems, outputs) float32.
        value: (problems,) float64; ``gradient``: like the solution.
    """

    solution: np.ndarray
    value: np.ndarray
    gradient: np.ndarray


@dataclass(frozen=True)
class Minimum:
    """The solutions, the values one step before them, and the pairs that a similar problem can start from."""

    solution: np.ndarray
    value: np.ndarray
    memory: list[CurvaturePair]
    steps: int


def minimize(
    function: Function,
    start: SearchPoint,
    diagonal: np.ndarray,
    tolerance: np.ndarray,
    memory: Sequence[CurvaturePair] = (),
    least_steps: int = 0,
) -> Minimum:
    """Minimize all problems.

    Args:
        function: value and gradient.
        start: where to begin, evaluated already.
        diagonal: (k, problems, outputs) curvature that the inverse Hessian starts from.
        tolerance: (problems,) a problem stops when the decrease that its next step promises falls
            below this. That step is still taken, unseen: it is the better guess.
        memory: pairs of a similar problem.
        least_steps: the tolerance is not looked at before.
    Cost: one call of ``function`` a step, for the problems that still move.
    """
    point, history = start, list(memory)
    active = np.arange(len(start.value))
    final = start.solution.copy()
    for steps in range(MAX_STEPS + 1):
        direction = _direction(point.gradient, diagonal, history)
        slope = dot(direction, point.gradient)
        done = active[-0.5 * slope[active] <= (tolerance[active] if steps >= least_steps else 0.0)]
        final[:, done] = point.solution[:, done] + direction[:, done]
        active = np.setdiff1d(active, done)
        if not len(active) or steps == MAX_STEPS:
            break
        new, stuck = _search(function, point, direction, slope, active)
        history.append(CurvaturePair.of(new.solution - point.solution, new.gradient - point.gradient))
        del history[:-_HISTORY]
        point = new
        final[:, stuck] = point.solution[:, stuck]
        active = np.setdiff1d(active, stuck)
    final[:, active] = point.solution[:, active]
    return Minimum(final, point.value, history, steps)


def _search(
    function: Function, point: SearchPoint, direction: np.ndarray, slope: np.ndarray, active: np.ndarray
) -> tuple[SearchPoint, np.ndarray]:
    """A point that is lower for the active problems, and those for which none was found."""
    new = replace(point, solution=point.solution.copy(), value=point.value.copy(), gradient=point.gradient.copy())
    length = np.ones(len(point.value))
    trying = active
    for _ in range(20):
        new.solution[:, trying] = (
            point.solution[:, trying] + length[trying, None].astype(np.float32) * direction[:, trying]
        )
        new.value[trying], new.gradient[:, trying] = function(new.solution[:, trying], trying)
        rise = new.value - point.value - 1e-4 * length * slope
        high = ~(rise[trying] <= _SLACK * np.abs(point.value[trying]))
        trying = trying[high]
        if not len(trying):
            return new, trying
        # the parabola through both values and the slope has its minimum here
        curve = new.value[trying] - point.value[trying] - length[trying] * slope[trying]
        best = -0.5 * slope[trying] * length[trying] ** 2 / np.maximum(curve, 1e-30)
        length[trying] = np.clip(np.nan_to_num(best), 0.1 * length[trying], 0.5 * length[trying])
    for part, old in ((new.solution, point.solution), (new.gradient, point.gradient)):
        part[:, trying] = old[:, trying]
    new.value[trying] = point.value[trying]
    return new, trying


def _direction(gradient: np.ndarray, diagonal: np.ndarray, history: Sequence[CurvaturePair]) -> np.ndarray:
    """The quasi-Newton step -Hg by the two-loop recursion."""
    q = gradient.copy()
    factors = []
    for pair in reversed(history):
        factor = (pair.inverse * dot(pair.step, q)).astype(np.float32)
        q -= factor[:, None] * pair.change
        factors.append(factor)
    scale = np.ones(q.shape[1])
    if history:
        last = history[-1]
        square = dot(last.change, last.change / diagonal)
        used = (last.inverse > 0) & (square > 0)
        scale[used] = 1 / (last.inverse[used] * square[used])
    q *= scale[:, None].astype(np.float32)
    q /= diagonal
    for pair, factor in zip(history, reversed(factors), strict=True):
        back = (pair.inverse * dot(pair.change, q)).astype(np.float32)
        q += (factor - back)[:, None] * pair.step
    return -q


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(problems,) inner products over coordinates and outputs."""
    return np.asarray(np.einsum("kfc,kfc->f", a, b), dtype=np.float64)


_CHUNK_CELLS = 2**19  # cells of the (rows, problems, outputs) arrays worked on together: they stay in the cache


@dataclass(frozen=True)
class Solved:
    """Solutions of all problems at one strength.

    Attributes:
        strength: C.
        solution: (k + 1, problems, outputs) float32.
        objective: mean over the problems, nats a row.
        steps: of the solver.
        memory: what they taught about the curvature at this penalty.
    """

    strength: float
    solution: np.ndarray
    objective: float = 0.0
    steps: int = 0
    memory: tuple[CurvaturePair, ...] = ()


class Logistic:
    """All problems of one set of rows.

    Args:
        z: float32 (N, k + 1) of ``Basis.coordinates``; the last column is ones.
        curvature: (k + 1,) sums of squares of its columns.
        targets: codes (N,) for softmax, 0/1 (N, L) for sigmoid.
        weights: (F, N) row weights of each problem.
        loss: ``softmax`` or ``sigmoid``; with sigmoid a target may be NaN: unknown, and of no weight.
    """

    def __init__(
        self, z: np.ndarray, curvature: np.ndarray, targets: np.ndarray, weights: np.ndarray, loss: str = "softmax"
    ) -> None:
        self.z, self.curvature, self.targets, self.loss = z, curvature, targets, loss
        self.outputs = int(targets.max()) + 1 if loss == "softmax" else targets.shape[1]
        self.sizes = weights.sum(axis=1)
        self._rates = _rates(targets, weights, self.outputs, loss)
        self._groups = _groups(weights)

    def start(self) -> np.ndarray:
        """(k + 1, F, outputs) of solutions that know the shares of the classes only."""
        solution: np.ndarray = np.zeros((self.z.shape[1], *self._rates.shape), dtype=np.float32)
        log = np.log(self._rates)
        solution[-1] = log - (np.log1p(-self._rates) if self.loss == "sigmoid" else log.mean(axis=1, keepdims=True))
        return solution

    def solve(
        self,
        strength: float,
        tolerance: float,
        start: np.ndarray | None = None,
        near: Solved | None = None,
        *,
        least_steps: int = 0,
    ) -> Solved:
        """The solutions at one strength.

        Args:
            strength: C.
            tolerance: on the predicted decrease of the objective, nats a row.
            start: (k + 1, F, outputs) to begin from; the class shares when not given. It must not
                have seen rows that a problem holds out.
            near: of these problems at another strength, or coarser at this one; its curvature is learned from.
            least_steps: so many are taken before a promise is believed.
        """
        ridge = self._ridge(strength)
        penalty = ridge[:, None, None]
        spread = self._rates * (1 - self._rates) if start is None else self.spread(start) / self.sizes[:, None]
        share = self.sizes / len(self.z)
        diagonal = self.curvature[:, None, None] * share[:, None] * np.maximum(spread, 1e-6) + penalty

        def function(point: np.ndarray, problems: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            value, gradient = self.loss_and_gradient(point, problems)
            return value + 0.5 * dot(point, penalty * point), gradient + penalty * point

        begin, everyone = (self.start() if start is None else start), np.arange(len(self.sizes))
        # nothing but intercepts: no penalty yet, and the gradient is a table of class sums
        first = self._at_start(begin) if start is None else function(begin, everyone)
        memory = [] if near is None else [pair.at_ridge(ridge - self._ridge(near.strength)) for pair in near.memory]
        found: Minimum = minimize(
            function,
            SearchPoint(begin, *first),
            diagonal.astype(np.float32),
            tolerance * self.sizes,
            memory,
            least_steps,
        )
        objective = float((found.value / self.sizes).mean())
        return Solved(strength, found.solution, objective, found.steps, tuple(found.memory))

    def _ridge(self, strength: float) -> np.ndarray:
        # two classes are one logit for scikit-learn, whose penalty then counts once, not twice
        penalty = (2.0 if self.loss == "softmax" and self.outputs == 2 else 1.0) / strength
        ridge = np.full(self.z.shape[1], penalty, dtype=np.float32)
        ridge[-1] = 0
        return ridge

    def loss_and_gradient(self, solution: np.ndarray, problems: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Σ weight·loss (F',) in float64 and its gradient (k + 1, F', outputs), of some problems."""
        width, count, outputs = solution.shape
        gradient = np.zeros_like(solution)
        value = np.zeros(count)
        for group in self._groups:
            live = np.flatnonzero(group.live[problems])
            if not len(live):
                continue
            flat = np.ascontiguousarray(solution[:, live]).reshape(width, -1)
            total = np.zeros_like(flat.T, order="C")
            step = max(64, _CHUNK_CELLS // flat.shape[1])
            for part in group.chunks(step):
                z, targets = self.z[part], self.targets[part]
                logits = (z @ flat).reshape(len(z), -1, outputs)
                if self.loss == "softmax":
                    residual, likelihood = _softmax(logits, targets)
                    residual[np.arange(len(z)), :, targets] -= 1
                else:
                    residual, losses = _sigmoid(logits, targets)
                    residual -= targets[:, None, :]
                    np.nan_to_num(residual, copy=False)
                    likelihood = np.asarray(np.nansum(losses, axis=2, dtype=np.float64))
                weights = group.weights_of(problems[live], part)
                if weights is None:
                    value[live] -= likelihood.sum(axis=0)
                else:
                    residual *= weights[:, :, None]
                    value[live] -= (likelihood * weights).sum(axis=0)
                total += residual.reshape(len(z), -1).T @ z  # faster than zᵀ times few columns
            gradient[:, live] += total.T.reshape(width, -1, outputs)
        return value, gradient

    def _at_start(self, solution: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``loss_and_gradient`` of solutions with intercepts only: one product for all problems."""
        logits = solution[-1][None].copy()  # (1, F, outputs)
        if self.loss == "sigmoid" or any(group.weights is not None for group in self._groups):
            return self.loss_and_gradient(solution, np.arange(len(self.sizes)))
        log_p = logits[0] - np.log(np.exp(logits[0]).sum(axis=1, keepdims=True))
        gradient = np.zeros_like(solution)
        value = np.zeros(len(self.sizes))
        for group in self._groups:
            sums: np.ndarray = np.zeros((self.z.shape[1], self.outputs), dtype=np.float32)
            counts = np.bincount(self.targets[group.rows], minlength=self.outputs)
            for part in group.chunks(4096):
                z = self.z[part]
                one_hot: np.ndarray = np.zeros((len(z), self.outputs), dtype=np.float32)
                one_hot[np.arange(len(z)), self.targets[part]] = 1
                sums += z.T @ one_hot
            for problem in np.flatnonzero(group.live):
                gradient[:, problem] += np.outer(sums.sum(axis=1), np.exp(log_p[problem])) - sums
                value[problem] -= float(counts @ log_p[problem])
        return value, gradient

    def spread(self, solution: np.ndarray) -> np.ndarray:
        """(problems, outputs) Σ weight·p(1 - p): the scale of the curvature."""
        width, _, outputs = solution.shape
        total = np.zeros(solution.shape[1:])
        # a tenth of the rows tells a scale well enough
        every = 10 if len(self.z) >= 2000 else 1
        for group in self._groups:
            live = np.flatnonzero(group.live)
            rows = group.rows[::every]
            if not len(rows):
                continue
            logits = (self.z[rows] @ solution[:, live].reshape(width, -1)).reshape(len(rows), -1, outputs)
            p = (_softmax if self.loss == "softmax" else _sigmoid)(logits, self.targets[rows])[0]
            p -= p * p
            if self.loss == "sigmoid":
                p[np.broadcast_to(np.isnan(self.targets[rows])[:, None, :], p.shape)] = 0
            weights = group.weights_of(live, rows)
            kept = p.sum(axis=0) if weights is None else np.einsum("nfc,nf->fc", p, weights)
            total[live] += kept * (len(group.rows) / len(rows))
        return total


def log_likelihood(z: np.ndarray, solution: np.ndarray, targets: np.ndarray, loss: str = "softmax") -> np.ndarray:
    """float64 (problems, N) of the rows under solutions (k + 1, problems, outputs).

    Classes that the solution does not know (-1) count as half a row of training would; of several labels
    the mean over those that are known.
    """
    if loss == "sigmoid":
        each = label_log_likelihood(z, solution, targets)
        known = (~np.isnan(each)).sum(axis=2)
        return np.where(known > 0, np.nansum(each, axis=2) / np.maximum(known, 1), np.nan)
    problems, outputs = solution.shape[1:]
    result = np.empty((problems, len(z)))
    for part, logits in _logits(z, solution, problems * outputs):
        result[:, part] = _softmax(logits, targets[part])[1].T
    return result


def label_log_likelihood(z: np.ndarray, solution: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """float64 (problems, N, L) of every label under solutions (k + 1, problems, L); NaN where it is unknown."""
    problems, outputs = solution.shape[1:]
    result = np.empty((problems, len(z), outputs))
    for part, logits in _logits(z, solution, problems * outputs):
        result[:, part] = _sigmoid(logits, targets[part])[1].transpose(1, 0, 2)
    return result


def _logits(z: np.ndarray, solution: np.ndarray, cells: int) -> Iterator[tuple[slice, np.ndarray]]:
    step = max(64, _CHUNK_CELLS // cells)
    flat = solution.reshape(len(solution), -1)
    for start in range(0, len(z), step):
        part = slice(start, start + step)
        chunk = z[part]
        yield part, (chunk @ flat).reshape(len(chunk), *solution.shape[1:])


@dataclass(frozen=True)
class _Group:
    """Rows that the same problems see: the others are spared their products."""

    rows: np.ndarray  # ascending
    live: np.ndarray  # (F,) which problems
    weights: np.ndarray | None  # (F, N) float32; None where all of these rows weigh 1

    def chunks(self, size: int) -> Iterator[slice | np.ndarray]:
        first, last = self.rows[0], self.rows[-1]
        dense = last - first + 1 == len(self.rows)
        for start in range(0, len(self.rows), size):
            stop = min(start + size, len(self.rows))
            yield slice(first + start, first + stop) if dense else self.rows[start:stop]

    def weights_of(self, problems: np.ndarray, rows: slice | np.ndarray) -> np.ndarray | None:
        """(n, problems)."""
        return None if self.weights is None else self.weights[problems][:, rows].T


def _groups(weights: np.ndarray) -> list[_Group]:
    patterns, member = np.unique(weights > 0, axis=1, return_inverse=True)
    member = member.ravel()
    single = weights.astype(np.float32)
    groups = []
    for number, live in enumerate(patterns.T):
        rows = np.flatnonzero(member == number)
        if live.any():
            ones = bool((weights[np.ix_(live, rows)] == 1).all())
            groups.append(_Group(rows, live, None if ones else single))
    return groups


def _rates(targets: np.ndarray, weights: np.ndarray, outputs: int, loss: str) -> np.ndarray:
    """(problems, outputs) share of each output, kept away from 0 and 1."""
    if loss == "softmax":
        counts = np.stack([np.bincount(targets, weights=w, minlength=outputs) for w in weights])
    else:
        counts = weights @ np.nan_to_num(targets)
        return np.asarray((counts + 0.5) / (weights @ ~np.isnan(targets) + 1.0))
    sizes = weights.sum(axis=1, keepdims=True)
    return np.asarray((counts + 0.5) / (sizes + 0.5 * outputs))


def _softmax(logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, in place, and the log-likelihood float64 (n, problems) of the targets."""
    logits -= logits.max(axis=2, keepdims=True)
    own = logits[np.arange(len(logits)), :, targets].astype(np.float64)
    np.exp(logits, out=logits)
    total = logits.sum(axis=2, keepdims=True)
    logits /= total
    likelihood = own - np.log(total[:, :, 0].astype(np.float64))
    return logits, likelihood


def _sigmoid(logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and the log-likelihood (n, problems, L) of the labels, NaN where they are unknown."""
    from scipy.special import expit

    signed = np.where(targets[:, None, :] > 0, logits, -logits)
    losses = -np.logaddexp(0, -signed)
    losses[np.broadcast_to(np.isnan(targets)[:, None, :], losses.shape)] = np.nan
    return expit(logits), losses
