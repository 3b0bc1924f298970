"""Reading several labels an item, some of which may be unknown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from selector.core.contracts import LabelKind
from selector.core.errors import TargetError
from selector.core.label_kinds import noun_of
from selector.core.task import Table
from selector.tasks._read_labels import (
    ArrayAnnotations,
    check_length,
    check_names,
    declared_names,
    first_of,
    is_gap,
    kind_of,
    labels_of,
    plain,
    position,
    rows_of_numbers,
)
from selector.tasks._read_regression import are_binary
from selector.tasks.classification import missing_label

SEPARATOR = "|"


class LabelSets(ArrayAnnotations):
    """0/1 (N, L): ints, or floats with NaN where an entry is unknown. ``strata`` counts unknown as 0."""

    def review(self, splits: np.ndarray, names: Sequence[str]) -> list[str]:
        """Labels that cannot be learned or judged, labels that are one, items without any.

        Raises:
            TargetError: no label has both a positive and a negative in training.
        """
        notes: list[str] = []
        lacking: list[str] = []
        train = self.labels[splits == "train"]
        unlearnable = np.zeros(len(self.class_names), bool)
        for value, word in ((1, "positive"), (0, "negative")):
            lack = ~(train == value).any(axis=0)
            unlearnable |= lack
            lacking += [f"'{self.class_names[i]}' (no {word})" for i in np.flatnonzero(lack)]
        if unlearnable.all():
            raise TargetError(
                f"{self.where}: no label has both positives and negatives in train: {first_of(lacking)}; there is nothing "
                "to learn."
            )
        if lacking:
            notes.append(
                f"{unlearnable.sum()} of {len(unlearnable)} labels cannot be learned, since train shows one side only: "
                f"{first_of(lacking)}"
            )
        for part in ("val", "test"):
            there = self.labels[splits == part]
            lack = ~unlearnable & ~((there == 1).any(axis=0) & (there == 0).any(axis=0))
            if lack.any():
                told = first_of(f"'{self.class_names[i]}'" for i in np.flatnonzero(lack))
                notes.append(
                    f"{lack.sum()} labels have no positive or no negative in {part}, so they count nowhere: {told}"
                )
        first: dict[bytes, int] = {}
        for place in range(self.labels.shape[1]):
            other = first.setdefault(np.ascontiguousarray(self.labels[:, place]).tobytes(), place)
            if other != place and not unlearnable[place]:
                a, b = self.class_names[other], self.class_names[place]
                notes.append(f"labels '{a}' and '{b}' are the same for every {self.noun}; remove one of them")
        none = np.flatnonzero(~(self.labels == 1).any(axis=1))
        if len(none):
            notes.append(f"{len(none)} {self.noun}s have no label, such as {names[none[0]]}; they count as negatives")
        gaps = int(np.isnan(self.labels).sum())
        if gaps:
            notes.append(f"{gaps} of {self.labels.size} entries are unknown and count nowhere")
        return notes


class MultilabelReading:
    """``Task.accepts`` and ``Task.read`` of several labels an item."""

    role: ClassVar[str] = "label"

    def accepts(self, table: Table) -> str | None:
        """Lists of names or numbers, rows or columns of 0 and 1, names with a separator between them."""
        if "label" not in table.roles:
            return missing_label(table)
        columns = table.roles["label"]
        if len(columns) > 1:
            return None if are_binary(table) else "the columns hold other values than 0 and 1"
        if _separator(table) is not None:
            return None
        kind = kind_of(labels_of(table), columns[0] in table.schema.get("class_names", {}))
        return None if kind is LabelKind.MULTILABEL else f"the labels look like {kind}"

    def read(self, table: Table) -> LabelSets:
        """0/1 with NaN where unknown.

        Raises:
            TargetError: an entry that is no 0, 1 or gap, a list that holds something else, one label only.
        """
        columns, notes = table.roles["label"], list[str]()
        if len(columns) > 1:
            matrix, names = _of_columns(table)
        else:
            matrix, names = self._of_one(table, notes)
        check_names(table.where, names, lambda code: table.names[int(np.flatnonzero(matrix[:, code] == 1)[0])])
        if not np.isnan(matrix).any():
            matrix = matrix.astype(np.int64)
        strata = np.nan_to_num(matrix).astype(np.int64)
        return LabelSets(matrix, names, strata, table.where, noun_of(table.modality), tuple(notes))

    @staticmethod
    def _of_one(table: Table, notes: list[str]) -> tuple[np.ndarray, tuple[str, ...]]:
        column = table.roles["label"][0]
        fixed = declared_names(table, column)
        separator = _separator(table)
        if separator is not None:
            cells = [str(cell or "") for cell in table.columns[column]]
            lists = [[part.strip() for part in cell.split(separator) if part.strip()] for cell in cells]
            if table.schema.get("separator") is None:
                notes.append(
                    f"the labels hold '{separator}', so each is read as several; if it belongs to the names, use "
                    "selector.load_target(..., task='classification')"
                )
            return _of_lists(table, lists, None, notes)
        raw = labels_of(table)
        array = raw if isinstance(raw, np.ndarray) else rows_of_numbers(raw) if fixed is None else None
        if array is not None and (isinstance(raw, np.ndarray) or _kind_is_rows(array)):
            if array.dtype.kind == "f" and not np.isnan(array).any() and table.schema.get("task") is None:
                notes.append(
                    "the labels are rows of 0.0 and 1.0 only, so they are read as several labels; if they are amounts, use "
                    "task='regression'"
                )
            return _of_rows(array, table)
        if not any(isinstance(row, list | tuple | set) for row in raw):
            kind = np.asarray(raw[:1]).dtype.kind if len(raw) else ""
            shown = f"{'text' if kind == 'U' else 'numbers'} ({len(raw)},)"
            raise TargetError(
                f"{table.where}: multilabel labels must be 0 or 1 in the shape (N, L), or lists of names; got {shown}."
            )
        return _of_lists(table, raw, fixed, notes)


def _kind_is_rows(array: np.ndarray) -> bool:
    known = array[~np.isnan(array)] if array.dtype.kind == "f" else array
    return bool(np.isin(known, (0, 1)).all())


def _separator(table: Table) -> str | None:
    """What stands between the labels of a cell: as asked for, or | where cells are combinations of fewer names."""
    separator: str | None = table.schema.get("separator")
    values: Any = table.columns[table.roles["label"][0]]
    if separator is not None:
        return separator if all(cell is None or isinstance(cell, str) for cell in values) else None
    if isinstance(values, np.ndarray) and values.dtype.kind not in "OUST":
        return None
    if not all(cell is None or isinstance(cell, str) for cell in values):
        return None
    cells = {cell for cell in values if cell and SEPARATOR in cell}
    if not cells:
        return None
    parts = {part.strip() for cell in values if cell for part in cell.split(SEPARATOR)}
    whole = {cell for cell in values if cell}
    return SEPARATOR if table.schema.get("task") == "multilabel" or len(parts) < len(whole) else None


def _of_rows(array: np.ndarray, table: Table) -> tuple[np.ndarray, tuple[str, ...]]:
    where = table.where
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise TargetError(
            f"{where}: multilabel labels must be 0 or 1 in the shape (N, L); got {array.dtype} {array.shape}."
        )
    values = array.astype(np.float64)
    bad = ~(np.isnan(values) | (values == 0) | (values == 1))
    if bad.any():
        row, place = (int(i) for i in np.argwhere(bad)[0])
        raise TargetError(
            f"{where}: multilabel labels must be 0 or 1 in the shape (N, L); got {array.dtype} {array.shape}, and "
            f"{table.names[row]} holds {values[row, place]:g}."
        )
    fixed = declared_names(table, table.roles["label"][0])
    return values, tuple(fixed or (str(i) for i in range(array.shape[1])))


def _of_columns(table: Table) -> tuple[np.ndarray, tuple[str, ...]]:
    columns = table.roles["label"]
    words = {"0": 0.0, "0.0": 0.0, "false": 0.0, "1": 1.0, "1.0": 1.0, "true": 1.0}
    values = np.empty((len(table), len(columns)))
    for place, column in enumerate(columns):
        for row, cell in enumerate(plain(table.columns[column])):
            value = np.nan if is_gap(cell) else words.get(str(cell).strip().lower())
            if value is None:
                raise TargetError(
                    f"{table.where}: {table.names[row]}: column '{column}' holds {str(cell)[:40]!r}; expected 0 or 1, or "
                    "nothing where it is unknown."
                )
            values[row, place] = value
    return values, tuple(columns)


def _of_lists(
    table: Table, lists: Sequence[Any], fixed: Sequence[str] | None, notes: list[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    where = table.where
    rows: list[list[Any]] = []
    for name, row in zip(table.names, lists, strict=True):
        if is_gap(row) or not isinstance(row, list | tuple | set):
            raise TargetError(
                f"{where}: {name} has {'no list' if is_gap(row) else f'{str(row)[:40]!r}'} as its labels; expected a list of "
                "names or numbers, empty where it has none."
            )
        cells = [int(c) if isinstance(c, float) and c.is_integer() else c for c in row]
        for cell in cells:
            if is_gap(cell) or not isinstance(cell, str | int | np.integer):
                raise TargetError(
                    f"{where}: {name} has {str(cell)[:40]!r} among its labels; expected names or numbers."
                )
            check_length(cell, where, name)
        rows.append([position(c, fixed, where, name) for c in cells] if fixed is not None else cells)
    used = {cell for row in rows for cell in row}
    if fixed is not None:
        known: list[Any] = sorted(used)
        names = tuple(fixed[i] for i in known)
        if len(known) < len(fixed):
            notes.append(
                f"{len(fixed) - len(known)} of {len(fixed)} labels have no {noun_of(table.modality)} and were left out"
            )
    else:
        known = sorted(used, key=lambda v: (isinstance(v, str), v))
        names = tuple(str(value) for value in known)
    if len(known) < 2:
        found = f"'{names[0]}'" if names else "none"
        raise TargetError(f"{where}: found one label only ({found}); expected several, an item may have any of them.")
    lookup = {value: place for place, value in enumerate(known)}
    matrix = np.zeros((len(rows), len(known)))
    for row, cells in enumerate(rows):
        matrix[row, [lookup[cell] for cell in cells]] = 1
    return matrix, names
