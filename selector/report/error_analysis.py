"""The error analysis of the best model: what its task put into a ``core.task.Section``.

Reads the ``error_analysis`` that the confirmation left in ``Measurement.extra``; absent parts are left out. Two tables are
drawn in a way of their own: ``classes`` (class, items, recall, precision, f1), beside the figure ``confusion`` where
there is one, and ``confused`` (label, predicted, items). Every other table is shown as it is, under its title; a
sample has ``name``, ``label``, ``predicted`` and where the task knows it ``probability``; or ``group``, ``note`` and
``pictures`` where the task draws it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selector.report.series import Curve
from selector.results import StoredRanking

MOST_ROWS = 200  # of a table of a task
MOST_LINES = 40  # classes that are shown, the ones that went worst where there are more


@dataclass(frozen=True)
class ClassLine:
    """One class: how many items it has, how many of them were found, and what they were taken for.

    ``confusions`` has one count per class, or is empty where the matrix was too large to keep.
    """

    name: str
    items: int
    recall: float
    precision: float
    f1: float
    confusions: tuple[int, ...] = ()


@dataclass(frozen=True)
class ShownWord:
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
    probability: float | None
    picture: str
    words: tuple[ShownWord, ...] = ()
    cut: bool = False
    text: str = ""
    note: str = ""

    @property
    def wrong(self) -> bool:
        return self.label != self.predicted


@dataclass(frozen=True)
class Drawn:
    """An item with the small images that its task drew of it: ``pictures`` are titles and ``data:`` URIs."""

    name: str
    note: str
    pictures: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Points:
    """True and predicted values of one name."""

    name: str
    pairs: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class TaskTable:
    """A table of the task: its title, names of columns, and cells as text, with whether they are numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[tuple[str, bool], ...], ...]


@dataclass(frozen=True)
class ErrorAnalysis:
    """``split`` says which items it is about.

    Attributes:
        lines: classes in label order with the matrix, else those with the lowest F1 first; ``hidden`` how
            many more there are.
        most: the largest count off the diagonal.
        confused: (true class, predicted class, items), the most frequent first; where there is no matrix.
        mistakes: wrong samples, the most confident first; ``unsure`` right ones, the least sure first.
        tables: all other tables of the task.
        counted: what the lines count: items, or entities or words where words have labels.
        drawn: samples that the task drew, by heading; ``legend`` the colors in them, as images with names.
        points: predicted against true values.
        curves: (recall, precision) of classes.
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
    tables: tuple[TaskTable, ...] = ()
    drawn: tuple[tuple[str, tuple[Drawn, ...]], ...] = ()
    legend: tuple[tuple[str, str], ...] = ()
    points: tuple[Points, ...] = ()
    curves: tuple[Curve, ...] = ()

    @property
    def matrix(self) -> bool:
        """Whether the lines carry the confusion matrix."""
        return bool(self.lines and self.lines[0].confusions)


def error_analysis(ranking: StoredRanking) -> ErrorAnalysis | None:
    """The error analysis of the model that was selected; None when none was kept."""
    found = next(
        ((model.name, m) for model in ranking for m in model.measurements if m.extra.get("error_analysis")), None
    )
    if found is None:
        return None
    name, measured = found
    kept = measured.extra["error_analysis"]
    tables, figures = kept.get("tables") or kept, kept.get("figures") or kept  # runs of before kept all side by side
    lines = _lines(tables.get("classes") or (), figures.get("confusion") or ())
    matrix = bool(lines and lines[0].confusions)
    if not matrix:
        lines = sorted((line for line in lines if line.items), key=lambda line: (line.f1, line.name))[:MOST_LINES]
    most = max((n for i, line in enumerate(lines) for j, n in enumerate(line.confusions) if i != j), default=0)
    confused = [(str(c["label"]), str(c["predicted"]), _items(c)) for c in tables.get("confused") or ()]
    samples = [read_sample(s) for s in kept.get("samples") or () if "group" not in s]
    return ErrorAnalysis(
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
        tuple(
            _table(str(title), rows) for title, rows in kept.get("tables", {}).items() if title not in _DRAWN and rows
        ),
        _groups(kept.get("samples") or ()),
        tuple((str(entry["class"]), picture_inside(entry["picture"])) for entry in figures.get("legend") or ()),
        tuple(
            Points(str(name), tuple((float(y), float(p)) for y, p in pairs))
            for name, pairs in (figures.get("predicted against true") or {}).items()
        ),
        tuple(
            Curve(str(name), tuple((float(x), float(y)) for x, y in pairs))
            for name, pairs in (figures.get("precision by recall") or {}).items()
        ),
    )


_DRAWN = ("classes", "confused")


def _table(title: str, rows: Sequence[Mapping[str, object]]) -> TaskTable:
    columns = tuple(dict.fromkeys(str(name) for row in rows for name in row))
    return TaskTable(title, columns, tuple(tuple(_cell(row.get(name)) for name in columns) for row in rows))


def _cell(value: object) -> tuple[str, bool]:
    if value is None:
        return "–", False
    if isinstance(value, bool | str):
        return str(value), False
    if isinstance(value, int):
        return f"{value:,}", True
    return (f"{value:.4g}", True) if isinstance(value, float) else (_text(value), False)


def _text(value: object) -> str:
    """What an item is labeled, or was predicted: a name, a number, several of them."""
    if isinstance(value, list | tuple):
        return ", ".join(_text(part) for part in value) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(part)}" for name, part in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _classes(ranking: StoredRanking, tables: Mapping[str, Any], figures: Mapping[str, Any]) -> int:
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


def read_sample(sample: Mapping[str, Any]) -> Sample:
    if "begin" in sample:  # a sentence, told by its words
        labels, predicted = ([str(tag) for tag in sample[key]] for key in ("label", "predicted"))
        texts = [str(word) for word in sample.get("words") or [""] * len(labels)]
        return Sample(
            str(sample.get("name", "")),
            " ".join(labels),
            " ".join(predicted),
            float(sample["probability"]),
            "",
            tuple(ShownWord(*parts) for parts in zip(texts, labels, predicted, strict=True)),
            bool(sample.get("begin")),
        )
    return Sample(
        str(sample.get("name", "")),
        _text(sample["label"]),
        _text(sample["predicted"]),
        None if sample.get("probability") is None else float(sample["probability"]),
        picture_inside(sample.get("thumbnail")),
        text=str(sample.get("text") or ""),
        note=str(sample.get("note") or ""),
    )


def _groups(samples: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, tuple[Drawn, ...]], ...]:
    groups: dict[str, list[Drawn]] = {}
    for sample in samples:
        if "group" in sample:
            own = [(str(one["title"]), picture_inside(one["uri"])) for one in sample.get("pictures") or ()]
            if not own and (shown := picture_inside(sample.get("thumbnail"))):
                own = [("picture", shown)]
            drawn = Drawn(str(sample.get("name", "")), str(sample.get("note", "")), tuple(own))
            groups.setdefault(str(sample["group"]), []).append(drawn)
    return tuple((title, tuple(found)) for title, found in groups.items())


def picture_inside(uri: object) -> str:
    """An image inside the file; anything else would make the browser ask someone."""
    text = str(uri or "")
    return text if text.startswith("data:image/") else ""
