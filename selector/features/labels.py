"""Labels of any accepted form -> columns that second-order scores regress on.

Classes are renumbered over those that occur, so an id without rows changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from selector.core.contracts import LabelKind
from selector.core.errors import ProxyError
from selector.features.arrays import as_array

ENOUGH = 10  # rows of a label's rarer side from which it is scored


@dataclass(frozen=True)
class Labels:
    """Checked labels.

    Attributes:
        kind: what they are.
        codes: (N,) position in ``classes``; empty unless ``kind`` is CLASSES.
        classes: the ids that occur, sorted.
        columns: float64 (N, T) for MULTILABEL and REAL, NaN where an entry is unknown; None for CLASSES,
            whose one-hot columns are never stored. Columns that cannot be scored are left out.
        known: bool (N, T), or None where every entry is.
        names: of the columns.
        left_out: names of columns that are not scored, with the rows of their rarer side (of real values: 0).
    """

    kind: LabelKind
    codes: np.ndarray
    classes: np.ndarray
    columns: np.ndarray | None
    known: np.ndarray | None = None
    names: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.codes) if self.columns is None else len(self.columns)

    @property
    def num_columns(self) -> int:
        """T: the classes that occur, the labels with enough rows, or the regression targets."""
        return len(self.classes) if self.columns is None else self.columns.shape[1]

    def select(self, rows: np.ndarray, columns: np.ndarray | None = None) -> tuple[Labels, np.ndarray]:
        """The labels of some rows, and which columns are left of the old ones: those that still vary.

        Args:
            columns: look at these alone.
        """
        if self.columns is None:
            codes = self.codes[rows]
            return of_classes(self.classes[codes]), np.unique(codes)
        asked = np.arange(self.num_columns) if columns is None else columns
        values = self.columns[np.ix_(rows, asked)]
        varying = KINDS[self.kind].rarer(values) > 0
        if not varying.any():
            raise ProxyError(f"{self.kind} labels must vary. All rows have the same label.")
        values, kept = values[:, varying], asked[varying]
        names = tuple(self.names[i] for i in kept)
        return Labels(self.kind, self.codes, self.classes, values, _known(values), names, self.left_out), kept

    def patterns(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(columns, rows) that are known together: one pair for every pattern of unknown entries."""
        if self.known is None:
            return [(np.arange(self.num_columns), np.arange(len(self)))]
        found, member = np.unique(self.known, axis=1, return_inverse=True)
        member = member.ravel()
        return [(np.flatnonzero(member == i), np.flatnonzero(rows)) for i, rows in enumerate(found.T)]

    def note(self) -> str:
        """What is not scored and why, for a person; empty where everything is."""
        if not self.left_out:
            return ""
        shown = ", ".join(f"{name} ({count})" for name, count in list(self.left_out.items())[:10])
        more = f" and {len(self.left_out) - 10} more" if len(self.left_out) > 10 else ""
        return f"{len(self.left_out)} {KINDS[self.kind].not_scored}: {shown}{more}."

    def groups(self) -> np.ndarray | None:
        """(N,) rows with the same labels have the same number, from 0 on; None where labels are values on a scale."""
        return KINDS[self.kind].groups(self)

    def block(self, rows: slice | np.ndarray) -> np.ndarray:
        """The columns (n, T) of some rows as a dense float64 array."""
        if self.columns is not None:
            return self.columns[rows]
        codes = self.codes[rows]
        dense = np.zeros((len(codes), len(self.classes)))
        dense[np.arange(len(codes)), codes] = 1
        return dense

    def sums(self, rows: np.ndarray, index: slice | np.ndarray) -> np.ndarray:
        """Σ y x over the rows given, (T, D): for classes the table of class sums.

        Args:
            rows: float64 (n, D).
            index: which labels belong to them.
        """
        if self.columns is not None:
            return np.asarray(self.columns[index].T @ rows)
        from scipy.sparse import csr_array

        codes = self.codes[index]
        one_hot = csr_array(
            (np.ones(len(codes)), (codes, np.arange(len(codes)))), shape=(len(self.classes), len(codes))
        )
        return np.asarray(one_hot @ rows)


