"""Figures from a ranking, as matplotlib figures: ``selector.plot.intervals(ranking)``.

Needs the extra ``plot``. Figures are made without pyplot, so nothing is shown or kept; in a
notebook the returned figure displays itself, elsewhere ``figure.savefig(path)``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from selector.core.errors import ConfigError, did_you_mean
from selector.report.series import (
    COST_AXES,
    Plane,
    agreement_plane,
    cost_planes,
    interval_rows,
    rank_table,
    steps,
    tuning_curves,
)
from selector.report.svg import written
from selector.results import StoredRanking

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["agreement", "cost", "history", "intervals", "proxies"]

_COLORS = {"predicted": "#2458a6", "measured": "#14713f"}


def intervals(ranking: StoredRanking, *, most: int = 40) -> Figure:
    """Transferability of the ``most`` leading models with its 90% interval; filled dots are tied with the first.

    Raises:
        ConfigError: matplotlib is missing, or no model has transferability.
    """
    rows = interval_rows(ranking)[:most]
    if not rows:
        raise ConfigError("no model of this ranking has transferability; there is nothing to plot.")
    figure, axes = _new(7.0, 1.2 + 0.28 * len(rows))
    for y, row in enumerate(rows):
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [y, y], color=_COLORS["predicted"], linewidth=2)
        face = _COLORS["predicted"] if row.tied else "white"
        axes.plot([row.value], [y], "o", color=_COLORS["predicted"], markerfacecolor=face)
    axes.set_yticks(range(len(rows)), [_literal(row.name) for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("transferability (predicted; 0 is chance, 1 is perfect)")
    return figure


def agreement(ranking: StoredRanking) -> Figure:
    """Transferability against the best measured value.

    Raises:
        ConfigError: matplotlib is missing, or fewer than two models were measured.
    """
    plane = agreement_plane(ranking)
    if plane is None:
        raise ConfigError("fewer than two models were measured; selector.confirm(ranking, top_k=2) measures two.")
    return _plane(plane)


def cost(
    ranking: StoredRanking, against: str = "parameters", value: Literal["auto", "predicted", "measured"] = "auto"
) -> Figure:
    """What models cost against how good they are, with the front of best trade-offs.

    Args:
        ranking: what to plot.
        against: ``parameters``, ``latency`` (a single image) or ``memory`` (at its peak).
        value: ``predicted`` (transferability), ``measured``, or ``auto``: measured from two models on.

    Raises:
        ConfigError: an unknown cost, matplotlib is missing, or too few models can be compared.
    """
    axes = {axis.key: axis for axis in COST_AXES}
    if against not in axes:
        raise ConfigError(
            f"against must be one of {', '.join(axes)}{did_you_mean(against, axes) or '.'} Got {against!r}."
        )
    planes = [p for p in cost_planes(ranking, axes[against]) if value in ("auto", p.kind)]
    if not planes:
        raise ConfigError(
            f"too few models of this ranking have {against} and a {'' if value == 'auto' else value + ' '}value: three "
            "predicted or two measured ones are needed; selector.rank(..., measure_cost='always') measures what models cost."
        )
    return _plane(planes[0], log=True)


def proxies(ranking: StoredRanking, *, most: int = 40) -> Figure:
    """The rank that each proxy alone would give the ``most`` leading models, side by side.

    Raises:
        ConfigError: matplotlib is missing, or fewer than two models or proxies can be compared.
    """
    table = rank_table(ranking)
    if table is None:
        raise ConfigError("fewer than two models or two proxies have values; there is nothing to compare.")
    names = table.names[:most]
    figure, axes = _new(2.6 + 0.7 * len(table.columns), 1.2 + 0.3 * len(names))
    ranks = [[math.nan if rank is None else rank for rank in row] for row in table.ranks[:most]]
    axes.imshow(ranks, cmap="Blues_r", aspect="auto", vmin=1, vmax=2 * len(table.names))
    for i, row in enumerate(ranks):
        for j, rank in enumerate(row):
            axes.text(j, i, "–" if math.isnan(rank) else f"{rank:g}", ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(table.columns)), [_literal(name) for name in table.columns], rotation=30, ha="right")
    axes.set_yticks(range(len(names)), [_literal(name) for name in names])
    axes.grid(visible=False)
    return figure


def history(ranking: StoredRanking) -> Figure:
    """Validation value by step, one line a configuration.

    Raises:
        ConfigError: matplotlib is missing, or no training was measured at two steps.
    """
    lines = tuning_curves(ranking)
    if not lines:
        raise ConfigError("no training of this ranking was measured at two steps; there is no history to plot.")
    figure, axes = _new(7.0, 4.2)
    for line in lines:
        axes.plot([x for x, _ in line.points], [y for _, y in line.points], "o-", label=_literal(line.name))
    axes.set_xlabel("steps")
    axes.set_ylabel("value on validation (measured)")
    axes.legend(frameon=False)
    return figure


def _plane(plane: Plane, *, log: bool = False) -> Figure:
    figure, axes = _new(6.4, 4.4)
    axes.plot([p.x for p in plane.points], [p.y for p in plane.points], "o", color=_COLORS[plane.kind])
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda x, _: written(x, plane.form))
        axes.xaxis.set_minor_formatter("")
    if plane.front:
        corners = steps(plane.front, max(p.x for p in plane.points))
        axes.plot([a for a, _ in corners], [b for _, b in corners], "--", color="#5b6670", linewidth=1)
    for p in plane.points if len(plane.points) <= 12 else ():
        axes.annotate(_literal(p.name), (p.x, p.y), xytext=(5, 5), textcoords="offset points", fontsize=8)
    axes.set_xlabel(plane.x_title)
    axes.set_ylabel(plane.y_title)
    return figure


def _new(width: float, height: float) -> tuple[Figure, Axes]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("figures need matplotlib; run: pip install 'zoo-selector[plot]'") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    return figure, axes


def _literal(name: str) -> str:
    """A name between two dollar signs would be read as mathematics."""
    return name.replace("$", r"\$")


def __dir__() -> list[str]:
    """What an editor completes after ``selector.plot.``: the plots."""
    return __all__
