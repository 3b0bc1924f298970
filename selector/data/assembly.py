"""From what a reader found to a checked ``Target``.

Every input ends here: a task reads its annotation from the table, and splits, notes and the fingerprint mean the same
for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import xxhash

from selector import modalities
from selector.core.contracts import Annotations, LabelKind, Target, noun_of
from selector.core.errors import TargetError
from selector.core.table import Table
from selector.data.splits import split
from selector.tasks import read_table

_KINDS = {"multilabel": LabelKind.MULTILABEL, "regression": LabelKind.REAL}


def assemble(table: Table, *, seed: int, task: str | None) -> Target:
    """Read the annotation of a table, draw the splits that are missing.

    Raises:
        TargetError: nothing there, columns of another length, annotations that cannot be used, a class too small for
            its splits; the message names the item, or the class and counts.
        ConfigError: a task that was asked for does not fit the data.
    """
    if len(table) == 0:
        raise TargetError(f"{table.where}: no items found; give a dataset with labeled {noun_of(table.modality)}s.")
    for column in {column for columns in table.roles.values() for column in columns}:
        if len(table.columns[column]) != len(table):
            raise TargetError(
                f"{table.where}: {len(table)} items but {len(table.columns[column])} labels; give one label per item."
            )
    undecodable = _decoder_notes(table)
    name, found = read_table(replace(table, schema={**table.schema, "task": task}), task)
    notes = [*table.notes, *undecodable, *found.notes, *([] if task is not None else other_roles(table, name))]
    splits, split_origin = split(table, found, seed, notes)
    notes += found.review(splits, table.names)
    notes += _duplicate_notes(table.hashes, table.names, found.digest, splits)
    target = Target(
        name=table.name,
        modality=table.modality,
        label_kind=_KINDS.get(name, LabelKind.CLASSES),
        items=table.items,
        names=table.names,
        labels=_labels(found),
        class_names=found.class_names,
        splits=splits,
        split_origin=split_origin,
        hashes=tuple(table.hashes),
        fingerprint="",
        origin=table.origin,
        notes=tuple(notes),
        features=table.features,
        feature_widths=table.feature_widths,
        seed=seed,
        row_starts=getattr(found, "starts", None),  # of annotations whose labels are of words
        task=name,
        annotations=found,
    )
    _check_names(found.class_names, table.where)
    return replace(target, fingerprint=fingerprint(target))


def _decoder_notes(table: Table) -> list[str]:
    """That images are in formats for which there is no decoder here.

    Raises:
        TargetError: all of them are.
    """
    lacking = modalities.of(table).lacking_decoders(table.names)
    listed = ", ".join(
        f"{count} of {len(table)} images are {name}, which needs: {install}"
        for name, (count, install) in lacking.items()
    )
    if sum(count for count, _ in lacking.values()) == len(table):
        raise TargetError(f"{table.where}: {listed}; nothing can be read without it.")
    return [f"{listed}; without it they cannot be read"] if lacking else []


def _check_names(names: Sequence[str], where: str) -> None:
    known: set[str] = set()
    for number, name in enumerate(names):
        if not name.strip():
            raise TargetError(f"{where}: the name of class {number} is empty; give it one.")
        if name in known:
            raise TargetError(f"{where}: two classes are called '{name}'; merge or rename one of them.")
        known.add(name)
        try:
            name.encode()
        except UnicodeEncodeError:
            raise TargetError(
                f"{where}: the class {name!a} holds half of a character, a lone surrogate; write its name in UTF-8 again."
            ) from None


def other_roles(table: Table, task: str) -> list[str]:
    """That a table holds annotations of another kind as well, which ``task`` would read."""
    kinds = {"mask": ("masks", "segmentation"), "boxes": ("boxes", "detection")}
    found = [(table.roles[role], *kinds[role]) for role in kinds if role in table.roles and kinds[role][1] != task]
    return [
        f"column '{columns[0]}' holds {what} as well, which are read with task='{other}' (--task {other})"
        for columns, what, other in found
    ]


def _labels(annotations: Annotations) -> np.ndarray:
    """The array form of annotations; (N, 0) where an item has none."""
    if annotations.labels is None:
        return np.zeros((len(annotations), 0), dtype=np.int64)
    return annotations.labels


def fingerprint(target: Target) -> str:
    """Of the ordered content hashes, labels, class names and splits; in it are no paths and no times."""
    lazy = target.annotations is not None and target.annotations.labels is None
    shape = f"{target.task} {len(target)}" if lazy else f"{target.label_kind} {target.labels.shape}"
    digest = xxhash.xxh3_128(f"target/1 {target.modality} {shape}\n".encode())
    digest.update("\n".join(target.hashes).encode())
    digest.update(b"\n")
    if lazy:
        assert target.annotations is not None
        digest.update("\n".join(target.annotations.digest(i) for i in range(len(target))).encode())
    else:
        kind = "<f8" if target.labels.dtype.kind == "f" else "<i8"
        digest.update(np.ascontiguousarray(target.labels, dtype=kind).data)
    digest.update("\0".join(target.class_names).encode())
    digest.update(b"\n")
    digest.update(" ".join(target.splits.tolist()).encode())
    if target.of_words:
        digest.update(np.ascontiguousarray(target.row_starts, dtype="<i8").data)
    return digest.hexdigest()


_MANY_COPIES = 0.1  # of all items


def _duplicate_notes(
    hashes: Sequence[str], names: Sequence[str], digest_of: Callable[[int], object], splits: np.ndarray
) -> list[str]:
    first: dict[str, int] = {}
    inside: list[tuple[int, int]] = []
    across: list[tuple[int, int]] = []
    conflicts: list[tuple[int, int]] = []
    for index, value in enumerate(hashes):
        other = first.setdefault(value, index)
        if other != index:
            (inside if splits[other] == splits[index] else across).append((other, index))
            if digest_of(other) != digest_of(index):
                conflicts.append((other, index))
    notes = []
    if across:
        a, b = across[0]
        notes.append(
            f"{len(across)} items have the same content as one in another split, such as {names[a]} ({splits[a]}) and "
            f"{names[b]} ({splits[b]}); test metrics are likely optimistic (data leakage)"
        )
    if inside and len(inside) >= _MANY_COPIES * len(hashes):
        a, b = inside[0]
        notes.append(
            f"{len(inside)} of {len(hashes)} items have the same content as an earlier one in their split, such as {names[b]} "
            f"and {names[a]}; they count as often as they occur, in training and in metrics: remove copies that are not meant"
        )
    if conflicts:
        a, b = conflicts[0]
        notes.append(
            f"{len(conflicts)} items have the same content as one with another label, such as {names[a]} and {names[b]}"
        )
    return notes