def check_labels(
    labels: object, count: int, kind: LabelKind | str | None, *, mask: object = None, names: Sequence[str] = ()
) -> Labels:
    """Validate ``labels`` for ``count`` rows.

    Without a ``kind``: 1-D ints, booleans or strings are classes, 1-D floats are real values, 2-D
    arrays of 0 and 1 are multi-label, other 2-D arrays are real values.

    Args:
        mask: (N,) or (N, T), True where a label is known; NaN and numpy's masked entries are unknown too.
            Class labels are known throughout.
        names: of the columns; their numbers when not given.

    Raises:
        ProxyError: wrong length or shape, infinite, one class only, or no column that varies.
    """
    kind = _kind(kind)
    _check_mixed(labels)
    array = as_array(labels, "labels")
    if array.ndim == 2 and array.shape[1] == 1 and (kind is None or KINDS[kind].flat):
        array = array[:, 0]
    if array.ndim not in (1, 2) or array.dtype.kind not in "iubfUSO":
        raise ProxyError(
            f"labels must have the shape (N,), (N, L) or (N, T). Got shape {array.shape} of {array.dtype}."
        )
    if len(array) != count:
        raise ProxyError(f"features and labels must have equal lengths. Got {count} rows and {len(array)} labels.")
    known = _mask(array, mask)
    array = np.asarray(array)
    means = KINDS[kind or _infer(array, known)]
    wrong = np.isinf(array) if array.dtype.kind == "f" else np.zeros(array.shape, dtype=bool)
    wrong = wrong | (~known & (not means.may_be_unknown))
    if wrong.any():
        first = int(np.argwhere(wrong)[0][0])
        hint = "" if means.may_be_unknown else "; a class cannot be unknown: drop the row"
        raise ProxyError(f"labels must be finite. Label {first} is not{hint}.")
    return means.labels(array, known, names)


def _kind(kind: LabelKind | str | None) -> LabelKind | None:
    if kind is None or isinstance(kind, LabelKind):
        return kind
    try:
        return LabelKind(kind)
    except ValueError:
        known = ", ".join(k.value for k in LabelKind)
        raise ProxyError(f"label_kind must be one of {known}. Got {kind!r}.") from None


def _check_mixed(labels: Any) -> None:
    """numpy would make names of the numbers between them, so that 1 and '1' are one class; and real values of whole
    numbers of pandas of which some are missing."""
    if getattr(getattr(labels, "dtype", None), "kind", "") in ("i", "u", "b") and hasattr(labels, "isna"):
        gaps = np.flatnonzero(np.asarray(labels.isna()))
        if len(gaps):
            raise ProxyError(f"labels must be known. Label {gaps[0]} is missing; drop the row.")
    if not isinstance(labels, list | tuple) and getattr(getattr(labels, "dtype", None), "kind", "") != "O":
        return
    first: tuple[int, bool] | None = None
    for number, label in enumerate(labels):
        if label is None or (isinstance(label, float) and math.isnan(label) and first is not None and first[1]):
            raise ProxyError(f"labels must be known. Label {number} is {label}; drop the row.")
        if not isinstance(label, str | bool | int | float | np.generic):
            continue  # a row of several columns, which the shape is checked of
        name = isinstance(label, str)
        if first is not None and first[1] != name:
            raise ProxyError(
                f"labels must be all names or all numbers. Label {first[0]} is {labels[first[0]]!r}, but label {number} "
                f"is {label!r}."
            )
        first = first or (number, name)


def of_classes(ids: np.ndarray) -> Labels:
    """Class labels from ids of any kind."""
    classes, codes = np.unique(ids, return_inverse=True)
    if len(classes) < 2:
        raise ProxyError(f"labels must hold at least two classes. Got one: {classes[0] if len(classes) else 'none'}.")
    return Labels(LabelKind.CLASSES, codes.ravel(), classes, None)


def of_columns(columns: np.ndarray, kind: LabelKind, names: Sequence[str] = ()) -> Labels:
    """Multi-label or real columns, NaN where unknown; those that cannot be scored are left out."""
    scored = scored_columns(columns, kind)
    if not scored.any():
        raise ProxyError(f"{kind} labels must vary. All rows have the same label.")
    names = tuple(names) or tuple(str(i) for i in range(columns.shape[1]))
    rare = KINDS[kind].rarer(columns)
    left_out = {names[i]: int(rare[i]) for i in np.flatnonzero(~scored)}
    columns = columns[:, scored]
    nothing = np.empty(0, dtype=np.int64)
    kept = tuple(names[i] for i in np.flatnonzero(scored))
    return Labels(kind, nothing, nothing, columns, _known(columns), kept, left_out)


def scored_columns(columns: np.ndarray, kind: LabelKind) -> np.ndarray:
    """bool (T,) columns that a mean over columns is taken of.

    Labels whose rarer side has at least ``ENOUGH`` rows, all that vary where none has; real columns that vary.
    """
    rare = KINDS[kind].rarer(columns)
    enough = rare >= KINDS[kind].enough
    return np.asarray(enough if enough.any() else rare > 0)


# ---------------------------------------------------------------------------- what a kind of label means


