"""The pixel store: parity with timm, bad images, sharing, kills, two processes at once, pruning."""

import io
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from selector.core.atomic import TEMPORARY
from selector.core.container import Container, digest_of
from selector.core.contracts import Progress
from selector.core.errors import BadImagesError, StoreError, TargetError
from selector.core.preprocess import Preprocess
from selector.data import load_target
from selector.modalities.image import UnreadableImage, content_hash
from selector.modalities.pixels import prepared as module
from selector.modalities.pixels.prepared import (
    SUFFIX,
    Pixels,
    SegmentReader,
    SegmentWriter,
    open_pixels_many,
    prune,
    read_index,
)
from selector.modalities.pixels.transform import normalize, prepare, resize

SMALL = Preprocess(input_size=(3, 16, 16), crop_pct=1.0)
OTHER = Preprocess(input_size=(3, 12, 20), interpolation="bilinear", crop_mode="squash")


def open_pixels(items: Any, hashes: Any, names: Any, preprocess: Preprocess, **options: Any) -> tuple[Pixels, dict]:
    """For one resize."""
    opened, bad = open_pixels_many(items, hashes, names, [preprocess], **options)
    return opened[preprocess.pixels_key()], bad


def photo(seed: int, height: int, width: int) -> np.ndarray:
    """Smooth shapes with some noise: what resizing filters see in photos."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    return np.clip(np.asarray(coarse).astype(float) + rng.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)


def jpeg(seed: int, height: int = 40, width: int = 50, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(photo(seed, height, width)).save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


def items(number: int = 30) -> tuple[list[Any], list[str], list[str]]:
    """Encoded images, their hashes, their names."""
    raw: list[Any] = [jpeg(seed) for seed in range(number)]
    return raw, [content_hash(one) for one in raw], [f"{i}.jpg" for i in range(number)]


class Counting(list[Any]):
    """Items that remember which of them were read."""

    def __init__(self, raw: list[Any]) -> None:
        super().__init__(raw)
        self.asked: list[int] = []

    @property
    def reads(self) -> int:
        return len(self.asked)

    def __getitem__(self, index: Any) -> Any:
        self.asked.append(index)
        return super().__getitem__(index)


def timm_pixels(raw: bytes, preprocess: Preprocess) -> np.ndarray:
    """What timm's evaluation transform gives before it normalizes; uint8 (H, W, 3)."""
    from timm.data import create_transform
    from timm.data.transforms import ResizeKeepRatio, str_to_interp_mode

    transform = create_transform(
        preprocess.input_size, interpolation=preprocess.interpolation, mean=preprocess.mean, std=preprocess.std,
        crop_pct=preprocess.crop_pct, crop_mode=preprocess.crop_mode, normalize=False,
    )  # fmt: skip
    for part in transform.transforms:
        if isinstance(part, ResizeKeepRatio):  # to which timm 1.0.26 does not pass the interpolation that it was given
            part.interpolation = str_to_interp_mode(preprocess.interpolation)
    return np.asarray(transform(Image.open(io.BytesIO(raw)).convert("RGB")).permute(1, 2, 0))


SIZES = [(500, 375), (375, 500), (224, 224), (97, 331), (33, 31), (640, 200), (1201, 899), (256, 256), (1, 1), (9, 700)]


@pytest.fixture(scope="module")
def photos_of_all_sizes() -> list[bytes]:
    return [jpeg(seed, height, width) for seed, (height, width) in enumerate(SIZES)]


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "lanczos"])
@pytest.mark.parametrize(("size", "crop_pct"), [((3, 224, 224), 0.875), ((3, 97, 131), 0.95), ((3, 64, 64), 1.0)])
def test_pixels_are_those_of_timm(mode, interpolation, size, crop_pct, photos_of_all_sizes):
    preprocess = Preprocess(input_size=size, interpolation=interpolation, crop_pct=crop_pct, crop_mode=mode)
    near = values = 0
    for raw, (height, width) in zip(photos_of_all_sizes, SIZES, strict=True):
        ours, theirs = prepare([raw], preprocess)[0].astype(int), timm_pixels(raw, preprocess).astype(int)
        assert ours.shape == theirs.shape == (*size[1:], 3)
        off = np.abs(ours - theirs)
        assert (off <= 1).mean() >= 0.999, (height, width)
        near, values = near + int((off <= 1).sum()), values + off.size
    assert near / values >= 0.9995


