"""Caches that stay below a size: the files that were used least recently go first."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable
from pathlib import Path


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
