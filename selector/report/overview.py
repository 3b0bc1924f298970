"""What several rankings say together: the best model of each target, mean ranks, and which few models serve all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from selector.core.atomic import write_atomic
from selector.core.documents import plain
from selector.core.units import format_count, format_duration, format_latency
from selector.report.ranking import Ranking
from selector.results import ModelResult

OVERVIEW_FILE, OVERVIEW_DATA = "overview.html", "overview.json"
EPSILON = 0.02
"""Transferability below the best that still counts as good enough, on its scale from 0 to 1."""


@dataclass(frozen=True)
class FailedTarget:
    """A target that was not ranked, and why."""

    name: str
    reason: str
    traceback: str = ""


@dataclass(frozen=True)
class TargetRow:
    """One target: its best model, or why it has none.

    Attributes:
        tied: models that are not significantly different from the best, itself included.
        seconds: that its own ranking took.
    """

    name: str
    best: str | None = None
    transferability: float | None = None
    measured: float | None = None
    tied: int = 0
    models: int = 0
    failed: int = 0
    seconds: float = 0.0
    folder: str | None = None
    reason: str = ""


@dataclass(frozen=True)
class ModelRow:
    """One model over all targets that ranked it.

    Attributes:
        mean_rank: over the targets that ranked it; the missing ones count as last.
        targets: that ranked it.
        serves: targets where it is within epsilon of the best, or not significantly different from it.
        chosen: whether it is in the smallest set that serves every target.
    """

    name: str
    mean_rank: float
    targets: int
    serves: tuple[str, ...]
    chosen: bool
    parameters: int | None = None
    latency: float | None = None


@dataclass(frozen=True)
class Overview:
    """Everything that the overview shows."""

    targets: tuple[TargetRow, ...]
    models: tuple[ModelRow, ...]
    cover: tuple[str, ...]
    epsilon: float
    seconds: float

    def to_dict(self) -> dict[str, object]:
        """Plain JSON types."""
        data: dict[str, object] = plain(asdict(self))
        return data


class Rankings(Sequence["Ranking | FailedTarget"]):
    """Rankings of several targets, in the order in which the targets were given.

    Attributes:
        path: folder of the overview; None when nothing was saved.
        seconds: of the whole scan.
    """

    def __init__(
        self, members: Sequence[Ranking | FailedTarget], seconds: float = 0.0, path: Path | None = None
    ) -> None:
        self._members = tuple(members)
        self.seconds, self.path = seconds, path

    @overload
    def __getitem__(self, index: int) -> Ranking | FailedTarget: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Ranking | FailedTarget]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self._members[index]

    def __len__(self) -> int:
        return len(self._members)

    def __repr__(self) -> str:
        return f"Rankings({', '.join(row.name for row in self.overview().targets)})"

    @property
    def rankings(self) -> Iterator[Ranking]:
        """Those that there are, without targets that failed."""
        return (each for each in self._members if isinstance(each, Ranking))

    def overview(self, epsilon: float = EPSILON) -> Overview:
        """What they say together; see ``overview``."""
        return overview(self._members, epsilon, self.seconds)

    def to_dict(self) -> dict[str, object]:
        """Plain JSON types: the overview, and each target's run."""
        members = [each.to_dict() if isinstance(each, Ranking) else asdict(each) for each in self._members]
        return {"overview": self.overview().to_dict(), "targets": members}


def overview(members: Sequence[Ranking | FailedTarget], epsilon: float = EPSILON, seconds: float = 0.0) -> Overview:
    """Compare rankings of several targets.

    Args:
        members: rankings, and targets that failed.
        epsilon: transferability below the best of a target that still serves it.

    Returns:
        One row per target and model, models by mean rank, and the smallest set of models that serves every target that
        was ranked; of several such sets one with small mean ranks.
    """
    rankings = [each for each in members if isinstance(each, Ranking) and _ranked(each)]
    served = {
        model: tuple(r.target["name"] for r in rankings if model in _serving(r, epsilon)) for model in _names(rankings)
    }
    ranks = {model: _mean_rank(model, rankings) for model in served}
    cover = _smallest_cover([_serving(r, epsilon) for r in rankings], ranks)
    rows = []
    for model in sorted(served, key=lambda m: (ranks[m], m)):
        found = [r[model] for r in rankings if any(m.name == model for m in _ranked(r))]
        latency = next((m.cost.latency for m in found if m.cost is not None), None)
        parameters = next((m.num_parameters for m in found if m.num_parameters), None)
        rows.append(ModelRow(model, ranks[model], len(found), served[model], model in cover, parameters, latency))
    return Overview(tuple(_row(each) for each in members), tuple(rows), cover, epsilon, seconds)


def write_overview(rankings: Rankings, folder: Path) -> Path:
    """Write ``overview.html`` and ``overview.json`` into a folder; returns the page."""
    import json

    from selector.report.html import render_page

    found = rankings.overview()
    headers, rows = target_table(found)
    model_headers, model_rows = model_table(found)
    text = render_page(
        "overview.html.j2", overview=found, headers=headers, rows=rows, model_headers=model_headers,
        model_rows=model_rows, summary=summary(found),
        links=[_link(row, folder) for row in found.targets],
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / OVERVIEW_DATA, json.dumps(found.to_dict(), indent=1, ensure_ascii=False).encode())
    write_atomic(folder / OVERVIEW_FILE, text.encode("utf-8", "backslashreplace"))
    return folder / OVERVIEW_FILE


