"""Decoded images: each one is decoded and resized once for a resize, and shared by all encoders.

The pixels of an encoder are those of timm's own evaluation transform to within one gray level (``pixels.transform``).
An EXIF orientation is applied. timm's own loader ignores it, so an image that carries one is seen
upright here and lying there; for all others the pixels are the same.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import shutil
import tempfile
import threading
import time
import uuid
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal

import filelock
import numpy as np
import xxhash

from selector.core.atomic import TEMPORARY, last_use, prune_files, replacing
from selector.core.container import Blocks, Container, Damaged, digest_of, pack
from selector.core.contracts import Items, Progress, ProgressCallback, RawImage, no_progress
from selector.core.errors import BadImagesError, StoreError, TargetError
from selector.core.preprocess import Preprocess
from selector.core.resources import thread_limit, threads_for
from selector.modalities.pixels.decode import UnreadableImage, content_hash, decode_rgb, upright_size
from selector.modalities.pixels.transform import resize

if TYPE_CHECKING:
    from numpy.typing import NDArray


log = logging.getLogger(__name__)

OnBad = Literal["raise", "skip"]

DEFAULT_MAX_SIZE = 20 * 10**9
"""Bytes that decoded images may take on disk before the least recently used ones go."""

DECODER_VERSION = 3  # raised when the same file would give other pixels; part of the folder's name
_SPARE_DISK = 512 * 10**6  # decoded images never take the last of a disk
_LARGE_PIXELS = 32_000_000  # larger images are decoded one at a time, so that memory stays bounded
_LOCK_SECONDS = 1800  # then it is decoded twice rather than never
_SHOWN = 10


# ---------------------------------------------------------------------------- the pixel store


class Pixels:
    """The decoded images of a target for one resize, read by position.

    Attributes:
        key: ``Preprocess.pixels_key()``.
        cut_off: None: nothing of an image is left out that its preprocessing does not leave out.
        shape: (H, W, 3) of a row.
        bad: reason by position, for images that cannot be decoded.
    """

    def __init__(
        self,
        items: Items,
        hashes: Sequence[str],
        names: Sequence[str],
        preprocess: Preprocess,
        places: Mapping[bytes, RowPlace],
        bad: Mapping[int, str],
        temporary: _Temporary | None = None,
    ) -> None:
        self.key = preprocess.pixels_key()
        self.cut_off: NDArray[np.int64] | None = None
        _, height, width = preprocess.input_size
        self.shape = (height, width, 3)
        self.bad = dict(bad)
        self._items, self._hashes, self._names, self._preprocess = items, hashes, names, preprocess
        self._places = places
        self._temporary = temporary  # lives as long as these pixels do
        self._reader = SegmentReader(self.shape)

    def __len__(self) -> int:
        return len(self._hashes)

    def longest_first(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """As they are: all have one shape."""
        return indices

    def cut(self, indices: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
        """Batches of ``size`` as they come; the last one may be smaller."""
        return [indices[begin : begin + size] for begin in range(0, len(indices), size)]

    def batch(self, indices: Sequence[int] | np.ndarray) -> NDArray[np.uint8]:
        """Rows uint8 (B, H, W, 3) of the items at ``indices``, in that order. Threads may share it.

        A row that is not in the store (no room, pruned meanwhile, damaged) is decoded again.

        Raises:
            TargetError: an image cannot be decoded.
        """
        rows = np.empty((len(indices), *self.shape), dtype=np.uint8)
        again: list[tuple[int, int]] = []
        for row, index in enumerate(np.asarray(indices).tolist()):
            if index in self.bad:
                raise TargetError(f"image {self._names[index]} {self.bad[index]}; leave it out before asking for it.")
            place = self._places.get(digest_of(self._hashes[index]))
            if place is None or not self._reader.read_into(place, rows[row]):
                again.append((row, index))
                if place is not None:
                    log.warning(
                        "decoded image %s in %s is damaged or gone; decoding it again", self._names[index], place.path
                    )
        if again:
            with threads_for(min(len(again), thread_limit()), "decode") as pool:
                for (row, _), pixels in zip(again, pool.map(self._decode, (index for _, index in again)), strict=True):
                    rows[row] = pixels
        return rows

    def close(self) -> None:
        """Release memory maps; a temporary folder goes with the last ``Pixels`` that reads it."""
        self._reader.close()
        self._temporary = None

    def _decode(self, index: int) -> NDArray[np.uint8]:
        try:
            return resize(decode_rgb(_checked_item(self._items, index, self._hashes, self._names)), self._preprocess)
        except UnreadableImage as error:
            raise TargetError(f"image {self._names[index]} {error}; replace it or leave it out.") from None


def open_pixels_many(
    items: Items,
    hashes: Sequence[str],
    names: Sequence[str],
    preprocesses: Sequence[Preprocess],
    *,
    folder: Path | None,
    on_invalid: OnBad = "raise",
    workers: int | None = None,
    progress: ProgressCallback = no_progress,
    max_size: int = DEFAULT_MAX_SIZE,
) -> tuple[dict[str, Pixels], dict[int, str]]:
    """Decode what is missing of a target, each image once for all the given resizes.

    Args:
        items, hashes, names: of the target; rows are addressed by ``hashes``.
        preprocesses: of the encoders; those with an equal ``pixels_key()`` share their pixels.
        folder: where decoded images are kept; None for a temporary place that goes with the result.
        on_invalid: ``raise`` raises when an image cannot be decoded, after looking at all of them;
            ``skip`` returns them.
        workers: threads; as many as there are cores by default. Memory is bounded by a few images
            a thread, and by one for images above 32 megapixels.
        progress: called about every hundredth of the way.
        max_size: bytes on disk; the least recently used go first. What finds no room is decoded
            whenever it is asked for.

    Returns:
        Pixels by key, and the reason by position of every image that cannot be decoded.
    Raises:
        BadImagesError: with the full list, when ``on_invalid`` is ``raise``.
        TargetError: an item's content is not what its hash says.
        StoreError: the disk is full.
    """
    wanted = {preprocess.pixels_key(): preprocess for preprocess in preprocesses}
    digests = {digest_of(value) for value in hashes}
    temporary: _Temporary | None = None
    folders = [] if folder is None else [folder]

    def look() -> dict[str, dict[bytes, RowPlace]]:
        return {key: {k: v for f in folders for k, v in _index_of(f, p, digests).items()} for key, p in wanted.items()}

    places, bad = look(), dict[int, str]()
    if _missing(hashes, wanted, places):
        if folder is not None and not _writable(folder):
            log.warning("%s cannot be written to; newly decoded images go to a temporary folder", folder)
        if folder is None or not _writable(folder):
            temporary = _Temporary()
            folders.append(temporary.path)
        destination = folders[-1]
        with _locked(destination, sorted(wanted)):  # spares double work; correct without it
            places = look()
            missing = _missing(hashes, wanted, places)
            used = {place.path for key in wanted for place in places[key].values()}
            room = _make_room(destination, missing, wanted, used, max_size)
            bad = _fill(
                items,
                hashes,
                names,
                wanted,
                missing,
                destination,
                room,
                min(workers or thread_limit(), thread_limit()),
                progress,
            )
            places = look()
    else:
        progress(Progress("decode", len(hashes), len(hashes), note="already decoded"))
    touch({place.path for key in wanted for place in places[key].values()})
    if bad and on_invalid == "raise":
        raise bad_images(bad, names)
    pixels = {key: Pixels(items, hashes, names, p, places[key], bad, temporary) for key, p in wanted.items()}
    return pixels, bad


class _Temporary:
    """A folder that is deleted when nothing refers to this object any more, or at exit."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="selector-pixels-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@dataclass
