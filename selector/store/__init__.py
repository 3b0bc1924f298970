"""The feature store: content-addressed, atomic, resumable; shared by scans, processes and machines.

An entry belongs to an encoder; its rows are addressed by the content of the images. Beside the
entries lie aliases (what a source says of a model without building it -> its entry), small results
such as scores, and the list of images that cannot be decoded. Nothing here imports torch.

    store/entries/<key>/meta.json, 00000001-<random>.safetensors, head.safetensors, used.json
    store/aliases/<key>.json   store/results/<kind>/<xx>/<key>.json   store/bad/<key>.json
    store/pixels/   store/compiled/   store/locks/
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selector.core.atomic import TEMPORARY, cache_folder, prune_files, size_of
from selector.core.container import Container, Damaged
from selector.core.errors import ConfigError, StoreError
from selector.core.units import parse_size
from selector.store.documents import digest, discard, parse_json, read_json, write_json
from selector.store.entry import Entry, RowsMissing, is_chunk
from selector.store.files import Layered, LocalFiles, RemoteFiles, copies_folder, is_url, on_network

__all__ = [
    "Entry",
    "EntryInfo",
    "FeatureStore",
    "Pruned",
    "RowsMissing",
    "Verified",
    "default_store",
    "default_store_path",
]

logger = logging.getLogger(__name__)

_KIND = re.compile(r"[a-z][a-z0-9_-]*")
_CAP = "SELECTOR_STORE_MAX_SIZE"
_CACHE_CAP = "SELECTOR_STORE_CACHE_SIZE"
_CACHE_BYTES = 20 * 10**9
_CACHE_SHARE = 0.1  # of the disk
_COMPILED_SHARE = 0.25  # of the ceiling; decoded pixels may take the rest


def default_store() -> str:
    """Where the store lies when none is named: ``SELECTOR_STORE``, or the user's cache folder."""
    return os.environ.get("SELECTOR_STORE") or str(cache_folder() / "store")


def default_store_path() -> Path:
    """The local folder of the default store (of its copies, when it is a URL)."""
    place = default_store()
    return copies_folder(place, cache_folder()) if is_url(place) else Path(place.removeprefix("file://"))


