"""Formats of image files: by their names, by their first bytes, and which of them can be decoded here.

A fixed list: some of Pillow's other plugins start programs (EPS runs Ghostscript).
"""

from __future__ import annotations

import functools
import importlib
import os
from collections import Counter
from collections.abc import Iterable

_PILLOW = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "PPM", "AVIF", "JPEG2000", "TGA")

_EXTRAS = {
    "HEIF": ("pillow_heif", "pip install 'zoo-selector[heic]'"),
    "JXL": ("pillow_jxl", "pip install 'zoo-selector[jxl]'"),
    "AVIF": ("", "pip install --upgrade pillow"),
}
"""By Pillow's name of a format that it does not always read: the module that adds it, and how to install it."""

_OPTIONAL = {"heic": "HEIF", "heif": "HEIF", "hif": "HEIF", "avif": "AVIF", "avifs": "AVIF", "jxl": "JXL"}
_SHOWN = {"HEIF": "HEIC", "AVIF": "AVIF", "JXL": "JPEG XL"}

IMAGE_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
        *(f".{suffix}" for suffix in _OPTIONAL),
    )
)

_BEGINNINGS = (
    *(b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),  # the last two: BigTIFF
    *(b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"P7", b"Pf", b"PF"),
    *(b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP"),
)


def is_image_name(name: object) -> bool:
    """Whether a name or path is that of an image file, by its suffix; blanks around it do not count."""
    return isinstance(name, str | os.PathLike) and f".{_suffix(name)}" in IMAGE_SUFFIXES


def _suffix(name: str | os.PathLike[str]) -> str:
    return os.fspath(name).rpartition(".")[2].strip().lower()


def begins_as_image(head: bytes) -> bool:
    """Whether a file is one of the formats that are read, by its first 16 bytes."""
    return head.startswith(_BEGINNINGS) or head[8:12] == b"WEBP" or _optional_format(head) is not None


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that can be decoded here; registers the optional ones."""
    from PIL import Image

    Image.init()
    for module, _ in _EXTRAS.values():
        try:
            found = importlib.import_module(module) if module else None  # that of JPEG XL registers itself
        except (ImportError, OSError):
            continue
        if module == "pillow_heif" and found is not None:
            found.register_heif_opener(thumbnails=False, decode_threads=1)  # images are decoded side by side
    return tuple(name for name in (*_PILLOW, "HEIF", "JXL") if name in Image.OPEN)


def lacking_decoder(head: bytes) -> str:
    """Why a file of an optional format cannot be decoded, by its first 16 bytes; empty where that is not the reason."""
    name = _optional_format(head)
    return "" if name is None or name in readable_formats() else f"is {_SHOWN[name]}, which needs: {_EXTRAS[name][1]}"


def count_lacking(names: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Images that cannot be decoded here by the suffix of their names: of each format their number, and what to install."""
    every = Counter(_OPTIONAL.get(_suffix(name)) for name in names)
    return {
        _SHOWN[kind]: (count, _EXTRAS[kind][1])
        for kind, count in every.items()
        if kind is not None and kind not in readable_formats()
    }


def is_jpeg_xl(head: bytes) -> bool:
    """Whether a file is JPEG XL, by its first 12 bytes."""
    return head.startswith(b"\xff\x0a") or head[4:7] == b"JXL"


def _optional_format(head: bytes) -> str | None:
    if is_jpeg_xl(head):
        return "JXL"
    if head[4:8] != b"ftyp":
        return None
    return "AVIF" if head[8:12] in (b"avif", b"avis") else "HEIF"


_BARE, _CONTAINER = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
_LENGTHS = (9, 13, 18, 30)  # bits of a side, by the two bits before it
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # width to height, from 1
_HEADER = 12  # bytes, more than the size takes


def header_size(raw: bytes) -> tuple[int, int]:
    """(width, height) as the file says (ISO/IEC 18181-1, *SizeHeader*; 18181-2 for the boxes around it).

    Raises:
        ValueError: it has no such header.
    """
    start = raw if raw.startswith(_BARE) else _codestream(raw)
    if not start.startswith(_BARE) or len(start) < 3:
        raise ValueError("no JPEG XL header")
    bits = int.from_bytes(start[2:_HEADER], "little")

    def read(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    small = read(1)

    def side() -> int:
        return 8 * (1 + read(5)) if small else 1 + read(_LENGTHS[read(2)])

    height = side()
    ratio = read(3)
    if not ratio:
        return side(), height
    over, under = _RATIOS[ratio - 1]
    return height * over // under, height


def _codestream(raw: bytes) -> bytes:
    """The first bytes of the image itself, from the boxes of a container; empty where there are none."""
    if not raw.startswith(_CONTAINER):
        return b""
    at, found = 0, b""
    while at + 8 <= len(raw) and len(found) < _HEADER:
        length, kind, begin = int.from_bytes(raw[at : at + 4], "big"), raw[at + 4 : at + 8], at + 8
        if length == 1:
            length, begin = int.from_bytes(raw[begin : begin + 8], "big"), begin + 8
        end = at + length if length else len(raw)
        if end < begin:
            break
        if kind == b"jxlc":
            return raw[begin : min(end, begin + _HEADER)]
        if kind == b"jxlp":
            found += raw[begin + 4 : min(end, begin + 4 + _HEADER)]
        at = end
    return found
