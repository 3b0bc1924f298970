"""What a run may take of this machine: threads, and memory of the model at work; its worker processes keep to it too."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any, ParamSpec, TypeVar

from selector.core.errors import ConfigError
from selector.core.units import parse_size

THREADS, MEMORY = "SELECTOR_THREADS", "SELECTOR_MAX_MEMORY"
LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
"""Read by torch, BLAS and tokenizers when they are loaded, in worker processes as well."""

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def own_cores() -> list[int]:
    """The numbers of the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(own_cores())


def given_threads() -> int | None:
    """The number of threads that was asked for, by ``threads`` or ``SELECTOR_THREADS``; None where none was.

    Raises:
        ConfigError: the variable is no positive number.
    """
    value = os.environ.get(THREADS)
    if not value:
        return None
    if not value.isdecimal() or int(value) < 1:
        raise ConfigError(f"{THREADS} must be a number of threads, at least 1. Got {value!r}.")
    return int(value)


def thread_limit() -> int:
    """How many threads this process may keep busy: what was asked for, or one per usable core."""
    return min(given_threads() or sys.maxsize, usable_cores())


def memory_limit() -> int | None:
    """Bytes that a model at work may take: weights, activations and what its training holds; None for no limit.

    Raises:
        ConfigError: ``SELECTOR_MAX_MEMORY`` is no size.
    """
    value = os.environ.get(MEMORY)
    try:
        return int(parse_size(value)) if value else None
    except ConfigError as error:
        raise ConfigError(f"{MEMORY}: {error}") from None


@contextmanager
def environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Variables of the environment for as long as this is open, in processes that start meanwhile as well."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def resource_limits(threads: int | None, memory: str | float | None = None) -> Iterator[None]:
    """Keep this process, and the workers that it starts, to some threads and some memory; None changes nothing."""
    changed: dict[str, str] = {}
    if memory is not None:
        changed[MEMORY] = str(int(parse_size(memory)))
    number = threads if threads is not None else given_threads()
    if number is not None:
        changed |= dict.fromkeys((THREADS, *LIBRARIES), str(number))
    with environment(changed), nullcontext() if number is None else _loaded_libraries(number):
        yield


@contextmanager
def _loaded_libraries(threads: int) -> Iterator[None]:
    """The same for libraries that were loaded before, and for torch, which may be loaded meanwhile, back again."""
    from threadpoolctl import threadpool_limits

    torch: Any = sys.modules.get("torch")
    own = None if torch is None else torch.get_num_threads()
    if torch is not None:
        torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            yield
    finally:
        torch = sys.modules.get("torch")
        if torch is not None:
            torch.set_num_threads(own or usable_cores())


class _Inline(Executor):
    """Runs what is submitted at once, in the caller's thread."""

    def submit(
        self, fn: Callable[_Arguments, _Result], /, *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> Future[_Result]:
        """See ``Executor.submit``; an error is raised by the future."""
        future: Future[_Result] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  as in a thread: raised where the result is asked for
            future.set_exception(error)
        return future


def threads_for(count: int, name: str) -> Executor:
    """An executor with ``count`` threads, fewer where fewer were asked for; where that is a single one, the caller's own."""
    given = given_threads()
    return _Inline() if given == 1 else ThreadPoolExecutor(min(count, given or count), f"selector-{name}")


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
