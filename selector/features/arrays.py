"""Whatever a caller calls an array -> rows that can be read in chunks, checked once.

Rows are never copied as a whole when they are a plain or memory-mapped float array.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import xxhash

from selector.core.errors import ProxyError

CHUNK_BYTES = 16 * 2**20
_LARGEST = 1e18  # squares of larger values overflow float32


def as_array(values: Any, what: str) -> np.ndarray:
    """A numpy view of ``values`` where one exists: numpy, memory-mapped, torch (any device), lists.

    Raises:
        ProxyError: it is not an array of numbers.
    """
    if hasattr(values, "detach"):  # a torch tensor, without importing torch
        values = values.detach().cpu()
        if "bfloat16" in str(values.dtype):  # numpy has no bfloat16; float32 holds every value of it
            values = values.float()
        values = values.numpy()
    try:
        return np.asanyarray(values)
    except ValueError as error:
        raise ProxyError(f"{what} must be an array; numpy cannot read it as one ({error}).") from None


def as_rows(values: object, what: str = "features") -> np.ndarray:
    """Float rows (N, D), finite, not copied where they are float32 or float64 already.

    Raises:
        ProxyError: the shape is not (N, D), there are fewer than two rows, no columns, the values
            are no numbers, NaN or infinite, or so large that their squares overflow.
    """
    rows = as_array(values, what)
    if isinstance(rows, np.ma.MaskedArray):
        if np.ma.getmaskarray(rows).any():
            row = int(np.argwhere(np.ma.getmaskarray(rows))[0][0])
            raise ProxyError(f"{what} must have no masked entries. Row {row} has one: drop the row or fill it in.")
        rows = np.asarray(rows)
    if rows.ndim != 2:
        raise ProxyError(f"{what} must have the shape (N, D), one row per item. Got shape {rows.shape}.")
    if rows.shape[0] < 2 or rows.shape[1] < 1:
        raise ProxyError(f"{what} must have at least two rows and one column. Got shape {rows.shape}.")
    if rows.dtype.kind in "iub":
        rows = rows.astype(np.float32)
    elif rows.dtype.kind not in "fV" or rows.dtype.names:
        raise ProxyError(f"{what} must hold real numbers. Got the type {rows.dtype}.")
    for start, chunk in chunks(rows):
        peak = np.abs(chunk).max() if chunk.size else 0.0
        if not peak < _LARGEST:  # also true for NaN
            _explain_bad_value(chunk, start, what)
    return rows


def chunk_rows(rows: np.ndarray) -> int:
    """Rows a chunk, so that a float32 chunk takes ``CHUNK_BYTES``."""
    return max(16, CHUNK_BYTES // (4 * int(rows.shape[1])))


def chunks(
    rows: np.ndarray, size: int | None = None, indices: np.ndarray | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """(first index, rows as float32 or float64) in order, of the rows at ``indices`` where these are given."""
    size = size or chunk_rows(rows)
    for start in range(0, len(rows) if indices is None else len(indices), size):
        part = slice(start, start + size)
        yield start, as_float(rows[part] if indices is None else rows[indices[part]])


def as_float(rows: np.ndarray) -> np.ndarray:
    """float64 stays, everything narrower becomes float32."""
    return np.asarray(rows) if rows.dtype in (np.float32, np.float64) else np.asarray(rows).astype(np.float32)


def content_hashes(rows: np.ndarray, seed: int) -> np.ndarray:
    """uint64 (N,) of each row's values as float32, so that the storage type does not matter."""
    hashes = np.empty(len(rows), dtype=np.uint64)
    for start, chunk in chunks(rows):
        plain = np.ascontiguousarray(chunk, dtype=np.float32) + np.float32(0)  # makes -0.0 equal to 0.0
        hashes[start : start + len(plain)] = [xxhash.xxh3_64_intdigest(row.data, seed) for row in plain]
    return hashes


def equal_rows(rows: np.ndarray) -> np.ndarray | None:
    """(N,) ids 0.. of groups of equal rows; None where no two are equal."""
    ids = alike = np.arange(len(rows))
    for column in range(0, rows.shape[1], max(1, rows.shape[1] // 8)):  # only rows that agree in these are looked at
        _, value, counts = np.unique(as_float(rows[alike, column]), return_inverse=True, return_counts=True)
        alike = alike[counts[value] > 1]
    if not len(alike):
        return None
    _, place, groups = np.unique(content_hashes(rows[alike], 0), return_index=True, return_inverse=True)
    ids = ids.copy()
    ids[alike] = alike[place[groups.ravel()]]
    found = np.unique(ids, return_inverse=True)[1].ravel()
    return found if found.max() + 1 < len(found) else None


def _explain_bad_value(chunk: np.ndarray, start: int, what: str) -> None:
    bad = ~(np.abs(chunk) < _LARGEST)
    row, column = np.argwhere(bad)[0]
    value = chunk[row, column]
    kind = "NaN" if np.isnan(value) else "infinite" if np.isinf(value) else f"{value:.3g}, too large to square"
    raise ProxyError(
        f"{what} must be finite. Row {start + row}, column {column} is {kind}; "
        "the model may have overflowed in half precision: extract in float32 or drop the row."
    )
