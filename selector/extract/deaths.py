"""Which network was being worked on, written down before and wiped out after: what is left tells what a run died of.

A segmentation fault, ``os._exit`` and the system's killer of processes leave no time to say anything. The next run
names the network, and sets it aside after the second death at the same place.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from selector.core.errors import SourceError
from selector.core.memory import read_memory, write_memory
from selector.store.documents import digest
from selector.zoo import ModelSpec

MOST = 2  # deaths, after which a network is set aside


class Deaths:
    """The record in a folder of this machine.

    Args:
        folder: made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def before(self, spec: ModelSpec, lacking: int) -> int:
        """How many runs died at this network without getting on; 0 while another process is working on it."""
        found = read_memory(self._file(spec))
        if not found or _alive(found):
            return 0
        got_on = lacking < int(found.get("lacking", 0))  # rows were stored before it died: a long job, killed
        return 1 if got_on else 1 + int(found.get("deaths", 0))

    def begin(self, spec: ModelSpec, lacking: int, deaths: int) -> None:
        """Write down that this process works on a network.

        Raises:
            SourceError: runs died of it too often.
        """
        if deaths >= MOST:
            raise SourceError(
                f"{spec.name}: set aside, because {deaths} runs ended while they worked on this model (a crash in it, or "
                "too little memory); run it in a process of its own with isolate='on' (--isolate on)."
            )
        import psutil

        record = {
            "name": spec.name, "pid": os.getpid(), "started": psutil.Process().create_time(), "lacking": lacking,
            "deaths": deaths,
        }  # fmt: skip
        write_memory(self._file(spec), record)  # a full disk is reported when rows are written

    def end(self, spec: ModelSpec) -> None:
        """The work came to an end, good or bad: nothing died."""
        self._file(spec).unlink(missing_ok=True)

    def _file(self, spec: ModelSpec) -> Path:
        return self._folder / f"{digest({'spec': spec.feature_settings(), 'base': spec.base})}.json"


def _alive(record: dict[str, Any]) -> bool:
    import psutil

    try:
        return bool(abs(psutil.Process(int(record["pid"])).create_time() - float(record["started"])) < 1)
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False
