"""Reading a mask per item: which values are classes, and masks that are decoded when they are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import xxhash

from selector.core.contracts import noun_of
from selector.core.errors import TargetError
from selector.core.resources import threads_for
from selector.core.table import Table
from selector.modalities.image import UnreadableImage, content_hash
from selector.tasks._image_files import check_same_size, checked_size, mask_values, packed
from selector.tasks._read_labels import first_of

_AT_A_TIME = 1 << 22  # pixels

IGNORE = 255
"""What is no class in a mask of the target (with more than 255 classes: 65535)."""

VOID = frozenset(("void", "unlabeled", "unlabelled", "ignore", "ignored", "don't care", "dontcare"))
VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


@dataclass(frozen=True)
class MaskAnnotations:
    """A mask (H, W) an item; see ``core.task.Annotations``.

    Attributes:
        class_names: C names.
        pixels: (N, C) pixels of each class in each mask.
        ignore_index: what is no class in the masks of the target.
        values: (C,) the value of each class in the files, for masks that are written in the same way; of masks in
            colors 0xRRGGBB.
        ignored_value: the value in the files that is no class, or None.
        in_colors: classes are colors.
    """

    class_names: tuple[str, ...]
    pixels: np.ndarray
    values: np.ndarray
    ignored_value: int | None
    hashes: tuple[str, ...]
    where: str
    noun: str
    notes: tuple[str, ...]
    raw: Sequence[Any]
    indices: np.ndarray
    labels: None = None
    in_colors: bool = False

    @property
    def ignore_index(self) -> int:
        """255, or 65535 where there are more classes than fit."""
        return IGNORE if len(self.class_names) <= IGNORE else 65535

    @property
    def strata(self) -> np.ndarray:
        """(N, C) 0/1: which classes an image shows."""
        return (self.pixels > 0).astype(np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> np.ndarray:
        """The mask (H, W), uint8 (uint16 beyond 255 classes): 0..C-1, and ``ignore_index`` where there is no class."""
        codes = _codes(*mask_values(self.raw[int(self.indices[index])]), in_colors=self.in_colors)
        order = np.argsort(self.values)
        place = np.searchsorted(self.values, codes, sorter=order)
        classes = order[np.minimum(place, len(order) - 1)]
        known = self.values[classes] == codes
        kind = np.uint8 if self.ignore_index == IGNORE else np.uint16
        return np.where(known, classes, self.ignore_index).astype(kind)

    def digest(self, index: int) -> str:
        """Of the mask's file and of what its values mean."""
        said = f"{self.hashes[index]} {self.values.tolist()}"
        return xxhash.xxh3_128_hexdigest(said.encode())

    def take(self, indices: np.ndarray) -> MaskAnnotations:
        """Those of some items."""
        hashes = tuple(self.hashes[i] for i in indices.tolist())
        return replace(self, pixels=self.pixels[indices], hashes=hashes, indices=self.indices[indices])

    def review(self, splits: np.ndarray, names: Sequence[str]) -> list[str]:
        """Classes that training never shows, masks without any class.

        Raises:
            TargetError: training shows one class only.
        """
        notes = []
        shown = self.pixels[splits == "train"].sum(axis=0) > 0
        if shown.sum() < 2:
            raise TargetError(
                f"{self.where}: train shows {'one class only' if shown.any() else 'no class'}; a ranking needs at least two."
            )
        if not shown.all():
            lack = first_of(f"'{self.class_names[i]}'" for i in np.flatnonzero(~shown))
            notes.append(f"{(~shown).sum()} classes have no pixel in train, so they are never predicted: {lack}")
        empty = np.flatnonzero(self.pixels.sum(axis=1) == 0)
        if len(empty):
            notes.append(f"{len(empty)} masks hold no class at all, such as that of {names[empty[0]]}")
        return notes


