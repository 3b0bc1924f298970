"""Limited-memory BFGS of several smooth convex problems in lockstep, each with its own step length.

Working on all problems at once lets them share the large products behind their gradients. Every
array has the shape (k, problems, outputs); problems never mix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

MAX_STEPS = 200
_HISTORY = 6
_SLACK = 1e-6  # of the value: single precision cannot see smaller decreases

Function = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(points (k, F', outputs), numbers of the F' problems) -> values (F',) in float64 and gradients."""


@dataclass(frozen=True)
class Pair:
    """What one step taught about the curvature: its change of the gradient."""

    step: np.ndarray
    change: np.ndarray
    inverse: np.ndarray  # (problems,) 1 / their product, 0 where the pair is of no use

    @classmethod
    def of(cls, step: np.ndarray, change: np.ndarray) -> Pair:
        """The pair, switched off for problems that did not move or see no curvature."""
        product = dot(step, change)
        curved = product > 1e-8 * np.sqrt(dot(step, step) * dot(change, change))
        return cls(step, change, np.where(curved, 1 / np.where(curved, product, 1), 0).astype(np.float32))

    def at_ridge(self, added: np.ndarray) -> Pair:
        """The same step under another penalty: it is quadratic, so what was learned still holds."""
        return Pair.of(self.step, self.change + added[:, None, None] * self.step)


@dataclass(frozen=True)
class Point:
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
    memory: list[Pair]
    steps: int


def minimize(
    function: Function,
    start: Point,
    diagonal: np.ndarray,
    tolerance: np.ndarray,
    memory: Sequence[Pair] = (),
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
        history.append(Pair.of(new.solution - point.solution, new.gradient - point.gradient))
        del history[:-_HISTORY]
        point = new
        final[:, stuck] = point.solution[:, stuck]
        active = np.setdiff1d(active, stuck)
    final[:, active] = point.solution[:, active]
    return Minimum(final, point.value, history, steps)


def _search(
    function: Function, point: Point, direction: np.ndarray, slope: np.ndarray, active: np.ndarray
) -> tuple[Point, np.ndarray]:
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


def _direction(gradient: np.ndarray, diagonal: np.ndarray, history: Sequence[Pair]) -> np.ndarray:
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
