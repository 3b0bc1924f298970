"""The numbers behind the figures, apart from how they are drawn (SVG here, matplotlib in plot.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from selector.core.costs import front
from selector.core.stats import mean_ranks
from selector.results import ModelResult, StoredRanking
from selector.tasks import metric_named

Kind = Literal["measured", "predicted"]


@dataclass(frozen=True)
class IntervalRow:
    """Transferability of one model with its 90% interval (None where none was computed)."""

    name: str
    value: float
    low: float | None
    high: float | None
    tied: bool


@dataclass(frozen=True)
class ModelPoint:
    """One model in a plane."""

    name: str
    x: float
    y: float


@dataclass(frozen=True)
class Plane:
    """Models in a plane; ``front`` are those of the points that no other one beats, if that has a meaning,
    by rising x. ``form`` says how x is written: ``g``, ``count``, ``time`` (seconds), ``size`` (bytes)."""

    x_title: str
    y_title: str
    kind: Kind
    points: tuple[ModelPoint, ...]
    front: tuple[ModelPoint, ...] = ()
    form: str = "g"


@dataclass(frozen=True)
class Curve:
    """A value along a line: by depth of a network (share of its layers, up to 1), or by step of a training."""

    name: str
    points: tuple[tuple[float, float], ...]


def interval_rows(ranking: StoredRanking) -> list[IntervalRow]:
    """Finished models with transferability, the highest first."""
    rows = [
        IntervalRow(m.name, m.transferability, m.transferability_low, m.transferability_high, m.tied)
        for m in ranking
        if m.transferability is not None and m.status == "ok"
    ]
    return sorted(rows, key=lambda row: -row.value)


def agreement_plane(ranking: StoredRanking) -> Plane | None:
    """Transferability against the best measured value; None with fewer than two measured models."""
    points, metric = [], ""
    for m in ranking:
        best = m.best_measurement()
        if m.transferability is not None and best is not None:
            points.append(ModelPoint(m.name, m.transferability, best.val_value))
            metric = best.metric
    if len(points) < 2:
        return None
    return Plane("transferability (predicted)", f"{metric} on validation (measured)", "measured", tuple(points))


def tuning_curves(ranking: StoredRanking) -> list[Curve]:
    """(steps, best value on validation) of each configuration; at step 0 the linear probe, where a training starts there."""
    better = max if metric_named(str(ranking.confirmation.get("metric", ""))).sign > 0 else min
    probes = {m.name: p.val_value for m in ranking for p in m.measurements if p.strategy == "frozen" and not p.steps}
    best: dict[tuple[str, str], dict[float, float]] = {}
    for entry in ranking.confirmation.get("history", ()):
        value, steps = entry.get("value"), entry.get("steps_done") or entry.get("steps")
        if entry.get("status") == "ok" and value is not None and steps:
            name, start = str(entry["model"]), probes.get(entry["model"], math.nan)
            points = best.setdefault((name, str(entry["strategy"])), {} if math.isnan(start) else {0.0: start})
            points[float(steps)] = better(float(value), points.get(float(steps), float(value)))
    if all(len(points) < 2 for points in best.values()):
        return []
    return [Curve(" ".join(key), tuple(sorted(points.items()))) for key, points in best.items()]


def loss_curves(ranking: StoredRanking) -> list[Curve]:
    """(step, mean loss of the steps since the one before) of each configuration's longest training, by configuration."""
    longest: dict[str, Curve] = {}
    for entry in ranking.confirmation.get("history", ()):
        points = tuple((float(step), float(loss)) for step, loss in entry.get("losses") or () if loss == loss)
        name = f"{entry['model']} {entry['strategy']}"
        if len(points) > 1 and (name not in longest or points[-1][0] >= longest[name].points[-1][0]):
            longest[name] = Curve(name, points)
    return list(longest.values())


def layer_curves(ranking: StoredRanking) -> list[Curve]:
    """Models whose layers were read one by one, in rank order."""
    found = []
    for m in ranking:
        if len(m.layers) > 1:
            last = max(int(number) for number in m.layers)
            points = sorted((int(number) / last, value) for number, value in m.layers.items())
            found.append(Curve(m.name, tuple(points)))
    return found