def test_normalized_tensor_and_features_are_those_of_timm():
    import timm
    from timm.data import create_transform

    torch.manual_seed(0)
    network = timm.create_model("test_vit", num_classes=0).eval()
    preprocess = Preprocess(input_size=(3, 160, 160), crop_pct=0.95)
    transform = create_transform(
        (3, 160, 160), interpolation="bicubic", mean=preprocess.mean, std=preprocess.std, crop_pct=0.95
    )
    raw = [jpeg(seed, 200 + 37 * seed, 300 - 11 * seed) for seed in range(8)]
    theirs = torch.stack([transform(Image.open(io.BytesIO(one)).convert("RGB")) for one in raw])
    ours = normalize(prepare(raw, preprocess), preprocess)
    assert (ours - theirs).abs().mean() < 0.002
    with torch.inference_mode():
        cosine = torch.nn.functional.cosine_similarity(network(ours), network(theirs))
    assert cosine.min() >= 0.999


@pytest.mark.slow
def test_real_photos_are_those_of_timm(assets):
    for name in ("imagenet_val256", "dtd10"):
        import pyarrow.parquet as pq

        raw = [cell["bytes"] for cell in pq.read_table(assets / "data" / name / "test.parquet")["image"].to_pylist()]
        for mode in ("center", "squash", "border"):
            preprocess = Preprocess(crop_mode=mode)  # type: ignore[arg-type]
            off = np.abs(prepare(raw, preprocess).astype(int) - np.stack([timm_pixels(one, preprocess) for one in raw]))
            assert (off <= 1).mean() >= 0.999
            assert (off <= 1).reshape(len(raw), -1).mean(axis=1).min() >= 0.999


def test_a_sliver_keeps_a_pixel() -> None:
    # timm's own transform fails here: the short side is rounded to nothing
    assert resize(photo(0, 3, 700), Preprocess(input_size=(3, 64, 64), crop_mode="border")).shape == (64, 64, 3)


def test_border_is_filled_with_the_mean_and_keeps_its_own_key():
    gray = Preprocess(input_size=(3, 32, 32), crop_mode="border", crop_pct=1.0, mean=(0.5,) * 3)
    assert resize(photo(0, 10, 40), gray)[0, 0].tolist() == [128, 128, 128]
    colored = gray.overridden({"mean": (0.1, 0.2, 0.3)})
    assert resize(photo(0, 10, 40), colored)[0, 0].tolist() == [26, 51, 76]
    assert gray.pixels_key() != colored.pixels_key()
    assert SMALL.pixels_key() == SMALL.overridden({"mean": (0.5,) * 3}).pixels_key()


def test_normalize_by_hand():
    batch = np.random.default_rng(0).integers(0, 255, (2, 5, 4, 3), dtype=np.uint8)
    found = normalize(batch, SMALL)
    expected = (batch / 255 - np.array(SMALL.mean)) / np.array(SMALL.std)
    assert found.shape == (2, 3, 5, 4)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), expected, atol=1e-6)
    half = normalize(torch.from_numpy(batch), SMALL, "cpu", torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, found.to(torch.bfloat16))


def test_one_channel_is_pillows_luminance():
    batch = np.stack([photo(seed, 6, 7) for seed in range(3)])
    one = Preprocess(input_size=(1, 6, 7), mean=(0.5,), std=(0.25,))
    gray = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in batch])
    found = normalize(batch, one)
    assert found.shape == (3, 1, 6, 7)
    np.testing.assert_allclose(found[:, 0].numpy(), (gray / 255 - 0.5) / 0.25, atol=1e-6)


def test_rows_come_back_in_the_order_asked_for_and_progress_is_told(tmp_path):
    raw, hashes, names = items()
    steps: list[Progress] = []
    opened, bad = open_pixels(raw, hashes, names, SMALL, folder=tmp_path / "a b é", progress=steps.append)
    assert bad == {}
    assert len(opened) == 30
    order = [3, 29, 0, 3]
    assert np.array_equal(opened.batch(np.array(order)), prepare([raw[i] for i in order], SMALL))
    assert opened.batch([]).shape == (0, 16, 16, 3)
    assert (steps[0].stage, steps[0].done, steps[-1].done, steps[-1].total) == ("decode", 0, 30, 30)
    assert [s.done for s in steps] == sorted(s.done for s in steps)


