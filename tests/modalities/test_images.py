"""Decoding one image: every file format and mode, orientations, and damage, each with its reason."""

import contextlib
import io
import os
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

import selector
from selector.core.errors import ConfigError, OptionError, TargetError
from selector.data import load_target
from selector.modalities.pixels import decode, formats
from selector.modalities.pixels.decode import (
    UnreadableImage,
    content_hash,
    decode_rgb,
    pil_to_array,
    read_image,
    upright_size,
)
from selector.modalities.pixels.formats import begins_as_image, header_size, is_image_name

RNG = np.random.default_rng(0)
PICTURE = np.kron(RNG.integers(0, 255, (6, 9, 3)), np.ones((4, 4, 1))).astype(np.uint8)  # (24, 36, 3), flat patches


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def expected(raw: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(raw))).convert("RGB"))


def png(width: int, height: int, bits: int, lines: bytes) -> bytes:
    """An RGB file, whatever it holds."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"optimize": True}])
def test_jpeg_equals_pillow_to_the_bit(quality, options):
    noisy = Image.fromarray(RNG.integers(0, 255, (37, 53, 3), dtype=np.uint8))
    for image in (noisy, noisy.convert("L"), Image.fromarray(PICTURE)):
        raw = encode(image, "JPEG", quality=quality, **({} if image.mode == "L" else options))
        assert np.array_equal(decode_rgb(raw), expected(raw))


@pytest.mark.parametrize("form", ["PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF", "TGA"])
def test_other_formats_equal_pillow(form):
    raw = encode(Image.fromarray(PICTURE), form)
    assert np.array_equal(decode_rgb(raw), expected(raw))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1"])
def test_png_modes_become_rgb(mode):
    raw = encode(Image.fromarray(PICTURE).convert(mode), "PNG")
    assert np.array_equal(decode_rgb(raw), expected(raw))


def test_palette_with_transparency():
    raw = encode(Image.fromarray(PICTURE).convert("P"), "PNG", transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decode_rgb(raw)
    assert np.array_equal(found, np.asarray(Image.open(io.BytesIO(raw)).convert("RGBA").convert("RGB")))


def test_alpha_is_dropped_not_blended():
    clear = np.dstack([PICTURE, np.zeros(PICTURE.shape[:2], np.uint8)])
    assert np.array_equal(decode_rgb(encode(Image.fromarray(clear), "PNG")), PICTURE)
    assert np.array_equal(decode_rgb(clear), PICTURE)


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk(form):
    raw = encode(Image.fromarray(PICTURE).convert("CMYK"), form)
    assert Image.open(io.BytesIO(raw)).mode == "CMYK"
    assert np.array_equal(decode_rgb(raw), expected(raw))
    assert np.abs(decode_rgb(raw).astype(int) - PICTURE).mean() < 12  # and not its negative


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bits_keep_their_upper_8(form):
    values = RNG.integers(0, 65536, (12, 15), dtype=np.uint16)
    found = decode_rgb(encode(Image.fromarray(values), form))
    assert np.array_equal(found, np.repeat((values >> 8).astype(np.uint8)[:, :, None], 3, axis=2))


def test_16_bit_rgb_png():
    values = RNG.integers(0, 65536, (5, 7, 3)).astype(">u2")
    raw = png(7, 5, 16, b"".join(b"\0" + row.tobytes() for row in values))
    assert np.array_equal(decode_rgb(raw), (values >> 8).astype(np.uint8))


def test_float_tiff():
    values = RNG.random((5, 6), dtype=np.float32)
    assert np.array_equal(
        decode_rgb(encode(Image.fromarray(values), "TIFF"))[..., 0],
        np.round(values.astype(float) * 255).astype(np.uint8),
    )
    with pytest.raises(UnreadableImage, match=r"has floating-point values outside 0\.\.1; convert it to 8 or 16 bits"):
        decode_rgb(encode(Image.fromarray(values * 90), "TIFF"))


def test_32_bit_integers():
    with pytest.raises(UnreadableImage, match=r"has 32-bit values \(0 to 9000000\); convert it to 8 or 16 bits"):
        decode_rgb(encode(Image.fromarray(np.array([[0, 9_000_000]], np.int32)), "TIFF"))


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(form):
    frames = [Image.fromarray(np.full((8, 8, 3), 40 * i, np.uint8)) for i in range(1, 4)]
    options = {"lossless": True} if form == "WEBP" else {}
    raw = encode(frames[0], form, save_all=True, append_images=frames[1:], duration=50, **options)
    assert getattr(Image.open(io.BytesIO(raw)), "n_frames", 1) == 3
    assert np.array_equal(decode_rgb(raw), np.full((8, 8, 3), 40, np.uint8))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(PICTURE)
    raw = encode(image, form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))
    assert np.array_equal(decode_rgb(raw), expected(raw))
    assert decode_rgb(raw).shape == ((24, 36, 3) if orientation < 5 else (36, 24, 3))
    assert upright_size(raw) == decode_rgb(raw).shape[:2]


def test_pillow_images():
    assert np.array_equal(pil_to_array(Image.fromarray(PICTURE)), PICTURE)
    assert pil_to_array(Image.fromarray(PICTURE).convert("L")).shape == (24, 36)
    assert np.array_equal(read_image(Image.fromarray(PICTURE).convert("RGBA")), PICTURE)


def test_paths(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a b é.png")
    assert np.array_equal(read_image(tmp_path / "a b é.png"), PICTURE)
    assert np.array_equal(read_image(str(tmp_path / "a b é.png")), PICTURE)
    with pytest.raises(
        UnreadableImage, match=r"image .*no\.png cannot be read \(No such file or directory\); give an existing"
    ):
        read_image(tmp_path / "no.png")
    (tmp_path / "e.png").write_bytes(b"")
    with pytest.raises(UnreadableImage, match=r"image .*e\.png is empty \(0 bytes\)"):
        read_image(tmp_path / "e.png")


def test_empty_and_unknown():
    with pytest.raises(UnreadableImage, match=r"^is empty \(0 bytes\)$"):
        decode_rgb(b"")
    with pytest.raises(UnreadableImage, match=r"^is not an image of a known format$"):
        decode_rgb(b"hello, this is no image")
    with pytest.raises(UnreadableImage, match=r"^is not an image of a known format$"):
        decode_rgb(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")  # never handed to Ghostscript


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF"])
def test_truncated(form):
    raw = encode(Image.fromarray(RNG.integers(0, 255, (64, 64, 3), dtype=np.uint8)), form)
    said = r"^is (truncated|damaged) \(.+\)|^is not an image"
    with pytest.raises(UnreadableImage, match=r"^is truncated \(image file is truncated" if form == "JPEG" else said):
        decode_rgb(raw[: len(raw) // 2])


def test_corrupt_png():
    raw = bytearray(encode(Image.fromarray(PICTURE), "PNG"))
    start = raw.index(b"IDAT") + 8
    raw[start : start + 40] = b"\xff" * 40
    with pytest.raises(UnreadableImage, match=r"^is damaged \(.+\)$"):
        decode_rgb(bytes(raw))


@pytest.mark.parametrize(("limit", "reason"), [(None, r"30000 × 30000 pixels, more than 178,956,970"), (10**8, "bomb")])
def test_decompression_bombs_are_refused_from_the_header(
    limit: int | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a program around this one may have lifted Pillow's own limit
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UnreadableImage, match=rf"^is too large \(.*{reason}"):
        decode_rgb(png(30_000, 30_000, 8, bytes(99)))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.float32),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((4,), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_arrays_that_are_no_images(array):
    with pytest.raises(UnreadableImage, match=r"is an array (of|without)"):
        decode_rgb(array)


SEEDS = [encode(Image.fromarray(PICTURE), form) for form in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8),
    st.integers(0, 40),
)
def test_damage_gives_pixels_or_a_reason_never_another_error(raw, changes, cut):
    data = bytearray(raw)
    for place, value in changes:
        data[place % len(data)] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            shape = decode_rgb(bytes(data[: len(data) - cut])).shape
        except UnreadableImage as error:
            shape, reason = (1, 1, 3), str(error)
        else:
            reason = "is fine"
    assert shape[2] == 3
    assert reason.startswith(("is ", "has ", "claims "))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_the_size_is_told_without_decoding(form, monkeypatch):
    raw = encode(Image.fromarray(PICTURE), form)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    assert upright_size(raw) == (24, 36)


def test_size_from_the_header():
    assert upright_size(SEEDS[0]) == (24, 36)
    assert upright_size(b"x") == (0, 0)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "JPEG late", "PNG without"])
def test_the_upright_size_is_that_of_what_is_decoded(form, monkeypatch):
    """Boxes and masks are of the decoded image: of TIFF, AVIF and long headers its sides were exchanged."""
    exif = Image.Exif()
    exif[0x0112] = 6
    said = {} if form == "PNG without" else {"exif": exif}
    raw = encode(Image.fromarray(PICTURE), form.split()[0], **said)
    if form == "JPEG late":
        raw = raw[:2] + b"\xff\xed\x17\x70" + b"z" * 5998 + raw[2:]
    expected = decode_rgb(raw).shape[:2]
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    assert upright_size(raw) == expected == ((24, 36) if form == "PNG without" else (36, 24))


def test_content_hash_tells_arrays_apart():
    a = np.arange(12, dtype=np.uint8)
    assert content_hash(a.reshape(3, 4)) != content_hash(a.reshape(4, 3))
    assert content_hash(a) != content_hash(a.view(np.int8))
    assert content_hash(a.reshape(3, 4)) == content_hash(np.asfortranarray(a.reshape(3, 4)))


@pytest.mark.parametrize(("high", "bits"), [(255, 8), (4095, 12), (65535, 16)])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_pictures_with_low_values_are_no_black_ones(high, bits, dtype):
    values = np.linspace(0, high, 12 * 15).round().astype(dtype).reshape(12, 15)
    found = decode_rgb(encode(Image.fromarray(values), "TIFF"))[..., 0]
    assert np.array_equal(found, (values >> (bits - 8)).astype(np.uint8))
    assert found.max() == 255


def test_the_range_that_a_tiff_states_counts():
    values = np.array([[0, 200, 250]], np.uint16)
    out = io.BytesIO()
    Image.fromarray(values).save(out, "TIFF", tiffinfo={281: 1023})
    assert decode_rgb(out.getvalue())[0, :, 0].tolist() == [0, 50, 62]


def test_a_black_picture_of_16_bits_is_black():
    assert decode_rgb(encode(Image.fromarray(np.zeros((3, 3), np.uint16)), "PNG")).max() == 0


def test_a_guessed_range_is_told_once(caplog):
    decode._note_bits.cache_clear()
    for _ in range(2):
        decode_rgb(encode(Image.fromarray(np.full((3, 3), 3000, np.uint16)), "PNG"))
    assert caplog.text.count("whose values stay below 4096 are read as images of 12 bits") == 1


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_file_that_claims_far_more_pixels_than_it_has_bytes_is_not_decoded(form):
    raw = encode(Image.new("L", (6000, 4000)), form)
    with pytest.raises(UnreadableImage, match=r"claims 6000 × 4000 pixels in [\d,]+ bytes \(a decompression bomb\?\)"):
        decode_rgb(raw)
    assert decode_rgb(encode(Image.new("L", (3000, 2000)), form)).shape == (2000, 3000, 3)


def test_another_limit_on_pixels_is_kept_and_what_it_refused_is_not_remembered(tmp_path):
    folder = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for number in range(48):
        (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        side = 40 if number == 3 else 24
        pixels = rng.integers(0, 255, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "ab"[number % 2] / f"{number}.png")
    options: dict[str, Any] = {
        "zoo": [selector.Model("timm:test_resnet", weights="none", name="m")], "store": tmp_path / "store",
        "proxies": ["knn"], "measure_cost": "never", "precision": "float32", "backend": "eager", "history": False,
    }  # fmt: skip
    small = selector.rank(folder, max_pixels="1000", **options)
    assert small.target["items"] == 47
    assert any(
        "too large (40 × 40 pixels, more than 1,000); make it smaller, or allow more" in w for w in small.warnings
    )
    assert small.settings["max_pixels"] == 1000
    assert selector.rank(folder, **options).target["items"] == 48
    assert "SELECTOR_MAX_PIXELS" not in os.environ
    with pytest.raises(OptionError, match="max_pixels must be more than 0, or no image can be used"):
        selector.rank(folder, max_pixels=0, **options)


def test_more_pixels_than_pillow_allows_are_read_where_a_person_allows_them(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    raw = encode(Image.new("L", (40, 30)), "PNG")
    with pytest.raises(UnreadableImage, match=r"^is too large"):
        decode_rgb(raw)
    monkeypatch.setattr(decode, "MAX_PIXELS", 200)
    with decode.pixel_limit(1200):
        assert decode_rgb(raw).shape == (30, 40, 3)
    with decode.pixel_limit(1199), pytest.raises(UnreadableImage, match=r"40 × 30 pixels, more than 1,199"):
        decode_rgb(raw)
    monkeypatch.setenv("SELECTOR_MAX_PIXELS", "many")
    with pytest.raises(ConfigError, match="SELECTOR_MAX_PIXELS: "):
        decode_rgb(raw)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> Any:
    """As where no optional decoder is installed."""
    monkeypatch.setattr(formats, "readable_formats", lambda: ("JPEG", "PNG"))
    monkeypatch.setattr(decode, "readable_formats", lambda: ("JPEG", "PNG"))


OPTIONAL = {"heic": ("HEIF", "HEIC", "heic"), "jxl": ("JXL", "JPEG XL", "jxl"), "avif": ("AVIF", "AVIF", "pillow")}


def as_optional(suffix: str, image: Image.Image, **options: Any) -> bytes:
    if suffix == "heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    if suffix == "jxl":
        pytest.importorskip("pillow_jxl")
    return encode(image, OPTIONAL[suffix][0], **options)


@pytest.mark.parametrize("suffix", OPTIONAL)
def test_formats_of_phones_are_read(suffix):
    photo = Image.fromarray(np.kron(RNG.integers(0, 255, (4, 6, 3)), np.ones((16, 16, 1))).astype(np.uint8))
    raw = as_optional(suffix, photo, quality=95)
    assert is_image_name(f"IMG_0001.{suffix.upper()}")
    assert begins_as_image(raw[:16])
    assert upright_size(raw) == (64, 96)
    assert np.abs(decode_rgb(raw).astype(int) - np.asarray(photo)).mean() < 6
    with pytest.raises(UnreadableImage):
        decode_rgb(raw[: len(raw) // 2])


@pytest.mark.parametrize("suffix", OPTIONAL)
def test_formats_of_phones_are_measured_before_they_are_decoded(suffix, monkeypatch):
    raw = as_optional(suffix, Image.new("RGB", (96, 64)))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    if suffix == "jxl":  # decodes when it opens
        monkeypatch.setattr("pillow_jxl.JpegXLImagePlugin.Decoder", lambda **_: pytest.fail("decoded"))
    with decode.pixel_limit(6143), pytest.raises(UnreadableImage, match="96 × 64 pixels, more than 6,143"):
        decode_rgb(raw)
    monkeypatch.setattr(decode, "BOMB_PIXELS", 100)
    monkeypatch.setattr(decode, "BOMB_RATIO", 0.01)
    with pytest.raises(UnreadableImage, match=r"claims 96 × 64 pixels in [\d,]+ bytes"):
        decode_rgb(raw)
    if suffix == "jxl":
        assert upright_size(raw) == (0, 0)


@pytest.mark.parametrize("container", [False, True])
def test_the_size_of_jpeg_xl_is_read_from_its_header(container):
    pytest.importorskip("pillow_jxl")
    sizes = [(1, 1), (8, 8), (256, 256), (120, 100), (640, 480), (300, 200), (1920, 1080), (500, 400), (512, 256)]
    for size in [*sizes, (513, 511), (3000, 17), (17, 3000), (9, 600)]:
        raw = encode(Image.new("L", size, 7), "JXL", effort=1, use_container=container)
        assert header_size(raw) == size
    for damaged in (
        raw[:2],
        b"\xff\x0a",
        b"\0\0\0\x0cJXL \r\n\x87\n",
        b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(99),
        raw[1:],
    ):
        with pytest.raises(ValueError, match="no JPEG XL header"):
            header_size(damaged)


@pytest.mark.parametrize("suffix", ["heic", "avif"])
def test_a_photo_of_a_phone_larger_than_its_header_says_is_not_decoded_whole(suffix):
    raw = as_optional(suffix, Image.new("RGB", (4000, 4000)), **({"speed": 10} if suffix == "avif" else {}))
    said = struct.pack(">II", 4000, 4000)
    assert raw.count(said) == 1
    before = psutil.Process().memory_info().rss
    with contextlib.suppress(UnreadableImage):
        assert decode_rgb(raw.replace(said, struct.pack(">II", 64, 64))).shape == (64, 64, 3)
    assert psutil.Process().memory_info().rss - before < 10**8


def test_a_rotated_photo_of_a_phone_is_turned_once():
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = Image.fromarray(np.kron(RNG.integers(0, 255, (4, 6, 3)), np.ones((16, 16, 1))).astype(np.uint8))
    turned = np.asarray(photo.transpose(Image.Transpose.ROTATE_270))
    found = decode_rgb(as_optional("heic", photo, quality=95, exif=exif.tobytes()))
    assert found.shape == turned.shape == (96, 64, 3)
    assert np.abs(found.astype(int) - turned).mean() < 6


@pytest.mark.parametrize("suffix", OPTIONAL)
def test_without_a_decoder_the_message_names_format_count_and_extra(suffix, bare, tmp_path):
    _, shown, extra = OPTIONAL[suffix]
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(10):
            photo = Image.fromarray(RNG.integers(0, 255, (8, 8, 3), dtype=np.uint8))
            (tmp_path / name / f"{i}.{suffix}").write_bytes(as_optional(suffix, photo))
    with pytest.raises(TargetError, match=f"20 of 20 images are {shown}, which needs: pip install .*{extra}"):
        load_target(tmp_path)
    for name in "ab":
        for i in range(5, 10):
            (tmp_path / name / f"{i}.{suffix}").unlink()
            Image.fromarray(RNG.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(tmp_path / name / f"{i}.png")
    target = load_target(tmp_path)
    assert any(f"10 of 20 images are {shown}" in note and extra in note for note in target.notes)
    raw = target.items[[name.endswith(suffix) for name in target.names].index(True)]
    with pytest.raises(UnreadableImage, match=f"is {shown}, which needs: pip install"):
        decode_rgb(raw)
