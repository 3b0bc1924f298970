"""Which network was being worked on, written down before and wiped out after: what is left tells what a run died of.

A segmentation fault, ``os._exit`` and the system's killer of processes leave no time to say anything. The next run
names the network, and sets it aside after the second death at the same place.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from selector.core.errors import SourceError
from selector.core.memory import read_memory, write_memory
from selector.store.documents import digest

log = logging.getLogger(__name__)

MOST = 2  # deaths, after which a network is set aside


class SetAside(SourceError):
    """Runs died of this network too often."""


class Deaths:
    """The record in a folder of this machine.

    Args:
        folder: made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def working_on(self, name: str, work: Mapping[str, Any], left: int = 0, way_out: str = "") -> Iterator[None]:
        """Keep on record that this process works on a network, until the work comes to an end, good or bad.

        Args:
            name: of the network, for messages.
            work: what addresses the work, as plain JSON.
            left: how much of it is left (rows, steps); a run that got on before it died was merely killed.
            way_out: what a person can do once it is set aside.
        Raises:
            SetAside: runs died of it too often.
        """
        file = self._folder / f"{digest(work)}.json"
        deaths = _before(file, left)
        if deaths >= MOST:
            raise SetAside(
                f"{name}: set aside, because {deaths} runs ended while they worked on this model (a crash in it, or "
                f"too little memory); {way_out or 'leave it out'}, or remove {file} to try it again."
            )
        if deaths:
            log.warning("%s: an earlier run ended while working on this model", name)
        _write(file, name, left, deaths)
        try:
            yield
        finally:
            file.unlink(missing_ok=True)

    def forget(self, work: Mapping[str, Any]) -> None:
        """The work was done elsewhere, out of danger."""
        (self._folder / f"{digest(work)}.json").unlink(missing_ok=True)


def _before(file: Path, left: int) -> int:
    """How many runs died at this work without getting on; 0 while another process is working on it."""
    found = read_memory(file)
    if not found or _alive(found):
        return 0
    got_on = left < int(found.get("left", 0))  # rows were stored before it died: a long job, killed
    return 1 if got_on else 1 + int(found.get("deaths", 0))


def _write(file: Path, name: str, left: int, deaths: int) -> None:
    import psutil

    started = psutil.Process().create_time()
    record = {"name": name, "pid": os.getpid(), "started": started, "left": left, "deaths": deaths}
    write_memory(file, record)  # a full disk is reported when rows are written


def _alive(record: dict[str, Any]) -> bool:
    import psutil

    try:
        return bool(abs(psutil.Process(int(record["pid"])).create_time() - float(record["started"])) < 1)
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False
