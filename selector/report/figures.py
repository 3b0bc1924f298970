"""The report's figures: each a function from a ranking to a picture, or None without its data.

To add one, write such a function and name it in ``FIGURES``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from selector.report.svg import Axis, bottom_axis, element, left_axis, picture
from selector.report.view import final_measurements
from selector.results import ModelResult, Ranking

WIDTH = 600.0
MOST_ROWS = 40
MOST_LABELS = 12


@dataclass(frozen=True)
class Figure:
    """A picture with what it shows and how to read it."""

    key: str
    title: str
    caption: str
    svg: Markup


def figures(ranking: Ranking) -> list[Figure]:
    """Every figure that this ranking has the data for, in reading order."""
    return [figure for make in FIGURES if (figure := make(ranking)) is not None]


def intervals(ranking: Ranking) -> Figure | None:
    """Evidence with its 90 % interval, one line a model, the highest first."""
    models = [m for m in ranking if m.evidence is not None and m.status == "ok"]
    if len(models) < 2:
        return None
    shown = sorted(models, key=lambda m: -(m.evidence or 0.0))[:MOST_ROWS]
    ends = [v for m in shown for v in (m.evidence, m.evidence_low, m.evidence_high) if v is not None]
    left, row, top = 236.0, 22.0, 8.0
    bottom = top + row * len(shown)
    axis = Axis.over([*ends, 0.0], left, WIDTH - 12)
    parts = bottom_axis(axis, top, bottom, "evidence (predicted; 0 is chance, 1 is perfect)")
    for i, m in enumerate(shown):
        y, value = top + row * (i + 0.5), m.evidence or 0.0
        kind = "tied" if m.tied else "predicted"
        told = f"{m.name}: {value:.3f}"
        parts.append(element("text", _short(m.name), x=left - 8, y=y + 4, class_="name", text_anchor="end"))
        if m.evidence_low is not None and m.evidence_high is not None:
            told += f", 90 % interval {m.evidence_low:.3f} to {m.evidence_high:.3f}"
            parts.append(
                element("line", x1=axis(m.evidence_low), x2=axis(m.evidence_high), y1=y, y2=y, class_=f"whisker {kind}")
            )
        parts.append(
            element("circle", element("title", told), cx=axis(value), cy=y, r=4.5, class_=f"dot {kind}", tabindex=0)
        )
    rest = f" The {len(models) - len(shown)} models below are left out." if len(models) > len(shown) else ""
    return Figure(
        "intervals",
        "How sure the order is",
        "Evidence of each model with its 90 % interval: how far other images of the same kind could move it, not how "
        f"well proxies predict fine-tuning. Filled dots cannot be told apart from the first.{rest}",
        picture(WIDTH, bottom + 46, "Evidence of each model with its 90 % interval", *parts),
    )


def predicted_against_measured(ranking: Ranking) -> Figure | None:
    """Evidence against the best measured value, one dot a measured model."""
    points = [
        _Point(m.name, m.evidence, measured.val_value, measured.metric)
        for m in ranking
        if m.evidence is not None and (measured := m.best_measurement()) is not None
    ]
    if len(points) < 2:
        return None
    metric = points[0].metric
    return Figure(
        "agreement",
        "Predicted against measured",
        "Dots that rise from left to right: what the proxies predicted is what fine-tuning found.",
        _scatter(points, "evidence (predicted)", f"{metric} on validation (measured)", "measured"),
    )


def history(ranking: Ranking) -> Figure | None:
    """Validation value by rung, one line a contestant."""
    lines: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for model in ranking:
        for m in model.measurements:
            if m.status == "ok" and not math.isnan(m.val_value):
                lines.setdefault((model.name, m.strategy), []).append((m.rung, m.val_value))
    best = {key: _best_a_rung(points) for key, points in lines.items()}
    rungs = sorted({rung for points in best.values() for rung, _ in points})
    if len(rungs) < 2:
        return None
    x = Axis(rungs[0] - 0.2, rungs[-1] + 0.2, 60, 390)
    y = Axis.over([value for points in best.values() for _, value in points], 300, 30)
    parts = left_axis(y, 60, 390, "value on validation (measured)")
    for rung in rungs:
        parts.append(element("text", f"rung {rung + 1}", x=x(rung), y=318, class_="tick", text_anchor="middle"))
    for (name, strategy), points in best.items():
        told = f"{name}, {strategy}: " + ", ".join(f"{value:.3f}" for _, value in points)
        path = " ".join(f"{x(rung):.1f},{y(value):.1f}" for rung, value in points)
        parts.append(element("polyline", points=path, class_="path"))
        parts += [
            element("circle", element("title", told), cx=x(rung), cy=y(value), r=4.0, class_="dot measured", tabindex=0)
            for rung, value in points
        ]
        last, value = points[-1]
        parts.append(element("text", _short(f"{name} {strategy}"), x=x(last) + 10, y=y(value) + 4, class_="name"))
    return Figure(
        "history",
        "How the confirmation went",
        "Every rung trains the contestants that are left for longer; a line that ends early was behind.",
        picture(WIDTH, 336, "Validation value by rung of the confirmation", *parts),
    )


def cost_front(ranking: Ranking) -> Figure | None:
    """Parameters against the best that is known of a model, with the front of best trade-offs."""
    measured = [
        _Point(m.name, float(m.num_parameters), best.val_value, best.metric)
        for m in ranking
        if m.num_parameters and (best := m.best_measurement()) is not None
    ]
    predicted = [
        _Point(m.name, float(m.num_parameters), m.evidence)
        for m in ranking
        if m.num_parameters and m.evidence is not None and m.status == "ok"
    ]
    points, title, kind = predicted, "evidence (predicted)", "predicted"
    if len(measured) >= 3:
        points, title, kind = measured, f"{measured[0].metric} on validation (measured)", "measured"
    if len(points) < 3:
        return None
    return Figure(
        "cost",
        "What a better model costs",
        "The line joins the models that no smaller or equal one beats; those below it are larger without being better.",
        _scatter(points, "parameters", title, kind, log=True, front=pareto([(p.x, p.y) for p in points])),
    )


FIGURES: Sequence[Callable[[Ranking], Figure | None]] = (
    intervals,
    predicted_against_measured,
    history,
    cost_front,
)


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


@dataclass(frozen=True)
class _Point:
    name: str
    x: float
    y: float
    metric: str = ""


def _scatter(
    points: Sequence[_Point],
    x_title: str,
    y_title: str,
    kind: str,
    *,
    log: bool = False,
    front: Sequence[tuple[float, float]] = (),
) -> Markup:
    x = Axis.over([p.x for p in points], 60, 420, log=log)
    y = Axis.over([p.y for p in points], 320, 34)
    parts = bottom_axis(x, 34, 320, x_title, "count" if log else "g") + left_axis(y, 60, 420, y_title)
    if front:
        corners = [front[0]]
        for (_, before), (cost, value) in itertools.pairwise(front):
            corners += [(cost, before), (cost, value)]
        corners.append((x.high, front[-1][1]))  # nothing larger is better than the last
        parts.append(element("polyline", points=" ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in corners), class_="front"))
    labelled = (
        {p.name for p in points} if len(points) <= MOST_LABELS else {p.name for p in points if (p.x, p.y) in front}
    )
    taken: list[tuple[float, float]] = []
    for p in sorted(points, key=lambda p: -p.y):
        told = f"{p.name}: {p.x:,.4g}, {p.y:.3f}"
        at_x, at_y = x(p.x), y(p.y)
        parts.append(
            element("circle", element("title", told), cx=at_x, cy=at_y, r=5.0, class_=f"dot {kind}", tabindex=0)
        )
        if p.name in labelled:
            label_y = at_y - 6
            while any(abs(label_y - other) < 13 and abs(at_x - there) < 160 for there, other in taken):
                label_y += 13  # labels of neighbours would lie on each other
            taken.append((at_x, label_y))
            parts.append(element("text", _short(p.name), x=at_x + 7, y=label_y, class_="name"))
    return picture(WIDTH, 366, f"{y_title} against {x_title}", *parts)


def _best_a_rung(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    best: dict[int, float] = {}
    for rung, value in points:
        best[rung] = max(value, best.get(rung, -math.inf))
    return sorted(best.items())


def _short(name: str, most: int = 34) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def measured_models(ranking: Ranking) -> list[ModelResult]:
    """Models with at least one measurement."""
    return [model for model in ranking if final_measurements(model)]