class _DecodeJob:
    """An image to decode: a position, and the resizes that lack it."""

    index: int
    keys: list[str]


def _missing(
    hashes: Sequence[str], wanted: Mapping[str, Preprocess], places: Mapping[str, Mapping[bytes, RowPlace]]
) -> list[_DecodeJob]:
    jobs, seen = [], set()
    for index, value in enumerate(hashes):
        if value in seen:
            continue
        seen.add(value)
        digest = digest_of(value)
        keys = [key for key in wanted if digest not in places[key]]
        if keys:
            jobs.append(_DecodeJob(index, keys))
    return jobs


def _make_room(
    folder: Path,
    missing: Sequence[_DecodeJob],
    wanted: Mapping[str, Preprocess],
    used: Collection[Path],
    max_size: int,
) -> int:  # fmt: skip
    """Prune for the new rows, sparing those that this target has; bytes that may be written."""
    sizes = {key: int(np.prod(p.input_size[1:])) * 3 for key, p in wanted.items()}
    need = sum(sizes[key] for job in missing for key in job.keys)
    prune(folder, max(0, max_size - need), keep=used)
    taken = sum(path.stat().st_size for path in folder.rglob("*.pixels"))
    free = shutil.disk_usage(folder).free - _SPARE_DISK
    room = max(0, min(max_size - taken, free))
    if room < need:
        log.warning(
            "%.1f GB of decoded images do not fit into %s (room for %.1f GB); the rest is decoded again for each model",
            need / 1e9, folder, room / 1e9,
        )  # fmt: skip
    return room


