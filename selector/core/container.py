"""Named arrays with checksums in one safetensors file, written in one piece and read by memory map.

The metadata of the header hold the checksum of each array and of the header itself. One file is one rename, so rows and
the index that addresses them cannot part. Files of the format before this one are read as well.
"""

from __future__ import annotations

import json
import math
import struct
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash

_DTYPES = {
    **{f"{kind}{8 * size}": f"<{letter}{size}" for kind, letter in (("I", "i"), ("U", "u")) for size in (2, 4, 8)},
    **{"F16": "<f2", "F32": "<f4", "F64": "<f8", "U8": "|u1", "I8": "|i1", "BOOL": "|b1"},
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_METADATA = "__metadata__"
_OLD_MAGIC, _OLD_FIXED = b"SELROWS\x01", struct.Struct("<8sIQ")  # then the header's length and checksum
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


def digest_of(name: str) -> bytes:
    """16 bytes that stand for an item: its content hash of 32 hex digits, or a hash of any other name."""
    with suppress(ValueError):  # another kind of name
        if len(name) == 32 and len(raw := bytes.fromhex(name)) == 16:
            return raw
    return xxhash.xxh3_128_digest(name.encode())


def pack(arrays: Mapping[str, np.ndarray | Blocks]) -> Iterator[bytes | memoryview]:
    """The bytes of a container, piece by piece."""
    lazy = {name: a if isinstance(a, Blocks) else _whole(a) for name, a in arrays.items()}
    header: dict[str, object] = {}
    checksums: dict[str, str] = {}
    offset = 0
    for name, array in lazy.items():
        digest = xxhash.xxh3_64()
        for piece in array.pieces():
            digest.update(_buffer(piece))
        checksums[name] = digest.hexdigest()
        end = offset + array.dtype.itemsize * math.prod(array.shape)
        header[name] = {"dtype": _NAMES[array.dtype.str], "shape": list(array.shape), "data_offsets": [offset, end]}
        offset = end
    metadata = {f"xxh3_64 {name}": checksum for name, checksum in checksums.items()}
    text = _json({**header, _METADATA: {**metadata, "xxh3_64": xxhash.xxh3_64_hexdigest(_json([header, metadata]))}})
    text += b" " * (-len(text) % 64)
    yield struct.pack("<Q", len(text)) + text
    for array in lazy.values():
        yield from map(_buffer, array.pieces())


@dataclass(frozen=True)
class _Array:
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int  # in the file
    checksum: str

    @property
    def end(self) -> int:
        return self.start + self.dtype.itemsize * math.prod(self.shape)


class Container:
    """The arrays of a container file, memory-mapped on demand.

    Opening reads and checks the header alone; ``array(check=True)`` also checks the content.

    Raises:
        Damaged: wrong header or length.
        FileNotFoundError: there is no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            try:
                self._arrays = _described(file)
            except (ValueError, KeyError, TypeError, AttributeError, struct.error):
                raise Damaged("the header is not that of a container, or its checksum does not match") from None
            size = file.seek(0, 2)
        # only as long as somebody holds the array: a scan of many models must not keep all their rows resident
        self._mapped: weakref.WeakValueDictionary[str, np.ndarray] = weakref.WeakValueDictionary()
        for name, array in self._arrays.items():
            if array.end > size:
                raise Damaged(f"the file ends after {size} bytes, before the end of '{name}'")

    def names(self) -> list[str]:
        """The arrays of the file."""
        return list(self._arrays)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array, from the header."""
        return self._arrays[name].shape

    def array(self, name: str, *, check: bool = True) -> np.ndarray:
        """An array, read-only and memory-mapped.

        Raises:
            Damaged: ``check`` is set and the checksum of the content does not match.
        """
        described = self._arrays[name]
        if 0 in described.shape:
            return np.empty(described.shape, described.dtype)
        mapped = self._mapped.get(name)
        if mapped is None:
            mapped = np.memmap(self.path, described.dtype, "r", described.start, described.shape)
            self._mapped[name] = mapped
        if check:
            digest = xxhash.xxh3_64()
            flat = mapped.reshape(-1).view(np.uint8)
            for begin in range(0, len(flat), _READ):
                digest.update(flat[begin : begin + _READ].data)
            if digest.hexdigest() != described.checksum:
                raise Damaged(f"the checksum of '{name}' does not match")
        return mapped


def _described(file: BinaryIO) -> dict[str, _Array]:
    """What the header says of the arrays.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, struct.error: it is none, or is damaged.
    """
    first = file.read(8)
    if first == _OLD_MAGIC:
        return _described_before(first + file.read(_OLD_FIXED.size - 8), file)
    (length,) = struct.unpack("<Q", first)
    header = json.loads(file.read(length) if length <= _HEADER_LIMIT else b"")
    metadata = header.pop(_METADATA)
    if metadata.pop("xxh3_64") != xxhash.xxh3_64_hexdigest(_json([header, metadata])):
        raise ValueError("checksum")
    return {
        name: _Array(
            np.dtype(_DTYPES[array["dtype"]]),
            tuple(array["shape"]),
            8 + length + array["data_offsets"][0],
            metadata[f"xxh3_64 {name}"],
        )
        for name, array in header.items()
    }


def _described_before(fixed: bytes, file: BinaryIO) -> dict[str, _Array]:
    _, length, checksum = _OLD_FIXED.unpack(fixed)
    header = file.read(length) if length <= _HEADER_LIMIT else b""
    if xxhash.xxh3_64_intdigest(header) != checksum:
        raise ValueError("checksum")
    start = _OLD_FIXED.size + length
    return {
        a["name"]: _Array(np.dtype(a["dtype"]), tuple(a["shape"]), start + a["offset"], a["checksum"])
        for a in json.loads(header)["arrays"]
    }


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _whole(array: np.ndarray) -> Blocks:
    array = np.ascontiguousarray(array)
    return Blocks(array.dtype, array.shape, lambda: iter((array,)))


def _buffer(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
