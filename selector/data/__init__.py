"""Labeled data sets of every kind, as one ``Target``.

``readers/`` has one file a kind of input, which gives a table of items and columns; a task reads its annotation from
the table. ``load_target`` brings the two together.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from selector.core.contracts import Target
from selector.core.errors import ConfigError, OptionError, TargetError
from selector.data._class_names import ClassNames
from selector.data._hashing import HashMode
from selector.data.assembly import assemble, fingerprint
from selector.data.reader import READERS, Options, Reader, reader, reader_of
from selector.data.subset import repeated, subsample, without

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


def load_target(
    x: Any,
    *,
    name: str | None = None,
    image_column: str | None = None,
    text_column: str | int | Sequence[str] | None = None,
    label_column: str | int | Sequence[str] | None = None,
    mask_column: str | None = None,
    box_column: str | None = None,
    separator: str | None = None,
    class_names: ClassNames = None,
    ignore_index: int | None = None,
    box_format: str | None = None,
    image_root: str | os.PathLike[str] | None = None,
    max_samples: int | None = None,
    seed: int = 0,
    hash_mode: HashMode = "mtime",
    task: str | None = None,
    source_domain: Any = None,
    num_target_labels: int | None = None,
) -> Target:
    """Read a labeled data set, or one without labels beside a labeled one.

    Args:
        x: a folder with one folder of images a class (below train/, val/, test/ or not); a parquet
            file or folder in the Hugging Face image convention; a CSV file with path, label and
            perhaps split; a torch Dataset of (image, label); a ``datasets`` Dataset or
            DatasetDict; a tuple (uint8 images (N, H, W[, C]), labels); a table of texts (CSV,
            TSV, JSONL, parquet, a folder of them that are named by split, a ``datasets`` Dataset, a pandas
            DataFrame) or a tuple (texts, labels) of lists, arrays or Series, where a text may be a pair; texts
            as lists of words with lists of labels (CoNLL files, JSONL, parquet, a ``datasets`` Dataset, a
            DataFrame, a tuple (lists, lists)); a tuple of ready features (float (N, D), labels); or a dict of split name
            and one of these. A ``Target``
            is handed back.
        name: for people; taken from the path otherwise.
        image_column, label_column: of a table, where the usual names do not fit. Several label columns (a list, or
            with commas between them) are several labels an item when they hold 0 and 1, else several real values.
        text_column: likewise; two names make pairs. Of CoNLL files these two may be numbers.
        mask_column, box_column: of a table, the column of masks or of boxes.
        separator: stands between the labels of a cell that holds several (``cat|dog``).
        class_names: names in label order, a mapping of numbers to names, or a file of them (a name a line, JSON or
            YAML), where the data name none.
        ignore_index: value of a mask that is no class; 255 where it occurs and nothing is said.
        box_format: ``xywh`` (COCO: left, top, width, height) or ``xyxy`` (left, top, right, bottom), in pixels.
        image_root: folder that the image paths of a table are relative to; its own folder when not given.
        max_samples: at most that many items, by split and class.
        seed: of the drawn splits and samples.
        hash_mode: ``mtime`` believes the remembered hash of a file whose size, time and inode are
            unchanged; ``content`` reads every file again.
        task: classification, multilabel, regression, tagging, segmentation or detection; inferred from the data when not
            given.

    Returns:
        The target: items are read lazily, splits not given are drawn 70/15/15, keeping the shares of classes, labels,
        quantiles or what pictures contain.
    Raises:
        TargetError: the data set cannot be used as it is; the message says why and what to do.
    Cost: reads every file once; the second time only their directory entries.
    """
    if isinstance(x, Target) and source_domain is None:
        return x if max_samples is None else subsample(x, max_samples, seed)
    if isinstance(text_column, int):
        text_column = str(text_column)
    if text_column is not None and not isinstance(text_column, str):
        text_column = list(text_column)
    if isinstance(label_column, int):
        label_column = str(label_column)
    if label_column is not None and not isinstance(label_column, str):
        label_column = [str(column) for column in label_column]
    if class_names is not None and not isinstance(class_names, str | os.PathLike | Mapping):
        class_names = [str(given) for given in class_names]
    said: dict[str, Any] = {
        "mask_column": mask_column,
        "box_column": box_column,
        "separator": separator,
        "class_names": os.fspath(class_names) if isinstance(class_names, os.PathLike) else class_names,
        "ignore_index": ignore_index,
        "box_format": box_format,
        "image_root": None if image_root is None else os.path.abspath(image_root),  # noqa: PTH100
        "text_column": text_column,
    }
    said = {key: value for key, value in said.items() if value is not None}
    if isinstance(x, str | os.PathLike) and "\0" in os.fspath(x):
        raise TargetError(
            f"the target's path {os.fspath(x)!a} holds a NUL character; give the name of a file or folder."
        )
    options = Options(
        name=name, image_column=image_column, label_column=label_column, hash_mode=hash_mode, task=task, **said
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
    return target if max_samples is None else subsample(target, max_samples, seed)


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
        raise TargetError("the target was built from objects in memory; hand the same data over again.")
    target = load_target(origin["path"], hash_mode=hash_mode, **origin["options"])
    return repeated(target, origin["steps"])
