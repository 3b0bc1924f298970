"""What raw labels mean: their kind, the classes that they name, the numbers that they are.

Shared by the tasks whose annotation is a column of labels. Values are looked at one by one: an array of
strings would be as wide as its longest one, rows times.
"""

from __future__ import annotations

import decimal
import math
import numbers
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from selector.core.contracts import SPLITS, LabelKind
from selector.core.errors import TargetError
from selector.core.table import Table

Own = TypeVar("Own", bound="ArrayAnnotations")


@dataclass(frozen=True)
class ArrayAnnotations:
    """``labels`` (N,) or (N, K), one row per item; see ``core.task.Annotations``.

    Attributes:
        where, noun: the input and what an item is, in messages.
        notes: what a person should know of them.
    """

    labels: np.ndarray
    class_names: tuple[str, ...]
    strata: np.ndarray
    where: str
    noun: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.strata)

    def __getitem__(self, index: int, /) -> Any:
        return self.labels[index]

    def digest(self, index: int) -> str:
        """The label, as hex."""
        return np.ascontiguousarray(self[index]).tobytes().hex()

    def take(self: Own, indices: np.ndarray) -> Own:
        """Those of some items."""
        return replace(self, labels=self.labels[indices], strata=self.strata[indices])

    def review(self, splits: np.ndarray, names: Sequence[str]) -> list[str]:
        """What the splits make of them; nothing by default."""
        return []


LONGEST_LABEL = 1000  # characters: a longer one is a text
MOST_NAMED = 10  # classes or labels that one message names
_MANY = 20  # whole numbers with more values than this, few times each, are amounts
_INT = re.compile(r"0|-?[1-9][0-9]{0,17}")  # as Python writes it
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_MOST_SLIPS = 0.1  # of the labels: of more nobody would say that the column is one of numbers
_GAPS = ("NAType", "NaTType", "MaskedConstant")  # of pandas and of masked arrays


def labels_of(table: Table) -> Any:
    """The values of the one label column: Python's own, or an array."""
    values = table.columns[table.roles["label"][0]]
    return as_numbers(values) if table.schema.get("written") else plain(values)


def declared_names(table: Table, column: str) -> Sequence[str] | None:
    """Class names that the input fixes for a column, of which its values are then positions."""
    found: Mapping[str, Sequence[str]] = table.schema.get("class_names", {})
    return found.get(column)


def as_numbers(labels: Sequence[Any] | np.ndarray) -> list[Any]:
    """Labels of a written table, all strings: ints (classes 2 before 10) or floats when all are such, else as they are.

    An int is what Python would write so: 01 and 1, or 1_0 and 10, are different labels.

    >>> as_numbers(["10", "2 "]), as_numbers(["1.5", "2"]), as_numbers(["01", "1"]), as_numbers(["1_0", "10"])
    ([10, 2], [1.5, 2.0], ['01', '1'], ['1_0', '10'])
    """
    bare = [label.strip() for label in labels]
    if all(_INT.fullmatch(label) for label in bare):
        return [int(label) for label in bare]
    if any("_" in label for label in bare) or all(label.lstrip("+-").isdigit() for label in bare):
        return list(labels)
    try:
        return [float(label) for label in bare]
    except ValueError:
        return list(labels)


def check_slips(table: Table, labels: Sequence[Any]) -> None:
    """Tell a column of amounts in which a few cells are no numbers (``12,5``) from one of class names.

    Raises:
        TargetError: nearly all labels are amounts; names the first that is none.
    """
    slips = [row for row, label in enumerate(labels) if isinstance(label, str) and not _NUMBER.fullmatch(label.strip())]
    others = len(labels) - len(slips)
    if not slips or len(slips) > _MOST_SLIPS * len(labels):
        return
    amounts = as_numbers([label for label in labels if _NUMBER.fullmatch(str(label).strip())])
    if kind_of(amounts, fixed_names=False) is LabelKind.REAL and len(set(amounts)) > _MANY:
        raise TargetError(
            f"{table.where}: {table.names[slips[0]]} is labeled {str(labels[slips[0]])[:60]!r}, while {others} of "
            f"{len(labels)} labels are numbers; mend it for regression, or use task='classification' (--task classification) "
            "if they are names."
        )


