"""The numbers behind the figures, apart from how they are drawn (SVG here, matplotlib in plot.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from selector.results import Ranking

Kind = Literal["measured", "predicted"]


@dataclass(frozen=True)
class IntervalRow:
    """Evidence of one model with its 90 % interval (None where none was computed)."""

    name: str
    value: float
    low: float | None
    high: float | None
    tied: bool


@dataclass(frozen=True)
class Point:
    """One model in a plane."""

    name: str
    x: float
    y: float


@dataclass(frozen=True)
class Plane:
    """Models in a plane; ``front`` are those of the points that no other one beats, if that has a meaning."""

    x_title: str
    y_title: str
    kind: Kind
    points: tuple[Point, ...]
    front: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Course:
    """How one contestant did in each rung: (rung from 1, value on validation), by rung."""

    name: str
    strategy: str
    points: tuple[tuple[int, float], ...]


def interval_rows(ranking: Ranking) -> list[IntervalRow]:
    """Finished models with evidence, the highest first."""
    rows = [
        IntervalRow(m.name, m.evidence, m.evidence_low, m.evidence_high, m.tied)
        for m in ranking
        if m.evidence is not None and m.status == "ok"
    ]
    return sorted(rows, key=lambda row: -row.value)


def agreement_plane(ranking: Ranking) -> Plane | None:
    """Evidence against the best measured value; None with fewer than two measured models."""
    points, metric = [], ""
    for m in ranking:
        best = m.best_measurement()
        if m.evidence is not None and best is not None:
            points.append(Point(m.name, m.evidence, best.val_value))
            metric = best.metric
    if len(points) < 2:
        return None
    return Plane("evidence (predicted)", f"{metric} on validation (measured)", "measured", tuple(points))


def courses(ranking: Ranking) -> list[Course]:
    """The best value of each contestant in each rung; empty when there was one rung only."""
    best: dict[tuple[str, str], dict[int, float]] = {}
    for entry in ranking.confirmation.get("history", ()):
        value, rung = entry.get("value"), entry.get("rung")
        if entry.get("status") == "ok" and value is not None and rung is not None:
            rungs = best.setdefault((str(entry["model"]), str(entry["strategy"])), {})
            rungs[int(rung)] = max(float(value), rungs.get(int(rung), -math.inf))
    if len({rung for rungs in best.values() for rung in rungs}) < 2:
        return []
    return [Course(name, strategy, tuple(sorted(rungs.items()))) for (name, strategy), rungs in best.items()]


def cost_plane(ranking: Ranking) -> Plane | None:
    """Parameters against what was measured, or predicted while fewer than three models are measured."""
    sized = [m for m in ranking if m.num_parameters and m.status == "ok"]
    measured = [
        (Point(m.name, float(m.num_parameters or 0), best.val_value), best.metric)
        for m in sized
        if (best := m.best_measurement()) is not None
    ]
    if len(measured) >= 3:
        points, title = [point for point, _ in measured], f"{measured[0][1]} on validation (measured)"
        kind: Kind = "measured"
    else:
        points = [Point(m.name, float(m.num_parameters or 0), m.evidence) for m in sized if m.evidence is not None]
        title, kind = "evidence (predicted)", "predicted"
    if len(points) < 3:
        return None
    return Plane("parameters", title, kind, tuple(points), tuple(pareto([(p.x, p.y) for p in points])))


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other point beats in both (smaller cost, higher value), by rising cost.

    >>> pareto([(1, 0.5), (2, 0.4), (3, 0.9)])
    [(1, 0.5), (3, 0.9)]
    """
    front: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda p: (p[0], -p[1])):
        if not front or value > front[-1][1]:
            front.append((cost, value))
    return front


def steps(front: Sequence[tuple[float, float]], end: float) -> list[tuple[float, float]]:
    """The corners of a front as a staircase that goes on flat until ``end``.

    >>> steps([(1, 0.5), (3, 0.9)], 5)
    [(1, 0.5), (3, 0.5), (3, 0.9), (5, 0.9)]
    """
    corners = list(front[:1])
    for cost, value in front[1:]:
        corners += [(cost, corners[-1][1]), (cost, value)]
    return [*corners, (end, corners[-1][1])] if corners else []
