"""What a saved model says of items, and why it says nothing of some; a task fills it, everything else shows it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, overload

import numpy as np

from selector.core.errors import ConfigError

if TYPE_CHECKING:
    import pandas

SHOWN = 60  # characters of a text in a table


@dataclass(frozen=True)
class Prediction:
    """One item: what was predicted of it, or why nothing was.

    Attributes:
        item: a path, the text itself (of a pair both), or its place in what was given.
        label, probability: the class and its calibrated probability, of tasks that choose one.
        top: the leading classes with their probabilities, the first is ``label``.
        error: why there is no prediction.
        values: everything else that the task says, by name: a value, labels, a mask, boxes.
        shares: probabilities of every class, (C,), or (W, C) of an item of several rows; None for tasks without.
    """

    item: str
    label: str | None = None
    probability: float | None = None
    top: tuple[tuple[str, float], ...] = ()
    error: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    shares: np.ndarray | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, item: str, found: Mapping[str, Any], class_names: Sequence[str], top: int) -> Prediction:
        """From an entry of ``Task.predictions``."""
        values = dict(found)
        known = values.get("probabilities")
        label, probability = values.pop("label", None), values.pop("probability", None)
        leading: tuple[tuple[str, float], ...] = ()
        if label is not None and (shares := values.pop("probabilities", None)) is not None:
            order = np.argsort(-np.asarray(shares), kind="stable")[:top]
            leading = tuple((class_names[i], float(shares[i])) for i in order)
        elif isinstance(shares := values.get("probabilities"), np.ndarray):  # of tasks that choose several
            values["probabilities"] = dict(zip(class_names, shares.tolist(), strict=True))
        every = known if isinstance(known, np.ndarray) else None
        return cls(item, label, probability, leading, None, values, every)

    def to_dict(self) -> dict[str, object]:
        """Plain JSON types."""
        told: dict[str, object] = {"item": self.item}
        if self.label is not None or not self.values:
            top = [{"label": name, "probability": share} for name, share in self.top]
            told |= {"label": self.label, "probability": self.probability, "top": top}
        return told | {name: _plain(value) for name, value in self.values.items()} | {"error": self.error}

    def __str__(self) -> str:
        if self.error:
            return f"{_shown(self.item)}: {self.error}"
        if self.label is not None:
            return f"{_shown(self.item)}: {self.label} ({self.probability:.2f})"
        return f"{_shown(self.item)}: {', '.join(f'{name} {_short(value)}' for name, value in self.values.items())}"


class Predictions(Sequence[Prediction]):
    """Predictions in the order in which the items were given.

    Attributes:
        class_names: C, in the order of the outputs.
        probabilities: float (N, C), calibrated; NaN for an item that could not be read; (N, 0) for tasks without.
    """

    def __init__(self, rows: Sequence[Prediction], probabilities: np.ndarray, class_names: Sequence[str]) -> None:
        self._rows = list(rows)
        self.probabilities = probabilities
        self.class_names = tuple(class_names)

    def __repr__(self) -> str:
        failed = f", {len(self.errors)} not read" if self.errors else ""
        classes = f", {len(self.class_names)} classes" if self.class_names else ""
        return f"Predictions({len(self)} items{classes}{failed})"

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...

    @overload
    def __getitem__(self, index: slice) -> list[Prediction]: ...

    def __getitem__(self, index: int | slice) -> Prediction | list[Prediction]:
        return self._rows[index]

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self._rows)

    writes_files: ClassVar[bool] = False
    """Whether predictions are files (masks) that ``write`` writes."""

    def write(self, folder: str | os.PathLike[str], *, overlay: bool = False) -> Predictions:
        """The same, written as files into a folder.

        Raises:
            ConfigError: predictions of this task are no files.
        """
        raise ConfigError(
            f"these predictions are no images, so there is nothing to write to {folder}; leave 'overlay' out."
        )

    @property
    def labels(self) -> list[Any]:
        """One class name per item, or the list of those that were chosen; None for one that could not be read."""
        return [row.values.get("labels") if row.label is None else row.label for row in self._rows]

    @property
    def values(self) -> list[Any]:
        """One value per item, of several the mapping of their names; None for one that could not be read."""
        return [None if row.error is not None else row.values.get("value", dict(row.values)) for row in self._rows]

    @property
    def errors(self) -> list[Prediction]:
        """The items that could not be read."""
        return [row for row in self._rows if row.error is not None]

    def to_dicts(self) -> list[dict[str, object]]:
        """Plain JSON types."""
        return [row.to_dict() for row in self._rows]

    def to_dataframe(self) -> pandas.DataFrame:
        """Columns item, then label, probability, label_2, probability_2, ... of the leading classes, or what else the
        task says; and error."""
        import pandas as pd

        of_classes = any(row.label is not None for row in self._rows) or not any(row.values for row in self._rows)
        rows = []
        for row in self._rows:
            cells: dict[str, object] = {"item": row.item}
            if of_classes:
                cells |= {"label": row.label, "probability": row.probability}
            for place, (name, probability) in enumerate(row.top[1:], start=2):
                cells |= {f"label_{place}": name, f"probability_{place}": probability}
            rows.append(cells | _flat(row.values) | {"error": row.error})
        return pd.DataFrame(rows)

    def to_csv(self) -> str:
        """``to_dataframe`` as CSV text."""
        return self.to_dataframe().to_csv(index=False)

    def table(self, top: int) -> tuple[list[str], list[list[str]]]:
        """Headers and cells, of the ``top`` leading classes, for a terminal."""
        names = list(dict.fromkeys(name for row in self._rows for name in row.values))
        if names and all(row.label is None for row in self._rows):
            cells = [
                [_shown(row.item), *(_short(row.values[name]) if name in row.values else "" for name in names)]
                if row.error is None
                else [_shown(row.item), row.error, *[""] * (len(names) - 1)]
                for row in self._rows
            ]
            return ["item", *names], cells
        places = min(top, len(self.class_names))
        rows = []
        for row in self._rows:
            shown = [
                _shown(row.item),
                *([f"{name} {100 * share:.0f}%" for name, share in row.top] or [row.error or ""]),
            ]
            rows.append([*shown, *[""] * (places + 1 - len(shown))])
        return ["item", "predicted", *["then"] * (places - 1)], rows

    def __str__(self) -> str:
        return "\n".join(str(row) for row in self._rows)


def _shown(item: str) -> str:
    """The begin of a long text, on one line; a path has no blanks and stays whole."""
    words = item.split(maxsplit=1)
    if len(item) <= SHOWN or len(words) < 2:
        return " ".join(item.split())
    return " ".join(item.split())[: SHOWN - 1] + "…"


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value


def _flat(values: Mapping[str, object]) -> dict[str, object]:
    """Cells of a table: a list with | between its parts, a mapping as a column an entry."""
    cells: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            cells |= {f"{name}.{key}": part for key, part in value.items()}
        else:
            cells[name] = "|".join(map(str, value)) if isinstance(value, list) else value
    return cells


def _short(value: object) -> str:
    """A value in one cell."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, np.ndarray):
        return f"array {' × '.join(str(size) for size in value.shape)}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_short(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        shown = "; ".join(_short(part) for part in value[:4]) or "none"
        return f"{shown}; and {len(value) - 4} more" if len(value) > 4 else shown
    return str(value)
