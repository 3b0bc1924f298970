"""What the target is and how it is read; shared by ``load_target``, ``rank`` and ``plan``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from pydantic import SkipValidation, field_validator

from selector.core.options import (
    BOXES,
    DATA,
    HUB,
    IMAGES,
    ITEMS,
    MASKS,
    MASKS_OR_BOXES,
    SEVERAL,
    TABLE,
    CallOptions,
    option,
)

PathLike: TypeAlias = str | os.PathLike[str]
Words: TypeAlias = str | Sequence[str]
ClassNames: TypeAlias = str | os.PathLike[str] | Sequence[str] | Mapping[int, str] | None


class DataOptions(CallOptions):
    """How a target is read."""

    source_domain: SkipValidation[object] = option(
        None, "Labeled data of the same classes from another domain; the target then needs no labels.",
        python="Anything that a target can be.", panel=DATA, path=True, common=True,
    )  # fmt: skip
    num_target_labels: int | None = option(
        None, "Number of target labels to learn from, with a source domain (default: none).", ge=1, panel=DATA
    )
    image_column: str | None = option(
        None, "Table column of image paths or images (default: found by name).", panel=DATA, needs=(TABLE, IMAGES)
    )
    image_root: SkipValidation[PathLike | None] = option(
        None,
        "Folder that image paths in a table are relative to (default: the table's folder).",
        panel=DATA,
        needs=(TABLE, IMAGES),
        path=True,
    )
    text_column: Words | int | None = option(
        None, "Table column of texts (default: found by name); two columns form text pairs.",
        python="In CoNLL files a number.", panel=DATA, needs=(TABLE,), many=True,
    )  # fmt: skip
    split: Words | None = option(
        None, "Splits of a hub dataset to read, comma-separated, such as 'train,test' or 'train[:500]' (default: all).",
        panel=DATA, needs=(HUB,), many=True,
    )  # fmt: skip
    label_column: Words | int | None = option(
        None, "Table column of labels (default: found by name); several columns give several labels or values.",
        python="In CoNLL files a number, -1 for the last column.", panel=DATA, needs=(TABLE,), common=True,
    )  # fmt: skip
    mask_column: str | None = option(
        None, "Table column of segmentation masks (default: found by name).", panel=DATA, needs=(MASKS,)
    )
    box_column: str | None = option(
        None, "Table column of bounding boxes (default: found by name).", panel=DATA, needs=(BOXES,)
    )
    box_format: Literal["xywh", "xyxy"] | None = option(
        None,
        "Box coordinates in pixels: xywh (left, top, width, height) or xyxy (left, top, right, bottom).",
        panel=DATA,
        needs=(BOXES,),
    )
    separator: str | None = option(
        None,
        "Character between several labels in one cell, such as '|' in 'cat|dog' (default: none).",
        panel=DATA,
        needs=(SEVERAL,),
    )
    class_names: SkipValidation[ClassNames] = option(
        None, "Class names with commas between them, or a file of them, one per line, JSON or YAML (default: names in the data).",
        python="Or a list of names, or a mapping of numbers to names.", panel=DATA, needs=(MASKS_OR_BOXES,), path=True,
    )  # fmt: skip
    ignore_index: int | None = option(
        None,
        "Mask value that marks ignored pixels (default: 255 where it occurs beside several classes).",
        panel=DATA,
        needs=(MASKS,),
    )
    task: str | None = option(
        None, "Task: classification, multilabel, regression, tagging, segmentation or detection (default: inferred from the "
        "labels).", panel=DATA, common=True,
    )  # fmt: skip
    max_samples: int | None = option(
        None, "Maximum number of items; a stratified subsample is drawn (default: all items).", ge=2, panel=DATA
    )
    hash_mode: Literal["mtime", "content"] = option(
        "mtime", "How changed files are noticed: mtime (size and time stamps, default) or content (reads every file).",
        panel=DATA, rerun=False,
    )  # fmt: skip

    @field_validator("text_column")
    @classmethod
    def _one_or_two(cls, value: Words | int | None) -> Words | int | None:
        return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value


class LoadOptions(DataOptions):
    """The options of ``selector.load_target``."""

    name: str | None = option(None, "Name of the target (default: the name of its file or folder).", panel=DATA)
    seed: int = option(0, "Random seed for drawn splits and subsamples (default: 0).", panel=DATA)


class ItemOptions(CallOptions):
    """Which items of a target are used."""

    max_pixels: str | int | float | None = option(
        None, "Maximum pixels per image, such as 50M (default: 179M); larger images are skipped.",
        panel=DATA, needs=(IMAGES,),
    )  # fmt: skip
    on_invalid: Literal["skip", "raise"] = option(
        "skip", "Unreadable images and empty texts: skip with a warning (default), or raise one error that lists them.",
        panel=DATA, needs=(ITEMS,),
    )  # fmt: skip
