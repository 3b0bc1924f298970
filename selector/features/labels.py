"""Labels of any accepted form -> columns that second-order scores regress on.

Classes are renumbered over those that occur, so an id without rows changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from selector.core.contracts import LabelKind
from selector.core.errors import ProxyError
from selector.features.arrays import as_array


@dataclass(frozen=True)
class Labels:
    """Checked labels.

    Attributes:
        kind: what they are.
        codes: (N,) position in ``classes``; empty unless ``kind`` is CLASSES.
        classes: the ids that occur, sorted.
        columns: float64 (N, T) for MULTILABEL (labels without a positive row are left out) and
            REAL; None for CLASSES, whose one-hot columns are never stored.
    """

    kind: LabelKind
    codes: np.ndarray
    classes: np.ndarray
    columns: np.ndarray | None

    def __len__(self) -> int:
        return len(self.codes) if self.columns is None else len(self.columns)

    @property
    def num_columns(self) -> int:
        """T: the classes that occur, the labels with a positive row, or the regression targets."""
        return len(self.classes) if self.columns is None else self.columns.shape[1]

    def select(self, rows: np.ndarray) -> tuple[Labels, np.ndarray]:
        """The labels of some rows, checked again, and which columns are left of the old ones."""
        if self.columns is None:
            codes = self.codes[rows]
            return of_classes(self.classes[codes]), np.unique(codes)
        columns = self.columns[rows]
        kept = np.flatnonzero(columns.any(axis=0) | (self.kind is LabelKind.REAL))
        return of_columns(columns, self.kind), kept

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


def check_labels(labels: Any, count: int, kind: LabelKind | None) -> Labels:
    """Validate ``labels`` for ``count`` rows.

    Without a ``kind``: 1-D ints, booleans or strings are classes, 1-D floats are real values, 2-D
    arrays of 0 and 1 are multi-label, other 2-D arrays are real values.

    Raises:
        ProxyError: wrong length or shape, not finite, one class only, or a constant target.
    """
    array = as_array(labels, "labels")
    if array.ndim == 2 and array.shape[1] == 1 and kind is not LabelKind.MULTILABEL:
        array = array[:, 0]
    if array.ndim not in (1, 2) or array.dtype.kind not in "iubfUSO":
        raise ProxyError(
            f"labels must have the shape (N,), (N, L) or (N, T). Got shape {array.shape} of {array.dtype}."
        )
    if len(array) != count:
        raise ProxyError(f"features and labels must have equal lengths. Got {count} rows and {len(array)} labels.")
    kind = kind or _infer(array)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ProxyError(f"labels must be finite. Label {int(np.argwhere(~np.isfinite(array))[0][0])} is not.")
    if kind is LabelKind.CLASSES:
        if array.ndim != 1:
            raise ProxyError(
                f"class labels must have the shape (N,). Got shape {array.shape}; 0/1 columns are multi-label."
            )
        if array.dtype.kind == "f" and (array != np.floor(array)).any():
            raise ProxyError(
                "class labels must be whole numbers or names. Got fractions; real values need label_kind='real'."
            )
        return of_classes(array)
    columns = array.reshape(count, -1)
    if columns.dtype.kind not in "iubf":
        raise ProxyError(f"{kind} labels must be numbers. Got the type {array.dtype}.")
    return of_columns(columns.astype(np.float64), kind)


def of_classes(ids: np.ndarray) -> Labels:
    """Class labels from ids of any kind."""
    classes, codes = np.unique(ids, return_inverse=True)
    if len(classes) < 2:
        raise ProxyError(f"labels must hold at least two classes. Got one: {classes[0] if len(classes) else 'none'}.")
    return Labels(LabelKind.CLASSES, codes.ravel(), classes, None)


def of_columns(columns: np.ndarray, kind: LabelKind) -> Labels:
    """Multi-label or real columns."""
    if kind is LabelKind.MULTILABEL:
        if not np.isin(columns, (0, 1)).all():
            raise ProxyError("multi-label columns must hold 0 and 1 only.")
        columns = columns[:, columns.any(axis=0)]
    if columns.shape[1] == 0 or (columns == columns[0]).all():
        raise ProxyError(f"{kind} labels must vary. All rows have the same label.")
    return Labels(kind, np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), columns)


def _infer(array: np.ndarray) -> LabelKind:
    if array.ndim == 1:
        return LabelKind.REAL if array.dtype.kind == "f" else LabelKind.CLASSES
    return LabelKind.MULTILABEL if np.isin(array, (0, 1)).all() else LabelKind.REAL
