"""A file of named arrays with checksums, written in one piece and read by memory map: the one binary format.

Layout: magic and version (8 bytes), length of the header (4), checksum of the header (8), the
header as JSON (name, dtype, shape, offset and checksum of each array), then the arrays, each at a
multiple of 64 bytes. One file is one rename, so rows and the index that addresses them cannot part.
"""

from __future__ import annotations

import json
import math
import struct
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

MAGIC = b"SELROWS\x01"
_FIXED = struct.Struct("<8sIQ")
_ALIGN = 64
_READ = 1 << 22  # bytes a step when a checksum is taken: bounds the memory of a check
_HEADER_LIMIT = 1 << 20


class Damaged(Exception):
    """A file of the store is not what was written; the message says in what way."""


@dataclass(frozen=True)
class Blocks:
    """An array that is given piece by piece and never lies in memory as a whole.

    ``pieces`` is called twice: once for the checksum, once to write.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    pieces: Callable[[], Iterator[np.ndarray]]


def pack(arrays: Mapping[str, np.ndarray | Blocks]) -> Iterator[bytes | memoryview]:
    """The bytes of a container, piece by piece."""
    lazy = {name: a if isinstance(a, Blocks) else _whole(a) for name, a in arrays.items()}
    described: list[dict[str, Any]] = []
    offset = 0  # relative to the end of the header, which is not known yet
    for name, array in lazy.items():
        digest = xxhash.xxh3_64()
        for piece in array.pieces():
            digest.update(_buffer(piece))
        size = array.dtype.itemsize * math.prod(array.shape)
        described.append(
            {
                "name": name,
                "dtype": array.dtype.str,
                "shape": list(array.shape),
                "offset": offset,
                "checksum": digest.hexdigest(),
            }
        )
        offset = _aligned(offset + size)
    header = json.dumps({"arrays": described}, sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (_aligned(_FIXED.size + len(header)) - _FIXED.size - len(header))
    yield _FIXED.pack(MAGIC, len(header), xxhash.xxh3_64_intdigest(header)) + header
    for array in lazy.values():
        size = 0
        for piece in array.pieces():
            size += piece.nbytes
            yield _buffer(piece)
        yield b"\0" * (_aligned(size) - size)


class Container:
    """The arrays of a container file, memory-mapped on demand.

    Opening reads and checks the header alone; ``array(check=True)`` also checks the content.

    Raises:
        Damaged: wrong magic, header or length.
        FileNotFoundError: there is no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            fixed = file.read(_FIXED.size)
            if len(fixed) < _FIXED.size:
                raise Damaged(f"the file ends after {len(fixed)} bytes, inside its header")
            magic, length, checksum = _FIXED.unpack(fixed)
            if magic != MAGIC or length > _HEADER_LIMIT:
                raise Damaged("the first bytes are not those of a container of this version")
            header = file.read(length)
            if len(header) < length or xxhash.xxh3_64_intdigest(header) != checksum:
                raise Damaged("the checksum of the header does not match")
            size = file.seek(0, 2)
        self._start = _FIXED.size + length
        # only as long as somebody holds the array: a scan of many models must not keep all their rows resident
        self._mapped: weakref.WeakValueDictionary[str, np.ndarray] = weakref.WeakValueDictionary()
        self._arrays = {a["name"]: a for a in json.loads(header)["arrays"]}
        for described in self._arrays.values():
            if self._start + described["offset"] + _nbytes(described) > size:
                raise Damaged(f"the file ends after {size} bytes, before the end of '{described['name']}'")

    def names(self) -> list[str]:
        """The arrays of the file."""
        return list(self._arrays)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array, from the header."""
        return tuple(self._arrays[name]["shape"])

    def array(self, name: str, *, check: bool = True) -> np.ndarray:
        """An array, read-only and memory-mapped.

        Raises:
            Damaged: ``check`` is set and the checksum of the content does not match.
        """
        described = self._arrays[name]
        shape, dtype = tuple(described["shape"]), np.dtype(described["dtype"])
        if 0 in shape:
            return np.empty(shape, dtype)
        mapped = self._mapped.get(name)
        if mapped is None:
            mapped = np.memmap(self.path, dtype, "r", self._start + described["offset"], shape)
            self._mapped[name] = mapped
        if check:
            digest = xxhash.xxh3_64()
            flat = mapped.reshape(-1).view(np.uint8)
            for begin in range(0, len(flat), _READ):
                digest.update(flat[begin : begin + _READ].data)
            if digest.hexdigest() != described["checksum"]:
                raise Damaged(f"the checksum of '{name}' does not match")
        return mapped


def _whole(array: np.ndarray) -> Blocks:
    array = np.ascontiguousarray(array)
    return Blocks(array.dtype, array.shape, lambda: iter((array,)))


def _buffer(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _nbytes(described: Mapping[str, Any]) -> int:
    size: int = math.prod(described["shape"]) * np.dtype(described["dtype"]).itemsize
    return size


def _aligned(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN
