"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

log = logging.getLogger(__name__)


TEMPORARY = ".tmp-"
"""How names of files that are being written begin; the store sweeps those that a kill left behind."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A free name in the folder of ``path``; the file written there takes its place when the block ends well.

    Whatever ends it otherwise (an interrupt, a full disk) leaves ``path`` as it was and nothing beside it.

    Raises:
        OSError: it cannot be written, or is a device; ``filename`` is ``path``.
    """
    if path.exists() and not path.is_file():  # the rename would put a file where a device or a pipe was
        raise OSError(errno.EPERM, "it is not a regular file", str(path))
    # a suffix of its own: no reader takes it for a finished file, and torch names its archive by what stands before it
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{uuid.uuid4().hex}.part")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:  # of what was to be written, not of the free name
            error.filename, error.filename2 = str(path), None
        raise


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with replacing(path) as temporary, temporary.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def cache_folder() -> Path:
    """``SELECTOR_CACHE``, or the user's cache folder: hashes of files, lists of model names, the store."""
    return Path(os.environ.get("SELECTOR_CACHE") or platformdirs.user_cache_dir("selector"))


def read_memory(file: Path) -> dict[str, object]:
    """A remembered JSON object; empty when there is none or it is damaged (it is only a memory)."""
    try:
        memory = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s is unreadable and will be written again: %s", file, error)
        return {}
    return memory if isinstance(memory, dict) else {}


def write_memory(file: Path, memory: Mapping[str, object]) -> bool:
    """Remember a JSON object; whether it was written: a folder that cannot be only costs time later."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps(memory, separators=(",", ":")).encode())
    except OSError as error:
        log.debug("%s could not be written: %s", file, error)
        return False
    return True


def last_use(path: Path) -> float:
    """When a file was read or written last; 0 where it is gone."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0.0
    return max(status.st_atime, status.st_mtime)


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where it is gone or a folder."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0


def prune_files(files: Iterable[Path], ceiling: int, keep: Collection[Path] = ()) -> int:
    """Remove the files that were used least recently until all take ``ceiling`` bytes at most; returns bytes removed.

    Args:
        keep: files in use, never removed; they count.
    """
    found = list(files)
    excess, removed = sum(map(size_of, found)) - ceiling, 0
    for path in sorted(set(found) - set(keep), key=last_use):
        if removed >= excess:
            break
        size = size_of(path)
        with contextlib.suppress(OSError):  # another process uses it, or has removed it
            path.unlink()
            removed += size
    return removed
