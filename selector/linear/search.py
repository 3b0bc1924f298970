"""The penalty that held-out rows prefer, without solving every one of a grid to the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from selector.linear.logistic import Logistic, Solved

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
