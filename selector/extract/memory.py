"""Memory that runs out, and memory that the allocator keeps after a network is gone."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "alloc_failed")
"""The last one as in CUBLAS_STATUS_ALLOC_FAILED: handles of a GPU's libraries take memory as well."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or of a backend says that memory ran out, on the CPU or a GPU."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in _OUT_OF_MEMORY)


def give_back() -> None:
    """Return freed memory to the system, where the C library can be asked to (glibc).

    Weights and activations of a small network lie in blocks that glibc keeps for itself when they are
    freed: some 40 MiB after a sentence encoder of 22 M parameters, which would add to what the next
    step takes. Cost: milliseconds.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    try:
        found = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # another C library, or a system without one to ask
        return None
    found.argtypes, found.restype = [ctypes.c_size_t], ctypes.c_int
    return found
