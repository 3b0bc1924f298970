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
    """The record in a folder of this machine: a file a network, with the part of the work that is going on, and how
    often processes died in which part.

    Args:
        folder: made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def working_on(
        self, name: str, work: Mapping[str, Any], part: str = "", left: int = 0, way_out: str = ""
    ) -> Iterator[None]:
        """Keep on record that this process works on a network, until the work comes to an end, good or bad.

        Args:
            name: of the network, for messages.
            work: what addresses the work, as plain JSON.
            part: of the work; two deaths in a part set the network aside for the whole work, those in a ``group: part``
                for that group (its trainings, while its frozen features are of use).
            left: how much of it is left (rows, steps); a run that got on before it died was merely killed.
            way_out: what a person can do once it is set aside.
        Raises:
            SetAside: runs died of it too often.
        """
        file = self._file(work)
        record = read_memory(file)
        deaths, outer = _deaths(record), record.get("now")
        if isinstance(outer, dict) and _dead(outer):
            place, before = str(outer.get("part", "")), outer.get("left")
            got_on = place == part and isinstance(before, int) and left < before  # rows were stored: a long job, killed
            deaths[place] = 1 if got_on else deaths.get(place, 0) + 1
            told = f" ({record['reason']})" if record.get("reason") else ""
            log.warning("%s: an earlier run ended while working on this model%s", name, told)
            outer = None
        if not isinstance(outer, dict) or outer.get("pid") != os.getpid():  # another process has a part of its own
            outer = None
        reason = str(record.get("reason", "")) or "a crash in it, or too little memory"
        if (most := max((n for place, n in deaths.items() if _concerns(place, part)), default=0)) >= MOST:
            _write(file, {"name": name, "deaths": deaths, "reason": reason})
            raise SetAside(
                f"{name}: set aside, because {most} runs ended while they worked on this model ({reason}); "
                f"{way_out or 'leave it out'}, or remove {file} to try it again."
            )
        kept = {"name": name, "reason": record.get("reason", "")}
        _write(file, {**kept, "deaths": deaths, "now": _now(part, left)})
        try:
            yield
        finally:
            deaths.pop(part, None)
            if deaths or outer:
                _write(file, {**kept, "deaths": deaths, "now": outer})
            else:
                file.unlink(missing_ok=True)

    def known(self, work: Mapping[str, Any]) -> bool:
        """Whether a process died while it worked on a network: it is not to be worked on beside another one, of which
        the next death could be as well."""
        record = read_memory(self._file(work))
        now = record.get("now")
        return bool(_deaths(record)) or (isinstance(now, dict) and _dead(now))

    def forget(self, work: Mapping[str, Any]) -> None:
        """The work was done elsewhere, out of danger."""
        self._file(work).unlink(missing_ok=True)

    def blame(self, pid: int, reason: str) -> str | None:
        """Which network a process that died was working on; the reason is kept for the day it is set aside."""
        for file, record in self._of(pid):
            _write(file, {**record, "reason": reason})
            return str(record.get("name", ""))
        return None

    def forgive(self, pid: int) -> None:
        """A process was ended because somebody wanted it to end, and not by its network."""
        for file, record in self._of(pid):
            _write(file, {**record, "now": None})

    def _of(self, pid: int) -> Iterator[tuple[Path, dict[str, Any]]]:
        for file in sorted(self._folder.glob("*.json")):
            record = read_memory(file)
            now = record.get("now")
            if isinstance(now, dict) and now.get("pid") == pid:
                yield file, record

    def _file(self, work: Mapping[str, Any]) -> Path:
        return self._folder / f"{digest(work)}.json"


def _deaths(record: Mapping[str, Any]) -> dict[str, int]:
    """By part; none where the record is damaged."""
    found = record.get("deaths")
    return {str(k): v for k, v in found.items() if isinstance(v, int)} if isinstance(found, dict) else {}


def _concerns(place: str, part: str) -> bool:
    """Whether deaths in one part of the work speak against another."""
    group, found, _ = place.partition(": ")
    return not found or part.startswith(f"{group}: ")


def _now(part: str, left: int) -> dict[str, Any]:
    import psutil

    return {"part": part, "left": left, "pid": os.getpid(), "started": psutil.Process().create_time()}


def _write(file: Path, record: Mapping[str, Any]) -> None:
    write_memory(file, record)  # a full disk is reported when rows are written


def _dead(now: Mapping[str, Any]) -> bool:
    """Whether a process began this and did not live to end it."""
    import psutil

    try:
        return bool(abs(psutil.Process(int(now["pid"])).create_time() - float(now["started"])) >= 1)
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False
