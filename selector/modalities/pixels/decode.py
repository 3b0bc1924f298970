"""One image: its content hash, and the way from an undecoded item to upright RGB pixels.

Shared by the targets (hashes) and the extraction (decoding), and by saved models that predict, so
that an image means the same everywhere.

JPEG files are decoded by torchvision (libjpeg-turbo) and everything else by Pillow. Both give the
same bytes for RGB and gray JPEG files (checked on 300 photos, and by a test); torchvision takes
0.5 to 0.7 of Pillow's time. What is unusual (CMYK, a damaged file) goes to Pillow, whose messages
say what is wrong.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import logging
import os
import struct
import zlib
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import xxhash
from PIL import Image, UnidentifiedImageError

from selector.core.errors import ConfigError, TargetError
from selector.core.input_files import check_status, read_file
from selector.core.resources import environment
from selector.core.units import parse_count
from selector.modalities.pixels.formats import header_size, is_jpeg_xl, lacking_decoder, readable_formats

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from selector.core.contracts import Items, RawImage

log = logging.getLogger(__name__)

MAX_PIXELS = 178_956_970
"""Larger images are refused before they are decoded, where nothing else is said: half a gigabyte as RGB (Pillow's own
limit)."""

MAX_PIXELS_VARIABLE = "SELECTOR_MAX_PIXELS"

TOO_LARGE = "is too large"
"""How the reason begins that depends on the limit and not on the image alone."""

BOMB_PIXELS, BOMB_RATIO = 20_000_000, 300
"""Above so many pixels a file must have a byte for every 300: photos have one for 2 to 20, drawings for up to 200. What
has less took 15 seconds and 1.7 GB to decode from 164 kB."""

_CANVAS_SAMPLE, _MULTIPLE = 200, 32
_THUMBNAIL = 112  # pixels of the long side
_ORIENTATION = 0x0112
_ORIENTED_PNG = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")  # one of these is in the file
# what decoders raise on damaged input: each was met on a fuzzed file, none says anything else
DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, ZeroDivisionError,
    RuntimeError, struct.error, zlib.error,
)  # fmt: skip


class UnreadableImage(TargetError):
    """One image cannot be decoded; the message is the reason, without the image's name."""


def max_pixels() -> int:
    """Pixels that an image may have: ``SELECTOR_MAX_PIXELS``, which ``--max-pixels`` sets, or ``MAX_PIXELS``.

    Raises:
        ConfigError: the variable holds no number.
    """
    named = os.environ.get(MAX_PIXELS_VARIABLE)
    if not named:
        return MAX_PIXELS
    try:
        return parse_count(named)
    except ConfigError as error:
        raise ConfigError(f"{MAX_PIXELS_VARIABLE}: {error}") from None


def pixel_limit(most: int | None) -> contextlib.AbstractContextManager[None]:
    """Another limit than ``MAX_PIXELS`` for the length of a run, in its child processes too; None changes nothing."""
    return environment({} if most is None else {MAX_PIXELS_VARIABLE: str(most)})


