"""The contract of a reader, the registry of the room ``readers/``, and what readers share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from selector.core.contracts import SPLITS
from selector.core.errors import ConfigError, TargetError, did_you_mean
from selector.core.registry import Registry
from selector.core.table import Table
from selector.core.units import words
from selector.data._class_names import class_schema
from selector.data._hashing import HashMode
from selector.options.data import ClassNames


@dataclass(frozen=True)
class Options:
    """How a target is read; see ``load_target``. Columns only concern tables."""

    name: str | None = None
    image_column: str | None = None
    text_column: str | Sequence[str] | None = None
    label_column: str | Sequence[str] | None = None
    hash_mode: HashMode = "mtime"
    mask_column: str | None = None
    box_column: str | None = None
    separator: str | None = None
    class_names: ClassNames = None
    ignore_index: int | None = None
    box_format: str | None = None
    image_root: str | None = None
    task: str | None = None
    split: str | Sequence[str] | None = None

    def schema(self) -> dict[str, object]:
        """What they say of the annotation, as a table hands it to the task."""
        said = {"separator": self.separator, "ignore_index": self.ignore_index, "box_format": self.box_format}
        known = {} if self.class_names is None else class_schema(self.class_names)
        return {**known, **{key: value for key, value in said.items() if value is not None}}

    @property
    def one_label(self) -> str | None:
        """The label column where one is named.

        Raises:
            ConfigError: several are.
        """
        if self.label_column is None or isinstance(self.label_column, str):
            return self.label_column
        raise ConfigError(
            f"label_column={list(self.label_column)!r} names several columns; expected one for this kind of data."
        )


@dataclass(frozen=True)
class Reader:
    """One kind of input: does it take this object, read with these options, and what does it find there?

    Readers are asked in the order of ``rank``; the first that accepts is the one, so that none has to exclude what
    others take. None may import a heavy library for an object that is not its own.

    Attributes:
        description: of the input, for messages.
        rank: layouts that can be told for sure come before those that take almost any folder or table.
        columns: whether options name columns of it; of another input they are refused.
    """

    description: str
    accepts: Callable[[object, Options], bool]
    read: Callable[[Any, Options], Table]
    rank: int = 50
    columns: bool = False


READERS: Registry[Reader] = Registry(
    "selector.data.readers", "reader", families={"tables": ("csv", "jsonl", "frame", "samples")}
)

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""What folders, files, columns and dicts call the splits, in lower case."""


def reader(
    name: str, description: str, accepts: Callable[[object, Options], bool], rank: int = 50, *, columns: bool = False
) -> Callable[[Callable[[Any, Options], Table]], Callable[[Any, Options], Table]]:
    """Decorator of the function that reads a kind of input: files it under ``name``; see ``Reader``."""

    def decorate(read: Callable[[object, Options], Table]) -> Callable[[object, Options], Table]:
        READERS.register(name)(Reader(description, accepts, read, rank, columns))
        return read

    return decorate


def refuse_masked(array: object, what: str, where: str) -> None:
    """A masked array whose gaps would be read as the values that lie beneath the mask.

    Raises:
        TargetError: some of its values are masked.
    """
    if isinstance(array, np.ma.MaskedArray) and (masked := np.ma.getmaskarray(array)).any():
        row = int(np.flatnonzero(masked.reshape(len(masked), -1).any(axis=1))[0])
        raise TargetError(
            f"{where}: {what} are a masked array in which {int(masked.sum())} values are masked (first: row {row}); "
            "fill them, or leave these rows out."
        )


def split_rank(split: str) -> int:
    """Position in the order train, val, test, unknown; so that the order of items is not the alphabet's."""
    return SPLITS.index(split) if split in SPLITS else len(SPLITS)


def reader_of(x: object, options: Options) -> tuple[str, Reader]:
    """Name and reader of an input.

    Raises:
        TargetError: none takes it.
    """
    readers = sorted(((name, READERS.get(name)) for name in READERS.names()), key=lambda r: (r[1].rank, r[0]))
    for name, found in readers:
        if found.accepts(x, options):
            return name, found
    known = "; ".join(found.description for _, found in sorted(readers, key=lambda r: r[0]))
    if not isinstance(x, str | os.PathLike):
        raise TargetError(f"an object of type {type(x).__name__} is not a target. Expected one of: {known}.")
    path = os.fspath(x)
    if os.path.lexists(path):
        raise TargetError(f"target {path} is unsupported; expected a folder, or a parquet, CSV, TSV or JSONL file.")
    near = did_you_mean(os.path.basename(path), _listing(os.path.dirname(path) or "."))  # noqa: PTH119, PTH120
    raise TargetError(f"target {path} does not exist{near or '; give a folder, a parquet file or a CSV file.'}")


def _listing(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208
    except OSError:
        return []


def annotated(
    table: Table,
    labels: object,
    options: Options,
    *,
    role: str = "label",
    class_names: Sequence[str] | None = None,
    schema: Mapping[str, object] | None = None,
) -> Table:
    """The table with its annotation columns, and what the input and the options say of them.

    Args:
        labels: labels an item, or several columns of them by name.
        role: what the columns are (``Table.roles``).
        class_names: when the input fixes them; labels are then positions in this list.
    """
    columns = dict(labels) if isinstance(labels, Mapping) else {role: labels}
    known = {**(schema or {}), **options.schema()}
    if class_names is not None:
        known["class_names"] = {name: list(class_names) for name in columns}
    return replace(table, columns=columns, roles={role: tuple(columns)} if columns else {}, schema=known)


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
        raise TargetError(f"{where}: the table is empty; expected the names of its columns, then one row per item.")
    if role != "label":
        raise TargetError(
            f"{where}: which column holds the texts, or the images? Columns: {', '.join(columns)}. Name texts with text_column "
            f"(--text-column), two columns for pairs. Of images call the {role} column '{usual[0]}', or name it with "
            "image_column (--image-column)."
        )
    raise TargetError(
        f"{where}: no label column among {', '.join(columns)}; expected '{usual[0]}', or name it with label_column "
        "(--label-column)."
    )


def wanted_labels(options: Options, columns: Sequence[str]) -> list[str]:
    """The label columns that were named: one, or several as a list or with commas between them; [] when none was.

    A column whose own name holds a comma is meant where there is one.
    """
    wanted = options.label_column
    if wanted is None:
        return []
    if isinstance(wanted, str):
        return [wanted] if wanted in columns or "," not in wanted else words(wanted)
    return list(wanted)
