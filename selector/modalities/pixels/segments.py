"""Files of the pixel store: decoded images of one shape, one file a segment, written once.

A segment holds a header, rows of uint8 pixels, then a content digest and a checksum for each row.
It is written under a temporary name and renamed when complete, so a file under its final name is
whole; a killed process leaves a temporary file that pruning takes away.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import xxhash

from selector.core.errors import StoreError
from selector.core.pruning import last_use, prune_files

SUFFIX = ".pixels"
_MAGIC = b"SELPIX1\n"
_HEADER = struct.Struct("<8sQIII Q")  # magic, rows, height, width, channels, checksum of the index
_DATA = 4096
_DIGEST, _SUM = 16, 8
SEGMENT_ROWS = 1024
SEGMENT_BYTES = 64 << 20
_OPEN_MAPS = 64  # each keeps a file descriptor
_STALE_SECONDS = 24 * 3600


def digest_of(content: str) -> bytes:
    """16 bytes for a content hash (its 32 hex digits, or a hash of any other string)."""
    try:
        raw = bytes.fromhex(content)
    except ValueError:
        raw = b""
    return raw if len(raw) == _DIGEST else xxhash.xxh3_128_digest(content.encode())


@dataclass(frozen=True)
class Place:
    """Where a row lies."""

    path: Path
    row: int
    checksum: int


def read_index(folder: Path, shape: tuple[int, int, int], wanted: Collection[bytes]) -> dict[bytes, Place]:
    """Where the ``wanted`` digests lie in the whole segments of a folder; a damaged segment is left out."""
    places: dict[bytes, Place] = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        with contextlib.suppress(FileNotFoundError):  # pruned by another process just now
            for digest, row, checksum in _read_segment(path, shape):
                if digest in wanted:
                    places.setdefault(digest, Place(path, row, checksum))
    return places


def _read_segment(path: Path, shape: tuple[int, int, int]) -> Iterable[tuple[bytes, int, int]]:
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size:
            return
        magic, rows, *found, checksum = _HEADER.unpack(head)
        start = _DATA + rows * int(np.prod(shape))
        if magic != _MAGIC or tuple(found) != shape or path.stat().st_size != start + rows * (_DIGEST + _SUM):
            return
        file.seek(start)
        index = file.read()
    if xxhash.xxh3_64_intdigest(index) != checksum:
        return
    sums = np.frombuffer(index, dtype="<u8", offset=rows * _DIGEST).tolist()
    for row in range(rows):
        yield index[row * _DIGEST : (row + 1) * _DIGEST], row, sums[row]


class SegmentWriter:
    """Appends rows to segments of one folder; a segment that is full is renamed into place."""

    def __init__(self, folder: Path, shape: tuple[int, int, int]) -> None:
        self._folder, self._shape = folder, shape
        self.row_bytes = int(np.prod(shape))
        self._limit = max(1, min(SEGMENT_ROWS, SEGMENT_BYTES // self.row_bytes))
        self._digests: list[bytes] = []
        self._sums: list[int] = []
        self._temporary = folder
        self._handle = -1

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # an interrupt keeps what is decoded; a full disk does not even keep that
        if isinstance(error, OSError | StoreError):
            self._drop()
        else:
            self._finish()

    def add(self, digest: bytes, pixels: np.ndarray) -> None:
        """Append one row.

        Raises:
            StoreError: the disk is full or the folder cannot be written to.
        """
        try:
            if self._handle < 0:
                self._begin()
            _write_all(self._handle, np.ascontiguousarray(pixels).data.cast("B"))
        except OSError as error:
            self._drop()
            raise _write_error(self._folder, error) from None
        self._digests.append(digest)
        self._sums.append(xxhash.xxh3_64_intdigest(np.ascontiguousarray(pixels).data))
        if len(self._digests) >= self._limit:
            self._finish()

    def _begin(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._temporary = self._folder / f".{uuid.uuid4().hex}{SUFFIX}.tmp"
        self._handle = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.lseek(self._handle, _DATA, os.SEEK_SET)

    def _finish(self) -> None:
        if self._handle < 0:
            return
        try:
            index = b"".join(self._digests) + np.array(self._sums, dtype="<u8").tobytes()
            _write_all(self._handle, memoryview(index))
            os.lseek(self._handle, 0, os.SEEK_SET)
            head = _HEADER.pack(_MAGIC, len(self._digests), *self._shape, xxhash.xxh3_64_intdigest(index))
            _write_all(self._handle, memoryview(head))
            os.close(self._handle)
            self._handle = -1
            self._temporary.rename(self._folder / f"{uuid.uuid4().hex}{SUFFIX}")
        except OSError as error:
            self._drop()
            raise _write_error(self._folder, error) from None
        self._digests, self._sums = [], []

    def _drop(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        if self._temporary != self._folder:
            self._temporary.unlink(missing_ok=True)
        self._digests, self._sums = [], []


class SegmentReader:
    """Reads rows through memory maps, of which it keeps a bounded number open."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._shape = shape
        self._row_bytes = int(np.prod(shape))
        self._maps: OrderedDict[Path, np.ndarray] = OrderedDict()
        self._checked: set[tuple[Path, int]] = set()
        self._lock = threading.Lock()

    def read_into(self, place: Place, out: np.ndarray) -> bool:
        """Copy a row; False when its file is gone or its checksum (looked at once) is wrong."""
        try:
            rows = self._map(place.path)
        except (FileNotFoundError, ValueError):  # pruned, or shorter than its header says
            return False
        start = _DATA + place.row * self._row_bytes
        row = rows[start : start + self._row_bytes]
        if row.nbytes != self._row_bytes:
            return False
        out[...] = row.reshape(self._shape)
        key = (place.path, place.row)
        if key not in self._checked:
            if xxhash.xxh3_64_intdigest(np.ascontiguousarray(out).data) != place.checksum:
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
            with path.open("rb") as file:
                mapped = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)
            self._maps[path] = mapped
            while len(self._maps) > _OPEN_MAPS:
                self._maps.popitem(last=False)
            return mapped


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
    begun = [path for path in root.rglob(f"*{SUFFIX}.tmp") if time.time() - last_use(path) > _STALE_SECONDS]
    return prune_files(begun, 0) + prune_files(root.rglob(f"*{SUFFIX}"), max_bytes, keep)


def _write_all(handle: int, data: memoryview) -> None:
    while data:
        data = data[os.write(handle, data) :]


def _write_error(folder: Path, error: OSError) -> StoreError:
    return StoreError(
        f"decoded images cannot be written to {folder} ({error.strerror}); free some space or name another place with "
        f"--store. What was written before stays valid."
    )
