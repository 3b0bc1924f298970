"""Masks for people and programs: indexed PNGs, overlays, and the predictions that hold them."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image

from selector.core.errors import SelectorError
from selector.core.prediction import Prediction, Predictions
from selector.modalities.image import data_uri, read_image, read_image_file, upright_size
from selector.tasks.segmentation.reading import voc_palette

if TYPE_CHECKING:
    import pandas

OPACITY = 0.55  # of a mask over its image
SMALL = 240  # pixels of the long side, in a report
OVERLAYS = "overlays"


@dataclass(frozen=True)
class SegmentedImage(Prediction):
    """One image: which class each of its pixels is.

    Attributes:
        png: the mask as an indexed PNG of the image's own size; ``values`` of the model stand for its classes.
        source: the image as it was given.
        path: where its mask was written.
    """

    png: bytes = field(default=b"", repr=False)
    source: Any = field(default=None, repr=False, compare=False)
    path: str | None = None

    @property
    def mask(self) -> np.ndarray | None:
        """(H, W) as in the PNG; None for an image that could not be read."""
        return np.asarray(Image.open(io.BytesIO(self.png))) if self.png else None

    def to_dict(self) -> dict[str, object]:
        """Plain JSON types; the mask is where it was written."""
        return {
            "item": self.item,
            "mask": self.path,
            "size": list(self.values["size"]) if self.values else None,
            "classes": dict(self.values["classes"]) if self.values else {},
            "error": self.error,
        }

    def __str__(self) -> str:
        return f"{self.item}: {self.error or _leading(self.values['classes'])}"


class SegmentedImages(Predictions):
    """Images in the order in which they were given.

    Attributes:
        class_names: C; ``mask_values`` (C,) what each is written as.
        probabilities: (N, 0); probabilities of every pixel are not kept.
    """

    writes_files = True

    def __init__(self, rows: Sequence[Prediction], class_names: Sequence[str], mask_values: Sequence[int]) -> None:
        super().__init__(rows, np.empty((len(rows), 0)), class_names)
        self.mask_values = tuple(mask_values)

    def __iter__(self) -> Iterator[SegmentedImage]:
        return cast("Iterator[SegmentedImage]", super().__iter__())

    @property
    def masks(self) -> list[np.ndarray | None]:
        """A mask (H, W) an image, of its own size; ``mask_values`` say which value is which class."""
        return [row.mask for row in self]

    def write(self, folder: str | os.PathLike[str], *, overlay: bool = False) -> SegmentedImages:
        """The same, each mask written as ``folder/NAME.png``.

        Args:
            overlay: also write ``folder/overlays/NAME.jpg``, the image under its mask.
        Raises:
            SelectorError: the folder cannot be written.
        """
        root = Path(folder)
        taken: set[str] = set()
        rows: list[Prediction] = []
        try:
            (root / OVERLAYS if overlay else root).mkdir(parents=True, exist_ok=True)
            for row in self:
                if not row.png:
                    rows.append(row)
                    continue
                name = free_name(Path(row.item).stem or "mask", taken)
                path = root / f"{name}.png"
                path.write_bytes(row.png)
                if overlay:
                    drawn = overlaid(read_image(row.source), self._classes(row))
                    Image.fromarray(drawn).save(root / OVERLAYS / f"{name}.jpg", quality=90)
                rows.append(SegmentedImage(row.item, values=row.values, png=row.png, source=row.source, path=str(path)))
        except OSError as error:
            raise SelectorError(
                f"masks cannot be written to {root} ({error.strerror or error}); name another folder."
            ) from error
        return SegmentedImages(rows, self.class_names, self.mask_values)

    def _classes(self, row: SegmentedImage) -> np.ndarray:
        mask = row.mask
        assert mask is not None
        table = np.zeros(max(self.mask_values) + 1, np.int64)
        table[list(self.mask_values)] = np.arange(len(self.mask_values))
        found: np.ndarray = table[mask]
        return found

    def table(self, top: int) -> tuple[list[str], list[list[str]]]:
        """Headers and cells, of the ``top`` classes with most pixels, for a terminal."""
        rows = []
        for row in self:
            if row.error:
                rows.append([row.item, row.error, ""])
                continue
            rows.append([row.item, _leading(row.values["classes"], top), row.path or ""])
        return ["item", "pixels", "mask"], rows

    def to_dataframe(self) -> pandas.DataFrame:
        """Columns item, mask (where it was written), a column of shares a class, and error."""
        import pandas as pd

        rows = [
            {
                "item": row.item,
                "mask": row.path,
                **{
                    name: row.values.get("classes", {}).get(name, 0.0) if row.png else None for name in self.class_names
                },
                "error": row.error,
            }
            for row in self
        ]
        return pd.DataFrame(rows)


def _leading(shares: Mapping[str, float], top: int = 3) -> str:
    named = [f"{name} {100 * share:.0f}%" for name, share in list(shares.items())[:top]]
    return ", ".join(named)


def free_name(name: str, taken: set[str]) -> str:
    """A file name that no other image has: two folders may hold the same."""
    plain = "".join(c if c.isalnum() or c in "-_. " else "_" for c in name)
    found, number = plain, 2
    while found.lower() in taken:
        found, number = f"{plain}-{number}", number + 1
    taken.add(found.lower())
    return found


# ---------------------------------------------------------------------------- images


def picture_size(source: Any) -> tuple[int, int]:
    """(height, width) of an image as it was given: a path, bytes, an array or a Pillow image."""
    if isinstance(source, str | os.PathLike):
        source = read_image_file(source)
    if isinstance(source, bytes | np.ndarray):
        found = upright_size(source)
        if found != (0, 0):
            return found
    height, width = read_image(source).shape[:2]
    return height, width


def mask_png(classes: np.ndarray, values: Sequence[int]) -> bytes:
    """An indexed PNG of a class map (H, W), each class in its value, in colors that tell classes apart.

    Values beyond 255 are written as 16-bit gray.
    """
    written = np.asarray(values)[classes]
    content = io.BytesIO()
    if max(values) > 255:
        Image.fromarray(written.astype(np.uint16)).save(content, "PNG")
        return content.getvalue()
    image = Image.fromarray(written.astype(np.uint8), "P")
    colors = voc_palette()
    palette = [(0, 0, 0)] * 256
    for number, value in enumerate(values):
        palette[value] = colors[number % 256]
    image.putpalette([channel for color in palette for channel in color])
    image.save(content, "PNG")
    return content.getvalue()


def overlaid(picture: np.ndarray, classes: np.ndarray, ignore: int | None = None) -> np.ndarray:
    """An image uint8 (H, W, 3) under its class map (H, W) in colors; pixels without a class stay as they are."""
    colors = np.array(voc_palette(), np.float32)
    shown = picture.astype(np.float32)
    mixed = (1 - OPACITY) * shown + OPACITY * colors[np.minimum(classes, 255)]
    if ignore is not None:
        mixed = np.where((classes == ignore)[..., None], shown, mixed)
    result: np.ndarray = mixed.round().astype(np.uint8)
    return result


def small_overlay(picture: np.ndarray, classes: np.ndarray, ignore: int | None = None) -> str:
    """A small copy of ``overlaid`` as a ``data:`` URI."""
    image = Image.fromarray(overlaid(picture, classes, ignore))
    image.thumbnail((SMALL, SMALL))
    return data_uri(image, quality=85)


def swatch(number: int) -> str:
    """A square in the color of a class, as a ``data:`` URI."""
    return data_uri(Image.new("RGB", (8, 8), voc_palette()[number % 256]), "PNG")
