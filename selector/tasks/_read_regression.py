"""Reading one or several real values an item."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from selector.core.contracts import LabelKind, noun_of
from selector.core.errors import TargetError
from selector.core.table import Table
from selector.tasks._read_labels import ArrayAnnotations, first_of, is_gap, kind_of, labels_of, number_notes, plain
from selector.tasks.classification import missing_label

_BINS = 10
_LEAST = 14  # items a quantile: two each for val and test


class RealValues(ArrayAnnotations):
    """Values (N,) or (N, T), NaN where one is unknown; ``class_names`` are the columns where there are several.

    ``strata`` are quantiles: (N,), or of several values (N, T · quantiles) 0/1.
    """

    stratum: ClassVar[str] = "quantile"

    def review(self, splits: np.ndarray, names: Sequence[str]) -> list[str]:
        """Nothing to note.

        Raises:
            TargetError: a column of which training knows fewer than two values.
        """
        known = self.labels.reshape(len(self.labels), -1)[splits == "train"]
        for place in range(known.shape[1]):
            if np.isfinite(known[:, place]).sum() < 2:
                name = f"column '{self.class_names[place]}'" if self.class_names else f"value {place}"
                raise TargetError(f"{self.where}: {name} has fewer than two known values in train; remove it.")
        return []


class RegressionReading:
    """``Task.accepts`` and ``Task.read`` of regression."""

    role: ClassVar[str] = "label"

    def accepts(self, table: Table) -> str | None:
        """Numbers with a decimal point, or with too many values for classes; several columns that are not all 0 and 1."""
        if "label" not in table.roles:
            return missing_label(table)
        columns = table.roles["label"]
        if len(columns) > 1:
            return "the columns hold 0 and 1 only" if are_binary(table) else None
        kind = kind_of(labels_of(table), columns[0] in table.schema.get("class_names", {}))
        return None if kind is LabelKind.REAL else f"the labels look like {kind}"

    def read(self, table: Table) -> RealValues:
        """Values as floats.

        Raises:
            TargetError: a value that is no number, infinite, or (of one column) missing; all equal.
        """
        columns = table.roles["label"]
        notes: list[str] = []
        if len(columns) > 1:
            values = number_columns(table, "a number")
            missing = np.isnan(values).sum(axis=0)
            if missing.any():
                told = first_of(f"'{c}' {n}" for c, n in zip(columns, missing, strict=True) if n)
                notes.append(f"values that are missing count nowhere, by column: {told}")
            self._check_rows(table, values)
        else:
            raw = labels_of(table)
            values = _floats(raw, table)
            if table.schema.get("task") is None:
                notes += number_notes(raw, LabelKind.REAL)
        if not any(np.ptp(v[~np.isnan(v)]) for v in values.reshape(len(values), -1).T if (~np.isnan(v)).any()):
            raise TargetError(f"{table.where}: all labels are equal; there is nothing to learn.")
        names = columns if len(columns) > 1 else ()
        return RealValues(values, names, quantiles(values), table.where, noun_of(table.modality), tuple(notes))

    @staticmethod
    def _check_rows(table: Table, values: np.ndarray) -> None:
        empty = np.flatnonzero(np.isnan(values).all(axis=1))
        if len(empty):
            raise TargetError(f"{table.where}: {table.names[empty[0]]} has no value in any column; remove it.")


def _floats(raw: Any, table: Table) -> np.ndarray:
    where = table.where
    try:
        values = np.asarray(raw, dtype=np.float64) if len(raw) else np.zeros(0)
    except (TypeError, ValueError, OverflowError):
        row = next((i for i, v in enumerate(raw) if not _is_number(v)), 0)
        if is_gap(raw[row]) or (isinstance(raw[row], str) and not raw[row].strip()):
            raise TargetError(f"{where}: {table.names[row]} has no label; give it one or remove it.") from None
        raise TargetError(
            f"{where}: {table.names[row]} is labeled {str(raw[row])[:60]!r}, and regression labels must be numbers; "
            "write it with a decimal point, or remove it."
        ) from None
    flat = values.reshape(len(values), -1)
    if np.isinf(flat).any() or (values.ndim == 1 and np.isnan(flat).any()) or np.isnan(flat).all(axis=1).any():
        several = values.ndim > 1
        bad = np.isinf(flat).any(axis=1) | (np.isnan(flat).all(axis=1) if several else np.isnan(flat).any(axis=1))
        row = int(np.flatnonzero(bad)[0])
        if (infinite := np.flatnonzero(np.isinf(flat[row]))).size:
            found = f"an infinite value{f' in column {infinite[0]}' if several else ''}"
            known = ", NaN where it is unknown" if several else ""
            raise TargetError(f"{where}: {table.names[row]} has {found}; expected a finite number{known}.")
        raise TargetError(f"{where}: {table.names[row]} has no label; give it one or remove it.")
    return values


def _is_number(value: object) -> bool:
    try:
        return not is_gap(value) and np.isscalar(value) and math.isfinite(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False


def quantiles(values: np.ndarray) -> np.ndarray:
    """Strata of values: ints (N,) of up to ten quantiles, or 0/1 (N, T · quantiles); unknown values are in none."""
    if values.ndim == 2 and values.shape[1] > 1:
        bins = [quantiles(column) for column in values.T]
        rows = [
            np.eye(int(b.max()) + 1, dtype=np.int64)[b] * ~np.isnan(v)[:, None]
            for b, v in zip(bins, values.T, strict=True)
        ]
        return np.hstack(rows)
    values = values.reshape(-1)
    number = max(1, min(_BINS, len(values) // _LEAST))
    edges = np.nanquantile(values, np.linspace(0, 1, number + 1)[1:-1]) if number > 1 else np.zeros(0)
    codes = np.searchsorted(np.unique(edges), np.nan_to_num(values), side="right")
    # ties (a third of all values is 0) leave quantiles empty or small: what is too small joins its neighbor
    used = np.zeros(len(values), np.int64)
    current = count = 0
    for code, size in zip(*np.unique(codes, return_counts=True), strict=True):
        used[codes == code] = current
        count += int(size)
        if count >= _LEAST:
            current, count = current + 1, 0
    if count and current:
        used[used == current] = current - 1
    return used


# ---------------------------------------------------------------------------- several columns


def number_columns(table: Table, expected: str, number: Callable[[Any], float] = float) -> np.ndarray:
    """Several label columns as floats (N, K); missing is NaN.

    Args:
        expected: what a cell holds, for messages; ``number`` makes one of it.

    Raises:
        TargetError: a cell that is no number, or infinite; with item and column.
    """
    columns = table.roles["label"]
    values = np.empty((len(table), len(columns)))
    for place, column in enumerate(columns):
        for row, cell in enumerate(plain(table.columns[column])):
            try:
                value = math.nan if is_gap(cell) else number(cell)
            except (TypeError, LookupError, ValueError, OverflowError):
                value = math.inf
            if math.isinf(value):
                raise TargetError(
                    f"{table.where}: {table.names[row]}: column '{column}' holds {str(cell)[:40]!r}; expected {expected}, "
                    "or nothing where it is unknown."
                )
            values[row, place] = value
    return values


_BINARY = {"0": 0.0, "0.0": 0.0, "false": 0.0, "1": 1.0, "1.0": 1.0, "true": 1.0}


def binary(cell: object) -> float:
    """0 or 1; KeyError where a cell says neither."""
    return _BINARY[str(cell).strip().lower()]


def are_binary(table: Table) -> bool:
    """Whether several label columns hold nothing but 0, 1 and gaps."""
    return all(
        is_gap(cell) or str(cell).strip().lower() in _BINARY
        for column in table.roles["label"]
        for cell in plain(table.columns[column])
    )