class _Kind:
    """What differs between the kinds of labels.

    Attributes:
        enough: rows of a column's rarer side from which it is scored.
        flat: an array (N, 1) means the same as (N,).
        may_be_unknown: single entries may be.
        not_scored: of columns that are left out.
    """

    enough = 1
    flat = True
    may_be_unknown = True
    not_scored = "columns are constant and not scored"

    def labels(self, array: np.ndarray, known: np.ndarray, names: Sequence[str]) -> Labels:
        raise NotImplementedError

    def rarer(self, columns: np.ndarray) -> np.ndarray:
        """(T,) rows of the rarer of 0 and 1; of real columns 1 where they vary."""
        raise NotImplementedError

    def groups(self, labels: Labels) -> np.ndarray | None:
        raise NotImplementedError


class _Classes(_Kind):
    may_be_unknown = False

    def labels(self, array: np.ndarray, known: np.ndarray, names: Sequence[str]) -> Labels:
        if array.ndim != 1:
            raise ProxyError(
                f"class labels must have the shape (N,). Got shape {array.shape}; 0/1 columns are multi-label."
            )
        if array.dtype.kind == "f" and (array != np.floor(array)).any():
            raise ProxyError(
                "class labels must be whole numbers or names. Got fractions; real values need label_kind='real'."
            )
        return of_classes(array)

    def groups(self, labels: Labels) -> np.ndarray:
        return labels.codes


class _Real(_Kind):
    kind = LabelKind.REAL

    def labels(self, array: np.ndarray, known: np.ndarray, names: Sequence[str]) -> Labels:
        columns = array.reshape(len(array), -1)
        if columns.dtype.kind not in "iubf":
            raise ProxyError(f"{self.kind} labels must be numbers. Got the type {array.dtype}.")
        if names and len(names) != columns.shape[1]:
            raise ProxyError(f"label_names must name every column. Got {len(names)} for {columns.shape[1]}.")
        columns = np.where(known.reshape(columns.shape), columns.astype(np.float64), np.nan)
        return of_columns(self.checked(columns), self.kind, names)

    def checked(self, columns: np.ndarray) -> np.ndarray:
        return columns

    def rarer(self, columns: np.ndarray) -> np.ndarray:
        low = np.where(np.isnan(columns), np.inf, columns).min(axis=0)
        high = np.where(np.isnan(columns), -np.inf, columns).max(axis=0)
        return np.asarray((low < high).astype(np.int64))

    def groups(self, labels: Labels) -> np.ndarray | None:
        return None


class _Multilabel(_Real):
    kind = LabelKind.MULTILABEL
    enough = ENOUGH
    flat = False
    not_scored = f"labels have fewer than {ENOUGH} positive or negative rows and are not scored"

    def checked(self, columns: np.ndarray) -> np.ndarray:
        if not np.isin(columns[~np.isnan(columns)], (0, 1)).all():
            raise ProxyError("multi-label columns must hold 0 and 1 only.")
        return columns

    def rarer(self, columns: np.ndarray) -> np.ndarray:
        return np.asarray(np.minimum((columns == 1).sum(axis=0), (columns == 0).sum(axis=0)))

    def groups(self, labels: Labels) -> np.ndarray:
        assert labels.columns is not None
        _, groups = np.unique(np.nan_to_num(labels.columns, nan=-1.0), axis=0, return_inverse=True)
        return np.asarray(groups.ravel())


KINDS: Mapping[LabelKind, _Kind] = {
    LabelKind.CLASSES: _Classes(),
    LabelKind.MULTILABEL: _Multilabel(),
    LabelKind.REAL: _Real(),
}


def _known(columns: np.ndarray) -> np.ndarray | None:
    unknown = np.isnan(columns)
    return ~unknown if unknown.any() else None


def _mask(array: np.ndarray, mask: object) -> np.ndarray:
    """bool, in the shape of the labels: True where an entry is known."""
    known = ~np.ma.getmaskarray(array) if isinstance(array, np.ma.MaskedArray) else np.ones(array.shape, dtype=bool)
    if array.dtype.kind == "f":
        known &= ~np.isnan(np.asarray(array))
    if mask is not None:
        given = as_array(mask, "mask").astype(bool)
        if given.ndim == 2 and array.ndim == 1 and given.shape[1] == 1:
            given = given[:, 0]
        if len(given) != len(array) or given.ndim > array.ndim:
            raise ProxyError(f"mask must have the shape of the labels, {array.shape}. Got {given.shape}.")
        known &= given if given.ndim == array.ndim else given[:, None]
    return np.asarray(known)


def _infer(array: np.ndarray, known: np.ndarray) -> LabelKind:
    if array.ndim == 1:
        return LabelKind.REAL if array.dtype.kind == "f" else LabelKind.CLASSES
    return LabelKind.MULTILABEL if np.isin(array[known], (0, 1)).all() else LabelKind.REAL
