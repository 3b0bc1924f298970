"""Files from somebody else: opened here, and measured before they are unpacked.

Every path that data name (an image of a table, a mask, an annotation) goes through ``read_file``: regular files only, and
not more bytes than asked for. What a small file unpacks to (arrays, tables, documents) is read from its headers and
checked by ``check_unpacked`` before memory is taken for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from selector.core.errors import ConfigError, first_line
from selector.core.units import format_size, parse_size

if TYPE_CHECKING:
    import numpy as np

UNPACKED_VARIABLE = "SELECTOR_MAX_UNPACKED"

MOST_UNPACKED = 4 * 2**30
"""Bytes that one file may have, or unpack to, where ``SELECTOR_MAX_UNPACKED`` says nothing else."""

BOMB_BYTES, BOMB_RATIO = 2**28, 200
"""What unpacks to more than the first must not be more than so many times its file: compressed features are up to 20 times,
tables of repeated labels up to 100."""

CELL_BYTES = 100
"""Of a cell of a table as a Python object."""


class FileRefused(OSError):
    """A path that is not read whatever its rights are; ``strerror`` says why."""


@contextlib.contextmanager
def open_file(path: str | os.PathLike[str], most: int | None = None, how: str = "") -> Iterator[BinaryIO]:
    """A regular file, open for reading.

    Args:
        path: as data name it.
        most: bytes that it may have; ``MOST_UNPACKED`` or what the variable says when not given.
        how: what allows more, for the message.
    Raises:
        FileRefused: a device, a pipe or a socket, which have no end, or more bytes.
        OSError: it is not there or not readable.
    """
    # without O_NONBLOCK, opening a pipe waits for somebody who writes into it
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        check_status(status, path, most, how)
        yield file


def check_status(status: os.stat_result, path: str | os.PathLike[str], most: int | None = None, how: str = "") -> None:
    """As ``open_file`` checks, of a file whose status is known."""
    if stat.S_ISDIR(status.st_mode):
        raise FileRefused(errno.EISDIR, "it is a folder", os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        raise FileRefused(errno.EINVAL, "it is a device, a pipe or a socket, not a regular file", os.fspath(path))
    limit = unpacked_limit() if most is None else most
    if status.st_size > limit:
        raise FileRefused(
            errno.EFBIG,
            f"it has {format_size(status.st_size)}, more than the {format_size(limit)} allowed; "
            f"{how or f'allow more with {UNPACKED_VARIABLE}'}",
            os.fspath(path),
        )


def read_file(path: str | os.PathLike[str], most: int | None = None, how: str = "") -> bytes:
    """The bytes of a regular file; see ``open_file``."""
    with open_file(path, most, how) as file:
        return file.read()


def unpacked_limit() -> int:
    """Bytes that a file may unpack to: ``SELECTOR_MAX_UNPACKED``, or ``MOST_UNPACKED``.

    Raises:
        ConfigError: the variable holds no size.
    """
    named = os.environ.get(UNPACKED_VARIABLE)
    if not named:
        return MOST_UNPACKED
    try:
        return parse_size(named)
    except ConfigError as error:
        raise ConfigError(f"{UNPACKED_VARIABLE}: {error}") from None


def check_unpacked(unpacked: float, packed: float | None, *, in_parts: bool = False) -> None:
    """Refuse content that would take too much memory.

    Args:
        unpacked: bytes that it would take, by its headers.
        packed: bytes of its file; None where it has none, and only the limit counts.
        in_parts: it is never in memory as a whole, so that only its proportion to the file counts.
    Raises:
        ValueError: more than ``unpacked_limit``; or, where nobody set a limit, out of proportion to the file.
    """
    limit: float = unpacked_limit()
    if packed is not None and not os.environ.get(UNPACKED_VARIABLE):
        proportion = max(BOMB_BYTES, BOMB_RATIO * packed)
        limit = proportion if in_parts else min(limit, proportion)
    if unpacked > limit:
        grown = "takes" if packed is None else "unpacks to"
        source = "" if packed is None else f" from {format_size(packed)}"
        raise ValueError(
            f"it {grown} {format_size(unpacked)}{source}, more than the {format_size(limit)} allowed; "
            f"if you trust the file, allow more with {UNPACKED_VARIABLE}={_rounded_up(unpacked)}"
        )


def _rounded_up(size: float) -> str:
    return f"{int(size // 10**9) + 1}GB"


# ---------------------------------------------------------------------------- JSON


def check_json(text: str) -> None:
    """Refuse a JSON document that would take too much memory, without parsing it.

    Raises:
        ValueError: by the number of its values (32 bytes each) and of its lists and mappings (150 bytes each).
    """
    holders = text.count("[") + text.count("{")
    check_unpacked(32 * text.count(",") + 150 * holders + 4 * len(text), len(text))


# ---------------------------------------------------------------------------- arrays

_ARCHIVE_ERRORS = (
    *(OSError, ValueError, EOFError, AttributeError, TypeError, LookupError, RuntimeError, NotImplementedError),
    *(MemoryError, OverflowError, SyntaxError, RecursionError, struct.error, tokenize.TokenError),
    *(zipfile.BadZipFile, zlib.error),
)
"""What damaged archives make zipfile, its decompressors and numpy raise; each was met on a changed file."""


def read_arrays(path: str | os.PathLike[str], most: int | None = None) -> np.ndarray | Mapping[str, np.ndarray]:
    """The array of a .npy file, or those of a .npz file by name; objects are refused, and so is what has no room.

    Args:
        path: told apart by its first bytes, not by its name.
        most: bytes that all of it may unpack to; see ``check_unpacked`` when not given.
    Raises:
        ValueError: it is no such file, or it is damaged, or unpacks to more than is allowed.
        OSError: it cannot be read.
    """
    import lzma

    import numpy as np

    with open_file(path) as file:
        packed = os.fstat(file.fileno()).st_size
        try:
            if file.read(2) != b"PK":
                file.seek(0)
                unpacked = _header_bytes(file, packed)
                _check(unpacked, packed, most)
                file.seek(0)
                found: object = np.lib.format.read_array(file, allow_pickle=False)
                return np.asarray(found)
            file.seek(0)
            with zipfile.ZipFile(file) as archive:
                members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
                _check(sum(info.file_size for info in members.values()), packed, most)
                arrays = {}
                for name, info in members.items():
                    if info.flag_bits & 1:
                        raise ValueError(f"'{name}' is encrypted")
                    with archive.open(info) as part:
                        _header_bytes(part, info.file_size)
                    with archive.open(info) as part:
                        arrays[name] = np.asarray(np.lib.format.read_array(part, allow_pickle=False))
                        if part.read(1):
                            raise ValueError(f"'{name}' holds more than its array")
                return arrays
        except OSError:
            raise
        except (*_ARCHIVE_ERRORS, lzma.LZMAError) as error:
            raise ValueError(str(error) if type(error) is ValueError and str(error) else first_line(error)) from None


def _check(unpacked: int, packed: int, most: int | None) -> None:
    if most is None:
        check_unpacked(unpacked, packed)
    elif unpacked > most:
        raise ValueError(f"it unpacks to {unpacked:,} bytes, at most {most:,} are read")


def _header_bytes(file: Any, size: int) -> int:
    """Bytes of an array by its header.

    Raises:
        ValueError: they are more than the file, or the part of the archive, has; or it holds objects.
    """
    import numpy as np

    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:  # 3.0 is for fields with names that are not ASCII
        raise ValueError(f"its format is {version[0]}.{version[1]}; write a plain array with numpy.save")
    shape, _, kind = readers[version](file)
    if kind.hasobject:
        raise ValueError("it holds Python objects; write plain arrays")
    count = 1
    for side in shape:
        count *= int(side)
    if count < 0 or count * kind.itemsize > size:
        raise ValueError(
            f"its header says {shape} of {kind}, {format_size(count * kind.itemsize)}, but there are {size:,} bytes"
        )
    return count * int(kind.itemsize)
