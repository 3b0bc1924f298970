"""From what a loader found (items, labels, perhaps splits) to a checked ``Target``.

Every kind of input ends here, so that classes, splits, notes and the fingerprint mean the same for
all of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import xxhash

from selector.core.contracts import SPLITS, Items, LabelKind, Modality, Target
from selector.core.errors import ConfigError, TargetError
from selector.data._labels import as_numbers, encode, label_kind, plain, whole_notes

SHARES = {"train": 0.70, "val": 0.15, "test": 0.15}
_MOST = 10  # classes that one error names


@dataclass
class Draft:
    """What a loader found, before it is checked.

    Attributes:
        where: the input, as messages name it.
        items, names, hashes: N each; see ``Target``.
        labels: raw labels, one a row: class names, ints, 0/1 rows or floats.
        splits: N of train, val, test, or empty strings where the input does not say.
        class_names: when the input fixes them; ``labels`` are then positions in this list.
        origin: what loads it again, or None.
        features: ready features (N, D) instead of items.
        written: labels are the words of a file, of which numbers are made once all of them are known.
        counts: rows of each item, where they are several; their labels stand item after item.
    """

    where: str
    name: str
    items: Items
    names: Sequence[str]
    labels: Sequence[Any] | np.ndarray
    hashes: Sequence[str]
    splits: Sequence[str] | None = None
    class_names: Sequence[str] | None = None
    notes: list[str] | None = None
    origin: dict[str, Any] | None = None
    features: np.ndarray | None = None
    modality: Modality = Modality.IMAGE
    counts: Sequence[int] | None = None
    written: bool = False

    @property
    def row_noun(self) -> str:
        """What has a label, in messages."""
        return self.modality.noun if self.counts is None else "word"

    @property
    def rows(self) -> int:
        """How many labels there should be."""
        return len(self.hashes) if self.counts is None else sum(self.counts)

    def row_names(self) -> Iterator[str]:
        """A readable name a row."""
        if self.counts is None:
            yield from self.names
            return
        for name, count in zip(self.names, self.counts, strict=True):
            yield from (f"{name}, word {place}" for place in range(1, count + 1))


# ---------------------------------------------------------------------------- assembling


def assemble(draft: Draft, *, seed: int, task: str | None) -> Target:
    """Check a draft, encode its labels, draw the splits that are missing.

    Raises:
        TargetError: nothing there, one class, labels of another length, class names that differ
            by case only, a class too small for its splits; the message names class and counts.
    """
    where = draft.where
    count = len(draft.hashes)
    if count == 0:
        raise TargetError(f"{where}: no items found; give a data set with labelled {draft.modality.noun}s.")
    draft.labels = as_numbers(draft.labels) if draft.written else plain(draft.labels)
    if len(draft.labels) != draft.rows:
        raise TargetError(f"{where}: {count} items but {len(draft.labels)} labels; give one label an item.")
    if task is not None and (task == "tagging") != (draft.counts is not None):
        found = "a label an item" if draft.counts is None else "a label a word, which is tagging"
        raise ConfigError(f"{where}: task '{task}' was asked for, but the data have {found}.")
    notes = list(draft.notes or [])
    of_words = draft.counts is not None  # their labels are always classes
    kind = label_kind(draft.labels, task, where, fixed_names=of_words or draft.class_names is not None)
    labels, class_names = encode(draft, kind, notes)
    if kind is LabelKind.REAL and task is None:
        notes += whole_notes(labels)
    splits, split_origin = _split(draft, kind, labels, class_names, seed, notes)
    starts = None if draft.counts is None else np.concatenate([[0], np.cumsum(draft.counts, dtype=np.int64)])
    if starts is not None:
        notes += _unlearnable_notes(labels, np.repeat(splits, np.diff(starts)), class_names)
    elif kind is LabelKind.CLASSES:
        _check_classes(where, labels, class_names, splits, draft.modality.noun)
    elif kind is LabelKind.REAL and not np.ptp(labels, axis=0).any():
        raise TargetError(f"{where}: all labels are equal; there is nothing to learn.")
    notes += _duplicate_notes(
        draft.hashes,
        draft.names,
        labels.__getitem__ if starts is None else lambda i: labels[starts[i] : starts[i + 1]],
        splits,
    )
    target = Target(
        name=draft.name,
        modality=draft.modality,
        label_kind=kind,
        items=draft.items,
        names=draft.names,
        labels=labels,
        class_names=class_names,
        splits=splits,
        split_origin=split_origin,
        hashes=tuple(draft.hashes),
        fingerprint="",
        origin=draft.origin,
        notes=tuple(notes),
        features=draft.features,
        seed=seed,
        row_starts=starts,
    )
    return replace(target, fingerprint=fingerprint(target))


def fingerprint(target: Target) -> str:
    """Of the ordered content hashes, labels, class names and splits; in it are no paths and no times."""
    digest = xxhash.xxh3_128(f"target/1 {target.modality} {target.label_kind} {target.labels.shape}\n".encode())
    digest.update("\n".join(target.hashes).encode())
    digest.update(b"\n")
    digest.update(np.ascontiguousarray(target.labels, dtype="<f8" if target.labels.dtype.kind == "f" else "<i8").data)
    digest.update("\0".join(target.class_names).encode())
    digest.update(b"\n")
    digest.update(" ".join(target.splits.tolist()).encode())
    if target.row_starts is not None:
        digest.update(np.ascontiguousarray(target.row_starts, dtype="<i8").data)
    return digest.hexdigest()


def draw_order(hashes: Sequence[str], seed: int) -> list[int]:
    """A number an item that orders draws: from content and seed, not from the position."""
    return [xxhash.xxh3_64_intdigest(f"{seed}:{value}".encode()) for value in hashes]


# ---------------------------------------------------------------------------- splits


def _split(
    draft: Draft, kind: LabelKind, labels: np.ndarray, class_names: tuple[str, ...], seed: int, notes: list[str]
) -> tuple[np.ndarray, Literal["given", "drawn"]]:
    splits = np.array(draft.splits if draft.splits is not None else [""] * len(draft.hashes), dtype="<U5")
    by_class = kind is LabelKind.CLASSES and draft.counts is None  # an item with several labels is of no class
    given = set(splits.tolist()) - {""}
    if given == set(SPLITS) and "" not in splits:
        return splits, "given"
    if len(given) <= 1 and (not given or "" not in splits):
        if given:
            notes.append(f"only a split '{next(iter(given))}' was found, so it was divided again")
        pool, text = np.ones(len(splits), bool), "train, val and test were drawn (70/15/15, {how})"
        parts: tuple[str, ...] = ("val", "test")
    else:
        if "" in splits:
            row = int(np.flatnonzero(splits == "")[0])
            raise TargetError(
                f"{draft.where}: {draft.names[row]} has no split while others have; give all of them one, or none."
            )
        if "train" not in given:
            raise TargetError(f"{draft.where}: splits {' and '.join(sorted(given))} were found but no train; add one.")
        pool, parts = splits == "train", tuple(part for part in ("val", "test") if part not in given)
        rest = " and ".join(split for split in SPLITS if split in given)
        text = f"{parts[0]} was drawn from train (15/85, {{how}}); {rest} were given"
    # with one part missing, the ratio train : part stays that of 70/15/15 as far as one can know it
    share = SHARES["val"] if len(parts) == 2 else SHARES["val"] / (1 - SHARES["test"])
    splits[pool] = "train"
    groups = labels if by_class else np.zeros(len(splits), dtype=np.int64)
    _draw(splits, pool, groups, parts, share, draft, class_names if by_class else ("",), seed)
    notes.append(text.format(how=f"by class, seed {seed}" if by_class else f"seed {seed}"))
    return splits, "drawn"


def _draw(
    splits: np.ndarray, pool: np.ndarray, groups: np.ndarray, parts: tuple[str, ...], share: float, draft: Draft,
    class_names: tuple[str, ...], seed: int,
) -> None:  # fmt: skip
    """Move a share of each class from train to each of ``parts``; copies of an image stay together."""
    members: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index in np.flatnonzero(pool).tolist():
        members[int(groups[index])][draft.hashes[index]].append(index)
    _check_sizes(splits, pool, groups, members, parts, draft, class_names)
    for group in range(len(class_names)):
        contents = members[group]
        number = sum(len(copies) for copies in contents.values())
        ranks = dict(zip(contents, draw_order(list(contents), seed), strict=True))
        order = sorted(contents, key=lambda value: (ranks[value], value))
        for place, part in enumerate(parts):
            wanted, taken = max(1, round(share * number)), 0
            still_needed = len(parts) - place  # distinct images for the later parts and for train
            while taken < wanted and len(order) > still_needed:
                copies_of = contents[order.pop(0)]
                splits[copies_of] = part
                taken += len(copies_of)


def _check_sizes(
    splits: np.ndarray, pool: np.ndarray, groups: np.ndarray, members: Mapping[int, Mapping[str, list[int]]],
    parts: tuple[str, ...], draft: Draft, class_names: tuple[str, ...],
) -> None:  # fmt: skip
    """Each class has enough different items for train and each of ``parts``; those that have not are told together."""
    need = len(parts) + 1
    small = [group for group in range(len(class_names)) if len(members[group]) < need]
    if not small:
        return

    def told(group: int) -> tuple[int, str]:
        number = sum(len(copies) for copies in members[group].values())
        copies = f", {len(members[group])} of them different" if len(members[group]) < number else ""
        elsewhere = Counter(splits[(groups == group) & ~pool].tolist())
        counted = ", ".join(f"{split} {number_there}" for split, number_there in elsewhere.items())
        return number, copies + (f" in train ({counted})" if counted else "")

    number, rest = told(small[0])
    items = f"{number} {'item' if number == 1 else 'items'}{rest}"
    who, each, instead = f"class '{class_names[small[0]]}' has {items}", "", " or remove the class"
    if not class_names[small[0]]:  # items that have no class
        who, instead = f"there {'is' if number == 1 else 'are'} {items}", ""
    elif len(small) > 1:
        listed = _first_of(
            f"'{class_names[group]}' has {number}{rest}" for group in small for number, rest in [told(group)]
        )
        who = f"{len(small)} of {len(class_names)} classes have too few items: {listed}"
        each, instead = " of each", " or remove the classes"
    raise TargetError(
        f"{draft.where}: {who}; {need}{each} are needed, at least one for each of {', '.join(('train', *parts[:-1]))} and "
        f"{parts[-1]}; add {draft.modality.noun}s{instead}."
    )


def _first_of(texts: Iterable[str]) -> str:
    told = list(texts)
    return ", ".join(told[:_MOST]) + (f" and {len(told) - _MOST} more" if len(told) > _MOST else "")


def cell_counts(labels: np.ndarray, splits: np.ndarray) -> Counter[tuple[int, str]]:
    """Items a (class, split)."""
    return Counter(zip(labels.tolist(), splits.tolist(), strict=True))


def _check_classes(where: str, labels: np.ndarray, class_names: tuple[str, ...], splits: np.ndarray, noun: str) -> None:
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
        listed = _first_of(f"'{class_names[label]}' ({numbers(label)})" for label in missing)
        who = f"{len(missing)} of {len(class_names)} classes have no {noun} in one of the splits: {listed}"
        classes = "classes"
    raise TargetError(
        f"{where}: {who}; every class needs at least one in each split: move {noun}s, remove the {classes}, or give the {noun}s "
        "without splits."
    )


def _unlearnable_notes(labels: np.ndarray, splits: np.ndarray, class_names: tuple[str, ...]) -> list[str]:
    """Labels of words that training never shows: long tails of tags are usual, so that is no error."""
    counts = cell_counts(labels, splits)
    unseen = [label for label in range(len(class_names)) if not counts[label, "train"]]
    if not unseen:
        return []
    told = ", ".join(f"{class_names[i]} (val {counts[i, 'val']}, test {counts[i, 'test']})" for i in unseen[:5])
    more = f" and {len(unseen) - 5} more" if len(unseen) > 5 else ""
    return [f"{len(unseen)} labels have no word in train, so that every such word counts as a mistake: {told}{more}"]


def _duplicate_notes(
    hashes: Sequence[str], names: Sequence[str], labels_of: Callable[[int], Any], splits: np.ndarray
) -> list[str]:
    first: dict[str, int] = {}
    across: list[tuple[int, int]] = []
    conflicts: list[tuple[int, int]] = []
    for index, value in enumerate(hashes):
        other = first.setdefault(value, index)
        if other != index:
            if splits[other] != splits[index]:
                across.append((other, index))
            if not np.array_equal(labels_of(other), labels_of(index)):
                conflicts.append((other, index))
    notes = []
    if across:
        a, b = across[0]
        notes.append(
            f"{len(across)} items have the same content as one in another split, such as {names[a]} ({splits[a]}) and "
            f"{names[b]} ({splits[b]}); figures on held-out items are flattered"
        )
    if conflicts:
        a, b = conflicts[0]
        notes.append(
            f"{len(conflicts)} items have the same content as one with another label, such as {names[a]} and {names[b]}"
        )
    return notes
