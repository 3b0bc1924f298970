"""The registry of the room and what each file in it provides."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from selector.core.contracts import SPLITS
from selector.core.errors import TargetError, did_you_mean
from selector.core.registry import Registry
from selector.data._build import Draft
from selector.data._hashing import Trust


@dataclass(frozen=True)
class Options:
    """How a target is read; the columns only concern tables."""

    name: str | None = None
    image_column: str | None = None
    text_column: str | Sequence[str] | None = None
    label_column: str | None = None
    trust: Trust = "stat"


@dataclass(frozen=True)
class Kind:
    """One kind of input: does it take this object, read with these options, and what does it find there?

    ``accepts`` of different kinds exclude each other, and neither of them may import a heavy
    library for an object that is not theirs.
    """

    description: str
    accepts: Callable[[Any, Options], bool]
    read: Callable[[Any, Options], Draft]


KINDS: Registry[Kind] = Registry("selector.data", "kind of target")

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""What folders, files, columns and dicts call the splits, in lower case."""


def split_rank(split: str) -> int:
    """Position in the order train, val, test, unknown; so that the order of items is not the alphabet's."""
    return SPLITS.index(split) if split in SPLITS else len(SPLITS)


def kind_of(x: Any, options: Options) -> tuple[str, Kind]:
    """Name and kind of an input.

    Raises:
        TargetError: no kind takes it.
    """
    for name in KINDS.names():
        kind = KINDS.get(name)
        if kind.accepts(x, options):
            return name, kind
    known = "; ".join(KINDS.get(name).description for name in KINDS.names())
    if not isinstance(x, str | os.PathLike):
        raise TargetError(f"an object of type {type(x).__name__} is not a target. Expected one of: {known}.")
    path = os.fspath(x)
    if os.path.lexists(path):
        raise TargetError(
            f"target {path} is no folder, parquet, CSV, TSV or JSONL file that can be read; these are the files that can be."
        )
    near = did_you_mean(os.path.basename(path), _listing(os.path.dirname(path) or "."))  # noqa: PTH119, PTH120
    raise TargetError(f"target {path} does not exist{near or '; give a folder, a parquet file or a CSV file.'}")


def find_column(
    where: str, role: str, wanted: str | None, columns: Sequence[str], usual: Sequence[str], typed: Sequence[str] = ()
) -> str:
    """The column that plays a role: the one asked for, one declared so, or one with a usual name.

    Args:
        typed: columns whose declared type says that they play the role.

    Raises:
        TargetError: there is none.
    """
    if wanted is not None:
        if wanted in columns:
            return wanted
        raise TargetError(
            f"{where}: no column '{wanted}'{did_you_mean(wanted, columns) or '.'} Columns: {', '.join(columns) or 'none'}."
        )
    for name in (*typed, *usual):
        if name in columns:
            return name
    if not columns:
        raise TargetError(f"{where}: the table is empty; expected the names of its columns, then a row an item.")
    if role != "label":
        raise TargetError(
            f"{where}: which column holds the texts, or the images? Columns: {', '.join(columns)}. Name texts with text_column "
            f"(--text-column), two columns for pairs. Of images call the {role} column '{usual[0]}', or name it with "
            "selector.load_target(..., image_column='...')."
        )
    raise TargetError(
        f"{where}: no label column among {', '.join(columns)}; expected '{usual[0]}', or name it with label_column "
        "(--label-column)."
    )


def _listing(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208
    except OSError:
        return []
