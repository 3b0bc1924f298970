"""Sizes of images, and masks as arrays of values."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from PIL import Image

from selector.modalities.image import (
    BOMB_PIXELS,
    DAMAGE,
    UnreadableImage,
    check_header,
    check_pixels,
    decode_rgb,
    image_size,
    opened,
    upright_size,
)

_ONE_LARGE = threading.Lock()  # several threads read masks, and a large one takes half a gigabyte
_FORMATS = ("PNG", "TIFF", "BMP", "GIF", "WEBP", "JPEG", "PPM")


def checked_size(raw: Any) -> tuple[int, int]:
    """As ``upright_size``, of an image that decoding will not refuse for its size.

    Raises:
        UnreadableImage: it has too many pixels, or too many for the bytes of its file.
    """
    if isinstance(raw, bytes):
        height, width = image_size(raw)
        check_header(width, height, len(raw))
    return upright_size(raw)


def mask_values(raw: Any, expected: tuple[int, int] = (0, 0)) -> tuple[np.ndarray, list[tuple[int, int, int]] | None]:
    """A mask as it is stored, and its palette where it has one.

    Args:
        raw: bytes of a file, an array or a Pillow image.
        expected: (height, width) that it must have; files are measured by their header, before they are decoded.

    Returns:
        Integers (H, W), or uint8 (H, W, 3) where it is in colors; a mask whose three channels are equal is gray.
    Raises:
        UnreadableImage: with the reason, without the name.
    """
    if isinstance(raw, Image.Image):
        return _of_image(raw)
    if isinstance(raw, np.ndarray):
        array = raw[..., 0] if raw.ndim == 3 and raw.shape[2] == 1 else raw
        if array.dtype.kind not in "biu" or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
            raise UnreadableImage(f"is an array of {raw.dtype} {raw.shape}; expected whole numbers (H, W)")
        return _gray(array.astype(np.uint8) if array.dtype.kind == "b" else array), None
    if not raw:
        raise UnreadableImage("is empty (0 bytes)")
    try:
        with opened(raw, _FORMATS) as image:
            check_pixels(image.width, image.height)
            check_same_size((image.height, image.width), expected)
            if image.width * image.height <= BOMB_PIXELS:
                return _of_image(image)
            with _ONE_LARGE:
                return _of_image(image)
    except UnreadableImage:
        raise
    except (*DAMAGE, Image.DecompressionBombError) as error:
        decode_rgb(raw)  # finds the words for it
        raise UnreadableImage(f"is damaged ({str(error)[:120]})") from None


def _of_image(image: Image.Image) -> tuple[np.ndarray, list[tuple[int, int, int]] | None]:
    if image.format == "JPEG":
        raise UnreadableImage("is a JPEG, which changes the values of a mask; store masks as PNG")
    if image.mode == "P":
        flat = image.getpalette("RGB") or []
        palette = [(flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat) - 2, 3)]
        return np.asarray(image), palette
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L")) // (255 if image.mode == "1" else 1), None
    if image.mode == "LA":
        return np.asarray(image)[..., 0], None
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UnreadableImage(f"has values from {values.min()} to {values.max()}; expected 0..65535")
        return values, None
    if image.mode in ("RGB", "RGBA"):
        return _gray(np.asarray(image)[..., :3]), None
    raise UnreadableImage(f"is an image of mode {image.mode}; expected a palette, gray or RGB PNG")


def _gray(array: np.ndarray) -> np.ndarray:
    if array.ndim == 3 and (array[..., :1] == array).all():
        return array[..., 0]
    return array


def packed(colors: np.ndarray) -> np.ndarray:
    """RGB (..., 3) as one number each."""
    wide = colors.astype(np.int64)
    result: np.ndarray = (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]
    return result


def check_same_size(mask: tuple[int, ...], picture: tuple[int, int]) -> None:
    """A mask is as large as its image.

    Raises:
        UnreadableImage: it is not.
    """
    if picture != (0, 0) and tuple(mask[:2]) != picture:
        raise UnreadableImage(
            f"has {mask[0]} × {mask[1]} pixels (height × width) but its image {picture[0]} × {picture[1]}; make it of "
            "the same size, without smoothing"
        )
