"""What the best model gets right and wrong: per-class results, confusions, the worst mistakes.

Reads what the confirmation left in ``Measurement.extra``; absent parts are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selector.results import Ranking

MOST_CLASSES = 40


@dataclass(frozen=True)
class ClassLine:
    """One class: how many items it has, how many of them were found, and what they were taken for."""

    name: str
    items: int
    recall: float | None
    precision: float | None
    confusions: tuple[int, ...]


@dataclass(frozen=True)
class Outcome:
    """``split`` says which items it is about; ``most`` is the largest count off the diagonal."""

    model: str
    strategy: str
    split: str
    lines: tuple[ClassLine, ...]
    most: int
    mistakes: tuple[Mapping[str, Any], ...]


def outcome(ranking: Ranking) -> Outcome | None:
    """The outcome of the best measured model; None when nothing was measured or kept."""
    best = next((m for m in ranking if m.best_measurement() is not None), None)
    measured = best.best_measurement() if best is not None else None
    if best is None or measured is None:
        return None
    kept = measured.extra
    confusion = kept.get("confusion")
    names = [str(name) for name in ranking.target.get("class_names") or ()]
    mistakes = tuple(kept.get("mistakes") or ())
    if not isinstance(confusion, Sequence) or len(confusion) != len(names) or len(names) > MOST_CLASSES:
        confusion = None
    if confusion is None and not mistakes:
        return None
    lines = () if confusion is None else tuple(_lines(names, [[int(n) for n in row] for row in confusion]))
    most = max((n for i, line in enumerate(lines) for j, n in enumerate(line.confusions) if i != j), default=0)
    return Outcome(best.name, measured.strategy, str(kept.get("split") or "val"), lines, most, mistakes)


def _lines(names: Sequence[str], confusion: Sequence[Sequence[int]]) -> list[ClassLine]:
    called = [sum(row[i] for row in confusion) for i in range(len(names))]
    lines = []
    for i, (name, row) in enumerate(zip(names, confusion, strict=True)):
        items = sum(row)
        recall = row[i] / items if items else None
        precision = row[i] / called[i] if called[i] else None
        lines.append(ClassLine(name, items, recall, precision, tuple(row)))
    return lines
