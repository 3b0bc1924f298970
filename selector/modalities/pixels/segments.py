"""Files of the pixel store: decoded images of one shape, one container a segment, written once.

A segment is a container (``core.container``) of three arrays: rows of uint8 pixels, and a content digest and a checksum
for each row, so that a row is checked when it is read first and not with all others when the file is opened. A file
under its final name is whole; what a killed process leaves behind is a temporary file that pruning takes away.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import xxhash

from selector.core.atomic import TEMPORARY, last_use, prune_files, replacing
from selector.core.container import Blocks, Container, Damaged, pack
from selector.core.errors import StoreError

SUFFIX = ".pixels"
_DIGEST = 16
SEGMENT_ROWS = 1024
SEGMENT_BYTES = 32 << 20  # they wait in memory until the segment is written: this much for each resize
_AROUND = 64 << 10  # bytes around a page that Linux makes resident with it
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
            with (
                replacing(self._folder / f"{uuid.uuid4().hex}{SUFFIX}") as temporary,
                temporary.open("xb") as file,
            ):
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
    pages: Any = mapped.base
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
