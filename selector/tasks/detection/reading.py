"""Reading the boxes of each item, checked one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NoReturn

import numpy as np
import xxhash

from selector.core.contracts import noun_of
from selector.core.errors import ConfigError, TargetError, did_you_mean
from selector.core.table import Table
from selector.modalities.image import upright_size
from selector.tasks._read_labels import first_of, numbered

FORMATS = ("xywh", "xyxy", "cxcywh", "cxcywhn")
"""Left, top, width, height; left, top, right, bottom; center, width, height; the same as shares of the image."""

_ROUNDING = 0.01  # pixels that are not worth a word
_SLACK = 0.01  # share of a side by which rounding may put a box beyond the image


@dataclass(frozen=True)
class Boxes:
    """The boxes of one image.

    Attributes:
        xyxy: float32 (n, 4), left, top, right, bottom in pixels of the upright image.
        labels: int64 (n,) 0..C-1.
        size: (height, width) of the upright image; (0, 0) where its header cannot be read.
    """

    xyxy: np.ndarray
    labels: np.ndarray
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class BoxAnnotations:
    """``Boxes`` an item; see ``core.task.Annotations``."""

    boxes: tuple[Boxes, ...]
    class_names: tuple[str, ...]
    where: str
    noun: str
    notes: tuple[str, ...] = ()
    labels: None = field(default=None)

    @property
    def strata(self) -> np.ndarray:
        """(N, C) 0/1: what an image contains."""
        found = np.zeros((len(self.boxes), len(self.class_names)), np.int64)
        for row, boxes in enumerate(self.boxes):
            found[row, boxes.labels] = 1
        return found

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: int, /) -> Boxes:
        return self.boxes[index]

    def digest(self, index: int) -> str:
        """Of boxes and labels."""
        one = self.boxes[index]
        digest = xxhash.xxh3_128(np.ascontiguousarray(one.xyxy, "<f4").data)
        digest.update(np.ascontiguousarray(one.labels, "<i8").data)
        return digest.hexdigest()

    def take(self, indices: np.ndarray) -> BoxAnnotations:
        """Those of some items."""
        return replace(self, boxes=tuple(self.boxes[i] for i in indices.tolist()))

    def review(self, splits: np.ndarray, names: Sequence[str]) -> list[str]:
        """Classes that training never shows.

        Raises:
            TargetError: train or test has no box.
        """
        notes = []
        strata = self.strata
        for part in ("train", "test"):
            if not strata[splits == part].any():
                raise TargetError(
                    f"{self.where}: no {self.noun} in {part} has a box; there is nothing to learn or measure."
                )
        unseen = ~strata[splits == "train"].any(axis=0)
        if unseen.any():
            lack = first_of(f"'{self.class_names[i]}'" for i in np.flatnonzero(unseen))
            notes.append(f"{unseen.sum()} classes have no box in train, so they are never predicted: {lack}")
        return notes


class DetectionReading:
    """``Task.accepts`` and ``Task.read`` of object detection.

    The role ``boxes`` holds a mapping per item, or None for an image without boxes: ``boxes`` (n lists of four
    numbers), ``labels`` (n names or numbers), and perhaps ``lines`` (n, where each stands, for messages) and ``crowd``
    (n, true for a region of many, which is left out). The schema may say ``box_format`` (one of ``FORMATS``),
    ``names`` (class names by number) and ``box_offset`` (subtracted from left and top: 1 where pixels count from 1).
    """

    role: ClassVar[str] = "boxes"

    def accepts(self, table: Table) -> str | None:
        """Tables with boxes."""
        return None if "boxes" in table.roles else "the data have no column of boxes"

    def read(self, table: Table) -> BoxAnnotations:
        """Boxes as left, top, right, bottom in pixels.

        Raises:
            TargetError: a box that is not finite, has no area or leaves its image, an unknown class; with the line.
        """
        column = table.columns[table.roles["boxes"][0]]
        kind = table.schema.get("box_format") or "xywh"
        if kind not in FORMATS:
            raise ConfigError(f"box_format must be xywh or xyxy{did_you_mean(kind, FORMATS) or '.'} Got {kind!r}.")
        fixed: Sequence[str] | None = table.schema.get("names")
        found: list[tuple[np.ndarray, list[Any], tuple[int, int]]] = []
        crowd = clipped = 0
        for row in range(len(table)):
            one = _One.of(table, row, column[row])
            size = upright_size(table.items[row])
            keep = [i for i in range(len(one.labels)) if not one.crowd[i]]
            crowd += len(one.labels) - len(keep)
            corners = np.zeros((len(keep), 4))
            for place, i in enumerate(keep):
                corners[place], beyond = _corners(one, i, kind, size, table.schema.get("box_offset", 0))
                clipped += beyond
            labels = [_label(one, i, fixed) for i in keep]
            found.append((corners, labels, size))
        used = {label for _, labels, _ in found for label in labels}
        if not used:
            raise TargetError(f"{table.where}: no {noun_of(table.modality)} has a box; there is nothing to learn.")
        number, names, notes = numbered(used, fixed, "classes have no box")
        if crowd:
            notes.append(f"{crowd} boxes of crowds were left out")
        if clipped:
            notes.append(f"{clipped} boxes go beyond their image by a rounding and were cut at its edge")
        none = sum(not len(labels) for _, labels, _ in found)
        if none:
            notes.append(
                f"{none} {noun_of(table.modality)}s have no box; they count as images in which there is nothing to find"
            )
        boxes = tuple(
            Boxes(corners.astype(np.float32), np.array([number[v] for v in labels], np.int64), size)
            for corners, labels, size in found
        )
        return BoxAnnotations(boxes, names, table.where, noun_of(table.modality), tuple(notes))


@dataclass(frozen=True)
class _One:
    """The raw boxes of one item."""

    where: str
    name: str
    boxes: Sequence[Any]
    labels: Sequence[Any]
    lines: Sequence[str] | None
    crowd: Sequence[Any]

    @classmethod
    def of(cls, table: Table, row: int, cell: Any) -> _One:
        where, name = table.where, table.names[row]
        if cell is None:
            return cls(where, name, (), (), None, ())
        if not isinstance(cell, Mapping) or "boxes" not in cell or "labels" not in cell:
            raise TargetError(
                f"{where}: {name} has {type(cell).__name__} as its boxes; expected a mapping of 'boxes' and 'labels'."
            )
        boxes, labels = _list(cell["boxes"]), _list(cell["labels"])
        if len(boxes) != len(labels):
            raise TargetError(
                f"{where}: {name} has {len(boxes)} boxes but {len(labels)} classes; give one class per box."
            )
        crowd = _list(cell.get("crowd")) or [False] * len(boxes)
        if len(crowd) != len(boxes):
            raise TargetError(
                f"{where}: {name} has {len(boxes)} boxes but {len(crowd)} marks of crowds; give one a box."
            )
        return cls(where, name, boxes, labels, cell.get("lines"), crowd)

    def fail(self, index: int, what: str) -> NoReturn:
        """An error about one box, with the line where it stands.

        Raises:
            TargetError: always.
        """
        place = f"{self.where}: {self.name}: box {index + 1}" if self.lines is None else f"{self.lines[index]}: the box"
        of = "" if self.lines is None else f" of {self.name}"
        raise TargetError(f"{place}{of} {what}")


def _list(values: object) -> list[Any]:
    if values is None:
        return []
    values = values.tolist() if hasattr(values, "tolist") else values
    return list(values) if isinstance(values, list | tuple) else [values]


def _corners(
    one: _One, index: int, kind: str, size: tuple[int, int], offset: float
) -> tuple[tuple[float, float, float, float], bool]:
    """Left, top, right, bottom in pixels, and whether the box was cut at the edge."""
    raw = _list(one.boxes[index])
    try:
        a, b, c, d = (float(value) for value in raw)
    except (TypeError, ValueError, OverflowError):
        one.fail(index, f"is {str(raw)[:60]}; expected four numbers ({kind}).")
    if not np.isfinite([a, b, c, d]).all():
        one.fail(index, f"holds NaN or inf ({a:g}, {b:g}, {c:g}, {d:g}); expected four numbers ({kind}).")
    height, width = size
    if kind == "cxcywhn":
        if not height:
            one.fail(index, "is given as shares of an image that cannot be read; replace the image or remove it.")
        a, b, c, d = a * width, b * height, c * width, d * height
    if kind.startswith("cxcywh"):
        a, b = a - c / 2, b - d / 2
    if kind != "xyxy":
        c, d = a + c, b + d
    a, b = a - offset, b - offset
    shown = f"{a:g}, {b:g}, {c:g}, {d:g}"
    if c <= a or d <= b:
        one.fail(index, f"has no area (left, top, right, bottom: {shown}); correct or remove it.")
    if not height:
        return (a, b, c, d), False
    slack = max(1.0, _SLACK * width), max(1.0, _SLACK * height)
    if a < -slack[0] or b < -slack[1] or c > width + slack[0] or d > height + slack[1]:
        hint = ""
        if kind == "xywh" and raw[2] <= width + slack[0] and raw[3] <= height + slack[1]:
            hint = ", or say box_format='xyxy' (--box-format) if these are corners"
        one.fail(
            index,
            f"lies outside the image (left, top, right, bottom: {shown}; the image has {width} × {height} pixels, "
            f"width × height); correct it{hint}.",
        )
    cut = max(a, 0.0), max(b, 0.0), min(c, float(width)), min(d, float(height))
    if cut[2] <= cut[0] or cut[3] <= cut[1]:
        one.fail(index, f"has no area within the image (left, top, right, bottom: {shown}); correct or remove it.")
    return cut, max(abs(new - old) for new, old in zip(cut, (a, b, c, d), strict=True)) > _ROUNDING


def _label(one: _One, index: int, fixed: Sequence[str] | None) -> Any:
    label = one.labels[index]
    if label is None or (isinstance(label, str) and not label.strip()) or label != label:
        one.fail(index, "has no class; give it one or remove it.")
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if fixed is None:
        if isinstance(label, bool) or not isinstance(label, str | int | np.integer):
            one.fail(index, f"has {str(label)[:40]!r} as its class; expected a name or a number.")
        return label
    if isinstance(label, str) and label not in fixed and label.strip().isdecimal():
        label = int(label)
    if isinstance(label, str):
        if label not in fixed:
            one.fail(
                index, f"has the unknown class '{label}'{did_you_mean(label, fixed) or '.'} Known: {first_of(fixed)}."
            )
        return list(fixed).index(label)
    if isinstance(label, bool) or not isinstance(label, int | np.integer) or not 0 <= label < len(fixed):
        one.fail(index, f"has the unknown class {label!r}; expected 0..{len(fixed) - 1} ({first_of(fixed, 3)}).")
    return int(label)
