"""What raw labels mean: their kind, the classes that they name, the numbers that they are."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from selector.core.contracts import LabelKind
from selector.core.errors import ConfigError, TargetError, did_you_mean

if TYPE_CHECKING:
    from selector.data._build import Draft

TASKS = {
    "classification": LabelKind.CLASSES,
    "multilabel": LabelKind.MULTILABEL,
    "regression": LabelKind.REAL,
    "tagging": LabelKind.CLASSES,
}
_SEVERAL = (
    "several labels of an item are given as 0 and 1, one a class, in the shape (N, L) (scikit-learn's "
    "MultiLabelBinarizer makes them of lists of names)"
)
_INT = re.compile(r"0|-?[1-9][0-9]{0,17}")  # as Python writes it
_FEW = 20  # whole floats with at most so many values are more often classes than amounts


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


def plain(labels: Any) -> Any:
    """Labels without tensors: those, and lists of them, become Python's own lists and values."""
    if isinstance(labels, list | tuple):
        return [label.tolist() if hasattr(label, "tolist") else label for label in labels]
    return labels.tolist() if hasattr(labels, "tolist") and not isinstance(labels, np.ndarray) else labels


def label_kind(labels: Sequence[Any] | np.ndarray, task: str | None, where: str, *, fixed_names: bool) -> LabelKind:
    """The kind that the task says, else the one that the labels look like.

    Args:
        fixed_names: the labels are positions in a list of class names.

    Raises:
        ConfigError: an unknown task.
        TargetError: lists that are no rows of numbers.
    """
    if task is not None:
        if task not in TASKS:
            raise ConfigError(f"unknown task '{task}'{did_you_mean(task, TASKS) or '.'} Known: {', '.join(TASKS)}.")
        return TASKS[task]
    if fixed_names:
        return LabelKind.CLASSES
    array = _as_array(labels, where)
    if array.ndim == 2:
        if array.dtype.kind not in "biuf":
            raise TargetError(f"{where}: the labels are lists such as {array[0].tolist()}; {_SEVERAL}.")
        binary = array.dtype.kind in "biu" and bool(np.isin(array, (0, 1)).all())
        return LabelKind.MULTILABEL if binary else LabelKind.REAL
    return LabelKind.REAL if array.dtype.kind == "f" else LabelKind.CLASSES


def _as_array(labels: Sequence[Any] | np.ndarray, where: str) -> np.ndarray:
    try:
        return np.asarray(labels)
    except ValueError:
        raise TargetError(f"{where}: the labels are lists of different lengths; {_SEVERAL}.") from None


def encode(draft: Draft, kind: LabelKind, notes: list[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as a ``Target`` has them, and the names of classes.

    Raises:
        TargetError: a label that is missing or not of the kind; class names that differ by case only; one class.
    """
    if kind is not LabelKind.CLASSES:
        return _encode_numbers(draft, kind)
    where, noun = draft.where, draft.row_noun
    raw = draft.labels.tolist() if isinstance(draft.labels, np.ndarray) else list(draft.labels)
    for name, label in zip(draft.row_names(), raw, strict=True):
        _check_label(label, where, name)
    if draft.class_names is not None:
        positions = [_position(label, draft, name) for name, label in zip(draft.row_names(), raw, strict=True)]
        names: list[str] = list(draft.class_names)
        used = sorted(set(positions))
        if len(used) < len(names):
            notes.append(f"{len(names) - len(used)} of {len(names)} classes have no {noun} and were left out")
    else:
        # whole floats (a CSV column of numbers with gaps) are the integers they mean
        raw = [int(label) if isinstance(label, float) and label.is_integer() else label for label in raw]
        values = sorted(set(raw), key=lambda v: (isinstance(v, str), v))
        names = [str(value) for value in values]
        lookup = {value: index for index, value in enumerate(values)}
        positions = [lookup[label] for label in raw]
        used = list(range(len(names)))
    new = {old: index for index, old in enumerate(used)}
    codes = np.array([new[p] for p in positions], dtype=np.int64)
    class_names = tuple(names[old] for old in used)
    _check_names(draft, codes, class_names)
    if len(class_names) < 2:
        raise TargetError(
            f"{where}: found one class only ('{class_names[0]}', {len(raw)} {noun}{'s' * (len(raw) > 1)}); a ranking needs at least two."
        )
    return codes, class_names


def _check_label(label: Any, where: str, name: str) -> None:
    blank = isinstance(label, str) and not label.strip()
    gap = (isinstance(label, float) and not math.isfinite(label)) or type(label).__name__ in ("NAType", "NaTType")
    if label is None or blank or gap:  # the types are pandas' own gaps
        raise TargetError(f"{where}: {name} has no label; give it one or remove it.")
    if isinstance(label, list | tuple):
        raise TargetError(f"{where}: {name} has a list as its label ({str(label)[:40]}); {_SEVERAL}.")
    if isinstance(label, Mapping | set):
        raise TargetError(
            f"{where}: {name} has a {type(label).__name__} as its label ({str(label)[:40]}); "
            "expected a name or a number."
        )


def _check_names(draft: Draft, codes: np.ndarray, class_names: tuple[str, ...]) -> None:
    by_case: dict[str, str] = {}
    for code, name in enumerate(class_names):
        try:
            name.encode()
        except UnicodeEncodeError:
            row = int(np.flatnonzero(codes == code)[0])
            said = list(draft.row_names())[row]
            raise TargetError(
                f"{draft.where}: {said} has a label that holds half of a character, a lone surrogate "
                f"({name!a}); write the file in UTF-8 again."
            ) from None
        other = by_case.setdefault(name.strip().casefold(), name)
        if other != name or class_names.count(name) > 1:
            raise TargetError(
                f"{draft.where}: class names '{other}' and '{name}' differ by case or spaces only; merge or rename one of "
                "them."
            )


def _position(label: Any, draft: Draft, name: str) -> int:
    names = draft.class_names or ()
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(names):
        raise TargetError(
            f"{draft.where}: {name} has the label {label!r}; expected an int in 0..{len(names) - 1} "
            f"(the position of a class name); label it or leave the unlabelled part out."
        )
    return label


def _encode_numbers(draft: Draft, kind: LabelKind) -> tuple[np.ndarray, tuple[str, ...]]:
    where = draft.where
    array = _as_array(draft.labels, where)
    if kind is LabelKind.MULTILABEL:
        if array.ndim != 2 or array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
            raise TargetError(
                f"{where}: multilabel labels must be 0 or 1 in the shape (N, L); got {array.dtype} {array.shape}."
            )
        names = tuple(draft.class_names or (str(i) for i in range(array.shape[1])))
        return array.astype(np.int64), names
    try:
        values = array.astype(np.float64)
    except (TypeError, ValueError):
        raise TargetError(
            f"{where}: regression labels must be numbers; got {array.dtype} such as {array.ravel().tolist()[0]!r}."
        ) from None
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))[0])
        raise TargetError(f"{where}: {draft.names[row]} has no finite label; give it one or remove it.")
    return values, ()


def whole_notes(values: np.ndarray) -> list[str]:
    """That real values which nobody asked for may be meant as classes."""
    if values.ndim != 1 or (values % 1).any():
        return []
    found = np.unique(values)
    if len(found) > _FEW:
        return []
    shown = ", ".join(str(value) for value in found[:3].tolist()) + (", ..." if len(found) > 3 else "")
    return [
        f"the labels are numbers with a decimal point ({shown}), so this is read as regression, although all are "
        f"whole and only {len(found)} differ; if they are classes, write them without the point, or use "
        "selector.load_target(..., task='classification')"
    ]
