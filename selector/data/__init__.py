"""Labeled datasets of every kind, as one ``Target``.

``readers/`` has one file a kind of input, which gives a table of items and columns; a task reads its annotation from
the table. ``load_target`` brings the two together.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Concatenate, ParamSpec, cast

import numpy as np

from selector import modalities
from selector.core.contracts import SPLITS, UNLABELED, Target, noun_of
from selector.core.errors import ConfigError, OptionError, TargetError, first_line
from selector.core.options import BOXES, HUB, IMAGES, MASKS, MASKS_OR_BOXES, SEVERAL, TABLE, describe
from selector.data._hashing import HashMode
from selector.data._items import SubsetItems
from selector.data.assembly import assemble, fingerprint
from selector.data.reader import READERS, Options, Reader, reader, reader_of
from selector.data.splits import draw_order
from selector.options.data import DataOptions, LoadOptions, Words
from selector.tasks._read_labels import cell_counts

__all__ = [
    "READERS",
    "Options",
    "Reader",
    "fingerprint",
    "load_origin",
    "load_target",
    "reader",
    "repeated",
    "subsample",
    "without",
]


P = ParamSpec("P")


def _takes(
    config: Callable[P, LoadOptions],
) -> Callable[[Callable[..., Target]], Callable[Concatenate[object, P], Target]]:
    """The function with the fields of ``LoadOptions`` as keywords."""

    def decorate(function: Callable[..., Target]) -> Callable[Concatenate[object, P], Target]:
        describe(function, LoadOptions)
        return cast("Callable[Concatenate[Any, P], Target]", function)

    return decorate


@_takes(LoadOptions)
def load_target(x: object, **options: object) -> Target:
    """Read a labeled dataset, or one without labels beside a labeled one.

    Args:
        x: a folder with one folder of images per class (below train/, val/, test/ or not); images with masks, or with
            COCO, VOC or YOLO boxes; a parquet file or folder in the Hugging Face image convention; a CSV file with path,
            label and perhaps split; a torch Dataset of (image, label); a ``datasets`` Dataset or DatasetDict, or the address of one (``"hf:org/name"``); a tuple
            (uint8 images (N, H, W[, C]), labels); a table of texts (CSV, TSV, JSONL, parquet, a folder of them named by
            split, a ``datasets`` Dataset, a pandas DataFrame) or a tuple (texts, labels) of lists, arrays or Series, where
            a text may be a pair; lists of words with lists of labels (CoNLL files, JSONL, parquet, a ``datasets`` Dataset,
            a DataFrame, a tuple (lists, lists)); a tuple of ready features (float (N, D), labels); or a dict of split
            names and one of these. A ``Target`` is returned unchanged.
        {options}
    Returns:
        The target: items are read lazily; splits that are not given are drawn 70/15/15, keeping the shares of classes,
        labels, quantiles or what images contain.
    Raises:
        TargetError: the dataset cannot be used; the message says why and what to do.
        OptionError: an option is unknown, or has a value that it cannot have.
    Cost: reads every file once; the second time only their directory entries.

    >>> import numpy as np
    >>> rows = np.random.default_rng(0).standard_normal((30, 4))
    >>> target = load_target((rows, ["cat", "dog", "owl"] * 10))
    >>> target.class_names, len(target)
    (('cat', 'dog', 'owl'), 30)
    """
    given = LoadOptions.of(**options)
    return _load(x, given, strict=True)


def refuse_for_loaded(target: Target, given: DataOptions) -> None:
    """Refuse what says how data are read, of a target that was read before.

    Raises:
        OptionError: there is such an option.
    """
    read = set(DataOptions.model_fields) - {"max_samples"}
    if late := next((name for name in given.given() if name in read), None):
        raise OptionError(
            f"{late} has no effect on {target.name}, which is a Target and loaded already. Pass it to selector.load_target.",
            late,
        )


def _lacking(target: Target, found: Reader) -> dict[str, str]:
    """What a target does not have that options may need, and what it has instead."""
    task, lacking = target.task or "", {}
    told = f"is read as {task}"
    has = {
        MASKS: task == "segmentation", BOXES: task == "detection", MASKS_OR_BOXES: task in ("segmentation", "detection"),
        SEVERAL: task == "multilabel",
    }  # fmt: skip
    lacking.update({need: told for need, there in has.items() if task and not there})
    if not found.columns:
        lacking[TABLE] = f"is {found.description}"
    if found is not READERS.get("hf"):
        lacking[HUB] = f"is {found.description}"
    if not modalities.of(target).resizable:
        lacking[IMAGES] = f"holds {noun_of(target.modality)}s"
    return lacking


def _load(x: object, given: LoadOptions, *, strict: bool) -> Target:
    """``strict`` refuses options that would do nothing; what an earlier version recorded is read anyway."""
    name, image_column, task, seed = given.name, given.image_column, given.task, given.seed
    max_samples, source_domain, num_target_labels = given.max_samples, given.source_domain, given.num_target_labels
    if isinstance(x, Target) and source_domain is None:
        if strict:
            refuse_for_loaded(x, given)
        return x if max_samples is None else subsample(x, max_samples, seed)
    text_column, label_column, class_names = _words(given.text_column), _words(given.label_column), given.class_names
    if class_names is not None and not isinstance(class_names, str | os.PathLike | Mapping):
        class_names = [str(each) for each in class_names]
    said: dict[str, Any] = {
        "mask_column": given.mask_column,
        "box_column": given.box_column,
        "separator": given.separator,
        "class_names": os.fspath(class_names) if isinstance(class_names, os.PathLike) else class_names,
        "ignore_index": given.ignore_index,
        "box_format": given.box_format,
        "image_root": None if given.image_root is None else os.path.abspath(given.image_root),  # noqa: PTH100
        "text_column": text_column,
        "split": _words(given.split),
    }
    said = {key: value for key, value in said.items() if value is not None}
    if isinstance(x, str | os.PathLike) and "\0" in os.fspath(x):
        raise TargetError(
            f"the target's path {os.fspath(x)!a} holds a NUL character; give the name of a file or folder."
        )
    options = Options(
        name=name, image_column=image_column, label_column=label_column, hash_mode=given.hash_mode, task=task, **said
    )
    if source_domain is not None:
        target = _domains(x, source_domain, options, said, num_target_labels, seed)
        return target if max_samples is None else subsample(target, max_samples, seed)
    if num_target_labels is not None:
        raise OptionError(
            "num_target_labels is how many labels of the target are learned from beside a source domain; give "
            "source_domain as well, or leave it out.",
            "num_target_labels",
        )
    reader_name, found = reader_of(x, options)
    table = found.read(x, options)
    if table.origin is not None:
        always = {"name": name, "image_column": image_column, "label_column": label_column, "seed": seed, "task": task}
        table.origin = {"kind": reader_name, **table.origin, "options": {**always, **said}, "steps": []}
    target = assemble(table, seed=seed, task=task)
    if strict:
        given.refuse(_lacking(target, found), target.name)
    return target if max_samples is None else subsample(target, max_samples, seed)


def _words(columns: Words | int | None) -> str | list[str] | None:
    """One name, or several; a number of a CoNLL file as text."""
    if columns is None or isinstance(columns, str | int):
        return None if columns is None else str(columns)
    return [str(column) for column in columns]


def _domains(
    x: object,
    source_domain: object,
    options: Options,
    said: Mapping[str, object],
    num_target_labels: int | None,
    seed: int,
) -> Target:
    """Both domains as one target; read again by its origin where both lie in files."""
    from selector.data.domains import combine, unlabeled_table

    if options.task not in (None, "classification", "adaptation"):
        raise ConfigError(
            f"task '{options.task}' was asked for; with source_domain the task is classification, one class per item."
        )
    source = (
        source_domain
        if isinstance(source_domain, Target)
        else _source(source_domain, replace(options, name=None, task=None), seed)
    )
    target = combine(
        source, unlabeled_table(x, options, source.class_names), num_target_labels=num_target_labels, seed=seed
    )
    if target.origin is None or not isinstance(source_domain, str | os.PathLike):
        return replace(target, origin=None)
    always = {"name": options.name, "image_column": options.image_column, "label_column": options.label_column}
    domains = {"seed": seed, "source_domain": absolute(source_domain), "num_target_labels": num_target_labels}
    return replace(target, origin={**target.origin, "options": {**always, **domains, **said}, "steps": []})


def absolute(path: str | os.PathLike[str]) -> str:
    """A path that holds in every working directory; addresses of the hub as they are."""
    named = os.fspath(path)
    return named if named.startswith("hf:") else os.path.abspath(named)  # noqa: PTH100


def _source(x: object, options: Options, seed: int) -> Target:
    """The labeled source domain: any classification target.

    Raises:
        TargetError: as of a target; it says that it is about the source.
    """
    try:
        return assemble(reader_of(x, options)[1].read(x, options), seed=seed, task=None)
    except TargetError as error:
        raise TargetError(f"source_domain: {error}") from error


def load_origin(origin: Mapping[str, Any] | None, *, hash_mode: HashMode = "mtime") -> Target:
    """Load a target again from its ``origin``, with the same items drawn and skipped.

    Raises:
        TargetError: there is no origin (it was built in memory), or the data are gone.
    """
    if origin is None:
        raise TargetError("the target was built from objects in memory; pass the same data again.")
    if not isinstance(origin.get("options"), dict):
        raise TargetError("target.origin does not say how the data were read; pass the same data again.")
    options = LoadOptions.of(hash_mode=hash_mode, **origin["options"])
    return repeated(_load(origin.get("path"), options, strict=False), origin.get("steps", ()))


def _take(target: Target, keep: np.ndarray, notes: Iterable[str], step: dict[str, Any], whole: str = "") -> Target:
    """The items at ``keep`` (sorted positions); ``step`` is what ``load_origin`` repeats."""
    origin = target.origin
    if origin is not None:
        origin = {**origin, "steps": [*origin.get("steps", []), step]}
    smaller = replace(
        target,
        items=SubsetItems(target.items, keep),
        names=[target.names[i] for i in keep.tolist()],
        labels=target.labels_of(keep),
        splits=target.splits[keep],
        hashes=tuple(target.hashes[i] for i in keep.tolist()),
        features=None if target.features is None else target.features[keep],
        notes=(*target.notes, *notes),
        origin=origin,
        row_starts=target.starts_of(keep),
        annotations=None if target.annotations is None else target.annotations.take(keep),
        whole_fingerprint=whole,
    )
    return replace(smaller, fingerprint=fingerprint(smaller))


def subsample(target: Target, max_samples: int, seed: int = 0) -> Target:
    """At most ``max_samples`` items, with the shares of splits and classes kept (of splits, where words have labels).

    Which items stay is decided by a hash of content and seed, so the order of the items does not
    matter, and a larger sample mostly contains a smaller one (features are reused).

    Raises:
        ConfigError: ``max_samples`` is not positive.
        TargetError: fewer than one item per class and split.
    """
    if max_samples < 1:
        raise ConfigError(
            f"The 'max_samples' parameter must be an int in the range [1, inf). Got {max_samples} instead."
        )
    if max_samples >= len(target):
        return target
    cells: dict[tuple[str, int], list[int]] = defaultdict(list)
    classes = target.item_classes
    for index, split in enumerate(target.splits.tolist()):
        cells[split, 0 if classes is None else int(classes[index])].append(index)
    if max_samples < len(cells):
        raise TargetError(
            f"{target.name}: max_samples = {max_samples} is too small: {len({c for _, c in cells})} classes in "
            f"{len({split for split, _ in cells})} splits need at least {len(cells)}, one each."
        )
    sizes = _allocate({key: len(members) for key, members in cells.items()}, max_samples)
    ranks = draw_order(target.hashes, seed)
    keep = [i for key, members in cells.items() for i in sorted(members, key=lambda i: (ranks[i], i))[: sizes[key]]]
    how = "by split" if classes is None else "by split and class"
    note = f"{max_samples} of {len(target)} items were drawn, {how}, with seed {seed}"
    step = {"subsample": {"max_samples": max_samples, "seed": seed}}
    return _take(target, np.array(sorted(keep)), [note], step)


def without(
    target: Target, bad_indices: Sequence[int] | np.ndarray | Mapping[int, str], reasons: Sequence[str] = ()
) -> Target:
    """The target without items that cannot be used; fingerprint and notes are renewed.

    Args:
        bad_indices: positions of the items to drop, or reasons by position.
        reasons: why, one an item, for the note.

    Raises:
        TargetError: a class would lose its last item in a split, or nothing would be left.
    """
    if isinstance(bad_indices, Mapping):
        reasons = list(bad_indices.values())
        bad_indices = list(bad_indices)
    bad = np.unique(np.asarray(bad_indices, dtype=np.int64))
    if len(bad) == 0:
        return target
    keep = np.setdiff1d(np.arange(len(target)), bad)
    if target.item_classes is not None:
        before, after = (
            cell_counts(target.labels, target.splits),
            cell_counts(target.labels[keep], target.splits[keep]),
        )
        for (label, split), number in sorted(before.items()):
            if label >= 0 and not after[label, split]:
                raise TargetError(
                    f"{target.name}: none of the {number} {noun_of(target.modality)}s of class '{target.class_names[label]}' in {split} can "
                    f"be used, so the class would disappear there; replace the files or remove the class."
                )
    for split in (*SPLITS, UNLABELED):
        if (target.splits == split).any() and not (target.splits[keep] == split).any():
            raise TargetError(f"{target.name}: no item of {split} can be used; replace the files.")
    by_index = dict(zip(np.asarray(bad_indices).tolist(), reasons, strict=False))
    first = ", ".join(f"{target.names[i]}" + (f" ({by_index[i]})" if i in by_index else "") for i in bad[:3].tolist())
    more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
    note = f"{len(bad)} of {len(target)} items skipped: {first}{more}"
    step = {"without": [[target.hashes[i], by_index.get(i, "")] for i in bad.tolist()]}
    return _take(target, keep, [note], step, whole=target.identity)


def repeated(target: Target, steps: Iterable[Mapping[str, Any]]) -> Target:
    """The target after the steps that another loading of the same data recorded: items drawn, items left out."""
    try:
        for step in steps:
            if "subsample" in step:
                target = subsample(target, **step["subsample"])
            else:
                reasons = dict(step["without"])
                target = without(target, {i: reasons[h] for i, h in enumerate(target.hashes) if h in reasons})
    except (KeyError, TypeError, ValueError) as error:
        raise TargetError(
            f"target.origin.steps: no step is written so ({first_line(error)}); scan it again."
        ) from error
    return target


def _allocate(sizes: dict[tuple[str, int], int], total: int) -> dict[tuple[str, int], int]:
    """Shares of ``total`` in proportion to ``sizes``, at least 1 each (largest remainders)."""
    whole = sum(sizes.values())
    exact = {key: total * size / whole for key, size in sizes.items()}
    given = {key: min(sizes[key], max(1, math.floor(value))) for key, value in exact.items()}
    keys = sorted(sizes)
    while (left := total - sum(given.values())) != 0:
        step = 1 if left > 0 else -1
        able = [key for key in keys if (given[key] < sizes[key] if step > 0 else given[key] > 1)]
        key = max(able, key=lambda k: (step * (exact[k] - given[k]), k))
        given[key] += step
    return given
