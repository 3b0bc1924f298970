"""The most memory that a process takes during a block, above what it took before; needs psutil only."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

import psutil

_EVERY = 0.005  # seconds
MIB = 2**20


class Memory:
    """``with Memory() as memory: ...``, then ``memory.extra`` and ``memory.private`` in MiB.

    ``private`` leaves out pages of files (weights, libraries, stored rows), which the system takes
    back when it needs to.
    """

    def __enter__(self) -> Memory:
        self._process, self._done = psutil.Process(), threading.Event()
        self.base = self.peak = self._now()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    @property
    def extra(self) -> float:
        """Resident MiB above the beginning."""
        return (self.peak[0] - self.base[0]) / MIB

    @property
    def private(self) -> float:
        """MiB above the beginning that no file backs."""
        return (self.peak[1] - self.base[1]) / MIB

    def _now(self) -> tuple[int, int]:
        taken = self._process.memory_info()
        return taken.rss, taken.rss - taken.shared

    def _watch(self) -> None:
        while not self._done.wait(_EVERY):
            now = self._now()
            self.peak = max(self.peak[0], now[0]), max(self.peak[1], now[1])


def touch(network: Any) -> None:
    """Read every weight, so that a loaded model is in memory as a whole: a file may be mapped lazily."""
    for weight in network.parameters():
        float(weight.sum())
