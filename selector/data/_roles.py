"""Which columns of a table are annotations, and of which kind; and boxes as cells hold them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from selector.core.errors import TargetError
from selector.data.reader import Options, find_column, wanted_labels

MASK_COLUMNS = ("mask", "masks", "annotation", "segmentation", "segmentation_mask", "semantic_mask", "label", "labels")
BOX_COLUMNS = ("objects", "boxes", "bboxes", "annotations")
_BOX_KEYS = ("bbox", "boxes", "box", "bboxes")
_CLASS_KEYS = ("category", "categories", "label", "labels", "class", "classes", "category_id", "name", "names")
_CROWD_KEYS = ("iscrowd", "is_crowd", "crowd")


def roles_of(
    where: str,
    columns: Sequence[str],
    options: Options,
    usual_labels: Sequence[str],
    *,
    items: Sequence[str] = (),
    typed_labels: Sequence[str] = (),
    pictures: Sequence[str] = (),
    boxes: Sequence[str] = (),
) -> dict[str, tuple[str, ...]]:
    """The annotation columns by role; what was named alone, else all that can be told from type and name.

    Args:
        columns: of the table; ``items`` are those that hold the items.
        typed_labels: declared to be classes; ``pictures``: declared to hold images, or seen to; ``boxes``: seen to.

    Raises:
        TargetError: no column can be told, or one that was named is not there.
    """
    if options.mask_column is not None:
        return {"mask": (find_column(where, "mask", options.mask_column, columns, ()),)}
    if options.box_column is not None:
        return {"boxes": (find_column(where, "boxes", options.box_column, columns, ()),)}
    wanted = [find_column(where, "label", name, columns, ()) for name in wanted_labels(options, columns)]
    if wanted:
        if len(wanted) == 1 and wanted[0] in pictures:
            return {"mask": (wanted[0],)}
        if len(wanted) == 1 and wanted[0] in boxes:
            return {"boxes": (wanted[0],)}
        twice = next((name for name in wanted if wanted.count(name) > 1), None)
        if twice is not None:
            raise TargetError(f"{where}: label_column names '{twice}' twice; give each column once.")
        return {"label": tuple(wanted)}
    roles: dict[str, tuple[str, ...]] = {}
    plain = [name for name in columns if name not in (*items, *pictures, *boxes)]
    label = next((name for name in (*typed_labels, *usual_labels) if name in plain), None)
    mask = next(
        (name for usual in MASK_COLUMNS for name in columns if name.lower() == usual and name in pictures), None
    )
    box = next((name for usual in BOX_COLUMNS for name in columns if name.lower() == usual and name in boxes), None)
    for role, found in (("label", label), ("mask", mask), ("boxes", box)):
        if found is not None:
            roles[role] = (found,)
    if not roles:
        find_column(where, "label", None, columns, usual_labels, typed_labels)  # says what is missing
    return roles


def is_boxes(cell: Any) -> bool:
    """Whether a cell holds boxes: a mapping with a key for them, or a list of such."""
    if isinstance(cell, list | tuple):
        return bool(cell) and all(isinstance(one, Mapping) for one in cell) and _key(cell[0], _BOX_KEYS) is not None
    return isinstance(cell, Mapping) and _key(cell, _BOX_KEYS) is not None and _key(cell, _CLASS_KEYS) is not None


def boxes_of(cell: Any, where: str) -> dict[str, Any] | None:
    """A cell of boxes as the task reads it; None for one that is empty.

    Args:
        cell: a mapping of lists (``{"bbox": [...], "category": [...]}``), or a list of mappings.

    Raises:
        TargetError: it holds something else.
    """
    if cell is None or (isinstance(cell, list | tuple) and not cell):
        return None
    first = cell[0] if isinstance(cell, list | tuple) else cell
    if not isinstance(first, Mapping) or _key(first, _BOX_KEYS) is None or _key(first, _CLASS_KEYS) is None:
        raise TargetError(
            f"{where} has {str(cell)[:60]} as its boxes; expected bbox and category, such as "
            "{'bbox': [[x, y, width, height]], 'category': [0]}."
        )
    keys = {"boxes": _key(first, _BOX_KEYS), "labels": _key(first, _CLASS_KEYS), "crowd": _key(first, _CROWD_KEYS)}
    if isinstance(cell, Mapping):
        return {role: cell[key] for role, key in keys.items() if key is not None}
    return {role: [one.get(key) for one in cell] for role, key in keys.items() if key is not None}


def _key(cell: Mapping[str, Any], usual: Sequence[str]) -> str | None:
    return next((key for key in usual if key in cell), None)


class BoxCells:
    """A column of cells that hold boxes, as the task reads them."""

    def __init__(self, cells: Sequence[Any], names: Sequence[str], where: str) -> None:
        self._cells, self._names, self._where = cells, names, where

    def __len__(self) -> int:
        return len(self._cells)

    def __getitem__(self, index: int, /) -> dict[str, Any] | None:
        return boxes_of(self._cells[index], f"{self._where}: {self._names[index]}")


class Mapped:
    """A sequence whose entries go through a function when they are asked for."""

    def __init__(self, items: Any, function: Callable[[Any], Any]) -> None:
        self._items, self._function = items, function

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int, /) -> Any:
        return self._function(self._items[index])
