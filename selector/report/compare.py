"""Two runs beside each other: which models moved, whether the intervals say so, which settings differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from selector.core.documents import plain
from selector.core.errors import ConfigError
from selector.ranking.agreement import kendall
from selector.report.view import title
from selector.results import ModelResult, StoredRanking, final_measurements


@dataclass(frozen=True)
class Side:
    """What one run says of a model."""

    rank: int | None
    status: str
    transferability: float | None
    low: float | None
    high: float | None
    measured: float | None
    prior: float | None = None


@dataclass(frozen=True)
class Moved:
    """One model in both runs.

    Attributes:
        moved: places gained among the models that both runs ranked; None where one did not rank it.
        apart: whether the 90% intervals of its transferability have nothing in common; None without intervals,
            or when the runs are of different targets, whose transferability does not compare.
    """

    name: str
    first: Side
    second: Side
    moved: int | None
    apart: bool | None


@dataclass(frozen=True)
class Comparison:
    """Everything that ``selector compare`` says; ``moved`` in the order of the second run.

    ``agreement`` is Kendall's tau-b of the two orders over the models that both ranked, NaN for
    fewer than two; ``settings`` and ``versions`` hold (name, first, second) where they differ.
    """

    runs: tuple[str, str]
    titles: tuple[str, str]
    same_target: bool
    best: tuple[str | None, str | None]
    agreement: float
    models: tuple[Moved, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    settings: tuple[tuple[str, object, object], ...]
    versions: tuple[tuple[str, object, object], ...]

    def to_dict(self) -> dict[str, object]:
        """Plain JSON types."""
        data: dict[str, object] = plain(asdict(self))
        return data

    def summary(self) -> Iterator[str]:
        """Sentences for a person, the most important first."""
        first, second = self.titles
        if self.same_target:
            yield f"Both runs are of the same target: {first}."
        else:
            yield (
                f"The targets differ ({first}; {second if second != first else 'other items, labels or splits'}): ranks compare, but transferability and accuracy of one target say "
                "nothing of the other."
            )
        old, new = self.best
        yield f"Both put {new} first." if old == new else f"The first was {old or 'none'} and is {new or 'none'}."
        moved = [m for m in self.models if m.moved]
        told = "" if math.isnan(self.agreement) else f"; the orders agree with a Kendall tau of {self.agreement:.2f}"
        yield f"{len(moved)} of {len(self.models)} common models changed their place{told}."
        apart = [m.name for m in self.models if m.apart]
        if apart:
            yield f"More than sampling noise: the intervals of {_some(apart)} have nothing in common."
        elif moved and self.same_target and all(m.apart is False for m in moved):
            yield "No move exceeds sampling noise: the intervals of each model overlap."
        moves = [(m.name, m.first.prior, m.second.prior) for m in self.models if m.first.prior != m.second.prior]
        if self.same_target and (shown := [(n, a or 0.0, b or 0.0) for n, a, b in moves if (a or 0.0) != (b or 0.0)]):
            largest = sorted(shown, key=lambda move: -abs(move[2] - move[1]))
            named = [f"{name} ({a:+.3f} to {b:+.3f})" for name, a, b in largest]
            yield f"The prior changed for {_some(named)}: past results or facts differ between the runs."
        for names, where in ((self.only_first, "first"), (self.only_second, "second")):
            if names:
                yield f"Only in the {where}: {_some(names)}."


def compare(first: StoredRanking, second: StoredRanking) -> Comparison:
    """Compare two runs.

    Raises:
        ConfigError: they have no model in common.
    """
    before, after = ({m.name: m for m in ranking} for ranking in (first, second))
    common = [name for name in after if name in before]
    if not common:
        raise ConfigError(
            f"{_label(first)} and {_label(second)} have no model in common, so there is nothing to compare; "
            f"the one has {_some(list(before))}, the other {_some(list(after))}."
        )
    same = first.target.get("fingerprint") == second.target.get("fingerprint")
    ranked = [name for name in common if before[name].rank is not None and after[name].rank is not None]
    places = [
        {name: i for i, name in enumerate(sorted(ranked, key=lambda n: runs[n].rank or 0))} for runs in (before, after)
    ]
    models = tuple(
        Moved(
            name,
            _side(before[name]),
            _side(after[name]),
            places[0][name] - places[1][name] if name in places[0] else None,
            _apart(before[name], after[name]) if same else None,
        )
        for name in common
    )
    orders = [[-place[name] for name in ranked] for place in places]
    return Comparison(
        (_label(first), _label(second)),
        (title(first), title(second)),
        same,
        (_best(first), _best(second)),
        kendall(*orders) if len(ranked) > 1 else math.nan,
        models,
        tuple(name for name in before if name not in after),
        tuple(name for name in after if name not in before),
        tuple(_differences(first.settings, second.settings)),
        tuple(_differences(first.versions, second.versions)),
    )


def _side(model: ModelResult) -> Side:
    values = [
        m.val_value for m in final_measurements(model).values() if m.status == "ok" and not math.isnan(m.val_value)
    ]
    measured = max(values, default=None)
    shift = None if model.prior is None else model.prior.shift
    return Side(
        model.rank,
        model.status,
        model.transferability,
        model.transferability_low,
        model.transferability_high,
        measured,
        shift,
    )


def _apart(first: ModelResult, second: ModelResult) -> bool | None:
    a, b = (
        (first.transferability_low, first.transferability_high),
        (second.transferability_low, second.transferability_high),
    )
    if a[0] is None or a[1] is None or b[0] is None or b[1] is None:
        return None
    return a[1] < b[0] or b[1] < a[0]


def _differences(first: Mapping[str, object], second: Mapping[str, object]) -> Iterator[tuple[str, object, object]]:
    a, b = plain(first), plain(second)
    for key in dict.fromkeys((*a, *b)):
        if isinstance(a.get(key), dict) and isinstance(b.get(key), dict):
            yield from ((f"{key}.{name}", x, y) for name, x, y in _differences(a[key], b[key]))
        elif a.get(key) != b.get(key):
            yield key, a.get(key), b.get(key)


def _best(ranking: StoredRanking) -> str | None:
    return next((m.name for m in ranking if m.status == "ok"), None)


def _label(ranking: StoredRanking) -> str:
    return "a run in memory" if ranking.path is None else str(ranking.path)


def _some(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


HEADERS = ("model", "rank", "was", "moved", "transferability", "was", "apart", "measured", "was")
"""Of ``table``."""


def table(comparison: Comparison) -> list[tuple[str, ...]]:
    """A row a common model as texts, for the terminal and the HTML file."""
    return [
        (
            m.name,
            _rank(m.second),
            _rank(m.first),
            "–" if m.moved is None else f"{m.moved:+d}" if m.moved else "=",
            _transferability(m.second),
            _transferability(m.first),
            {None: "–", True: "yes", False: "no"}[m.apart],
            _value(m.second.measured),
            _value(m.first.measured),
        )
        for m in comparison.models
    ]


def _rank(side: Side) -> str:
    return side.status if side.rank is None else str(side.rank)


def _transferability(side: Side) -> str:
    if side.transferability is None or side.low is None or side.high is None:
        return _value(side.transferability)
    return f"{side.transferability:.3f} ({side.low:.3f}–{side.high:.3f})"


def _value(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