def plain(labels: object) -> Any:
    """Labels without tensors: those, and lists of them, become Python's own lists and values.

    What a masked array hides is unknown: NaN in an array of numbers, None in any other.
    """
    if isinstance(labels, np.ma.MaskedArray):
        if labels.dtype.kind in "biuf" and labels.ndim == 2:
            return np.where(np.ma.getmaskarray(labels), np.nan, labels.data) if np.ma.is_masked(labels) else labels.data
        return labels.tolist()
    if isinstance(labels, np.ndarray) and labels.dtype.kind not in "OUSTMm":
        return labels
    if hasattr(labels, "tolist"):
        labels = labels.tolist()
    if not isinstance(labels, list | tuple):
        return labels
    return [_decoded(label.tolist() if hasattr(label, "tolist") else label) for label in labels]


def _decoded(label: object) -> object:
    """Names that a table holds as bytes (binary columns) are text.

    Raises:
        TargetError: they are no UTF-8.
    """
    if isinstance(label, list | tuple):
        return [_decoded(part) for part in label] if any(isinstance(part, bytes) for part in label) else label
    if not isinstance(label, bytes):
        return label
    try:
        return label.decode("utf-8")
    except UnicodeDecodeError:
        raise TargetError(
            f"the label {label[:40]!r} is bytes that are not UTF-8; expected names, numbers or bytes of names."
        ) from None


def is_gap(label: Any) -> bool:
    """Whether a label is missing: None, blank, NaN or pandas' own gaps."""
    if label is None or isinstance(label, str):
        return label is None or not label.strip()
    # numpy's own floats (in an array of objects) are Real but no float; a Decimal is neither
    number = isinstance(label, numbers.Real | decimal.Decimal)
    return (number and math.isnan(label)) or type(label).__name__ in _GAPS


def kind_of(values: Any, fixed_names: bool) -> LabelKind:
    """What a column of labels looks like.

    Strings and whole numbers are classes; numbers with a point are real values, and so are whole numbers with more
    than 20 values that occur less than three times each on average, unless they number classes without a gap; lists of
    names, or rows of 0 and 1, are several labels an item; other rows of numbers are several real values.

    Args:
        fixed_names: the labels are positions in a list of class names.
    """
    if isinstance(values, np.ndarray):
        if values.ndim == 2:
            return _kind_of_rows(values)
        if fixed_names or values.dtype.kind not in "fiu":
            return LabelKind.CLASSES
        amounts = values.dtype.kind == "f" or _are_amounts(values)
        return LabelKind.REAL if amounts else LabelKind.CLASSES
    listed = next((label for label in values if not is_gap(label)), None)
    if isinstance(listed, list | tuple | set):
        array = None if fixed_names else rows_of_numbers(values)
        return LabelKind.MULTILABEL if array is None else _kind_of_rows(array)
    if fixed_names or not values:
        return LabelKind.CLASSES
    types = {type(label) for label in values}
    numbers = all(issubclass(t, int | float | np.number) and t is not bool for t in types)
    if not numbers:
        return LabelKind.CLASSES
    if any(issubclass(t, float | np.floating) for t in types):
        return LabelKind.REAL
    return LabelKind.REAL if _are_amounts(values) else LabelKind.CLASSES


def _are_amounts(values: Any) -> bool:
    """Whether whole numbers are amounts: many values, few items each, and not what numbers of classes look like (all
    from 0 or 1 to the largest one, about equally often)."""
    counts = Counter(values.tolist() if isinstance(values, np.ndarray) else values)
    if len(counts) <= _MANY or len(values) >= 3 * len(counts):
        return False
    first = min(counts)
    without_gaps = first in (0, 1) and max(counts) - first == len(counts) - 1
    return not (without_gaps and max(counts.values()) <= 2 * min(counts.values()))


def _kind_of_rows(array: np.ndarray) -> LabelKind:
    if array.dtype.kind in "biu":
        return LabelKind.MULTILABEL if bool(np.isin(array, (0, 1)).all()) else LabelKind.REAL
    if array.dtype.kind != "f":
        return LabelKind.MULTILABEL
    gaps = np.isnan(array)
    binary = bool(np.isin(array[~gaps], (0, 1)).all())
    return LabelKind.MULTILABEL if binary and (gaps.any() or array.shape[1] > 1) else LabelKind.REAL


