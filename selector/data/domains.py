"""A target without labels beside a labeled source domain of the same classes, as one ``Target``.

The source is read as any classification target. The target may be a flat folder of images, a list of paths,
images or texts, an array, a text file with one text per line, a table without labels; or whatever else is read with
labels, which are then sealed (``core.sealed``).
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from selector import modalities
from selector.core.contracts import UNLABELED, LabelKind, Target, noun_of
from selector.core.errors import OptionError, TargetError, did_you_mean
from selector.core.held_out_labels import UNKNOWN, SealedLabels
from selector.core.table import Table
from selector.data._files import JSON_LINES, TABLES, files_of, table_files
from selector.data._items import ConcatItems, ListItems, SubsetItems
from selector.data._memory import rows_of
from selector.data._tabular import of_files
from selector.data._text_rows import csv_cells, read_objects, read_utf8
from selector.data._trees import listed, picture_table
from selector.data.assembly import fingerprint
from selector.data.columns import Columns, LazyColumns, table_of
from selector.data.reader import SPLIT_NAMES, Options, reader_of
from selector.data.readers.parquet import parquet_columns, readable
from selector.data.splits import draw_order
from selector.modalities.image import is_image_name
from selector.tasks._read_labels import declared_names, first_of, is_gap, labels_of, position
from selector.tasks.adaptation import DomainLabels

_FOLDERS = (
    " (names of folders were taken for classes: of other folders give a list of paths, or a CSV with a column 'path')"
)
_NOT_LABELED = -1  # what the Hugging Face libraries write among numbers of declared classes
MOST_SHARED = 0.5
"""Share of the target's items that the source may hold as well; beyond, they are one dataset."""


def unlabeled_table(x: Any, options: Options, class_names: Sequence[str]) -> Table:
    """What a target without labels holds: items, and a column ``label`` with None where an item has none.

    Args:
        class_names: of the source; folders that all have other names are no class folders.

    Raises:
        TargetError: nothing reads it, or it is empty.
    """
    if isinstance(x, str | os.PathLike):
        path = Path(x)
        if path.suffix.lower() == ".txt" and path.is_file():
            lines = [line.rstrip("\n") for line in io.StringIO(read_utf8(path), newline=None) if line.strip()]
            if not lines:
                raise TargetError(f"{path}: the target is empty; expected one text per line.")
            return _read((lines, [None] * len(lines)), _named(options, path.stem))
        if path.is_dir() and not files_of(path) and not table_files(path):
            return _folder(path, options, class_names)
        if (path.suffix.lower() in TABLES or path.suffix.lower() == ".parquet") and path.is_file():
            return _table(path, options)
    elif not (isinstance(x, tuple) and len(x) == 2) and (_is_array(x) or rows_of(x) is not None):
        if not len(x):
            raise TargetError("the target is empty; give at least one item without labels.")
        return _read((x, [None] * len(x)), options)
    return _read(x, options)


def combine(source: Target, table: Table, *, num_target_labels: int | None, seed: int) -> Target:
    """One target of both domains: the source's splits, and ``UNLABELED`` for the items of the table.

    Args:
        num_target_labels: so many of the target's labels, drawn by content, are learned from; their items join train.

    Raises:
        TargetError: other items or classes than the source's, nothing left, or the source once more.
        OptionError: fewer labels than ``num_target_labels``.
    """
    if source.task != "classification" or source.labels.ndim != 1:
        raise TargetError(
            f"source_domain '{source.name}' is read as {source.task}; adaptation to a target without labels is for "
            "classification, one class per item."
        )
    if modalities.of(table) is not modalities.of(source):
        raise TargetError(
            f"the target holds {noun_of(table.modality)}s and source_domain '{source.name}' {noun_of(source.modality)}s; both "
            "must hold the same."
        )
    if table.features is not None and source.features is not None:
        widths = table.features.shape[1], source.features.shape[1]
        if widths[0] != widths[1]:
            raise TargetError(
                f"the target has {widths[0]} features per row and source_domain {widths[1]}; expected the same number."
            )
    codes = _codes(table, source.class_names)
    keep, notes = _not_in_source(source, table, codes)
    few = _few_shot(table, codes, keep, num_target_labels, seed)
    keep, copies = _without_copies(table, codes, few, keep)
    notes += copies
    shown = np.where(few, codes, UNKNOWN)[keep]
    hidden = np.where(few, UNKNOWN, codes)[keep]
    target = _joined(source, table, keep, shown, hidden)
    notes = [*notes, *_class_notes(hidden[shown == UNKNOWN], source.class_names, noun_of(table.modality))]
    if few.any():
        notes.append(
            f"{int(few.sum())} labeled {noun_of(table.modality)}s of the target are learned from (num_target_labels)"
        )
    target = replace(target, notes=(*source.notes, *table.notes, *notes))
    return replace(target, fingerprint=fingerprint(target))


