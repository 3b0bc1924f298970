"""Boxes for people and programs: COCO JSON, CSV with a row a box, and boxes drawn on copies of their images."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image, ImageDraw

from selector.core.errors import SelectorError
from selector.core.prediction import Prediction, Predictions
from selector.modalities.image import read_image
from selector.tasks.segmentation.mask_predictions import OVERLAYS, SMALL, free_name
from selector.tasks.segmentation.reading import voc_palette

COCO, CSV = "boxes.json", "boxes.csv"


@dataclass(frozen=True)
class FoundBoxes(Prediction):
    """One image: the boxes that were found in it, the surest first.

    Attributes:
        source: the image as it was given. ``values`` hold ``size`` (height, width) and ``boxes``: of each ``label``,
            ``score`` and ``box`` (left, top, right, bottom in pixels of the upright image).
    """

    source: Any = field(default=None, repr=False, compare=False)

    @property
    def boxes(self) -> list[dict[str, Any]]:
        """Of each box ``label``, ``score`` and ``box``; empty for an image that could not be read."""
        return list(self.values.get("boxes", ()))

    def __str__(self) -> str:
        return f"{self.item}: {self.error or _counts(self.boxes)}"


class FoundInImages(Predictions):
    """Images in the order in which they were given."""

    def __init__(self, rows: Sequence[Prediction], class_names: Sequence[str]) -> None:
        super().__init__(rows, np.empty((len(rows), 0)), class_names)

    def __iter__(self) -> Iterator[FoundBoxes]:
        return cast("Iterator[FoundBoxes]", super().__iter__())

    @property
    def boxes(self) -> list[list[dict[str, Any]]]:
        """The boxes of each image: ``label``, ``score``, ``box`` (left, top, right, bottom in pixels)."""
        return [row.boxes for row in self]

    def to_coco(self) -> dict[str, Any]:
        """A COCO document: images, categories, and annotations with a ``score``; a box is left, top, width, height.

        Its ``annotations`` are what pycocotools' ``loadRes`` reads as results.
        """
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, row in enumerate(iter(self), start=1):
            if row.error is not None:
                continue
            height, width = row.values["size"]
            images.append({"id": number, "file_name": row.item, "height": height, "width": width})
            for one in row.boxes:
                left, top, right, bottom = one["box"]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": self.class_names.index(one["label"]) + 1,
                        "bbox": [left, top, right - left, bottom - top],
                        "area": (right - left) * (bottom - top),
                        "iscrowd": 0,
                        "score": one["score"],
                    }
                )
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(self.class_names)]
        return {"images": images, "annotations": annotations, "categories": categories}

    def to_dataframe(self) -> Any:
        """A row a box: item, label, score, left, top, right, bottom in pixels, error; one row of an image without."""
        import pandas as pd

        columns = ["item", "label", "score", "left", "top", "right", "bottom", "error"]
        rows: list[list[Any]] = []
        for row in self:
            rows += [[row.item, one["label"], one["score"], *one["box"], None] for one in row.boxes]
            if not row.boxes:
                rows.append([row.item, *[None] * 6, row.error])
        return pd.DataFrame(rows, columns=columns)

    def table(self, top: int) -> tuple[list[str], list[list[str]]]:
        """Headers and cells for a terminal: how many boxes of each class, and the surest ``top`` of them."""
        rows = []
        for row in self:
            sure = ", ".join(f"{one['label']} {one['score']:.2f}" for one in row.boxes[:top])
            rows.append([row.item, row.error or _counts(row.boxes), sure])
        return ["item", "boxes", "surest"], rows

    def write(self, folder: str | os.PathLike[str], *, overlay: bool = False) -> FoundInImages:
        """Write ``boxes.json`` (COCO) and ``boxes.csv`` into a folder.

        Args:
            overlay: also write ``overlays/NAME.jpg``, a copy of each image with its boxes.
        Raises:
            SelectorError: the folder cannot be written.
        """
        root = Path(folder)
        taken: set[str] = set()
        try:
            (root / OVERLAYS if overlay else root).mkdir(parents=True, exist_ok=True)
            (root / COCO).write_text(json.dumps(self.to_coco(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            (root / CSV).write_text(self.to_csv(), encoding="utf-8")
            for row in self:
                if overlay and row.error is None:
                    name = free_name(Path(row.item).stem or "picture", taken)
                    picture = with_boxes(read_image(row.source), row.boxes, self.class_names)
                    picture.save(root / OVERLAYS / f"{name}.jpg", quality=90)
        except OSError as error:
            raise SelectorError(
                f"boxes cannot be written to {root} ({error.strerror or error}); name another folder."
            ) from error
        return self


def _counts(boxes: Sequence[Mapping[str, Any]]) -> str:
    labels = [one["label"] for one in boxes]
    return ", ".join(f"{labels.count(name)} {name}" for name in dict.fromkeys(labels)) or "nothing"


def in_pixels(found: Mapping[str, Any], size: tuple[int, int]) -> list[dict[str, Any]]:
    """Boxes of an entry of ``Task.predictions`` as ``label``, ``score`` and ``box`` in pixels of (height, width)."""
    height, width = size
    boxes = np.clip(found["boxes"], 0, 1) * np.array([width, height, width, height], np.float32)
    return [
        {"label": label, "score": round(float(score), 4), "box": [round(float(value), 2) for value in box]}
        for label, score, box in zip(found["labels"], found["scores"], boxes, strict=True)
    ]


def with_boxes(
    picture: np.ndarray, boxes: Sequence[Mapping[str, Any]], class_names: Sequence[str], small: int | None = None
) -> Image.Image:
    """A copy of an image uint8 (H, W, 3) with its boxes in the colors of their classes.

    Args:
        boxes: of each ``label`` and ``box``; ``score`` is written beside it where there is one.
        small: longest side of the copy, in pixels.
    """
    image = Image.fromarray(picture)
    before = image.width
    if small is not None:
        image.thumbnail((small, small))
    scale, colors = image.width / before, voc_palette()
    draw = ImageDraw.Draw(image)
    for one in reversed(boxes):  # the surest on top
        color = colors[(class_names.index(one["label"]) + 1) % 256]  # the first of the palette is black
        left, top, right, bottom = (scale * value for value in one["box"])
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=color, width=1 if small else 2)
        if small is None and "score" in one:
            draw.text((left + 3, top + 1), f"{one['label']} {one['score']:.2f}", fill=color)
    return image


def small_copy(picture: np.ndarray, boxes: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> str:
    """A small copy of ``with_boxes`` as a ``data:`` URI."""
    content = io.BytesIO()
    with_boxes(picture, boxes, class_names, SMALL).save(content, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