class FeatureStore:
    """Features of encoders on disk, addressed by content.

    Args:
        root: folder or fsspec URL (``s3://bucket/store``); None for ``default_store()``.
        max_bytes: least recently used entries are removed beyond this; None for the environment's
            ``SELECTOR_STORE_MAX_SIZE`` (such as ``20GB``), or no limit.
        read_only: True never writes there. What a read-only place refuses goes, after one warning,
            to a temporary folder of this process.
    """

    def __init__(
        self, root: str | os.PathLike[str] | None = None, *, max_bytes: int | None = None, read_only: bool | None = None
    ) -> None:
        place = default_store() if root is None else os.fspath(root)
        base: LocalFiles | RemoteFiles
        if is_url(place):
            self._local_root = copies_folder(place, cache_folder())
            base = RemoteFiles(place, self._local_root)
        else:
            if "\0" in place:
                raise ConfigError(f"the store {place!r} holds a NUL character; give a folder with --store.")
            folder = Path(place.removeprefix("file://")).expanduser().absolute()
            if folder.exists() and not folder.is_dir():
                raise ConfigError(f"the store {place} is a file; give a folder with --store.")
            base = LocalFiles(folder)
            # what is made again from what is at hand is a cache of each machine
            self._local_root = copies_folder(str(folder), cache_folder()) if on_network(folder) else folder
        if max_bytes is None and os.environ.get(_CAP):
            max_bytes = parse_size(os.environ[_CAP])
        self.root = place
        self.max_bytes = max_bytes
        self._files = Layered(base, read_only=read_only)
        self._entries: dict[str, Entry] = {}
        self._size: int | None = None

    def __repr__(self) -> str:
        return f"FeatureStore({self.root!r})"

    @property
    def address(self) -> str:
        """What opens this store in another process, whatever its working folder."""
        return self.root if self._files.is_remote else self._files.where

    @property
    def read_only(self) -> bool:
        """Whether writing was switched off, or was refused so far."""
        return self._files.read_only

    # ------------------------------------------------------------------ entries

    def entry(self, identity: Mapping[str, object]) -> Entry:
        """The entry of an identity, which may still be empty.

        Args:
            identity: everything that decides the features, as plain JSON. Its digest is the key.
        """
        key = digest(identity)
        if key not in self._entries:
            meta = read_json(self._files, f"entries/{key}/meta.json") or {}
            self._entries[key] = Entry(self._files, key, identity, meta.get("facts", {}), self._wrote)
            if meta and not self._files.is_remote:
                self._mark_used(key)
        return self._entries[key]

    def resolve(self, spec_identity: Mapping[str, object]) -> Entry | None:
        """The entry that was remembered for what a source says of a model, or None."""
        known = read_json(self._files, _alias(spec_identity))
        if known is None:
            return None
        entry = self.entry(known["entry"])
        entry.meta = {**known["facts"], **entry.meta}
        return entry

    def remember(
        self, spec_identity: Mapping[str, object], entry_identity: Mapping[str, object], facts: Mapping[str, object]
    ) -> Entry:
        """File an entry under its identity and under a cheap one, with facts, before its first row.

        Args:
            spec_identity: what can be said without building the network.
            entry_identity: the full identity; see ``entry``.
            facts: plain JSON, kept as ``Entry.meta`` (num_features, num_parameters, backend, ...).

        Raises:
            StoreError: the disk is full.
        """
        entry = self.entry(entry_identity)
        entry.meta = {**entry.meta, **facts}
        write_json(
            self._files,
            f"entries/{entry.key}/meta.json",
            {"format": 1, "identity": dict(entry_identity), "facts": entry.meta, "created": time.time()},
        )
        write_json(
            self._files,
            _alias(spec_identity),
            {"spec": dict(spec_identity), "entry": dict(entry_identity), "facts": entry.meta, "key": entry.key},
        )
        self._mark_used(entry.key)
        return entry

    # ------------------------------------------------------------------ small results

    def get(self, kind: str, key: Mapping[str, object]) -> dict[str, Any] | None:
        """A result that was ``put``, or None; a damaged one counts as absent, with a warning."""
        found = read_json(self._files, _result(kind, key))
        return None if found is None else found["value"]

    def put(self, kind: str, key: Mapping[str, object], value: Mapping[str, object]) -> None:
        """Keep a small result (``score``, ``measurement``, ...) under its key, replacing an older one.

        Raises:
            StoreError: the disk is full.
        """
        self._wrote(write_json(self._files, _result(kind, key), {"key": dict(key), "value": dict(value)}))

    def bad_images(self) -> dict[str, str]:
        """Content hash -> reason, of images that an earlier scan could not decode."""
        bad: dict[str, str] = {}
        for name in self._files.names("bad"):
            bad |= read_json(self._files, f"bad/{name}") or {}
        return bad

    def add_bad_images(self, bad: Mapping[str, str]) -> None:
        """Remember images that cannot be decoded."""
        new = {h: reason for h, reason in bad.items() if h not in self.bad_images()}
        if new:
            write_json(self._files, f"bad/{digest(new)}.json", new)

    # ------------------------------------------------------------------ local helpers

    @property
    def pixels_folder(self) -> Path:
        """Where decoded pixels are kept; on this machine also when the store is not."""
        return self._beside("pixels")

    @property
    def compiled_folder(self) -> Path:
        """Where backends keep compiled networks; on this machine also when the store is not."""
        return self._beside("compiled")

    @property
    def trainings_folder(self) -> Path:
        """Where finished trainings are kept; on this machine also when the store is not."""
        return self._beside("trainings")

    @property
    def cache_ceiling(self) -> int:
        """Bytes that decoded pixels and compiled networks may take together: they are made again from what is at hand.

        ``SELECTOR_STORE_CACHE_SIZE``, such as ``5GB``; else 20 GB, or a tenth of a small disk.
        """
        asked = os.environ.get(_CACHE_CAP)
        if asked:
            return parse_size(asked)
        place = next(folder for folder in (self._local_root, *self._local_root.parents) if folder.exists())
        return min(_CACHE_BYTES, int(_CACHE_SHARE * shutil.disk_usage(place).total))

    @property
    def pixels_ceiling(self) -> int:
        """Bytes that decoded pixels may take, what compiled networks take left out."""
        taken = _tree_size(self._local_root / "compiled")
        return max(self.cache_ceiling - taken, int((1 - _COMPILED_SHARE) * self.cache_ceiling))

    def trim(self) -> int:
        """Remove the least recently used compiled networks beyond their share of the ceiling; returns bytes removed.

        Pixels are trimmed where they are written, sparing those that are in use.
        """
        if self.read_only:
            return 0
        folders = [self.compiled_folder, cache_folder() / "inductor"]  # what torch compiles is the user's own
        files = [path for folder in folders if folder.is_dir() for path in folder.rglob("*") if path.is_file()]
        return prune_files(files, int(_COMPILED_SHARE * self.cache_ceiling))

    def parts(self) -> dict[str, int]:
        """Bytes by what they are: features, results, trainings, pixels, compiled and other."""
        found = {"features": sum(size for _, size in self._walk("entries"))}
        found["results"] = sum(size for _, size in self._walk("results"))
        found |= {name: _tree_size(self._local_root / name) for name in ("trainings", *_REMADE)}
        return {**found, "other": max(0, self.size() - sum(found.values()))}

    def _beside(self, name: str) -> Path:
        return (self._files.spare_root() if self.read_only else self._local_root) / name

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a piece of work among the processes of this machine; it avoids double work and nothing else.

        Two machines that share a store may do the same work: what they write twice is there once.
        """
        import filelock

        folder = self._beside("locks")
        lock: filelock.BaseFileLock | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(folder / f"{digest({'lock': name})}.lock")
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                logger.info("waiting for another process that does the same (%s)", name)
                lock.acquire()
        except (OSError, NotImplementedError) as error:
            logger.info("no lock in %s (%s); another process may do the same work", folder, error)
            lock = None
        try:
            yield
        finally:
            if lock is not None:
                lock.release()

    # ------------------------------------------------------------------ upkeep

    def list_entries(self) -> list[EntryInfo]:
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

    def size(self) -> int:
        """Bytes of everything in the store, pixels and compiled models included."""
        cached = sum(_tree_size(self._local_root / name) for name in _REMADE)
        return sum(size for _, size in self._walk("")) + cached

    def verify(self) -> Verified:
        """Check every checksum; damaged files are removed and count as missing."""
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
        self._entries.clear()
        return Verified(files, size, tuple(damaged))

    def prune(self, max_bytes: int | None = None, older_than: float | None = None) -> Pruned:
        """Remove what was not used for ``older_than`` seconds, then the least recently used beyond ``max_bytes``.

        Decoded pixels and compiled models go before features; leftovers of killed processes always go.

        Raises:
            StoreError: the store cannot be written, so nothing can be removed from it.
        """
        self._files.check_writable("pruned")
        result = self._prune(max_bytes, older_than)
        self._entries.clear()
        self._size = None
        return result

    def _prune(self, max_bytes: int | None, older_than: float | None, keep: set[str] | None = None) -> Pruned:
        """See ``prune``; entries in ``keep`` stay."""
        before = self.size()
        self._files.remove("quarantine")  # of an earlier version
        _remove_leftovers(self._local_root)
        entries = [e for e in self.list_entries() if e.key not in (keep or set())]
        gone: list[str] = []
        if older_than is not None:
            limit = time.time() - older_than
            gone += [e.key for e in entries if e.used < limit]
            for key in gone:
                self._files.remove(f"entries/{key}")
            for name in (*_REMADE, "results"):
                _remove_old(self._local_root / name, limit)
        if max_bytes is not None:
            size = self.size()
            for path in [] if keep else _remade(self._local_root):
                if size > max_bytes:
                    size -= _tree_size(path)
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            for entry in entries:
                if size > max_bytes and entry.key not in gone:
                    self._files.remove(f"entries/{entry.key}")
                    gone.append(entry.key)
                    size -= entry.size
        self._forget_aliases(set(gone))
        return Pruned(tuple(gone), max(0, before - self.size()))

    def _forget_aliases(self, keys: set[str]) -> None:
        for name in self._files.names("aliases") if keys else ():
            known = read_json(self._files, f"aliases/{name}")
            if known is not None and known["key"] in keys:
                self._files.remove(f"aliases/{name}")

    def _walk(self, folder: str) -> Iterator[tuple[str, int]]:
        prefix = f"{folder}/" if folder else ""
        for name, size in self._files.names(folder).items():
            yield prefix + name, size
        for name in self._files.folders(folder):
            if prefix + name not in (*_REMADE, "locks"):
                yield from self._walk(prefix + name)

    def _mark_used(self, key: str) -> None:
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

    def _wrote(self, size: int) -> None:
        if self.max_bytes is None or self.read_only:
            return
        self._size = self.size() if self._size is None else self._size + size
        if self._size > self.max_bytes:
            pruned = self._prune(self.max_bytes, None, keep=set(self._entries))
            self._size -= pruned.bytes
            if self._size > self.max_bytes:
                logger.warning(
                    "the store %s holds more than its limit, and everything in it is in use by this run", self.root
                )
                self.max_bytes = None  # say it once


def _alias(spec_identity: Mapping[str, object]) -> str:
    return f"aliases/{digest(spec_identity)}.json"


def _result(kind: str, key: Mapping[str, object]) -> str:
    if not _KIND.fullmatch(kind):
        raise StoreError(f"a kind of result is a lower-case word. Got {kind!r}.")
    name = digest(key)
    return f"results/{kind}/{name[:2]}/{name}.json"


_REMADE = ("pixels", "compiled")  # local, made again from what is at hand: the first to go
_CHECKED = ("entries", "aliases", "results", "bad")
_LEFTOVER_AGE = 86_400.0  # seconds after which a temporary file cannot belong to a living writer


@dataclass(frozen=True)
class EntryInfo:
    """One entry as ``selector store list`` shows it; ``used`` is a time stamp, ``size`` is in bytes."""

    key: str
    identity: dict[str, object]
    meta: dict[str, object]
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