class SegmentationReading:
    """``Task.accepts`` and ``Task.read`` of semantic segmentation: the role ``mask`` is an undecoded mask per item.

    The table's schema may say ``names`` (class names by value), ``colors`` ((R, G, B) by class), ``mask_names`` (of
    the files, for messages), ``ignore_index``, and ``mask_classes`` (value -> name, others are ignored).
    """

    role: ClassVar[str] = "mask"

    def accepts(self, table: Table) -> str | None:
        """Tables with a mask per item."""
        return None if "mask" in table.roles else "the data have no column of masks"

    def read(self, table: Table) -> MaskAnnotations:
        """Every mask is decoded once, to be checked and counted; none is kept.

        Raises:
            TargetError: a mask that is missing, unreadable, of another size than its image, in colors without a
                table, or with a value that is no class; with its name.
        """
        raw = table.columns[table.roles["mask"][0]]
        names: Sequence[str] = table.schema.get("mask_names") or table.names
        colors = table.schema.get("colors")
        with threads_for(4, "masks") as pool:
            seen = list(pool.map(lambda i: _look(table, raw, names, colors, i), range(len(table))))
        total: dict[int, int] = {}
        for one in seen:
            for value, count in one.counts.items():
                total[value] = total.get(value, 0) + count
        palette = next((one.palette for one in seen if one.palette), None)
        values, class_names, ignored, notes = _meaning(table, total, palette, seen, names)
        if len(class_names) < 2:
            found = f"'{class_names[0]}'" if class_names else "none"
            raise TargetError(f"{table.where}: the masks show one class only ({found}); a ranking needs at least two.")
        pixels = np.array([[one.counts.get(int(value), 0) for value in values] for one in seen], dtype=np.int64)
        return MaskAnnotations(
            class_names, pixels, values, ignored, tuple(one.hash for one in seen), table.where, noun_of(table.modality),
            tuple(notes), raw, np.arange(len(table)), in_colors=colors is not None,
        )  # fmt: skip


@dataclass(frozen=True)
class _Seen:
    counts: Mapping[int, int]
    palette: list[tuple[int, int, int]] | None
    hash: str