def summary(found: Overview) -> Iterator[str]:
    """Sentences for a person, the most important first."""
    ranked = [row for row in found.targets if row.best is not None]
    if found.cover:
        listed = ", ".join(found.cover)
        number = "1 model serves" if len(found.cover) == 1 else f"{len(found.cover)} models serve"
        yield (
            f"{number} all {len(ranked)} targets, within {found.epsilon:g} of the best transferability or not "
            f"significantly different from it (90%): {listed}."
        )
    if found.models:
        first = found.models[0]
        yield f"The best mean rank is that of {first.name}: {first.mean_rank:.3g} over {first.targets} targets."
    failed = [row for row in found.targets if row.best is None]
    if failed:
        verb = "was" if len(failed) == 1 else "were"
        yield f"{len(failed)} of {len(found.targets)} targets {verb} not ranked: {', '.join(row.name for row in failed)}."


def target_table(found: Overview) -> tuple[list[str], list[list[str]]]:
    """Headers and cells, a row per target."""
    headers = ["target", "best model", "transferability", "measured", "≈ tied", "models", "failed", "time", "reason"]
    rows = []
    for row in found.targets:
        values = [row.transferability, row.measured]
        shown = ["–" if value is None else f"{value:.3f}" for value in values]
        counts = [str(row.tied), str(row.models), str(row.failed)] if row.best else ["–"] * 3
        rows.append([row.name, row.best or "–", *shown, *counts, format_duration(row.seconds), row.reason])
    return headers, rows


def model_table(found: Overview) -> tuple[list[str], list[list[str]]]:
    """Headers and cells, a row per model, by mean rank."""
    headers = ["model", "mean rank", "targets", "serves", "in the smallest set", "params", "latency"]
    rows = []
    for row in found.models:
        cost = [
            format_count(row.parameters) if row.parameters else "–",
            "–" if row.latency is None else format_latency(row.latency),
        ]
        chosen = "●" if row.chosen else ""
        rows.append([row.name, f"{row.mean_rank:.2f}", str(row.targets), str(len(row.serves)), chosen, *cost])
    return headers, rows


# ---------------------------------------------------------------------------- one ranking


def _ranked(ranking: Ranking) -> list[ModelResult]:
    return [m for m in ranking if m.status == "ok" and m.transferability is not None]


def _names(rankings: Sequence[Ranking]) -> list[str]:
    return list(dict.fromkeys(m.name for r in rankings for m in _ranked(r)))


def _serving(ranking: Ranking, epsilon: float) -> set[str]:
    models = _ranked(ranking)
    best = max(m.transferability or 0.0 for m in models)
    return {m.name for m in models if m.tied or (m.transferability or 0.0) >= best - epsilon}


def _mean_rank(model: str, rankings: Sequence[Ranking]) -> float:
    places = []
    for ranking in rankings:
        order = [m.name for m in _ranked(ranking)]
        # one that failed or was stopped there is behind all that finished
        places.append(order.index(model) + 1 if model in order else len(order) + 1)
    return float(np.mean(places))


def _smallest_cover(serving: Sequence[set[str]], ranks: dict[str, float]) -> tuple[str, ...]:
    """The fewest models of which at least one serves each target: an integer program, solved exactly."""
    if not serving:
        return ()
    from scipy.optimize import Bounds, LinearConstraint, milp

    names = sorted(set().union(*serving))
    matrix = np.array([[name in models for name in names] for models in serving], dtype=float)
    merit = np.array([ranks[name] for name in names])
    cost = 1 + merit / (merit.max() * (len(names) + 1) * 2)  # mean ranks decide among sets of one size
    solved = milp(
        cost, constraints=LinearConstraint(matrix, lb=1), integrality=np.ones(len(names)), bounds=Bounds(0, 1)
    )
    chosen = [name for name, value in zip(names, solved.x, strict=True) if value > 0.5]
    return tuple(sorted(chosen, key=lambda name: (ranks[name], name)))


def _row(member: Ranking | FailedTarget) -> TargetRow:
    if isinstance(member, FailedTarget):
        return TargetRow(member.name, reason=member.reason)
    name, models = str(member.target["name"]), _ranked(member)
    facts: dict[str, Any] = {
        "failed": len(member.failures), "seconds": float(member.seconds.get("total", 0.0)), "models": len(member),
        "folder": None if member.path is None else str(member.path),
    }  # fmt: skip
    if not models:
        return TargetRow(name, reason="no model was ranked; its own report says why", **facts)
    best = models[0]
    measured = best.best_measurement()
    tied = sum(m.tied for m in models) or 1
    value = None if measured is None else measured.val_value
    return TargetRow(name, best.name, best.transferability, value, tied, **facts)


def _link(row: TargetRow, folder: Path) -> str | None:
    if row.folder is None:
        return None
    page = Path(row.folder) / "report.html"
    try:
        return page.absolute().relative_to(folder.absolute()).as_posix()
    except ValueError:
        return page.absolute().as_uri()
