"""Where the store's files lie: a folder, an object store (fsspec), or a read-only place.

Names are relative and use ``/``. A file is written whole under a temporary name and renamed, so a
reader sees all of it or nothing, whatever happens to the writer. Nothing is flushed to the disk by
force: a power cut may leave a damaged file, which its checksum reveals.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import xxhash

from selector.core.atomic import TEMPORARY, replacing
from selector.core.errors import ConfigError, StoreError
from selector.core.units import format_size

P = ParamSpec("P")
Found = TypeVar("Found")

logger = logging.getLogger(__name__)

Parts = Callable[[], Iterable["bytes | memoryview"]]
"""The content of a file, piece by piece; called again when the first place refuses it."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)


class WriteRefused(Exception):
    """The place can be read but not written."""


class LocalFiles:
    """A folder of this machine, or one that all machines mount; files in it appear whole or not at all."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.where = str(root)

    def read(self, name: str) -> bytes:
        """The whole content; ``FileNotFoundError`` if there is none."""
        return (self.root / name).read_bytes()

    def write(self, name: str, parts: Parts) -> int:
        """Replace a file; returns its size. Raises ``WriteRefused`` or ``StoreError`` (disk full)."""
        target = self.root / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as temporary, temporary.open("xb") as file:
                size = sum(file.write(part) for part in parts())
        except OSError as error:
            raise self._explained(error, name) from error
        return size

    def names(self, folder: str) -> dict[str, int]:
        """Files directly in a folder and their sizes; empty if there is no such folder."""
        return {e.name: e.stat().st_size for e in self._entries(folder) if e.is_file()}

    def folders(self, folder: str) -> list[str]:
        return [e.name for e in self._entries(folder) if e.is_dir()]

    def remove(self, name: str) -> None:
        """Remove a file or a folder with all in it; nothing happens if it is not there."""
        path = self.root / name
        try:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):  # another process removes or writes the same
                raise self._explained(error, name) from error

    def path(self, name: str) -> Path:
        """A local file with that content, to be memory-mapped."""
        return self.root / name

    def refetch(self, name: str) -> bool:
        """Replace the local copy of a remote file; False where ``path`` is the file itself."""
        return False

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        found = []
        try:
            with os.scandir(self.root / folder) as entries:
                for entry in entries:
                    if not entry.name.startswith("."):
                        found.append(entry)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted((e for e in found if _still_there(e)), key=lambda e: e.name)

    def _explained(self, error: OSError, name: str) -> Exception:
        if error.errno in _FULL:
            left = _free(self.root)
            return StoreError(
                f"the store {self.where} is full ({error.strerror}; {left} free) while writing {name}. Nothing stored "
                "is damaged; free space or run 'selector store prune', then run the same command again."
            )
        if error.errno in _REFUSED:
            return WriteRefused(f"{error.strerror}: {name}")
        return StoreError(
            f"the store {self.where} cannot be written: {error}. Check the folder or give another --store."
        )


class RemoteFiles:
    """An object store or any other fsspec file system; a local folder keeps copies to map.

    An object appears whole when its upload ends. Only JSON changes under its name, and JSON is read
    directly, so a copy stays valid as long as its checksum holds.
    """

    def __init__(self, url: str, copies: Path) -> None:
        try:
            import fsspec

            self._fs, self._root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise ConfigError(
                f"the store {url} needs another package: {error}. For s3: pip install 'zoo-selector[s3]'."
            ) from None
        except ValueError as error:
            raise ConfigError(f"the store {url} cannot be opened: {error}.") from None
        self._root = self._root.rstrip("/")
        self.where = url
        self._copies = LocalFiles(copies)

    def read(self, name: str) -> bytes:
        return bytes(self._call("read", self._fs.cat_file, self._full(name)))

    def write(self, name: str, parts: Parts) -> int:
        buffer = io.BytesIO()
        size = sum(buffer.write(part) for part in parts())
        full = self._full(name)
        try:
            self._fs.makedirs(full.rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(full, buffer.getvalue())
        except PermissionError as error:
            raise WriteRefused(f"{error}: {name}") from error
        except OSError as error:
            raise StoreError(f"the store {self.where} cannot be written: {error}.") from error
        return size

    def names(self, folder: str) -> dict[str, int]:
        return {_base(i["name"]): int(i["size"] or 0) for i in self._list(folder) if i["type"] == "file"}

    def folders(self, folder: str) -> list[str]:
        return [_base(i["name"]) for i in self._list(folder) if i["type"] == "directory"]

    def remove(self, name: str) -> None:
        self._copies.remove(name)
        try:
            self._fs.rm(self._full(name), recursive=True)
        except FileNotFoundError:
            return
        except PermissionError as error:
            raise WriteRefused(f"{error}: {name}") from error

    def path(self, name: str) -> Path:
        copy = self._copies.path(name)
        if not copy.is_file():
            content = self.read(name)
            self._copies.write(name, lambda: [content])
        return copy

    def refetch(self, name: str) -> bool:
        self._copies.remove(name)
        self.path(name)
        return True

    def _list(self, folder: str) -> list[dict[str, Any]]:
        self._fs.invalidate_cache()  # another machine may have written
        try:
            found = self._call("list", self._fs.ls, self._full(folder), detail=True)
        except FileNotFoundError:
            return []
        named = [i for i in found if not _base(i["name"]).startswith(".") and _base(i["name"])]
        return sorted(named, key=lambda i: str(i["name"]))

    def _full(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _call(self, what: str, function: Callable[P, Found], *args: P.args, **kwargs: P.kwargs) -> Found:
        try:
            return function(*args, **kwargs)
        except FileNotFoundError:
            raise
        except Exception as error:  # s3 raises errors of its own where there are no credentials
            raise StoreError(f"the store {self.where} cannot be reached ({what}): {error}.") from error


class Layered:
    """A place that may turn out to be read-only: what it refuses goes to a temporary folder.

    So a scan on a shared read-only store uses what is there, computes what is not, and loses it
    at the end of the process; a warning says so once.
    """

    def __init__(self, base: LocalFiles | RemoteFiles, *, read_only: bool | None) -> None:
        self.base = base
        self.where = base.where
        self._may_write = read_only is not True
        self._spare: LocalFiles | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._removed: set[str] = set()

    @property
    def read_only(self) -> bool:
        """Whether writing was switched off or has been refused."""
        return not self._may_write

    @property
    def is_remote(self) -> bool:
        """Whether the files are reached over fsspec."""
        return isinstance(self.base, RemoteFiles)

    def spare_root(self) -> Path:
        """The temporary folder that stands in for the place."""
        return self._use_spare("writing is switched off").root

    def read(self, name: str) -> bytes:
        if self._spare is not None:
            with contextlib.suppress(FileNotFoundError):  # not written by this process: it may lie in the place itself
                return self._spare.read(name)
        if name in self._removed:
            raise FileNotFoundError(name)
        return self.base.read(name)

    def write(self, name: str, parts: Parts) -> int:
        if self._may_write:
            try:
                return self.base.write(name, parts)
            except WriteRefused as error:
                return self._use_spare(str(error)).write(name, parts)
        return self._use_spare("writing is switched off").write(name, parts)

    def stamp(self, name: str, when: float) -> bool:
        """Give a file a time of its own; False where it is not there, or may not be changed, or lies elsewhere."""
        kept = self._spare is not None and self._spare.path(name).exists()
        if self.is_remote or not (self._may_write or kept):
            return False
        try:
            os.utime(self.path(name), (when, when))
        except OSError:
            return False
        return True

    def stamped(self, name: str) -> float:
        """The time of a file; 0 where it is not there or lies elsewhere."""
        with contextlib.suppress(OSError):
            return 0.0 if self.is_remote else self.path(name).stat().st_mtime
        return 0.0

    def names(self, folder: str) -> dict[str, int]:
        found = {n: s for n, s in self.base.names(folder).items() if f"{folder}/{n}" not in self._removed}
        return {**found, **self._spare.names(folder)} if self._spare is not None else found

    def folders(self, folder: str) -> list[str]:
        found = set(self.base.folders(folder))
        return sorted(found | set(self._spare.folders(folder)) if self._spare is not None else found)

    def remove(self, name: str) -> None:
        if self._spare is not None:
            self._spare.remove(name)
        if self._may_write:
            try:
                self.base.remove(name)
                return
            except WriteRefused as error:
                self._use_spare(str(error))
        self._removed.add(name)

    def check_writable(self, what: str) -> None:
        """Try to write and remove a file.

        Raises:
            StoreError: the place refuses it; a full one still lets files be removed.
        """
        reason = "it was opened for reading only"
        if self._may_write:
            probe = f"{TEMPORARY}{uuid.uuid4().hex}"
            try:
                with contextlib.suppress(StoreError):
                    self.base.write(probe, lambda: [b""])
                self.base.remove(probe)
                return
            except WriteRefused as error:
                reason = str(error).partition(":")[0]
        raise StoreError(
            f"the store {self.where} cannot be {what} ({reason}): nothing in it can be removed. Make it writable, or "
            "name another with --store."
        )

    def path(self, name: str) -> Path:
        if self._spare is not None and self._spare.path(name).exists():
            return self._spare.path(name)
        return self.base.path(name)

    def refetch(self, name: str) -> bool:
        return self.base.refetch(name)

    def _use_spare(self, reason: str) -> LocalFiles:
        self._may_write = False
        if self._spare is None:
            # removed when the process ends
            self._folder = tempfile.TemporaryDirectory(prefix="selector-store-")
            self._spare = LocalFiles(Path(self._folder.name))
            logger.warning(
                "the store %s is used for reading only (%s); what is new is kept for this process and then lost",
                self.where,
                reason,
            )
        return self._spare


def is_url(place: str) -> bool:
    """Whether a place is an fsspec URL and not a folder (``file://`` counts as a folder)."""
    return "://" in place and not place.startswith("file://")


_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "9p", "afs", "fuse.sshfs")
_SHARED = "SELECTOR_STORE_SHARED"


def on_network(folder: Path) -> bool:
    """Whether a folder lies on a file system that other machines write to as well.

    ``SELECTOR_STORE_SHARED`` (1 or 0) says so where the mount does not tell: on the machine whose own disk the others
    mount.
    """
    asked = os.environ.get(_SHARED)
    if asked:
        return asked not in ("0", "no", "false")
    mounts = Path("/proc/self/mounts")
    if not mounts.is_file():
        return False
    nearest = ("", "")
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        _, place, kind, *_ = line.split(" ")
        place = place.encode().decode("unicode_escape") if "\\" in place else place
        if folder.is_relative_to(place) and len(place) >= len(nearest[0]):
            nearest = (place, kind)
    return nearest[1] in _NETWORK


def copies_folder(url: str, cache: Path) -> Path:
    """The local folder that keeps copies of a remote store."""
    return cache / "remote" / xxhash.xxh3_128_hexdigest(url.rstrip("/").encode())


def _base(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


def _still_there(entry: os.DirEntry[str]) -> bool:
    try:
        entry.stat()
    except FileNotFoundError:
        return False
    return True


def _free(root: Path) -> str:
    while not root.exists() and root != root.parent:
        root = root.parent
    return format_size(shutil.disk_usage(root).free)