def read_image_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file that should be an image: a regular file, and none larger than its pixels could be.

    Raises:
        OSError: it cannot be read; ``FileRefused`` says why it is not.
    """
    return read_file(path, *_file_limit())


def check_image_file(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    """As ``read_image_file``, of a file whose status is known."""
    check_status(status, path, *_file_limit())


def _file_limit() -> tuple[int, str]:
    return max(1 << 28, 8 * max_pixels()), "allow larger images with max_pixels (--max-pixels)"


def check_pixels(width: int, height: int) -> None:
    """Refuse an image by its header.

    Raises:
        UnreadableImage: it has more pixels than ``max_pixels``.
    """
    most = max_pixels()
    if width * height > most:
        raise UnreadableImage(
            f"{TOO_LARGE} ({width} × {height} pixels, more than {most:,}); make it smaller, or allow more with "
            "max_pixels (--max-pixels)"
        )


def check_header(width: int, height: int, size: int) -> None:
    """Refuse an image by its header and the bytes of its file.

    Raises:
        UnreadableImage: it has more pixels than ``max_pixels``, or many in very few bytes.
    """
    check_pixels(width, height)
    if width * height > BOMB_PIXELS and width * height > BOMB_RATIO * size:
        raise UnreadableImage(
            f"claims {width} × {height} pixels in {size:,} bytes (a decompression bomb?); save it smaller"
        )


def content_hash(raw: RawImage | memoryview) -> str:
    """xxh3_128 of an item as 32 hex digits: file bytes, or array bytes with shape and dtype.

    >>> content_hash(b"abc") == content_hash(memoryview(b"abc"))
    True
    >>> content_hash(np.zeros((2, 3), np.uint8)) == content_hash(np.zeros((3, 2), np.uint8))
    False
    """
    if isinstance(raw, np.ndarray):
        digest = xxhash.xxh3_128(np.ascontiguousarray(raw).data)
        digest.update(f"{raw.shape}{raw.dtype.str}".encode())
        return digest.hexdigest()
    return xxhash.xxh3_128(raw).hexdigest()


def read_image(source: str | os.PathLike[str] | RawImage | Image.Image) -> NDArray[np.uint8]:
    """Decode an image given as a path, as bytes, as an array or as a Pillow image.

    Returns:
        uint8 (H, W, 3), upright.
    Raises:
        UnreadableImage: the file is missing or cannot be decoded; the message names it.
    """
    if isinstance(source, Image.Image):
        return decode_rgb(pil_to_array(source))
    if isinstance(source, bytes | np.ndarray):
        return decode_rgb(source)
    try:
        data = read_image_file(source)
    except OSError as error:
        raise UnreadableImage(
            f"image {os.fspath(source)} cannot be read ({error.strerror}); give an existing file."
        ) from None
    try:
        return decode_rgb(data)
    except UnreadableImage as error:
        raise UnreadableImage(f"image {os.fspath(source)} {error}") from None


def decode_rgb(raw: RawImage) -> NDArray[np.uint8]:
    """Upright RGB pixels of an undecoded item.

    Gray is repeated over the channels, an alpha channel is dropped (as ``convert("RGB")`` does, so
    that encoders see what they were trained with), 16-bit values keep the upper 8 of the 8, 12 or 16 bits that are in
    use (the file says how many, or its largest value does), CMYK is
    converted, of an animation the first frame is taken, and an EXIF orientation is applied (timm's
    own loader ignores it; people do not).

    Args:
        raw: bytes of an image file, or uint8 (H, W), (H, W, 1), (H, W, 3), (H, W, 4).
    Returns:
        uint8 (H, W, 3), contiguous.
    Raises:
        UnreadableImage: with the reason.
    """
    if isinstance(raw, np.ndarray):
        return _array_rgb(raw)
    if not raw:
        raise UnreadableImage("is empty (0 bytes)")
    try:
        with opened(raw) as image:
            check_header(*image.size, len(raw))
            pixels = None
            if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
                pixels = _decode_jpeg(raw)
            if pixels is None:
                pixels = np.asarray(_to_rgb(image))
            orientation = _orientation(image)  # asked after decoding: Pillow turns TIFF files itself
    except UnidentifiedImageError:
        raise UnreadableImage(lacking_decoder(raw[:16]) or "is not an image of a known format") from None
    except Image.DecompressionBombError:
        raise UnreadableImage(f"{TOO_LARGE} (more than {max_pixels():,} pixels: a decompression bomb?)") from None
    except UnreadableImage:
        raise
    except DAMAGE as error:
        text = str(error) or type(error).__name__
        reason = "is truncated" if "truncated" in text.lower() else "is damaged"
        raise UnreadableImage(f"{reason} ({text.splitlines()[0][:120]})") from None
    return _upright(pixels, orientation)


def opened(raw: bytes, formats: tuple[str, ...] | None = None) -> Image.Image:
    """An image file with its header read, of one of some formats; of any that is taken when none is named.

    Raises:
        Image.DecompressionBombError: it has more pixels than are allowed, and than Pillow allows.
        UnreadableImage: likewise, of JPEG XL.
    """
    if is_jpeg_xl(raw[:12]):  # its decoder decodes all when it opens a file
        try:
            check_header(*header_size(raw), len(raw))
        except ValueError as error:
            raise UnreadableImage(f"is damaged ({error})") from None
    most = max_pixels()
    if most > MAX_PIXELS and Image.MAX_IMAGE_PIXELS is not None and most > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = most  # Pillow warns beyond its own limit and refuses twice that: the person allowed it
    return Image.open(io.BytesIO(raw), formats=formats or readable_formats())


def thumbnail(raw: RawImage) -> str:
    """A small image of an item as a ``data:`` URI (JPEG).

    Raises:
        UnreadableImage: it cannot be decoded.
    """
    image = Image.fromarray(decode_rgb(raw))
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return data_uri(image, quality=75)


def data_uri(image: Image.Image, form: str = "JPEG", **options: int) -> str:
    """An image as a ``data:`` URI; ``options`` of the format."""
    content = io.BytesIO()
    image.save(content, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"


def canvas_of(items: Items, short_side: int) -> tuple[int, int]:
    """The (height, width) that whole images of a target are squashed to, so that all of a batch have one shape.

    Its aspect is the median of the images', its short side ``short_side``, and both are rounded to multiples
    of 32. A place in relative coordinates is the same in an image, on the canvas, in the mask and
    for the boxes.

    Args:
        items: undecoded images; of many, 200 spread over the target are looked at.
        short_side: pixels; the native side of an encoder, or what is asked for.

    Raises:
        UnreadableImage: the header of none of them can be read.
    Cost: the headers of up to 200 images.
    """
    looked_at = np.unique(np.linspace(0, len(items) - 1, min(len(items), _CANVAS_SAMPLE)).round().astype(int))
    sizes = [upright_size(items[int(index)]) for index in looked_at]
    logs = [np.log(width / height) for height, width in sizes if height and width]
    if not logs:
        raise UnreadableImage("is needed: the size of no image of the target can be read")
    aspect = float(np.exp(np.median(logs)))
    height, width = (short_side, short_side * aspect) if aspect >= 1 else (short_side / aspect, short_side)
    return max(1, round(height / _MULTIPLE)) * _MULTIPLE, max(1, round(width / _MULTIPLE)) * _MULTIPLE


def upright_size(raw: RawImage) -> tuple[int, int]:
    """(height, width) of an undecoded item as it is decoded, from its header; (0, 0) when that cannot be read, which
    decoding will explain."""
    if isinstance(raw, np.ndarray):
        return int(raw.shape[0]), int(raw.shape[1])
    try:
        with opened(raw) as image:
            width, height = image.size
            return (width, height) if _lies(image, raw) else (height, width)
    except (*DAMAGE, Image.DecompressionBombError, UnreadableImage):
        return 0, 0


def _lies(image: Image.Image, raw: bytes) -> bool:
    """Whether the height of an opened file is the width of its upright pixels, without decoding it."""
    if image.format == "TIFF":
        return False  # Pillow has turned the size already
    # to ask a PNG for its orientation decodes all of it
    asked = image.width * image.height <= BOMB_PIXELS and any(mark in raw for mark in _ORIENTED_PNG)
    return (asked or image.format != "PNG") and _orientation(image) in (5, 6, 7, 8)


def pil_to_array(image: Image.Image) -> NDArray[np.uint8]:
    """A Pillow image as an undecoded item: uint8 (H, W) for gray, (H, W, 3) for anything else."""
    upright = np.asarray(image) if image.mode == "L" else np.asarray(_to_rgb(image))
    return _upright(upright, _orientation(image))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except DAMAGE:
        return 1  # a broken EXIF block does not make the pixels unreadable


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    # after the transposition: which axes run backwards, for EXIF orientations 1..8
    flip_rows = orientation in (3, 4, 7, 8)
    flip_columns = orientation in (2, 3, 6, 7)
    pixels = pixels[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
    return np.ascontiguousarray(pixels)


@functools.cache
def _torchvision_decoder() -> Any:
    try:
        from torchvision.io import ImageReadMode, decode_jpeg
    except (ImportError, OSError):  # torchvision without its image extension: Pillow gives the same bytes
        return None
    import torch

    def decode(raw: bytes) -> NDArray[np.uint8]:
        # bytearray: torch warns about memory that it must not write to
        encoded = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
        return cast("NDArray[np.uint8]", decode_jpeg(encoded, mode=ImageReadMode.RGB).permute(1, 2, 0).numpy())

    return decode


def _decode_jpeg(raw: bytes) -> NDArray[np.uint8] | None:
    """None where torchvision cannot; Pillow then decodes or says why not."""
    decode = _torchvision_decoder()
    if decode is None:
        return None
    try:
        return cast("NDArray[np.uint8]", decode(raw))
    except RuntimeError:
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode == "RGB":
        image.load()
        return image
    if mode.startswith("I"):  # 16 bits a pixel; "I" is how older versions of Pillow read a 16-bit PNG
        values = np.asarray(image).astype(np.int64)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise UnreadableImage(f"has 32-bit values ({low} to {high}); convert it to 8 or 16 bits")
        return Image.fromarray((values >> (_bits(image, high) - 8)).astype(np.uint8)).convert("RGB")
    if mode == "F":
        values = np.asarray(image, dtype=np.float64)
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise UnreadableImage("has floating-point values outside 0..1; convert it to 8 or 16 bits")
        return Image.fromarray(np.round(values * 255).astype(np.uint8)).convert("RGB")
    if mode in ("P", "PA") and "transparency" in image.info:
        image = image.convert("RGBA")
    elif mode in ("LA", "La"):
        image = image.convert("LA").convert("L")
    return image.convert("RGB")


_MAX_SAMPLE_VALUE = 281  # TIFF


def _bits(image: Image.Image, high: int) -> int:
    """Bits of the range that the values of an image with more than 8 bits a pixel use.

    What the file says counts (TIFF's largest sample value; of PGM Pillow has scaled to 16 bits). Else cameras and
    scanners write 12 bits, and converters 8, into 16 without saying so; taken at the full range they are black.
    """
    if image.format == "PPM":
        return 16
    said = getattr(image, "tag_v2", {}).get(_MAX_SAMPLE_VALUE)
    said = said[0] if isinstance(said, tuple) and said else said
    if isinstance(said, int) and 255 <= said <= 65535 and high <= said:
        return said.bit_length()
    bits = next(bits for bits in (8, 12, 16) if high < 1 << bits)
    if bits < 16 and high > 0:
        _note_bits(bits)
    return bits


@functools.cache  # once a process: a dataset has thousands of such images
def _note_bits(bits: int) -> None:
    log.warning(
        "images of 16 or 32 bits whose values stay below %d are read as images of %d bits, and not as nearly black ones",
        1 << bits, bits,
    )  # fmt: skip


def _array_rgb(array: np.ndarray) -> NDArray[np.uint8]:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise UnreadableImage(
            f"is an array of {array.dtype} {array.shape}; expected uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
        )
    if 0 in array.shape:
        raise UnreadableImage(f"is an array without pixels {array.shape}")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    return np.ascontiguousarray(array[:, :, :3])
