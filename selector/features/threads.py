"""BLAS threads: one a matrix, and several matrices at once; and which processor a BLAS believes to run on.

BLAS threads spin for each other at every one of thousands of tiny steps of a decomposition. Where another
program runs on the same cores, that slows it ten- to a hundredfold; one thread a matrix loses nothing. So
independent matrices share the cores among themselves, and a single one gets the cores that nobody else uses.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from selector.core.resources import environment, thread_limit, usable_cores

SMALL = 1024  # order of a matrix up to which one thread is at least as fast
_MOST_WORKERS = 4  # each holds some matrices of its own
_LOADAVG = Path("/proc/loadavg")
_CORE = "OPENBLAS_CORETYPE"
_CORES = {name: name for name in ("Haswell", "Zen", "SkylakeX")} | dict.fromkeys(
    ("Cooperlake", "SapphireRapids"), "SkylakeX"
)
"""What numpy's OpenBLAS calls a processor -> the nearest name that every OpenBLAS of the last years knows."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@contextmanager
def capped(order: int) -> Iterator[None]:
    """As many BLAS threads inside the block as matrices of this ``order`` are served by: one for a small one,
    for a larger one as many as there are idle cores. Never more than were set from outside."""
    with _CAPS.at_most(1 if order <= SMALL else free_cores()):
        yield


def each(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """``function`` of every item, in order; several at a time, each with one BLAS thread.

    As many at a time as BLAS would have had threads, at most four.
    """
    todo = list(items)
    workers = min(len(todo), _CAPS.allowed(), _MOST_WORKERS)
    with _CAPS.at_most(1):
        if workers < 2:
            return [function(item) for item in todo]
        with ThreadPoolExecutor(workers, thread_name_prefix="selector-blas") as pool:
            return list(pool.map(function, todo))


@contextmanager
def processor_named() -> Iterator[None]:
    """A library imported inside takes the processor for what numpy's OpenBLAS takes it for.

    faiss brings an OpenBLAS of its own (0.3.15 in its wheels) that does not know later processors and falls back to
    kernels without AVX: its products took three to five times as long on an Intel Xeon with AMX.
    """
    named = {found.architecture for found in _controller().lib_controllers if found.internal_api == "openblas"}
    core = next((_CORES[name] for name in named if name in _CORES), None)
    with environment({} if core is None or _CORE in os.environ else {_CORE: core}):
        yield


def free_cores() -> int:
    """Cores of this process, at least one, less the threads that other work keeps busy just now; no more than it may use."""
    return min(thread_limit(), max(1, usable_cores() - _busy()))


def _busy() -> int:
    try:
        running = int(_LOADAVG.read_text(encoding="ascii").split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):  # not Linux: the mean of the last minute
        return round(os.getloadavg()[0]) if hasattr(os, "getloadavg") else 0
    return max(0, running - 1)  # this thread runs too


class _Caps:
    """Limits that hold at the same time: the lowest counts, and the last to leave restores what was.

    BLAS knows one limit for the whole process; blocks that several threads enter and leave in any order must
    not restore each other's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted: list[int] = []
        self._before: list[tuple[Any, int]] = []  # (library, its threads)

    @contextmanager
    def at_most(self, threads: int) -> Iterator[None]:
        with self._lock:
            if not self._wanted:
                self._before = _blas()
            self._wanted.append(threads)
            self._apply()
        try:
            yield
        finally:
            with self._lock:
                self._wanted.remove(threads)
                self._apply()

    def allowed(self) -> int:
        """Threads that BLAS may use now, by this and by what was set from outside."""
        with self._lock:
            return max([threads for _, threads in _blas()], default=1)

    def _apply(self) -> None:
        for library, threads in self._before:
            library.set_num_threads(min([threads, *self._wanted]))


_CAPS = _Caps()


def _blas() -> list[tuple[object, int]]:
    """Every BLAS of this process and how many threads it uses."""
    return [
        (found, found.get_num_threads() or 1) for found in _controller().lib_controllers if found.user_api == "blas"
    ]


@cache
def _controller() -> Any:
    # made once: listing the loaded libraries takes longer than the decompositions it protects
    import scipy.linalg  # noqa: F401  scipy brings a BLAS of its own, which must be in the list
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