def rows_of_numbers(values: Sequence[Any]) -> np.ndarray | None:
    """Lists of numbers of one length (None is NaN), as an array (N, L); None where they are anything else."""
    width = None
    gaps = False
    for row in values:
        if not isinstance(row, list | tuple) or (width is not None and len(row) != width):
            return None
        width = len(row)
        for value in row:
            gaps = gaps or value is None
            if not (value is None or isinstance(value, int | float | np.number)):
                return None
    if not width:
        return None
    return np.array([[np.nan if v is None else v for v in row] for row in values]) if gaps else np.asarray(values)


def number_notes(values: object, kind: LabelKind) -> list[str]:
    """That numbers of which nobody said what they are may be meant the other way round."""
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "fiu" or not len(array):
        return []
    found = np.unique(array)
    whole = not (array % 1).any()
    shown = ", ".join(str(value) for value in found[:3].tolist()) + (", ..." if len(found) > 3 else "")
    if kind is LabelKind.CLASSES:
        if array.dtype.kind == "f" or len(found) <= MOST_NAMED:
            return []
        return [
            f"the labels are whole numbers ({shown}; {len(found)} differ), so this is read as classification; if they are "
            "amounts, use selector.load_target(..., task='regression')"
        ]
    if array.dtype.kind != "f":
        return [
            f"the labels are whole numbers of which {len(found)} differ ({shown}), less than three items each, so this is "
            "read as regression; if they are classes, use selector.load_target(..., task='classification')"
        ]
    if not whole or len(found) > _MANY:
        return []
    return [
        f"the labels are numbers with a decimal point ({shown}), so this is read as regression, although all are "
        f"whole and only {len(found)} differ; if they are classes, write them without the point, or use "
        "selector.load_target(..., task='classification')"
    ]


# ---------------------------------------------------------------------------- classes


