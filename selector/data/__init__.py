"""Labeled datasets of every kind, as one ``Target``.

``readers/`` has one file a kind of input, which gives a table of items and columns; a task reads its annotation from
the table. ``load_target`` brings the two together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Concatenate, ParamSpec, cast

from selector import modalities
from selector.core.contracts import Target
from selector.core.errors import ConfigError, OptionError, TargetError
from selector.core.label_kinds import noun_of
from selector.core.options import BOXES, IMAGES, MASKS, MASKS_OR_BOXES, SEVERAL, TABLE
from selector.core.signature import describe
from selector.data._hashing import HashMode
from selector.data.assembly import assemble, fingerprint
from selector.data.reader import READERS, Options, Reader, reader, reader_of
from selector.data.subset import repeated, subsample, without
from selector.options.data import DataOptions, LoadOptions, Words

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
) -> Callable[[Callable[..., Target]], Callable[Concatenate[Any, P], Target]]:
    """The function with the fields of ``LoadOptions`` as keywords."""

    def decorate(function: Callable[..., Target]) -> Callable[Concatenate[Any, P], Target]:
        describe(function, LoadOptions)
        return cast("Callable[Concatenate[Any, P], Target]", function)

    return decorate


@_takes(LoadOptions)
def load_target(x: Any, **options: Any) -> Target:
    """Read a labeled dataset, or one without labels beside a labeled one.

    Args:
        x: a folder with one folder of images per class (below train/, val/, test/ or not); images with masks, or with
            COCO, VOC or YOLO boxes; a parquet file or folder in the Hugging Face image convention; a CSV file with path,
            label and perhaps split; a torch Dataset of (image, label); a ``datasets`` Dataset or DatasetDict; a tuple
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
    if not modalities.of(target).resizable:
        lacking[IMAGES] = f"holds {noun_of(target.modality)}s"
    return lacking


def _load(x: Any, given: LoadOptions, *, strict: bool) -> Target:
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
    x: Any, source_domain: Any, options: Options, said: Mapping[str, Any], num_target_labels: int | None, seed: int
) -> Target:
    """Both domains as one target; read again by its origin where both lie in files."""
    from selector.data.domains import combine, unlabeled_table

    if options.task not in (None, "classification", "adaptation"):
        raise ConfigError(
            f"task '{options.task}' was asked for; with source_domain the task is classification, one class an item."
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
    domains = {"seed": seed, "source_domain": os.path.abspath(source_domain), "num_target_labels": num_target_labels}  # noqa: PTH100
    return replace(target, origin={**target.origin, "options": {**always, **domains, **said}, "steps": []})


def _source(x: Any, options: Options, seed: int) -> Target:
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
    target = _load(origin["path"], LoadOptions.of(hash_mode=hash_mode, **origin["options"]), strict=False)
    return repeated(target, origin["steps"])
