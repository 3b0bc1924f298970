"""What the best model gets right and wrong: per-class results, confusions, telling samples.

Reads the ``outcome`` that the confirmation left in ``Measurement.extra``; absent parts are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selector.results import Ranking

MOST_LINES = 40  # classes that are shown, the ones that went worst where there are more


@dataclass(frozen=True)
class ClassLine:
    """One class: how many items it has, how many of them were found, and what they were taken for.

    ``confusions`` has one count a class, or is empty where the matrix was too large to keep.
    """

    name: str
    items: int
    recall: float
    precision: float
    f1: float
    confusions: tuple[int, ...] = ()


@dataclass(frozen=True)
class Word:
    """A word of a sentence: its label and what the model said."""

    text: str
    label: str
    predicted: str

    @property
    def wrong(self) -> bool:
        return self.label != self.predicted


@dataclass(frozen=True)
class Sample:
    """One item: what it is, what the model said, how sure it was; ``picture`` is a ``data:`` URI or empty,
    ``text`` the beginning of an item that is one.

    Of a sentence ``words``, of which ``cut`` says whether more come before them; label and predicted are
    those of its words in one text.
    """

    name: str
    label: str
    predicted: str
    probability: float
    picture: str
    words: tuple[Word, ...] = ()
    cut: bool = False
    text: str = ""

    @property
    def wrong(self) -> bool:
        return self.label != self.predicted


@dataclass(frozen=True)
class Outcome:
    """``split`` says which items it is about.

    Attributes:
        lines: classes in label order with the matrix, else those with the lowest F1 first; ``hidden`` how
            many more there are.
        most: the largest count off the diagonal.
        confused: (true class, predicted class, items), the most frequent first; where there is no matrix.
        mistakes: wrong samples, the surest first; ``unsure`` right ones, the least sure first.
        counted: what the lines count: items, or entities or words where words have labels.
    """

    model: str
    strategy: str
    split: str
    lines: tuple[ClassLine, ...]
    hidden: int
    most: int
    confused: tuple[tuple[str, str, int], ...]
    mistakes: tuple[Sample, ...]
    unsure: tuple[Sample, ...]
    counted: str = "items"

    @property
    def matrix(self) -> bool:
        """Whether the lines carry the confusion matrix."""
        return bool(self.lines and self.lines[0].confusions)


def outcome(ranking: Ranking) -> Outcome | None:
    """The outcome of the model that was handed over; None when none was kept."""
    found = next(
        ((model.name, m) for model in ranking for m in model.measurements if m.extra.get("outcome")),
        None,
    )
    if found is None:
        return None
    name, measured = found
    kept = measured.extra["outcome"]
    tables, figures = kept.get("tables") or kept, kept.get("figures") or kept  # runs of before kept all side by side
    lines = _lines(tables.get("classes") or (), figures.get("confusion") or ())
    matrix = bool(lines and lines[0].confusions)
    if not matrix:
        lines = sorted((line for line in lines if line.items), key=lambda line: (line.f1, line.name))[:MOST_LINES]
    most = max((n for i, line in enumerate(lines) for j, n in enumerate(line.confusions) if i != j), default=0)
    confused = [(str(c["label"]), str(c["predicted"]), _items(c)) for c in tables.get("confused") or ()]
    samples = [_sample(s) for s in kept.get("samples") or ()]
    return Outcome(
        name,
        measured.strategy,
        str(kept.get("split") or "val"),
        tuple(lines),
        0 if matrix else max(0, _classes(ranking, tables, figures) - len(lines)),
        most,
        () if matrix else tuple(confused),
        tuple(s for s in samples if s.wrong),
        tuple(s for s in samples if not s.wrong),
        str(figures.get("counted") or "items"),
    )


def _classes(ranking: Ranking, tables: Mapping[str, Any], figures: Mapping[str, Any]) -> int:
    lines = tables.get("classes") or ()
    if figures.get("counted") == "entities":  # types, not labels
        return sum(1 for line in lines if _items(line))
    return int(ranking.target.get("classes") or len(lines))


def _items(line: Mapping[str, Any]) -> int:
    return int(line["items"] if "items" in line else line["images"])  # runs of before said images


def _lines(classes: Sequence[Mapping[str, Any]], confusion: Sequence[Sequence[int]]) -> list[ClassLine]:
    counts = confusion if len(confusion) == len(classes) else [()] * len(classes)
    return [
        ClassLine(
            str(line["class"]),
            _items(line),
            float(line["recall"]),
            float(line["precision"]),
            float(line["f1"]),
            tuple(int(n) for n in row),
        )
        for line, row in zip(classes, counts, strict=True)
    ]


def _sample(sample: Mapping[str, Any]) -> Sample:
    if isinstance(sample["label"], list):
        labels, predicted = ([str(tag) for tag in sample[key]] for key in ("label", "predicted"))
        texts = [str(word) for word in sample.get("words") or [""] * len(labels)]
        return Sample(
            str(sample.get("name", "")),
            " ".join(labels),
            " ".join(predicted),
            float(sample["probability"]),
            "",
            tuple(Word(*parts) for parts in zip(texts, labels, predicted, strict=True)),
            bool(sample.get("begin")),
        )
    return Sample(
        str(sample.get("name", "")),
        str(sample["label"]),
        str(sample["predicted"]),
        float(sample["probability"]),
        _picture(sample.get("thumbnail")),
        text=str(sample.get("text") or ""),
    )


def _picture(uri: object) -> str:
    """A picture inside the file; anything else would make the browser ask someone."""
    text = str(uri or "")
    return text if text.startswith("data:image/") else ""