def test_each_image_is_decoded_once_for_all_resizes(tmp_path):
    raw, hashes, names = items()
    counting = Counting([*raw, raw[0]])  # and a copy is not decoded at all
    hashes, names = [*hashes, hashes[0]], [*names, "copy.jpg"]
    wanted = [SMALL, OTHER, SMALL.overridden({"mean": (0, 0, 0)})]
    opened, _ = open_pixels_many(counting, hashes, names, wanted, folder=tmp_path)
    assert counting.reads == 30
    assert set(opened) == {SMALL.pixels_key(), OTHER.pixels_key()}
    for preprocess in (SMALL, OTHER):
        assert np.array_equal(opened[preprocess.pixels_key()].batch(range(31)), prepare([*raw, raw[0]], preprocess))
    counting.asked.clear()
    again, _ = open_pixels(counting, hashes, names, OTHER, folder=tmp_path)
    assert np.array_equal(again.batch(range(30)), prepare(raw, OTHER))
    assert counting.reads == 0


def test_a_temporary_place_goes_with_the_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    raw, hashes, names = items(5)
    opened, _ = open_pixels(raw, hashes, names, SMALL, folder=None)
    assert np.array_equal(opened.batch(range(5)), prepare(raw, SMALL))
    assert len(list(tmp_path.iterdir())) == 1
    opened.close()
    assert list(tmp_path.iterdir()) == []


def test_arrays_and_gray_items(tmp_path):
    raw = [photo(0, 20, 30), photo(1, 20, 30)[..., 0], photo(2, 20, 30)[..., :1]]
    opened, _ = open_pixels(raw, [content_hash(one) for one in raw], list("abc"), SMALL, folder=tmp_path)
    assert np.array_equal(opened.batch(range(3)), prepare(raw, SMALL))
    assert np.array_equal(opened.batch([1])[..., 0], opened.batch([1])[..., 2])