@dataclass(frozen=True)
class CostAxis:
    """Something that a model costs: ``of`` reads it off a result, ``form`` says how it is written."""

    key: str
    title: str
    of: Callable[[ModelResult], float | None]
    form: str


COST_AXES = (
    CostAxis("parameters", "parameters", lambda m: m.num_parameters, "count"),
    CostAxis("latency", "time for one item", lambda m: None if m.cost is None else m.cost.latency, "time"),
    CostAxis("memory", "memory at its peak, one item", lambda m: None if m.cost is None else m.cost.memory, "size"),
)
_FEWEST: Mapping[Kind, int] = {"predicted": 3, "measured": 2}


def cost_plane(ranking: StoredRanking, axis: CostAxis, kind: Kind) -> Plane | None:
    """What models cost against their transferability or the best measured value, with the front of best trade-offs.

    None with fewer than three predicted or two measured models whose cost is known.
    """
    points, metric = [], ""
    for m in ranking:
        cost, best = axis.of(m), m.best_measurement()
        value = m.transferability if kind == "predicted" else None if best is None else best.val_value
        if m.status == "ok" and cost and value is not None:
            points.append(ModelPoint(m.name, float(cost), value))
            metric = best.metric if best is not None and kind == "measured" else metric
    if len(points) < _FEWEST[kind]:
        return None
    title = "transferability (predicted)" if kind == "predicted" else f"{metric} on validation (measured)"
    return Plane(
        axis.title, title, kind, tuple(points), tuple(points[i] for i in front([(p.x, p.y) for p in points])), axis.form
    )


def cost_planes(ranking: StoredRanking, axis: CostAxis) -> list[Plane]:
    """Those of ``cost_plane`` that have enough points, what was measured first."""
    kinds: tuple[Kind, ...] = ("measured", "predicted")
    return [plane for kind in kinds if (plane := cost_plane(ranking, axis, kind)) is not None]


def fronts(ranking: StoredRanking) -> dict[tuple[str, str], set[str]]:
    """Names of the models that no other one beats, by (key of the cost, kind of the value)."""
    return {
        (axis.key, plane.kind): {point.name for point in plane.front}
        for axis in COST_AXES
        for plane in cost_planes(ranking, axis)
    }


@dataclass(frozen=True)
class RankTable:
    """Ranks of models (rows) by column; None where a model has no value. Equal values share a rank."""

    names: tuple[str, ...]
    columns: tuple[str, ...]
    ranks: tuple[tuple[float | None, ...], ...]


def rank_table(ranking: StoredRanking) -> RankTable | None:
    """Where each proxy, and the transferability, places the finished models; None with fewer than two of either."""
    models = [m for m in ranking if m.status == "ok" and m.transferability is not None]
    columns: list[tuple[str, list[float | None]]] = [("transferability", [m.transferability for m in models])]
    for proxy in ranking.proxies:
        values = [m.scores[proxy].value if proxy in m.scores else None for m in models]
        if any(value is not None for value in values):
            columns.append((proxy, [None if v is None or math.isnan(v) else v for v in values]))
    if len(models) < 2 or len(columns) < 3:
        return None
    ranked = [_ranks(values) for _, values in columns]
    order = sorted(range(len(models)), key=lambda i: ranked[0][i] or math.inf)
    return RankTable(
        tuple(models[i].name for i in order),
        tuple(name for name, _ in columns),
        tuple(tuple(column[i] for column in ranked) for i in order),
    )


def _ranks(values: Sequence[float | None]) -> list[float | None]:
    places = iter(mean_ranks([-value for value in values if value is not None]).tolist())
    return [None if value is None else next(places) for value in values]


def steps(front: Sequence[ModelPoint], end: float) -> list[tuple[float, float]]:
    """The corners of a front as a staircase that goes on flat until ``end``.

    >>> steps([ModelPoint("a", 1, 0.5), ModelPoint("b", 3, 0.9)], 5)
    [(1, 0.5), (3, 0.5), (3, 0.9), (5, 0.9)]
    """
    corners = [(point.x, point.y) for point in front[:1]]
    for point in front[1:]:
        corners += [(point.x, corners[-1][1]), (point.x, point.y)]
    return [*corners, (end, corners[-1][1])] if corners else []
