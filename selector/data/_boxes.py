"""Boxes as cells hold them, or as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selector.core.errors import TargetError
from selector.data._items import MappedItems

_BOX_KEYS = ("bbox", "boxes", "box", "bboxes")
_CLASS_KEYS = ("category", "categories", "label", "labels", "class", "classes", "category_id", "name", "names")
_CROWD_KEYS = ("iscrowd", "is_crowd", "crowd")
_SIDES = {
    "xyxy": (("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"), ("x0", "y0", "x1", "y1"), ("left", "top", "right", "bottom")),
    "xywh": (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height")),
}  # fmt: skip


def row_columns(columns: Sequence[str]) -> tuple[str, tuple[str, ...]] | None:
    """(format, the four columns) of a table with a row a box; None where it is none."""
    lower = {name.strip().lower(): name for name in columns}
    for kind, known in _SIDES.items():
        for sides in known:
            if all(side in lower for side in sides):
                return kind, tuple(lower[side] for side in sides)
    return None


def boxes_of_rows(
    pictures: Sequence[Any], sides: Sequence[Sequence[Any]], labels: Sequence[Any], places: Sequence[str]
) -> tuple[list[int], list[dict[str, Any]]]:
    """The first row of each image, in order, and its boxes; a row whose four cells are empty adds none.

    Raises:
        TargetError: a cell is no number; with the line.
    """
    first: list[int] = []
    found: dict[str, dict[str, Any]] = {}
    for row, picture in enumerate(pictures):
        key = str(picture).strip()
        if key not in found:
            found[key] = {"boxes": [], "labels": [], "lines": []}
            first.append(row)
        cells = [side[row] for side in sides]
        if all(cell is None or (isinstance(cell, str) and not cell.strip()) or cell != cell for cell in cells):
            continue
        try:
            box = [float(cell) for cell in cells]
        except (TypeError, ValueError, OverflowError):
            raise TargetError(f"{places[row]}: the box is {cells}; expected four numbers, or nothing.") from None
        label = labels[row]
        found[key]["boxes"].append(box)
        found[key]["labels"].append(label.strip() if isinstance(label, str) else label)
        found[key]["lines"].append(places[row])
    return first, list(found.values())


def is_boxes(cell: object) -> bool:
    """Whether a cell holds boxes: a mapping with keys for boxes and classes, or a list of such."""
    if isinstance(cell, list | tuple):
        return bool(cell) and all(isinstance(one, Mapping) for one in cell) and is_boxes(cell[0])
    return isinstance(cell, Mapping) and _key(cell, _BOX_KEYS) is not None and _key(cell, _CLASS_KEYS) is not None


def boxes_of(cell: Any, where: str) -> dict[str, Any] | None:
    """A cell of boxes as the task reads it; None for one that is empty.

    Args:
        cell: a mapping of lists (``{"bbox": [...], "category": [...]}``), or a list of mappings.

    Raises:
        TargetError: it holds something else.
    """
    if cell is None or cell != cell or (isinstance(cell, list | tuple) and not cell):
        return None
    first = cell[0] if isinstance(cell, list | tuple) else cell
    if not is_boxes(first):
        raise TargetError(
            f"{where} has {str(cell)[:60]} as its boxes; expected bbox and category, such as "
            "{'bbox': [[x, y, width, height]], 'category': [0]}."
        )
    keys = {"boxes": _key(first, _BOX_KEYS), "labels": _key(first, _CLASS_KEYS), "crowd": _key(first, _CROWD_KEYS)}
    if isinstance(cell, Mapping):
        return {role: cell[key] for role, key in keys.items() if key is not None}
    return {role: [one.get(key) for one in cell] for role, key in keys.items() if key is not None}


def _key(cell: Mapping[str, object], usual: Sequence[str]) -> str | None:
    return next((key for key in usual if key in cell), None)


def box_cells(cells: Sequence[object], names: Sequence[str], where: str) -> MappedItems:
    """A column of cells that hold boxes, as the task reads them."""
    return MappedItems(range(len(cells)), lambda row: boxes_of(cells[row], f"{where}: {names[row]}"))
