"""The report's figures as inline SVG: each a function from a ranking, or None without its data.

To add one, write such a function and name it in ``FIGURES``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from selector.report.error_analysis import error_analysis
from selector.report.series import (
    COST_AXES,
    CostAxis,
    Curve,
    Plane,
    agreement_plane,
    cost_planes,
    interval_rows,
    layer_curves,
    loss_curves,
    rank_table,
    steps,
    tuning_curves,
)
from selector.report.svg import Axis, bottom_axis, element, left_axis, picture, written
from selector.results import StoredRanking

WIDTH = 600.0
MOST_ROWS = 40
MOST_LABELS = 12
FEWEST_DOTS = 3  # of a scatter plot: two always rise or fall
MOST_VALUES = 4  # real values that are drawn
PANEL = 366.0  # height of a scatter plot
LINE = 13.0  # from one label to the next


@dataclass(frozen=True)
class Figure:
    """An image with what it shows and how to read it."""

    key: str
    title: str
    caption: str
    svg: Markup


def figures(ranking: StoredRanking) -> list[Figure]:
    """Every figure that this ranking has the data for, in reading order."""
    return [figure for make in FIGURES if (figure := make(ranking)) is not None]


def intervals(ranking: StoredRanking) -> Figure | None:
    """Transferability with its 90% interval, one line per model, the highest first."""
    rows = interval_rows(ranking)
    if len(rows) < 2 or all(row.low is None for row in rows):
        return None  # without intervals it would say that the order is sure
    shown = rows[:MOST_ROWS]
    left, height, top = 236.0, 22.0, 8.0
    bottom = top + height * len(shown)
    ends = [value for row in shown for value in (row.value, row.low, row.high) if value is not None]
    axis = Axis.over([*ends, 0.0], left, WIDTH - 12)
    parts = bottom_axis(axis, top, bottom, "transferability (predicted; 0 is chance, 1 is perfect)")
    for i, row in enumerate(shown):
        y, kind = top + height * (i + 0.5), "tied" if row.tied else "predicted"
        told = f"{row.name}: {row.value:.3f}"
        parts.append(element("text", _short(row.name), x=left - 8, y=y + 4, class_="name", text_anchor="end"))
        if row.low is not None and row.high is not None:
            told += f", 90% interval {row.low:.3f} to {row.high:.3f}"
            parts.append(element("line", x1=axis(row.low), x2=axis(row.high), y1=y, y2=y, class_=f"whisker {kind}"))
        parts.append(_dot(axis(row.value), y, kind, told))
    rest = f" The {len(rows) - len(shown)} models below are left out." if len(rows) > len(shown) else ""
    return Figure(
        "intervals",
        "How sure the order is",
        "Transferability of each model with its 90% interval: how far other items of the same kind could move it, not how "
        f"well proxies predict fine-tuning. Filled dots may be as good as the first after training.{rest}",
        picture(WIDTH, bottom + 46, "Transferability of each model with its 90% interval", *parts),
    )


def predicted_against_measured(ranking: StoredRanking) -> Figure | None:
    """Transferability against the best measured value, one dot a measured model."""
    plane = agreement_plane(ranking)
    if plane is None or len(plane.points) < FEWEST_DOTS:
        return None
    return Figure(
        "agreement",
        "Predicted against measured",
        "Dots that rise from left to right: what the proxies predicted is what fine-tuning found.",
        _scatter(plane),
    )


def values(ranking: StoredRanking) -> Figure | None:
    """Predicted against true values of the saved model, and residuals against predicted, one row per value."""
    found = error_analysis(ranking)
    shown = [] if found is None else [points for points in found.points if len(points.pairs) > 1][:MOST_VALUES]
    if found is None or not shown:
        return None
    parts: list[Markup] = []
    height, side = 250.0, 180.0
    for row, points in enumerate(shown):
        top = 24.0 + row * height
        true, said = [y for y, _ in points.pairs], [p for _, p in points.pairs]
        off = [p - y for y, p in points.pairs]
        both = Axis.over([*true, *said], 60, 60 + side)
        up = Axis(both.low, both.high, top + side, top)
        parts += bottom_axis(both, top, top + side, "true")
        parts += left_axis(up, 60, 60 + side, f"{points.name}: predicted")
        low, high = both.low, both.high
        parts.append(element("line", x1=both(low), y1=up(low), x2=both(high), y2=up(high), class_="grid"))
        across, rest = Axis.over(said, 372, 372 + side), Axis.over([*off, 0.0], top + side, top)
        parts += bottom_axis(across, top, top + side, "predicted")
        parts += left_axis(rest, 372, 372 + side, "residual")
        for y, p in points.pairs:
            told = f"true {y:.5g}, predicted {p:.5g}"
            parts += [_dot(both(y), up(p), "predicted", told), _dot(across(p), rest(p - y), "predicted", told)]
    return Figure(
        "values",
        f"Predicted and true values of the {found.split} split",
        f"{found.model} ({found.strategy}): predicted against true values, and residuals against predicted ones. Points "
        "on the diagonal, or at 0, are right; a residual that grows or bends with the prediction is a systematic error.",
        picture(WIDTH, 24.0 + height * len(shown), "Predicted against true values", *parts),
    )


def history(ranking: StoredRanking) -> Figure | None:
    """Validation value by step, one line a configuration."""
    return _plotted(
        tuning_curves(ranking),
        "history",
        "Validation by step",
        "Value on validation after so many steps, the best one of several learning rates; at step 0 that of the linear probe "
        "that trainings start from. Every round trains the configurations that are left for longer; a line that ends early "
        "was pruned.",
        ("steps", "value on validation (measured)"),
    )


def losses(ranking: StoredRanking) -> Figure | None:
    """How the loss of each configuration fell, one line each."""
    return _plotted(
        loss_curves(ranking),
        "losses",
        "Training curves",
        "Mean loss of training batches by step, of the longest training of each configuration. A line that still falls "
        "at its end would gain from more time; one that does not fall has not learned. Losses of different detectors are "
        "on scales of their own.",
        ("steps", "loss of training batches"),
    )


def precision_by_recall(ranking: StoredRanking) -> Figure | None:
    """Of the saved detector, one line a class."""
    found = error_analysis(ranking)
    return _plotted(
        [] if found is None else found.curves,
        "precision",
        "Precision by recall",
        "Boxes of the saved model at an IoU of 0.5, the most confident first, for the most frequent classes. A line that "
        "ends early: the other boxes are never found.",
        ("recall", "precision"),
    )


def _plotted(lines: Sequence[Curve], key: str, title: str, caption: str, axes: tuple[str, str]) -> Figure | None:
    """Lines with dots and their names at the ends; None without any."""
    if not lines:
        return None
    x = Axis.over([0.0, *(a for line in lines for a, _ in line.points)], 60, 390)
    y = Axis.over([b for line in lines for _, b in line.points], 300, 30)
    parts = left_axis(y, 60, 390, axes[1]) + bottom_axis(x, 30, 300, axes[0])
    ends = spread([y(line.points[-1][1]) + 4 for line in lines], 34, 304)
    for line, end in zip(lines, ends, strict=True):
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line.points)
        (first, begun), (last, value) = line.points[0], line.points[-1]
        told = f"{line.name}: {begun:.3g} at {first:.4g} to {value:.3g} at {last:.4g} {axes[0]}"
        parts.append(element("polyline", element("title", told), points=path, class_="path"))
        parts.append(_dot(x(last), y(value), "measured", told))
        parts.append(element("text", _short(line.name, 26), x=x(last) + 10, y=end, class_="name"))
    return Figure(key, title, caption, picture(WIDTH, 346, f"{axes[1]} by {axes[0]}".capitalize(), *parts))


def proxies(ranking: StoredRanking) -> Figure | None:
    """Where each proxy places the models, side by side."""
    table = rank_table(ranking)
    if table is None:
        return None
    names, cell, left, top = table.names[:MOST_ROWS], 24.0, 236.0, 62.0
    width = min(64.0, (WIDTH - left - 8) / len(table.columns))
    parts = []
    for j, column in enumerate(table.columns):
        x = left + width * (j + 0.5)
        label = _short(column, 14)
        parts.append(
            element("text", label, x=x, y=top - 8, class_="tick", transform=f"rotate(-28 {x:.0f} {top - 8:.0f})")
        )
    for i, (name, ranks) in enumerate(zip(names, table.ranks, strict=False)):
        y = top + cell * i
        parts.append(element("text", _short(name), x=left - 8, y=y + 16, class_="name", text_anchor="end"))
        for j, (column, rank) in enumerate(zip(table.columns, ranks, strict=True)):
            x = left + width * j
            if rank is None:
                parts.append(element("text", "–", x=x + width / 2, y=y + 16, class_="tick", text_anchor="middle"))
                continue
            share = 1 - (rank - 1) / max(1, len(table.names) - 1)
            box: dict[str, str | float] = {
                "x": x + 1,
                "y": y + 1,
                "width": width - 2,
                "height": cell - 2,
                "class_": "heat",
            }
            parts.append(
                element("rect", element("title", f"{name}, {column}: {rank:g}"), fill_opacity=0.05 + 0.4 * share, **box)
            )
            parts.append(element("text", f"{rank:g}", x=x + width / 2, y=y + 16, class_="rank", text_anchor="middle"))
    rest = f" The {len(table.names) - len(names)} models below are left out." if len(table.names) > len(names) else ""
    return Figure(
        "proxies",
        "Proxies side by side",
        "The rank that each proxy alone would give a model. Rows of one shade: the proxies agree; a row of many shades "
        f"is a model on which they do not.{rest}",
        picture(WIDTH, top + cell * len(names) + 8, "Rank of each model by each proxy", *parts),
    )


def layers(ranking: StoredRanking) -> Figure | None:
    """How well each layer of a network tells the classes apart, one line per model."""
    lines = layer_curves(ranking)
    if not lines:
        return None
    x = Axis.over([0.0, 1.0], 60, 390)
    y = Axis.over([value for line in lines for _, value in line.points], 300, 30)
    parts = left_axis(y, 60, 390, "accuracy of 5 nearest neighbors")
    parts += bottom_axis(x, 30, 300, "depth (1 is the last layer)")
    ends = spread([y(line.points[-1][1]) + 4 for line in lines], 34, 304)
    for line, end in zip(lines, ends, strict=True):
        path = " ".join(f"{x(depth):.1f},{y(value):.1f}" for depth, value in line.points)
        parts.append(element("polyline", points=path, class_="path"))
        for number, (depth, value) in enumerate(line.points, 1):
            parts.append(_dot(x(depth), y(value), "predicted", f"{line.name}, layer {number}: {value:.3f}"))
        best = max(range(len(line.points)), key=lambda i: line.points[i][1])
        label = f"{_short(line.name, 22)}: {best + 1} of {len(line.points)}"
        parts.append(element("text", label, x=x(line.points[-1][0]) + 10, y=end, class_="name"))
    own = "the mean over all layers"
    if not ranking.target.get("words"):  # words are read over all layers of any network
        own += ", of a sentence encoder the last one"
    return Figure(
        "layers",
        "Which layer transfers best",
        "Each dot is one layer of a network, read on its own; a line that falls at its end is a network whose last "
        f"layers serve its pretraining. The ranking reads what --layers or the zoo says; where neither does, {own}.",
        picture(WIDTH, 346, "Accuracy of 5 nearest neighbors by layer", *parts),
    )


def _cost_front(axis: CostAxis) -> Callable[[StoredRanking], Figure | None]:
    def make(ranking: StoredRanking) -> Figure | None:
        planes = [plane for plane in cost_planes(ranking, axis) if len(plane.points) >= FEWEST_DOTS]
        if not planes:
            return None
        parts = [part for i, plane in enumerate(planes) for part in _scatter_parts(plane, i * PANEL, log=True)]
        return Figure(
            f"cost-{axis.key}",
            f"What a better model costs: {axis.title}",
            "The line joins the models that none of equal or lower cost beats; those below it cost more without being "
            "better. " + _measured_here(ranking, axis),
            picture(
                WIDTH, PANEL * len(planes), f"{' and '.join(p.y_title for p in planes)} against {axis.title}", *parts
            ),
        )

    return make


def _measured_here(ranking: StoredRanking, axis: CostAxis) -> str:
    if axis.key == "parameters":
        return "Without the head of the source task."
    places = sorted({f"{m.cost.device} in {m.cost.precision}" for m in ranking if m.cost is not None})
    return f"Measured on {' and '.join(places)}, in torch." if places else ""


FIGURES: Sequence[Callable[[StoredRanking], Figure | None]] = (
    intervals,
    predicted_against_measured,
    values,
    history,
    losses,
    precision_by_recall,
    layers,
    proxies,
    *(_cost_front(axis) for axis in COST_AXES),
)


def _scatter(plane: Plane) -> Markup:
    return picture(WIDTH, PANEL, f"{plane.y_title} against {plane.x_title}", *_scatter_parts(plane))


def _scatter_parts(plane: Plane, top: float = 0.0, *, log: bool = False) -> list[Markup]:
    points = plane.points
    x = Axis.over([p.x for p in points], 60, 420, log=log)
    y = Axis.over([p.y for p in points], top + 320, top + 34)
    parts = bottom_axis(x, top + 34, top + 320, plane.x_title, plane.form) + left_axis(y, 60, 420, plane.y_title)
    if plane.front:
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in steps(plane.front, x.high))
        parts.append(element("polyline", points=path, class_="front"))
    few = len(points) <= MOST_LABELS
    taken: list[tuple[float, float]] = []
    for p in sorted(points, key=lambda p: -p.y):
        at_x, at_y = x(p.x), y(p.y)
        on_front = p in plane.front
        told = f"{p.name}: {written(p.x, plane.form)}, {p.y:.3f}" + (", on the front" if on_front else "")
        parts.append(_dot(at_x, at_y, plane.kind + (" best" if on_front else " beaten" if plane.front else ""), told))
        if few or (on_front and len(taken) < MOST_LABELS):
            label_y = at_y - 6
            while any(abs(label_y - other) < LINE and abs(at_x - there) < 160 for there, other in taken):
                label_y += LINE  # labels of neighbors would lie on each other
            taken.append((at_x, label_y))
            parts.append(element("text", _short(p.name, 26), x=at_x + 7, y=label_y, class_="name"))
    return parts


def spread(wanted: Sequence[float], top: float, bottom: float) -> list[float]:
    """Heights of labels near those that are wanted, in the same order, so far apart that none lies on another.

    >>> spread([50.0, 20.0, 52.0, 53.0], 0.0, 60.0)
    [34.0, 20.0, 47.0, 60.0]
    """
    gap = min(LINE, (bottom - top) / max(1, len(wanted) - 1))
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    found = list(wanted)
    for place, i in enumerate(order):
        found[i] = max(found[i], top if place == 0 else found[order[place - 1]] + gap)
    for place, i in reversed(list(enumerate(order))):  # what was pushed out at the bottom goes up again
        found[i] = min(found[i], bottom if place == len(order) - 1 else found[order[place + 1]] - gap)
    return found


def _dot(x: float, y: float, kind: str, told: str) -> Markup:
    return element("circle", element("title", told), cx=x, cy=y, r=4.5, class_=f"dot {kind}")


def _short(name: str, most: int = 34) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