def _fill(
    items: Items, hashes: Sequence[str], names: Sequence[str], wanted: Mapping[str, Preprocess], jobs: Sequence[_DecodeJob],
    folder: Path, room: int, workers: int, progress: ProgressCallback,
) -> dict[int, str]:  # fmt: skip
    """Decode ``jobs`` and write their rows; reasons by position of those that cannot be decoded."""
    reasons: dict[str, str] = {}
    large = threading.Lock()

    def decode(job: _DecodeJob) -> dict[str, NDArray[np.uint8]] | str:
        try:
            raw = _checked_item(items, job.index, hashes, names)
            with large if _is_large(raw) else contextlib.nullcontext():
                image = decode_rgb(raw)
                return {key: resize(image, wanted[key]) for key in job.keys}
        except UnreadableImage as error:
            return str(error)

    done, total = len(hashes) - len(jobs), len(hashes)
    step = max(1, len(jobs) // 100)
    progress(Progress("decode", done, total))
    with contextlib.ExitStack() as stack:
        writers = {
            key: stack.enter_context(SegmentWriter(_folder_of(folder, p), (*p.input_size[1:], 3)))
            for key, p in wanted.items()
        }
        for number, (job, result) in enumerate(_in_order(decode, jobs, workers), 1):
            if isinstance(result, str):
                reasons[hashes[job.index]] = result
            else:
                for key, row in result.items():
                    if room >= row.nbytes:
                        writers[key].add(digest_of(hashes[job.index]), row)
                        room -= row.nbytes
            if number % step == 0 or number == len(jobs):
                progress(Progress("decode", done + number, total))
    return {i: reasons[value] for i, value in enumerate(hashes) if value in reasons} if reasons else {}


def _in_order(
    work: Callable[[_DecodeJob], dict[str, NDArray[np.uint8]] | str], jobs: Sequence[_DecodeJob], workers: int
) -> Iterator[tuple[_DecodeJob, dict[str, NDArray[np.uint8]] | str]]:
    """Results in order, with a bounded number of them waiting."""
    pool = threads_for(workers, "decode")
    waiting: deque[tuple[_DecodeJob, Future[dict[str, NDArray[np.uint8]] | str]]] = deque()
    try:
        for job in jobs:
            waiting.append((job, pool.submit(work, job)))
            if len(waiting) >= 4 * workers:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _checked_item(items: Items, index: int, hashes: Sequence[str], names: Sequence[str]) -> RawImage:
    """The item, if it still is what its hash says: rows must never be filed under another image."""
    try:
        raw: RawImage = items[index]
    except OSError as error:
        raise UnreadableImage(f"cannot be read ({error.strerror or error})") from None
    expected = hashes[index]
    if content_hash(raw) != expected:
        raise TargetError(
            f"image {names[index]} has changed since the target was loaded (hash {expected[:8]}…); "
            f"load the target again, with hash_mode='content' (--hash-mode content) if its time stamps are not reliable."
        )
    return raw


def _is_large(raw: RawImage) -> bool:
    if isinstance(raw, np.ndarray):
        return False  # it is in memory already
    if raw[:2] == b"\xff\xd8" and len(raw) < _LARGE_PIXELS // 320:
        return False  # even a flat JPEG spends a byte on 256 pixels: most files need no look at their header
    height, width = upright_size(raw)
    return height * width > _LARGE_PIXELS


def bad_images(bad: Mapping[int, str], names: Sequence[str]) -> BadImagesError:
    listed = [(str(names[index]), reason) for index, reason in sorted(bad.items())]
    lines = [f"  {name} {reason}" for name, reason in listed[:_SHOWN]]
    if len(listed) > _SHOWN:
        lines.append(f"  … and {len(listed) - _SHOWN} more")
    count = f"{len(listed)} image" + ("s" if len(listed) > 1 else "")
    advice = "Replace or remove them, or skip them with on_invalid='skip' (--on-invalid skip)."
    return BadImagesError("\n".join([f"{count} of {len(names)} cannot be decoded:", *lines, advice]), listed)


def _folder_of(folder: Path, preprocess: Preprocess) -> Path:
    return folder / f"v{DECODER_VERSION}-{preprocess.pixels_key()}"


def _index_of(folder: Path, preprocess: Preprocess, digests: Collection[bytes]) -> dict[bytes, RowPlace]:
    return read_index(_folder_of(folder, preprocess), (*preprocess.input_size[1:], 3), digests)


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


@contextlib.contextmanager
def _locked(folder: Path, keys: Sequence[str]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for key in keys:  # in sorted order, so that two processes cannot wait for each other
            try:
                stack.enter_context(filelock.FileLock(folder / f".{key}.lock", timeout=_LOCK_SECONDS))
            except (OSError, NotImplementedError) as error:  # a timeout is an OSError, too
                log.info("no file lock in %s (%s); going on without", folder, error)
        yield


SUFFIX = ".pixels"
_DIGEST = 16
SEGMENT_ROWS = 1024
SEGMENT_BYTES = 32 << 20  # they wait in memory until the segment is written: this much for each resize
_AROUND = 64 << 10  # bytes around a page that Linux makes resident with it
_OPEN_MAPS = 64  # each keeps a file descriptor
_STALE_SECONDS = 24 * 3600


@dataclass(frozen=True)
class RowPlace:
    """Where a row lies."""

    path: Path
    row: int
    checksum: int


def read_index(folder: Path, shape: tuple[int, int, int], wanted: Collection[bytes]) -> dict[bytes, RowPlace]:
    """Where the ``wanted`` digests lie in the whole segments of a folder; a damaged segment is left out."""
    places: dict[bytes, RowPlace] = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        # gone: pruned by another process just now
        with contextlib.suppress(FileNotFoundError, Damaged):
            segment = Container(path)
            if set(segment.names()) != {"pixels", "digests", "sums"} or segment.shape("pixels")[1:] != shape:
                continue
            digests, sums = segment.array("digests"), segment.array("sums")
            for row, (digest, checksum) in enumerate(zip(digests, sums.tolist(), strict=True)):
                if (key := digest.tobytes()) in wanted:
                    places.setdefault(key, RowPlace(path, row, checksum))
    return places


class SegmentWriter:
    """Gathers rows for a folder and writes them a segment at a time."""

    def __init__(self, folder: Path, shape: tuple[int, int, int]) -> None:
        self._folder, self._shape = folder, shape
        self._limit = max(1, min(SEGMENT_ROWS, SEGMENT_BYTES // int(np.prod(shape))))
        self._digests: list[bytes] = []
        self._rows: list[np.ndarray] = []

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, OSError | StoreError):  # an interrupt keeps what is decoded; a full disk cannot
            self._flush()

    def add(self, digest: bytes, pixels: np.ndarray) -> None:
        """Append one row; it is not copied.

        Raises:
            StoreError: the disk is full or the folder cannot be written to.
        """
        self._digests.append(digest)
        self._rows.append(pixels)
        if len(self._digests) >= self._limit:
            self._flush()

    def _flush(self) -> None:
        if not self._digests:
            return
        digests, rows = self._digests, self._rows
        self._digests, self._rows = [], []
        arrays: dict[str, np.ndarray | Blocks] = {
            "digests": np.frombuffer(b"".join(digests), np.uint8).reshape(-1, _DIGEST),
            "sums": np.array([_sum(row) for row in rows], dtype=np.uint64),
            "pixels": Blocks(np.dtype(np.uint8), (len(rows), *self._shape), lambda: iter(rows)),
        }
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._folder / f"{uuid.uuid4().hex}{SUFFIX}") as temporary, temporary.open("xb") as file:
                file.writelines(pack(arrays))
        except OSError as error:
            raise StoreError(
                f"decoded images cannot be written to {self._folder} ({error.strerror}); free some space or name another "
                "place with --store. What was written before remains valid."
            ) from None


class SegmentReader:
    """Reads rows through memory maps, of which it keeps a bounded number open.

    What was read is handed back to the system, which may keep it as long as it has room: else the resident memory of a
    process would grow by every image that it reads.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._shape = shape
        self._maps: OrderedDict[Path, np.ndarray] = OrderedDict()
        self._checked: set[tuple[Path, int]] = set()
        self._lock = threading.Lock()

    def read_into(self, place: RowPlace, out: np.ndarray) -> bool:
        """Copy a row; False when its file is gone or its checksum (looked at once) is wrong."""
        try:
            mapped = self._map(place.path)
            out[...] = mapped[place.row]
        except (FileNotFoundError, Damaged, IndexError, ValueError):  # pruned, or another file than it was
            return False
        _hand_back(mapped, place.row)
        key = (place.path, place.row)
        if key not in self._checked:
            if _sum(out) != place.checksum:
                return False
            self._checked.add(key)
        return True

    def close(self) -> None:
        """Forget the maps; their memory is freed when no row is in use any more."""
        with self._lock:
            self._maps.clear()

    def _map(self, path: Path) -> np.ndarray:
        with self._lock:
            if path in self._maps:
                self._maps.move_to_end(path)
                return self._maps[path]
            self._maps[path] = mapped = Container(path).array("pixels", check=False)
            while len(self._maps) > _OPEN_MAPS:
                self._maps.popitem(last=False)
            return mapped


def _hand_back(mapped: np.ndarray, row: int) -> None:
    """Take the pages of a row out of the resident memory; they stay in the system's cache."""
    pages: object = mapped.base
    advice = getattr(mmap, "MADV_DONTNEED", None)  # not on every system
    if advice is None or not isinstance(mapped, np.memmap) or not isinstance(pages, mmap.mmap):
        return
    begin = mapped.offset % mmap.ALLOCATIONGRANULARITY + row * mapped[row].nbytes
    first = max(0, begin - _AROUND)
    first -= first % mmap.PAGESIZE
    pages.madvise(advice, first, begin + mapped[row].nbytes - first)


def touch(paths: Collection[Path]) -> None:
    """Mark segments as used now, for pruning; a read-only store stays as it is."""
    for path in paths:
        with contextlib.suppress(OSError):
            os.utime(path)


def prune(root: Path, max_bytes: int, keep: Collection[Path] = ()) -> int:
    """Delete the least recently used segments below ``root`` until they fit; bytes freed.

    Args:
        max_bytes: what may stay.
        keep: segments in use, never deleted.
    """
    begun = [path for path in root.rglob(f"{TEMPORARY}*") if time.time() - last_use(path) > _STALE_SECONDS]
    return prune_files(begun, 0) + prune_files(root.rglob(f"*{SUFFIX}"), max_bytes, keep)


def _sum(row: np.ndarray) -> int:
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(row).data)