def load_items(x: object) -> Target:
    """Items alone, for features of them: no labels, no splits, in the order in which they are given.

    Raises:
        TargetError: nothing reads them, or there are none.
    """
    table = unlabeled_table(x, Options(), ())
    count = len(table)
    target = Target(
        name=table.name,
        modality=table.modality,
        label_kind=LabelKind.CLASSES,
        items=table.items,
        names=table.names,
        labels=np.full(count, UNKNOWN),
        class_names=(),
        splits=np.full(count, UNLABELED),
        split_origin="given",
        hashes=tuple(table.hashes),
        fingerprint="",
        notes=tuple(table.notes),
        features=table.features,
    )
    return replace(target, fingerprint=fingerprint(target))


# ---------------------------------------------------------------------------- reading


def _read(x: object, options: Options) -> Table:
    return reader_of(x, options)[1].read(x, options)


def _named(options: Options, name: str) -> Options:
    return options if options.name else replace(options, name=name)


def _is_array(x: object) -> bool:
    return isinstance(x, np.ndarray) or (hasattr(x, "ndim") and hasattr(x, "__len__"))


def _folder(root: Path, options: Options, class_names: Sequence[str]) -> Table:
    """Images anywhere below a folder; those in class folders (below train, val, test or not) carry the class.

    Folders of which none has the name of a class, or one like it, are of something else: of days, of cameras.
    """
    root = root.absolute()
    found = listed(root, is_image_name)
    if not found:
        raise TargetError(f"{root}: no images found; the target is a folder of images, with or without class folders.")
    folders = [path.split("/")[:-1] for path, _ in found]
    inner = [parts[1:] if parts and parts[0].lower() in SPLIT_NAMES else parts for parts in folders]
    named = [parts[0] if parts else None for parts in inner]
    others = list(dict.fromkeys(name for name in named if name is not None))
    known = [name.lower() for name in class_names]
    notes = []
    if others and not any(name.lower() in known or did_you_mean(name.lower(), known) for name in others):
        notes.append(
            f"no folder of the target has the name of a class of the source domain: {first_of(others)}; the images in them "
            "are read as images without labels"
        )
        named = [None] * len(named)
    return picture_table(root, found, options, "label", named, notes=notes)


def _table(path: Path, options: Options) -> Table:
    """A table file; where it has no column of labels, one of gaps is put beside it."""
    path = path.absolute()
    own = replace(options, name=options.name or path.stem)
    if path.suffix.lower() == ".parquet":
        with readable(path):
            found = parquet_columns(path, own, paths=True)
            found.texts_only, found.values_tell = True, not found.types["Image"]
            return _with_gaps(found, own)
    lines = path.suffix.lower() in JSON_LINES
    found = of_files(path, [path], read_objects if lines else csv_cells, own, written=False)
    found.texts_only = lines
    return _with_gaps(found, own)


def _with_gaps(found: Columns, options: Options) -> Table:
    """The column of labels is the one that was named, which the source may have and the target not, or as for labeled
    data."""
    known, columns = found.known, found.columns
    if not known:
        return table_of(found, options)
    usual = (*found.types.get("ClassLabel", ()), *Columns.label_columns)
    label = options.one_label or next((name for name in usual if name in known), "label")

    def read(name: str) -> list[Any]:
        cells = columns[name] if name in known else [None] * len(found.names)
        return [None if is_gap(cell) else cell for cell in cells] if name == label else list(cells)

    found.columns = LazyColumns(list(dict.fromkeys([*known, label])), read)
    return table_of(found, replace(options, label_column=label))


# ---------------------------------------------------------------------------- joining


def _codes(table: Table, class_names: Sequence[str]) -> np.ndarray:
    """Class numbers of the source for the target's labels, ``UNKNOWN`` for gaps.

    Raises:
        TargetError: a label that is no class of the source, or no number of a declared class.
    """
    if "label" not in table.roles:
        return np.full(len(table), UNKNOWN)
    declared = declared_names(table, table.roles["label"][0])
    number = {name: code for code, name in enumerate(class_names)}
    codes = np.full(len(table), UNKNOWN)
    unknown: dict[str, str] = {}
    for row, label in enumerate(labels_of(table)):
        if is_gap(label) or (declared is not None and label == _NOT_LABELED):
            continue
        if isinstance(label, float | np.floating) and float(label).is_integer():
            label = int(label)
        name = str(label if declared is None else declared[position(label, declared, table.where, table.names[row])])
        if name in number:
            codes[row] = number[name]
        else:
            unknown.setdefault(name, str(table.names[row]))
    if unknown:
        folders = table.origin is not None and Path(table.where).is_dir()
        listed = first_of(f"'{name}' ({where})" for name, where in unknown.items())
        raise TargetError(
            f"{table.where}: the classes of the two domains differ: {listed} occur in the target and not among the "
            f"{len(class_names)} of source_domain ({first_of(class_names)}); both domains need the same classes. "
            f"Rename or leave out what differs, or give the target without labels{_FOLDERS if folders else ''}."
        )
    return codes


