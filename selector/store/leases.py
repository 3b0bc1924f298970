"""Leases: who does a piece of work, among writers that share nothing but the store's files.

An object store has no locks, and those of a network file system are not to be relied on. A writer lays a claim (a
small file whose name begins with a number) and keeps changing its content, its heartbeat; the first claim holds the
lease. A claim whose heartbeat stands still is of a writer that died, and is removed. Heartbeats are compared with
themselves by the waiting writer's own clock, so that no two clocks need agree. Two writers may hold a lease for a
moment; what they write twice is harmless.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator

from selector.core.errors import StoreError
from selector.store.documents import digest, read_json, write_json
from selector.store.files import Layered

logger = logging.getLogger(__name__)

FOLDER = "leases"
BEAT = 5.0  # seconds between heartbeats
PATIENCE = 30.0  # seconds without one, after which a writer counts as dead


@contextlib.contextmanager
def lease(files: Layered, name: str, beat: float = BEAT, patience: float = PATIENCE) -> Iterator[None]:
    """Hold the lease of a piece of work; it avoids double work and nothing else.

    Args:
        files: of the store. Where they cannot be written the work goes on without a lease.
        name: of the work, the same for all writers.
        beat: seconds between heartbeats.
        patience: seconds that a claim before this one may stand still.
    """
    folder = f"{FOLDER}/{digest({'lease': name})}"
    try:
        claim = _claim(files, folder)
    except StoreError as error:
        logger.info("no lease in the store %s (%s); another writer may do the same work", files.where, error)
        yield
        return
    stop = threading.Event()
    beating = threading.Thread(target=_beat, args=(files, claim, beat, stop), daemon=True)
    beating.start()
    try:
        _wait(files, folder, claim, name, beat, patience)
        yield
    finally:
        stop.set()
        beating.join()
        with contextlib.suppress(StoreError):  # it stands still now, and others remove it
            files.remove(claim)


def _claim(files: Layered, folder: str) -> str:
    numbers = (name.partition("-")[0] for name in files.names(folder))
    number = 1 + max((int(found) for found in numbers if found.isdecimal() and len(found) < 16), default=0)
    claim = f"{folder}/{number:08d}-{uuid.uuid4().hex}.json"
    write_json(files, claim, _state(0))
    return claim


def _state(beat: int) -> dict[str, object]:
    return {"beat": beat, "host": platform.node(), "pid": os.getpid()}


def _beat(files: Layered, claim: str, beat: float, stop: threading.Event) -> None:
    number = 0
    while not stop.wait(beat):
        number += 1
        try:
            write_json(files, claim, _state(number))
        except StoreError as error:
            logger.info("a heartbeat could not be written: %s", error)  # the next one may


def _wait(files: Layered, folder: str, claim: str, name: str, beat: float, patience: float) -> None:
    """Until no living claim is before this one."""
    own = claim.rpartition("/")[2]
    seen: tuple[str, object] = ("", None)
    since = time.monotonic()
    while True:
        earlier = [other for other in sorted(files.names(folder)) if other < own]
        if not earlier:
            return
        state = (earlier[0], read_json(files, f"{folder}/{earlier[0]}"))
        if state != seen:
            if seen[0] != state[0]:
                logger.info("waiting for another writer that does the same (%s)", name)
            seen, since = state, time.monotonic()
        elif time.monotonic() - since > patience:
            logger.info("the writer of %s is gone; its lease is taken over", earlier[0])
            files.remove(f"{folder}/{earlier[0]}")
            continue
        time.sleep(min(beat, 1.0))
