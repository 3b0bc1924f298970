"""When computed rows are written to the store: what a kill can lose."""

from __future__ import annotations

import time

SECONDS = 10.0  # at most this much of a slow network's work, and the batch under way, is done again after a kill


class Commits:
    """Says when gathered rows are due: after so many of them, or so many seconds after the last ones, whichever is first.

    Args:
        rows: beyond, rows are written however little time they took; a chunk is a file.
    """

    def __init__(self, rows: int, seconds: float = SECONDS) -> None:
        self._rows, self._seconds = rows, seconds
        self._since = time.monotonic()

    def due(self, gathered: int) -> bool:
        """Whether to write now, with ``gathered`` rows at hand; the seconds begin anew then."""
        now = time.monotonic()
        if gathered < self._rows and now - self._since < self._seconds:
            return False
        self._since = now
        return True
