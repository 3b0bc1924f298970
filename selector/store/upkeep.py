"""What keeps a store in order: listing, checking, removing by age and size."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selector.core.atomic import TEMPORARY, prune_files, size_of
from selector.core.container import Container, Damaged
from selector.core.errors import StoreError
from selector.store.documents import discard, parse_json, read_json, write_json
from selector.store.entry import is_chunk
from selector.store.files import Layered

logger = logging.getLogger(__name__)

_REMADE = ("pixels", "compiled")  # local, made again from what is at hand: the first to go
_CHECKED = ("entries", "aliases", "results", "bad")
_LEFTOVER_AGE = 86_400.0  # seconds after which a temporary file cannot belong to a living writer


@dataclass(frozen=True)
class EntryInfo:
    """One entry as ``selector store list`` shows it; ``used`` is a time stamp, ``size`` is in bytes."""

    key: str
    identity: dict[str, Any]
    meta: dict[str, Any]
    rows: int
    size: int
    used: float


@dataclass(frozen=True)
class Verified:
    """What ``verify`` looked at, and the names of the files that it removed."""

    files: int
    bytes: int
    damaged: tuple[str, ...]


@dataclass(frozen=True)
class Pruned:
    """What ``prune`` removed: keys of entries, and bytes in all."""

    entries: tuple[str, ...]
    bytes: int


class Upkeep:
    """The housekeeping of one store."""

    def __init__(self, files: Layered) -> None:
        self._files = files

    def mark_used(self, key: str) -> None:
        """Record that an entry is in use now.

        The stamps never run backwards, also when the clock does, so the order of use stays right.
        """
        try:
            stamp = max(time.time(), self._time_of("clock.json") + 1e-3)
            for name in ("clock.json", f"entries/{key}/used.json"):
                if not self._files.stamp(name, stamp):  # to replace a file would take ten times as long
                    write_json(self._files, name, {"time": stamp})
                    self._files.stamp(name, stamp)
        except StoreError as error:
            logger.debug("the time of use of %s was not recorded: %s", key, error)  # a full store can still be read

    def _time_of(self, name: str) -> float:
        """When a stamp was set last: the time of its file, and what it says where that is none of this machine."""
        return self._files.stamped(name) or float((read_json(self._files, name) or {}).get("time", 0.0))

    def entries(self) -> list[EntryInfo]:
        """All entries, the least recently used first."""
        found = []
        for key in self._files.folders("entries"):
            folder = f"entries/{key}"
            names = self._files.names(folder)
            meta = read_json(self._files, f"{folder}/meta.json") or {}
            rows = 0
            for name in names:
                if is_chunk(name):
                    with contextlib.suppress(Damaged, FileNotFoundError):  # ``verify`` reports these
                        rows += Container(self._files.path(f"{folder}/{name}")).shape("keys")[0]
            found.append(
                EntryInfo(
                    key,
                    meta.get("identity", {}),
                    meta.get("facts", {}),
                    rows,
                    sum(names.values()),
                    self._time_of(f"{folder}/used.json"),
                )
            )
        return sorted(found, key=lambda e: (e.used, e.key))

    def size(self, root: Path) -> int:
        """Bytes of everything, decoded pixels and compiled models included."""
        return sum(size for _, size in self._walk("")) + sum(_tree_size(root / name) for name in _REMADE)

    def parts(self, root: Path) -> dict[str, int]:
        """Bytes by what they are."""
        found = {"features": sum(size for _, size in self._walk("entries"))}
        found["results"] = sum(size for _, size in self._walk("results"))
        found |= {name: _tree_size(root / name) for name in ("trainings", *_REMADE)}
        return {**found, "other": max(0, self.size(root) - sum(found.values()))}

    def trim(self, folders: Sequence[Path], ceiling: int) -> int:
        """Remove the files of some folders that were used least recently, beyond a ceiling; returns bytes removed."""
        files = [path for folder in folders if folder.is_dir() for path in folder.rglob("*") if path.is_file()]
        return prune_files(files, ceiling)

    def verify(self) -> Verified:
        """Check every file; remove the damaged ones."""
        files = size = 0
        damaged = []
        for folder in _CHECKED:
            for name, nbytes in self._walk(folder):
                files, size = files + 1, size + nbytes
                try:
                    check(self._files.path(name))
                except FileNotFoundError:
                    continue
                except Damaged as error:
                    discard(self._files, name, error)
                    damaged.append(name)
        return Verified(files, size, tuple(damaged))

    def prune(
        self, root: Path, max_bytes: int | None, older_than: float | None, keep: set[str] | None = None
    ) -> Pruned:
        """See ``FeatureStore.prune``; entries in ``keep`` stay."""
        before = self.size(root)
        self._files.remove("quarantine")  # of an earlier version
        _remove_leftovers(root)
        entries = [e for e in self.entries() if e.key not in (keep or set())]
        gone: list[str] = []
        if older_than is not None:
            limit = time.time() - older_than
            gone += [e.key for e in entries if e.used < limit]
            for key in gone:
                self._files.remove(f"entries/{key}")
            for name in (*_REMADE, "results"):
                _remove_old(root / name, limit)
        if max_bytes is not None:
            size = self.size(root)
            for path in [] if keep else _remade(root):
                if size > max_bytes:
                    size -= _tree_size(path)
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            for entry in entries:
                if size > max_bytes and entry.key not in gone:
                    self._files.remove(f"entries/{entry.key}")
                    gone.append(entry.key)
                    size -= entry.size
        self._forget_aliases(set(gone))
        return Pruned(tuple(gone), max(0, before - self.size(root)))

    def _walk(self, folder: str) -> Iterator[tuple[str, int]]:
        prefix = f"{folder}/" if folder else ""
        for name, size in self._files.names(folder).items():
            yield prefix + name, size
        for name in self._files.folders(folder):
            if prefix + name not in (*_REMADE, "locks"):
                yield from self._walk(prefix + name)

    def _forget_aliases(self, keys: set[str]) -> None:
        for name in self._files.names("aliases") if keys else ():
            known = read_json(self._files, f"aliases/{name}")
            if known is not None and known["key"] in keys:
                self._files.remove(f"aliases/{name}")


def check(path: Path) -> None:
    """Verify the checksums of one file.

    Raises:
        Damaged: something does not match.
    """
    if path.suffix == ".json":
        parse_json(path.read_bytes())
        return
    container = Container(path)
    for name in container.names():
        container.array(name)


def _tree_size(folder: Path) -> int:
    return sum(size_of(p) for p in folder.rglob("*")) if folder.is_dir() else size_of(folder)


def _remade(root: Path) -> list[Path]:
    """Folders of decoded pixels, then compiled models, each the oldest first."""
    pixels, compiled = (root / name for name in _REMADE)
    return [*sorted(pixels.glob("*"), key=_last_write), *sorted(compiled.glob("*/*"), key=_last_write)]


def _last_write(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _remove_old(folder: Path, limit: float) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and _last_write(path) < limit:
            path.unlink(missing_ok=True)


def _remove_leftovers(root: Path) -> None:
    limit = time.time() - _LEFTOVER_AGE
    for path in root.rglob(f"{TEMPORARY}*"):
        if _last_write(path) < limit:
            path.unlink(missing_ok=True)