def encode_classes(
    where: str, noun: str, names: Callable[[], Iterable[str]], raw: Any, fixed: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
    """Class numbers (N,), the names of classes, notes.

    Args:
        names: a readable name a label, for messages.
        fixed: class names that the input fixes; ``raw`` are then positions in this list.

    Raises:
        TargetError: a label that is missing or no class; class names that differ by case only; one class.
    """
    raw = raw.tolist() if isinstance(raw, np.ndarray) else list(raw)
    raw = [label.item() if isinstance(label, np.generic) else label for label in raw]  # of an array of objects
    for name, label in zip(names(), raw, strict=True):
        _check_label(label, where, name)
    if fixed is not None:
        raw = [position(label, fixed, where, name) for name, label in zip(names(), raw, strict=True)]
    else:  # whole floats (a CSV column of numbers with gaps) are the integers they mean
        raw = [int(label) if isinstance(label, float) and label.is_integer() else label for label in raw]
    number, class_names, notes = numbered(set(raw), fixed, f"classes have no {noun}")
    codes = np.array([number[label] for label in raw], dtype=np.int64)
    check_names(where, class_names, lambda code: list(names())[int(np.flatnonzero(codes == code)[0])])
    if len(class_names) < 2:
        raise TargetError(
            f"{where}: found one class only ('{class_names[0]}', {len(raw)} {noun}{'s' * (len(raw) > 1)}); a ranking needs at least two."
        )
    return codes, class_names, notes


def numbered(
    used: Iterable[Any], fixed: Sequence[str] | None, lacking: str
) -> tuple[dict[Any, int], tuple[str, ...], list[str]]:
    """The number of each label that occurs, numbers before texts; their names; and that declared ones were left out.

    Args:
        fixed: as for ``encode_classes``; labels that do not occur have no number.
        lacking: what is said of those, such as "classes have no image".
    """
    values = sorted(used, key=lambda value: (isinstance(value, str), value))
    names = tuple(str(value) if fixed is None else fixed[value] for value in values)
    left_out = 0 if fixed is None else len(fixed) - len(values)
    notes = [f"{left_out} of {len(values) + left_out} {lacking} and were left out"] if left_out else []
    return {value: number for number, value in enumerate(values)}, names, notes


def _check_label(label: object, where: str, name: str) -> None:
    if is_gap(label) or (isinstance(label, numbers.Real | decimal.Decimal) and math.isinf(label)):
        raise TargetError(f"{where}: {name} has no label; give it one or remove it.")
    if isinstance(label, list | tuple):
        raise TargetError(
            f"{where}: {name} has a list as its label ({str(label)[:40]}); expected one class. Several labels an item "
            "are the task 'multilabel'."
        )
    if isinstance(label, Mapping | set):
        raise TargetError(
            f"{where}: {name} has a {type(label).__name__} as its label ({str(label)[:40]}); "
            "expected a name or a number."
        )
    check_length(label, where, name)


def check_length(label: object, where: str, name: str) -> None:
    """A label is a name, not a text.

    Raises:
        TargetError: it has more than 1,000 characters.
    """
    if isinstance(label, str) and len(label) > LONGEST_LABEL:
        raise TargetError(
            f"{where}: {name} has a label of {len(label):,} characters ({label[:40]!r}...); expected a name of at most "
            f"{LONGEST_LABEL:,}. If this is the column of texts, name the one of labels with label_column (--label-column)."
        )


def check_names(where: str, class_names: Sequence[str], first_item: Callable[[int], str]) -> None:
    """Names can be written as UTF-8 and differ by more than case.

    Args:
        first_item: of a class number the name of an item that has it.

    Raises:
        TargetError: names the class, or the item.
    """
    by_case: dict[str, str] = {}
    counts = Counter(class_names)
    for code, name in enumerate(class_names):
        try:
            name.encode()
        except UnicodeEncodeError:
            raise TargetError(
                f"{where}: {first_item(code)} has a label that holds half of a character, a lone surrogate "
                f"({name!a}); write the file in UTF-8 again."
            ) from None
        other = by_case.setdefault(name.strip().casefold(), name)
        if other != name or counts[name] > 1:
            raise TargetError(
                f"{where}: class names '{other}' and '{name}' differ by case or spaces only; merge or rename one of them."
            )


def position(label: object, names: Sequence[str], where: str, name: str) -> int:
    """A label that is the position of a class name.

    Raises:
        TargetError: it is none.
    """
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(names):
        raise TargetError(
            f"{where}: {name} has the label {label!r}; expected an int in 0..{len(names) - 1} "
            f"(the position of a class name); label it or leave the unlabeled part out."
        )
    return label


# ---------------------------------------------------------------------------- messages


def first_of(texts: Iterable[str], most: int = MOST_NAMED) -> str:
    """The first few, and how many more there are."""
    found = list(texts)
    return ", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")


def cell_counts(labels: np.ndarray, splits: np.ndarray) -> Counter[tuple[int, str]]:
    """Items a (class, split)."""
    return Counter(zip(labels.tolist(), splits.tolist(), strict=True))


def check_classes(where: str, labels: np.ndarray, class_names: Sequence[str], splits: np.ndarray, noun: str) -> None:
    """Every class is in every split.

    Raises:
        TargetError: names those that are not, with their counts.
    """
    counts = cell_counts(labels, splits)
    missing = [label for label in range(len(class_names)) if not all(counts[label, split] for split in SPLITS)]
    if not missing:
        return

    def numbers(label: int) -> str:
        return ", ".join(f"{part} {counts[label, part]}" for part in SPLITS)

    label = missing[0]
    split = next(split for split in SPLITS if not counts[label, split])
    who, classes = f"class '{class_names[label]}' has no {noun} in {split} ({numbers(label)})", "class"
    if len(missing) > 1:
        listed = first_of(f"'{class_names[label]}' ({numbers(label)})" for label in missing)
        who = f"{len(missing)} of {len(class_names)} classes have no {noun} in one of the splits: {listed}"
        classes = "classes"
    raise TargetError(
        f"{where}: {who}; every class needs at least one in each split: move {noun}s, remove the {classes}, or give the {noun}s "
        "without splits."
    )
