"""Content hashes of files, remembered by (path, size, modification time, inode).

Reading 100,000 files to hash them takes seconds to minutes; asking the file system whether they
changed takes less than a second. What is remembered lies under the user's cache folder, one file
for each dataset, and is only ever a shortcut: a lost or damaged one costs time.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeAlias

import xxhash

from selector.core.atomic import cache_folder, read_memory, write_memory
from selector.core.errors import TargetError
from selector.core.resources import threads_for
from selector.modalities.image import begins_as_image, content_hash, is_image_name, read_image_file

log = logging.getLogger(__name__)

HashMode: TypeAlias = Literal["mtime", "content"]
_FORMAT = 2
# a file changed right after it was hashed may keep its time stamp (clock ticks are coarse): such
# young files are hashed again next time
_YOUNG_NS = 100_000_000
_CHUNK = 64


def signature(status: os.stat_result) -> str:
    """What a file is recognized by: size, modification time, inode (one string: JSON reads it fastest)."""
    return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ino}"


def hash_files(
    root: str,
    relative: Sequence[str],
    statuses: Sequence[os.stat_result],
    hash_mode: HashMode,
    *,
    folder: str | None = None,
) -> list[str]:
    """Content hash of each file, in order.

    Args:
        root: absolute path of the dataset that is remembered.
        relative: paths below ``folder``, which is ``root`` when not given.
        statuses: of the same files, as a directory scan gave them.
        hash_mode: ``mtime`` believes what is remembered of an unchanged file, ``content`` reads all.

    Raises:
        TargetError: a file cannot be read, or it lies elsewhere and is no image.
    """
    with FileMemory(root, hash_mode) as memory:
        hashes = [memory.get(path, status) for path, status in zip(relative, statuses, strict=True)]
        missing = [index for index, known in enumerate(hashes) if known is None]

        inside = os.path.join(os.path.realpath(folder or root), "")  # noqa: PTH118

        def read(index: int) -> str:
            path = os.path.join(folder or root, relative[index])  # noqa: PTH118 - 100,000 Path objects take a second
            try:
                data = read_image_file(path)
            except OSError as error:
                raise TargetError(f"{path} cannot be read ({error.strerror}); make it readable or remove it.") from None
            real = os.path.realpath(path)
            if not (real.startswith(inside) or is_image_name(real) or begins_as_image(data[:16])):
                raise TargetError(
                    f"{path} is not an image, and it lies outside the dataset ({real}); correct the path or remove it."
                )
            return content_hash(data)

        def read_some(indices: list[int]) -> list[str]:
            return [read(index) for index in indices]

        # many at a time: handing over single small files would take longer than reading them
        chunks = [missing[start : start + _CHUNK] for start in range(0, len(missing), _CHUNK)]
        with threads_for(8, "hash") as pool:
            for chunk, values in zip(chunks, pool.map(read_some, chunks), strict=True):
                for index, value in zip(chunk, values, strict=True):
                    hashes[index] = value
                    memory.put(relative[index], statuses[index], value)
        return [value for value in hashes if value is not None]


class FileMemory:
    """What is remembered of the files below one folder; written back on leaving when it grew."""

    def __init__(self, root: str, hash_mode: HashMode) -> None:
        if hash_mode not in ("mtime", "content"):
            raise TargetError(f"The 'hash_mode' parameter must be 'mtime' or 'content'. Got {hash_mode!r} instead.")
        self._root, self._hash_mode = root, hash_mode
        self._path = cache_folder() / "hashes" / f"{xxhash.xxh3_128_hexdigest(os.fsencode(root))}.json"
        self._known: dict[str, list[Any]] = {}
        self._seen: dict[str, list[object]] = {}
        self._changed = False

    def __enter__(self) -> FileMemory:
        data = read_memory(self._path)
        files = data.get("files")
        if data.get("format") == _FORMAT and data.get("root") == self._root and isinstance(files, dict):
            self._known = files
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and (self._changed or self._seen.keys() != self._known.keys()):
            memory = {"format": _FORMAT, "root": self._root, "files": self._seen}
            if not write_memory(self._path, memory):
                log.warning("hashes of %s could not be remembered in %s.", self._root, self._path)

    def get(self, path: str, status: os.stat_result) -> Any:
        """What was remembered of an unchanged file, or None."""
        entry = self._known.get(path)
        if entry is None or entry[0] != signature(status):
            return None
        self._seen[path] = entry
        return entry[1] if self._hash_mode == "mtime" else None

    def put(self, path: str, status: os.stat_result, value: object) -> None:
        """Remember ``value`` (plain JSON) of a file, unless the file is too young to be sure."""
        if abs(time.time_ns() - status.st_mtime_ns) > _YOUNG_NS:
            self._seen[path] = [signature(status), value]
            self._changed = True


def walk_files(
    folder: str, keep: Callable[[str], bool], on_skip: Callable[[str], None] | None = None
) -> Iterable[tuple[str, os.stat_result]]:
    """Files below a folder (path relative to it, with /, and status), in no order; links are followed once.

    Hidden files and folders are left out. ``keep`` is asked about every file name.

    Raises:
        TargetError: a folder cannot be read.
    """
    pending, visited = [""], set()
    while pending:
        below = pending.pop()
        here = os.path.join(folder, below)  # noqa: PTH118
        try:
            status = os.stat(here)  # noqa: PTH116
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    path = f"{below}/{entry.name}" if below else entry.name
                    if entry.is_dir():
                        pending.append(path)
                    elif keep(entry.name):
                        found = entry.stat()
                        if stat.S_ISREG(found.st_mode):
                            yield path, found
                    elif on_skip is not None:
                        on_skip(path)
        except OSError as error:
            place = error.filename if isinstance(error.filename, str) else here
            raise TargetError(f"{place} cannot be read ({error.strerror}); make it readable or remove it.") from None
