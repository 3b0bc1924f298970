"""Objects in memory as items: images of every kind, and annotations that lie beside them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from selector.core.contracts import Items
from selector.core.errors import TargetError
from selector.data._boxes import box_cells, is_boxes
from selector.data._items import ListItems, MappedItems, is_tensor, plain_mask
from selector.data._tabular import path_pictures, shape_of
from selector.data.columns import IMAGE_COLUMNS, PATH_COLUMNS, Columns
from selector.data.reader import Options, refuse_masked
from selector.modalities.image import content_hash, is_image_name, pil_to_array, read_image_file

STRINGS = "UOT"  # kinds of arrays that may hold texts


def rows_of(x: Any) -> Sequence[Any] | None:
    """Rows in memory: a list, a tuple, a Series, a column of ``datasets``, an array of strings or objects; else None.

    Rows of an array (N, L) are tuples, so that two columns of texts are pairs.
    """
    if hasattr(x, "to_numpy"):  # pandas, polars, pyarrow
        x = x.to_numpy()
    if isinstance(x, np.ndarray):
        if x.dtype.kind not in STRINGS or x.ndim not in (1, 2):
            return None
        rows = x.tolist()
        return rows if x.ndim == 1 else [tuple(row) for row in rows]
    if isinstance(x, list | tuple):
        return x
    return list(x) if isinstance(x, Sequence) and not isinstance(x, str | bytes) else None


def raw_image(image: Any, where: str) -> Any:
    """An image as an item: bytes of a file, or uint8 (H, W) or (H, W, C).

    Args:
        image: a Pillow image, bytes, a mapping with ``bytes`` or ``path``, an array or a tensor: uint8, or floats in
            0..1; channels first where the last axis cannot be channels.

    Raises:
        TargetError: it is something else; begins with ``where``.
    """
    if isinstance(image, Image.Image):
        return pil_to_array(image)
    if isinstance(image, bytes):
        return image
    if isinstance(image, Mapping) and (image.get("bytes") is not None or image.get("path")):
        return bytes(image["bytes"]) if image.get("bytes") is not None else _of_file(image["path"], where)
    refuse_masked(image, "the values of the image", where)
    if isinstance(image, np.ndarray):
        array = image
        if array.ndim == 3 and array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
            array = array.transpose(1, 2, 0)
    elif hasattr(image, "numpy") and hasattr(image, "ndim"):  # a tensor (C, H, W)
        array = image.detach().cpu().numpy()
        array = array.transpose(1, 2, 0) if array.ndim == 3 else array
    else:
        raise TargetError(
            f"{where}: the image is a {type(image).__name__}; expected a Pillow image, an array or a tensor."
        )
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):
            raise TargetError(
                f"{where}: values from {low:.3g} to {high:.3g}; expected 0..1. Leave the normalization out of the data "
                f"set: every encoder brings its own."
            )
        array = np.round(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise TargetError(f"{where}: the image has values of {array.dtype}; expected uint8, or floats in 0..1.")
    return np.ascontiguousarray(array)


def _of_file(path: str | os.PathLike[str], where: str) -> bytes:
    try:
        return read_image_file(path)
    except (OSError, ValueError) as error:  # ValueError: NUL or half of a character in the path
        reason = getattr(error, "strerror", None) or error
        raise TargetError(f"{where}: image {os.fspath(path)!a} cannot be read ({reason}).") from None


def annotation_of(labels: Any, where: str) -> tuple[str, Any, dict[str, Any]]:
    """(role, column, schema) of what lies beside images: labels, masks (arrays, images, paths) or boxes."""
    rows = rows_of(labels)
    stacked = (isinstance(labels, np.ndarray) or is_tensor(labels)) and labels.ndim == 3
    if stacked or (rows and all(is_mask(row) for row in rows)):
        return "mask", MappedItems(labels if stacked else rows, plain_mask), {}
    if rows and any(is_boxes(row) for row in rows) and all(row is None or isinstance(row, Mapping) for row in rows):
        first = next(row for row in rows if is_boxes(row))
        kind = "xyxy" if "boxes" in first else "xywh"  # as torchvision and as COCO write them
        return "boxes", box_cells(rows, [f"row {row}" for row in range(len(rows))], where), {"box_format": kind}
    if rows and all(is_image_name(row) for row in rows):
        return "mask", ListItems([_of_file(row, where) if Path(row).is_file() else b"" for row in rows]), {
            "mask_names": [os.fspath(row) for row in rows]
        }  # fmt: skip
    return "label", labels, {}


def is_mask(row: Any) -> bool:
    """Whether a row is a mask: an array or tensor of two axes, or a Pillow image."""
    return isinstance(row, Image.Image) or ((isinstance(row, np.ndarray) or is_tensor(row)) and row.ndim == 2)


def memory_columns(where: str, columns: Mapping[str, Sequence[Any]], options: Options, name: str) -> Columns:
    """Columns in memory, of which one may hold images or their paths (relative to the working directory)."""
    count = len(next(iter(columns.values()), ()))
    names = [f"{name} {index}" for index in range(count)]

    def pictures_of(
        column: str, rows: Sequence[int] | None = None, *, masks: bool = False
    ) -> tuple[Items, Sequence[str], list[str]]:
        cells = columns[column]
        if any(isinstance(cell, str | os.PathLike) for cell in cells):
            return path_pictures(cells, rows, [f"{where}: {said}" for said in names], None, Path.cwd(), options)
        chosen = range(count) if rows is None else rows
        images = [raw_image(cells[row], f"{where}: {names[row]}") for row in chosen]
        return ListItems(images), [names[row] for row in chosen], [content_hash(image) for image in images]

    def masks_of(column: str) -> MappedItems | None:
        return MappedItems(columns[column], plain_mask) if all(is_mask(cell) for cell in columns[column]) else None

    first = {column: next((cell for cell in cells if cell is not None), None) for column, cells in columns.items()}
    return Columns(
        where=where,
        name=where,
        columns=columns,
        names=names,
        pictures_of=pictures_of,
        masks_of=masks_of,
        picture_columns=tuple(dict.fromkeys((*IMAGE_COLUMNS, *PATH_COLUMNS))),
        texts_only=True,
        values_tell=True,
        **shape_of(first),
    )
