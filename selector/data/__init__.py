"""Labelled data sets of every kind, as one ``Target``.

One file a kind of input; ``load_target`` asks each whether an object is its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selector.core.contracts import Target
from selector.core.errors import TargetError
from selector.data._build import assemble, fingerprint
from selector.data._choose import subsample, without
from selector.data._hashing import Trust
from selector.data._kinds import KINDS, Kind, Options, kind_of

__all__ = ["KINDS", "Kind", "Options", "fingerprint", "load_origin", "load_target", "subsample", "without"]


def load_target(
    x: Any,
    *,
    name: str | None = None,
    image_column: str | None = None,
    text_column: str | int | Sequence[str] | None = None,
    label_column: str | int | None = None,
    max_samples: int | None = None,
    seed: int = 0,
    trust: Trust = "stat",
    task: str | None = None,
) -> Target:
    """Read a labelled data set.

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
        image_column, label_column: of a table, where the usual names do not fit.
        text_column: likewise; two names make pairs. Of CoNLL files these two may be numbers.
        max_samples: at most that many items, by split and class.
        seed: of the drawn splits and samples.
        trust: ``stat`` believes the remembered hash of a file whose size, time and inode are
            unchanged; ``content`` reads every file again.
        task: classification, multilabel, regression or tagging; told from the labels when not given.

    Returns:
        The target: items are read lazily, splits not given are drawn 70/15/15, by class.
    Raises:
        TargetError: the data set cannot be used as it is; the message says why and what to do.
    Cost: reads every file once; the second time only their directory entries.
    """
    if isinstance(x, Target):
        return x if max_samples is None else subsample(x, max_samples, seed)
    if isinstance(text_column, int):
        text_column = str(text_column)
    if text_column is not None and not isinstance(text_column, str):
        text_column = list(text_column)
    if label_column is not None:
        label_column = str(label_column)
    options = Options(
        name=name, image_column=image_column, text_column=text_column, label_column=label_column, trust=trust
    )
    kind_name, kind = kind_of(x, options)
    draft = kind.read(x, options)
    if draft.origin is not None:
        said: dict[str, Any] = {
            "name": name,
            "image_column": image_column,
            "label_column": label_column,
            "seed": seed,
            "task": task,
        }
        if text_column is not None:
            said["text_column"] = text_column
        draft.origin = {"kind": kind_name, **draft.origin, "options": said, "steps": []}
    target = assemble(draft, seed=seed, task=task)
    return target if max_samples is None else subsample(target, max_samples, seed)


def load_origin(origin: Mapping[str, Any] | None, *, trust: Trust = "stat") -> Target:
    """Load a target again from its ``origin``, with the same items drawn and skipped.

    Raises:
        TargetError: there is no origin (it was built in memory), or the data are gone.
    """
    if origin is None:
        raise TargetError("the target was built from objects in memory; hand the same data over again.")
    target = load_target(origin["path"], trust=trust, **origin["options"])
    for step in origin["steps"]:
        if "subsample" in step:
            target = subsample(target, **step["subsample"])
        else:
            reasons = dict(step["without"])
            bad = [i for i, value in enumerate(target.hashes) if value in reasons]
            target = without(target, bad, [reasons[target.hashes[i]] for i in bad])
    return target
