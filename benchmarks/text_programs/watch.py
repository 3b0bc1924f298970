"""The most memory that a process takes during a block, above what it took before; needs psutil only."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil

_EVERY = 0.005  # seconds
MIB = 2**20


class Memory:
    """``with Memory() as memory: ...``, then ``memory.extra`` in MiB."""

    def __enter__(self) -> Memory:
        self._process, self._done = psutil.Process(), threading.Event()
        self.base = self.peak = self._process.memory_info().rss
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
        """MiB above the beginning."""
        return (self.peak - self.base) / MIB

    def _watch(self) -> None:
        while not self._done.wait(_EVERY):
            self.peak = max(self.peak, self._process.memory_info().rss)