def _look(table: Table, raw: Sequence[object], names: Sequence[str], colors: object, index: int) -> _Seen:
    """What one mask holds."""
    mask, name = raw[index], names[index]
    if mask is None or (isinstance(mask, bytes) and not mask):
        raise TargetError(f"{table.where}: {table.names[index]} has no mask; give it one or remove it.")
    try:
        size = checked_size(table.items[index])
    except UnreadableImage as error:
        raise TargetError(f"{table.where}: {table.names[index]} {error}.") from None
    try:
        values, palette = mask_values(mask, size)
        check_same_size(values.shape, size)
    except UnreadableImage as error:
        raise TargetError(f"{table.where}: mask {name} {error}.") from None
    if values.ndim == 3 and colors is None:
        found = np.unique(packed(values[: max(1, _AT_A_TIME // values.shape[1])]))
        some = ", ".join(f"#{color:06x}" for color in found[:4]) + (", ..." if len(found) > 4 else "")
        raise TargetError(
            f"{table.where}: mask {name} is in colors ({some}); say which color is "
            "which class with class_names (--class-names), a file of lines such as '128 0 0 cat'."
        )
    counts: Counter[int] = Counter()
    rows = max(1, _AT_A_TIME // max(1, values.shape[1]))
    for start in range(0, len(values), rows):  # counting takes eight bytes a pixel and more
        counts.update(_counts(_codes(values[start : start + rows], palette, in_colors=colors is not None)))
    content = mask if isinstance(mask, bytes) else np.asarray(mask)
    return _Seen(counts, palette, content_hash(content))


def _codes(values: np.ndarray, palette: Sequence[tuple[int, int, int]] | None, *, in_colors: bool) -> np.ndarray:
    """The values of a mask; 0xRRGGBB where its classes are colors."""
    if values.ndim == 3:
        return packed(values)
    if in_colors and palette is None:  # black and other grays of a mask in colors
        return values.astype(np.int64) * 0x010101
    if in_colors:
        colors = packed(np.array(palette, np.int64).reshape(-1, 3))
        values = colors[np.minimum(values, len(colors) - 1)]
    return values


def _counts(values: np.ndarray) -> dict[int, int]:
    """Pixels by value."""
    if values.dtype == np.uint8:
        counted = np.bincount(values.ravel(), minlength=256)
        return {int(value): int(counted[value]) for value in np.flatnonzero(counted)}
    return {int(v): int(c) for v, c in zip(*np.unique(values, return_counts=True), strict=True)}


def _meaning(
    table: Table, total: Mapping[int, int], palette: object, seen: Sequence[_Seen], names: Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...], int | None, list[str]]:
    """(values of classes, their names, the value that is ignored, notes)."""
    said: Mapping[int, str] | None = table.schema.get("mask_classes")
    listed: Sequence[str] | None = table.schema.get("names")
    colors = table.schema.get("colors")
    ignore: int | None = table.schema.get("ignore_index")
    notes: list[str] = []
    if colors is not None and listed is not None:
        known = {(r << 16) | (g << 8) | b: name for (r, g, b), name in zip(colors, listed, strict=True)}
        if ignore is not None and 0 <= ignore < len(listed):
            void = ignore
            known = {value: "void" if place == void else name for place, (value, name) in enumerate(known.items())}
        ignore = None
    elif said is not None:
        known = dict(said)
        ignore = None
    elif listed is not None and ignore is None and set(total) == {0, IGNORE} and len(listed) <= 2:
        known = {0: listed[0] if len(listed) == 2 else "background", IGNORE: listed[-1]}
        notes.append(
            f"the masks hold 0 and 255 only: 0 is read as '{known[0]}' and 255 as '{known[IGNORE]}'; if 255 is no class, say "
            "ignore_index=255"
        )
    elif listed is not None:
        known = dict(enumerate(listed))
        if ignore is None and IGNORE in total and len(listed) <= IGNORE:
            ignore = IGNORE
    else:
        known, ignore = _unnamed(total, palette, ignore, notes)
    void_names = [name for value, name in known.items() if name.strip().lower() in VOID]
    classes = {v: n for v, n in known.items() if n not in void_names and v != ignore}
    strange = next((v for v in total if v not in known and v != ignore), None)
    if strange is not None and said is None:
        place = next(i for i, one in enumerate(seen) if strange in one.counts)
        shown = f"the color #{strange:06x}" if colors is not None else f"the value {strange}"
        rest = "; add it to the table of colors" if colors is not None else (
            f" (0..{len(known) - 1}); give its name with class_names, or say ignore_index={strange} if it is no class"
        )  # fmt: skip
        raise TargetError(
            f"{table.where}: mask {names[place]} holds {shown}, which is none of the {len(known)} classes{rest}."
        )
    used = {value: name for value, name in classes.items() if total.get(value)}
    if len(used) < len(classes):
        notes.append(f"{len(classes) - len(used)} of {len(classes)} classes have no pixel and were left out")
    left_out = sum(total.values()) - sum(total[value] for value in used)
    if left_out:
        share = 100 * left_out / sum(total.values())
        what = (
            f"the value {ignore}" if ignore is not None else ", ".join(f"'{n}'" for n in void_names) or "other values"
        )
        notes.append(f"{share:.1f}% of the pixels are no class ({what}) and count nowhere")
    return np.array(list(used), dtype=np.int64), tuple(used.values()), ignore, notes


def _unnamed(
    total: Mapping[int, int], palette: Any, ignore: int | None, notes: list[str]
) -> tuple[dict[int, str], int | None]:
    """Names of values that nothing names: those of Pascal VOC where the palette is theirs, else numbers."""
    if ignore is None and IGNORE in total:
        if set(total) == {0, IGNORE}:
            notes.append(
                "the masks hold 0 and 255 only: 0 is read as 'background' and 255 as 'foreground'; if 255 is no class, say "
                "ignore_index=255"
            )
            return {0: "background", IGNORE: "foreground"}, None
        ignore = IGNORE
    values = sorted(value for value in total if value != ignore)
    if palette is not None and values and max(values) < len(VOC) and palette[: len(VOC)] == voc_palette()[: len(VOC)]:
        notes.append("the masks have the palette of Pascal VOC, so its class names are taken")
        return dict(enumerate(VOC)), ignore
    notes.append(
        "nothing names the classes of the masks, so they are called by their values; name them with class_names"
    )
    return {value: f"class {value}" for value in values}, ignore


def voc_palette() -> list[tuple[int, int, int]]:
    """The 256 colors of Pascal VOC: bits of the class number, spread over the channels."""
    found = []
    for number in range(256):
        color = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                color[channel] |= ((number >> (3 * bit + channel)) & 1) << (7 - bit)
        found.append((color[0], color[1], color[2]))
    return found