def _not_in_source(source: Target, table: Table, codes: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Positions of items that the source does not hold as well.

    Raises:
        TargetError: nothing there, or most items are the source's.
    """
    if not len(table):
        raise TargetError(f"{table.where}: the target is empty; give at least one item without labels.")
    own = set(source.hashes)
    shared = np.array([value in own for value in table.hashes])
    if shared.mean() > MOST_SHARED:
        raise TargetError(
            f"{table.where}: {int(shared.sum())} of {len(table)} items of the target have the same content as items of "
            f"source_domain '{source.name}': the target is the source. Give the data that have no labels yet."
        )
    if not shared.any():
        return np.arange(len(table)), []
    first = table.names[int(np.flatnonzero(shared)[0])]
    return np.flatnonzero(~shared), [
        f"{int(shared.sum())} items of the target have the same content as items of the source domain, such as {first}; "
        "they were left out of the target"
    ]


def _few_shot(table: Table, codes: np.ndarray, keep: np.ndarray, count: int | None, seed: int) -> np.ndarray:
    """(N,) True for the labeled items that are learned from: drawn by content and seed, each content once."""
    few = np.zeros(len(table), bool)
    if count is None:
        return few
    known = [int(i) for i in keep if codes[i] != UNKNOWN]
    labeled = list({table.hashes[i]: i for i in reversed(known)}.values())
    if count > len(labeled):
        copies = " (copies of an item count once)" if len(labeled) < len(known) else ""
        told = "" if labeled else "".join(f" ({note})" for note in table.notes)
        raise OptionError(
            f"num_target_labels is {count}, but {len(labeled)} items of the target have a label{copies}{told}; use at most as many.",
            "num_target_labels",
        )
    order = draw_order([table.hashes[i] for i in labeled], seed)
    few[[labeled[i] for i in np.argsort(np.array(order, dtype=np.uint64), kind="stable")[:count]]] = True
    return few


def _without_copies(table: Table, codes: np.ndarray, few: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Positions without those of the content of an item that is learned from: it is no longer unknown."""
    learned = {table.hashes[i]: i for i in np.flatnonzero(few).tolist()}
    copies = [int(i) for i in keep if not few[i] and table.hashes[i] in learned]
    if not copies:
        return keep, []
    first = copies[0]
    notes = [
        f"{len(copies)} items of the target have the same content as items that are learned from (num_target_labels), such as "
        f"{table.names[first]} and {table.names[learned[table.hashes[first]]]}; they were left out of the target"
    ]
    conflicts = [i for i in copies if codes[i] not in (UNKNOWN, codes[learned[table.hashes[i]]])]
    if conflicts:
        first = conflicts[0]
        notes.append(
            f"{len(conflicts)} items have the same content as one with another label that is learned from, such as "
            f"{table.names[first]} and {table.names[learned[table.hashes[first]]]}"
        )
    return np.setdiff1d(keep, copies), notes


def _class_notes(hidden: np.ndarray, class_names: Sequence[str], noun: str) -> list[str]:
    known = hidden[hidden != UNKNOWN]
    if not len(known):
        return []
    lacking = [name for code, name in enumerate(class_names) if not (known == code).any()]
    notes = [f"{len(known)} of {len(hidden)} {noun}s of the target have a label, used for the final metric only"]
    if lacking:
        notes.append(f"no labeled {noun} of the target is of {len(lacking)} of the classes: {first_of(lacking)}")
    return notes


def _joined(source: Target, table: Table, keep: np.ndarray, shown: np.ndarray, hidden: np.ndarray) -> Target:
    if not (shown == UNKNOWN).any():
        raise TargetError(f"{table.where}: no item without a label is left in the target; use fewer num_target_labels.")
    splits = np.concatenate([source.splits.astype(object), np.where(shown == UNKNOWN, UNLABELED, "train")])
    labels = np.concatenate([source.labels.astype(np.int64), shown])
    sealed = SealedLabels(np.concatenate([np.full(len(source), UNKNOWN), hidden]))
    own = [table.names[i] for i in keep.tolist()]
    rows = table.features
    return replace(
        source,
        name=table.name,
        items=ConcatItems([source.items, SubsetItems(table.items, keep)]) if rows is None else ListItems([]),
        names=[*source.names, *own],
        labels=labels,
        splits=splits.astype(f"<U{len(UNLABELED)}"),
        hashes=(*source.hashes, *(table.hashes[i] for i in keep.tolist())),
        features=None if rows is None or source.features is None else np.concatenate([source.features, rows[keep]]),
        origin={"kind": "domains", "path": table.origin["path"]} if source.origin and table.origin else None,
        task="adaptation",
        annotations=DomainLabels(
            labels,
            source.class_names,
            labels,
            table.where,
            noun_of(table.modality),
            (),
            sealed,
            source.name,
            np.concatenate([np.zeros(len(source), bool), shown != UNKNOWN]),
        ),
    )