def test_threads_may_share_pixels(tmp_path):
    raw, hashes, names = items()
    opened, _ = open_pixels(raw, hashes, names, SMALL, folder=tmp_path)
    expected = prepare(raw, SMALL)
    wrong: list[int] = []

    def read(seed: int) -> None:
        for index in np.random.default_rng(seed).permutation(30).tolist() * 5:
            if not np.array_equal(opened.batch([index])[0], expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def spoiled() -> tuple[list[Any], list[str], list[str]]:
    raw, _, names = items(20)
    raw[2] = b""
    raw[5] = raw[5][: len(raw[5]) // 2]
    raw[11] = b"no image"
    raw[12] = b""
    return raw, [content_hash(one) for one in raw], names


def test_all_bad_images_are_listed_or_skipped(tmp_path):
    raw, hashes, names = spoiled()
    with pytest.raises(BadImagesError) as caught:
        open_pixels(raw, hashes, names, SMALL, folder=tmp_path)
    lines = str(caught.value).splitlines()
    assert (lines[0], lines[1]) == ("4 images of 20 cannot be decoded:", "  2.jpg is empty (0 bytes)")
    assert lines[2].startswith("  5.jpg is truncated (image file is truncated")
    assert lines[3:5] == ["  11.jpg is not an image of a known format", "  12.jpg is empty (0 bytes)"]
    assert lines[5] == "Replace or remove them, or skip them with on_invalid='skip' (--on-invalid skip)."
    assert [name for name, _ in caught.value.bad] == ["2.jpg", "5.jpg", "11.jpg", "12.jpg"]
    counting = Counting(raw)
    opened, bad = open_pixels(counting, hashes, names, SMALL, folder=tmp_path, on_invalid="skip")
    assert sorted(bad) == [2, 5, 11, 12]
    assert bad[2] == "is empty (0 bytes)"
    assert counting.reads == 3  # the good ones were kept, and the two empty files are one content
    good = [i for i in range(20) if i not in bad]
    assert np.array_equal(opened.batch(good), prepare([raw[i] for i in good], SMALL))
    with pytest.raises(TargetError, match=r"image 2\.jpg is empty \(0 bytes\); leave it out before asking for it"):
        opened.batch([1, 2])


def test_the_message_shows_ten(tmp_path):
    raw = [f"no image {i}".encode() for i in range(13)]
    with pytest.raises(BadImagesError) as caught:
        open_pixels(raw, [content_hash(one) for one in raw], [f"{i}.png" for i in range(13)], SMALL, folder=tmp_path)
    assert len(caught.value.bad) == 13
    assert "  … and 3 more" in str(caught.value).splitlines()
    assert len(str(caught.value).splitlines()) == 13


def test_a_file_that_vanished_is_a_bad_image(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "x")
    target = load_target(tmp_path / "x")
    (tmp_path / "x" / target.names[3]).unlink()
    _, bad = open_pixels(target.items, target.hashes, target.names, SMALL, folder=tmp_path / "p", on_invalid="skip")
    assert bad == {3: "cannot be read (No such file or directory)"}


def test_an_item_that_changed_is_never_filed_under_its_old_hash(tmp_path):
    raw, hashes, names = items(5)
    raw[3] = jpeg(99)
    with pytest.raises(TargetError, match=r"image 3\.jpg has changed since the target was loaded \(hash "):
        open_pixels(raw, hashes, names, SMALL, folder=tmp_path, on_invalid="skip")


def test_prepare_names_the_file(tmp_path):
    (tmp_path / "x.jpg").write_bytes(jpeg(0)[:200])
    with pytest.raises(UnreadableImage, match=r"x\.jpg is (truncated|damaged)"):
        prepare([tmp_path / "x.jpg"], SMALL)


def only_segment(folder: Path) -> Path:
    (path,) = folder.rglob(f"*{SUFFIX}")
    return path


def test_a_damaged_row_is_decoded_again(tmp_path, caplog):
    raw, hashes, names = items()
    open_pixels(raw, hashes, names, SMALL, folder=tmp_path)
    path = only_segment(tmp_path)
    content = bytearray(path.read_bytes())
    content[content.index(prepare(raw, SMALL)[7].tobytes()) + 5] ^= 1
    path.write_bytes(content)
    opened, _ = open_pixels(raw, hashes, names, SMALL, folder=tmp_path)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(opened.batch(range(30)), prepare(raw, SMALL))
    assert "decoded image 7.jpg in" in caplog.text
    assert "is damaged or gone; decoding it again" in caplog.text


@pytest.mark.parametrize("spoil", [
    lambda b: b[:-1], lambda b: b[:9], lambda b: b"X" + b[1:], lambda b: b.replace(digest_of(items()[1][3]), b"x" * 16),
])  # fmt: skip
def test_a_damaged_segment_is_not_used(tmp_path, spoil):
    raw, hashes, names = items()
    open_pixels(raw, hashes, names, SMALL, folder=tmp_path)
    path = only_segment(tmp_path)
    path.write_bytes(spoil(path.read_bytes()))
    counting = Counting(raw)
    opened, _ = open_pixels(counting, hashes, names, SMALL, folder=tmp_path)
    assert counting.reads == 30
    assert np.array_equal(opened.batch(range(30)), prepare(raw, SMALL))


def test_a_segment_pruned_meanwhile_is_decoded_again(tmp_path):
    raw, hashes, names = items()
    opened, _ = open_pixels(raw, hashes, names, SMALL, folder=tmp_path)
    assert prune(tmp_path, 0) > 30 * 768
    assert np.array_equal(opened.batch(range(30)), prepare(raw, SMALL))


def test_an_error_half_way_keeps_what_was_decoded(tmp_path):
    raw, hashes, names = items()

    def stop(step: Progress) -> None:
        if step.done == 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_pixels(raw, hashes, names, SMALL, folder=tmp_path, progress=stop)
    counting = Counting(raw)
    open_pixels(counting, hashes, names, SMALL, folder=tmp_path)
    assert counting.reads == 15


SCRIPT = """
import sys
from selector.core.preprocess import Preprocess
from selector.modalities.pixels import prepared as _prepared
from selector.modalities.pixels.prepared import open_pixels_many
from selector.data import load_target
_prepared.SEGMENT_ROWS = 4
target = load_target(sys.argv[1])
preprocess = Preprocess(input_size=(3, 16, 16), crop_pct=1.0)
print("ready", flush=True)
sys.stdin.readline()
open_pixels_many(target.items, target.hashes, target.names, [preprocess], folder=__import__("pathlib").Path(sys.argv[2]))
print("done", flush=True)
"""


def start(photos: Path, folder: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", SCRIPT, str(photos), str(folder)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_a_killed_process_loses_at_most_a_segment(photos, tmp_path):
    target = load_target(photos)
    expected = prepare([target.items[i] for i in range(60)], SMALL)
    folder = tmp_path / "pixels"
    process = start(photos, folder)
    go(process)
    deadline = time.monotonic() + 60
    while len(list(folder.rglob(f"*{SUFFIX}"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    whole = len(read_index(next(folder.glob("v*")), (16, 16, 3), {digest_of(value) for value in target.hashes}))
    assert whole >= 8
    counting = Counting([target.items[i] for i in range(60)])
    opened, _ = open_pixels(counting, target.hashes, target.names, SMALL, folder=folder)
    assert counting.reads == 60 - whole
    assert np.array_equal(opened.batch(range(60)), expected)


def test_two_processes_at_once_decode_each_image_once(photos, tmp_path):
    processes = [start(photos, tmp_path) for _ in range(2)]
    for process in processes:
        go(process)
    assert [process.communicate(timeout=120)[0] for process in processes] == ["done\n", "done\n"]
    target = load_target(photos)
    folder = next(tmp_path.glob("v*"))
    assert sum(Container(path).shape("pixels")[0] for path in folder.glob(f"*{SUFFIX}")) == 60
    opened, _ = open_pixels(target.items, target.hashes, target.names, SMALL, folder=tmp_path)
    assert np.array_equal(opened.batch(range(60)), prepare([target.items[i] for i in range(60)], SMALL))


def test_two_writers_without_a_lock_are_harmless(tmp_path):
    raw, hashes, names = items()
    rows = prepare(raw, SMALL)
    folder = tmp_path / f"v{module.DECODER_VERSION}-{SMALL.pixels_key()}"
    for _ in range(2):
        with SegmentWriter(folder, (16, 16, 3)) as writer:
            for value, row in zip(hashes, rows, strict=True):
                writer.add(digest_of(value), row)
    counting = Counting(raw)
    opened, _ = open_pixels(counting, hashes, names, SMALL, folder=tmp_path)
    assert counting.reads == 0
    assert np.array_equal(opened.batch(range(30)), rows)


def test_a_read_only_place_is_a_warning(tmp_path, caplog):
    raw, hashes, names = items(4)
    (tmp_path / "file").write_text("x")  # a folder cannot be made below a file, not even by root
    with caplog.at_level(logging.WARNING):
        opened, _ = open_pixels(raw, hashes, names, SMALL, folder=tmp_path / "file" / "pixels")
    assert "cannot be written to; newly decoded images go to a temporary folder" in caplog.text
    assert np.array_equal(opened.batch(range(4)), prepare(raw, SMALL))


def test_a_read_only_store_is_read(caplog):
    raw, hashes, names = items(6)
    root = Path(tempfile.mkdtemp())  # pytest's own folder is closed to other users
    user = os.geteuid()
    try:
        root.chmod(0o755)
        open_pixels(raw[:4], hashes[:4], names[:4], SMALL, folder=root / "pixels")
        (root / "pixels").chmod(0o555)
        if user == 0:
            os.seteuid(65534)
        counting = Counting(raw)
        opened, _ = open_pixels(counting, hashes[:4], names[:4], SMALL, folder=root / "pixels")
        assert counting.reads == 0
        assert caplog.text == ""
        opened, _ = open_pixels(counting, hashes, names, SMALL, folder=root / "pixels")
        assert counting.asked == [4, 5]
        assert "newly decoded images go to a temporary folder" in caplog.text
        assert np.array_equal(opened.batch(range(6)), prepare(raw, SMALL))
    finally:
        os.seteuid(user)
        (root / "pixels").chmod(0o755)
        shutil.rmtree(root)


def test_a_full_disk_is_a_clear_error_and_leaves_nothing_half_written(tmp_path):
    rows = prepare(items(30)[0], SMALL)

    def write() -> None:
        with SegmentWriter(tmp_path, (16, 16, 3)) as writer:
            for i, row in enumerate(rows):
                writer.add(digest_of(str(i)), row)

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # writing beyond gives EFBIG, as a full disk ENOSPC
        with pytest.raises(StoreError, match=r"cannot be written to .* \(File too large\); free some space"):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_what_finds_no_room_is_decoded_when_asked_for(tmp_path, caplog):
    raw, hashes, names = items()
    with caplog.at_level(logging.WARNING):
        opened, _ = open_pixels(raw, hashes, names, SMALL, folder=tmp_path, max_size=10 * 768)
    assert "do not fit into" in caplog.text
    assert Container(only_segment(tmp_path)).shape("pixels") == (10, 16, 16, 3)
    assert np.array_equal(opened.batch(range(30)), prepare(raw, SMALL))


def test_the_least_recently_used_segments_go_first(tmp_path):
    raw, hashes, names = items()
    for part, age in ((slice(0, 10), 300), (slice(10, 20), 200), (slice(20, 30), 100)):
        before = set(tmp_path.rglob(f"*{SUFFIX}"))
        open_pixels(raw[part], hashes[part], names[part], SMALL, folder=tmp_path)
        (new,) = set(tmp_path.rglob(f"*{SUFFIX}")) - before
        os.utime(new, (time.time() - age, time.time() - age))
    open_pixels(raw[:10], hashes[:10], names[:10], SMALL, folder=tmp_path)  # the oldest is used again
    size = next(tmp_path.rglob(f"*{SUFFIX}")).stat().st_size
    assert prune(tmp_path, 2 * size) == size
    counting = Counting(raw)
    open_pixels(counting, hashes, names, SMALL, folder=tmp_path)
    assert sorted(counting.asked) == list(range(10, 20))


def test_stale_temporary_files_are_pruned_and_young_ones_kept(tmp_path):
    old, young = tmp_path / f"{TEMPORARY}a", tmp_path / f"{TEMPORARY}b"
    for path in (old, young):
        path.write_bytes(b"x" * 10)
    os.utime(old, (1, 1))
    assert prune(tmp_path, 10**9) == 10
    assert list(tmp_path.iterdir()) == [young]


def test_large_images_are_told_by_their_header():
    assert not module._is_large(jpeg(0))
    buffer = io.BytesIO()
    Image.new("L", (8000, 5000)).save(buffer, "PNG")
    assert len(buffer.getvalue()) < 100_000
    assert module._is_large(buffer.getvalue())
    jpeg_buffer = io.BytesIO()
    Image.new("RGB", (8000, 5000)).save(jpeg_buffer, "JPEG")
    assert module._is_large(jpeg_buffer.getvalue())
    assert not module._is_large(np.zeros((8000, 5000), np.uint8))


def test_decoding_does_not_run_ahead_of_writing(tmp_path):
    raw, hashes, names = items(40)
    counting = Counting(raw)
    ahead: list[int] = []

    def slow(step: Progress) -> None:
        time.sleep(0.01)  # a slow disk: decoded images would pile up in memory
        ahead.append(counting.reads - step.done)

    open_pixels(counting, hashes, names, SMALL, folder=tmp_path, workers=2, progress=slow)
    assert max(ahead) <= 8  # four a thread


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="what is resident is read from /proc")
def test_reading_pictures_leaves_none_of_them_resident(tmp_path):
    """A process's memory is flat in the number of images that it reads."""

    def resident() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssFile")) * 1024

    shape, count = (200, 256, 3), 200  # 31 MB
    rng = np.random.default_rng(0)
    rows = {digest_of(str(i)): rng.integers(0, 256, shape, dtype=np.uint8) for i in range(count)}
    with SegmentWriter(tmp_path, shape) as writer:
        for digest, row in rows.items():
            writer.add(digest, row)
    places, reader, out = read_index(tmp_path, shape, rows), SegmentReader(shape), np.empty(shape, np.uint8)
    before = resident()
    for _ in range(2):
        for digest, row in rows.items():
            assert reader.read_into(places[digest], out)
            np.testing.assert_array_equal(out, row)
    assert resident() - before < 4_000_000
