"""The engine that a call asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from selector.config import ConfirmConfig, ScanConfig
from selector.core.contracts import ProgressCallback
from selector.core.engine import Engine, LocalEngine
from selector.core.system import visible_cards
from selector.extract.isolated import plugins

if TYPE_CHECKING:
    from selector.core.fleet import Workers


@contextmanager
def open_engine(config: ScanConfig | ConfirmConfig, notify: ProgressCallback) -> Iterator[Engine]:
    """The engine of a run, closed behind it: its workers end with it.

    Raises:
        OptionError: Ray is not installed, or there is no such cluster.
    """
    if config.engine == "local":
        yield LocalEngine()
        return
    from selector.core.fleet import Fleet

    fleet = Fleet(lambda: _workers(config, notify))
    try:
        yield fleet
    finally:
        fleet.close()


def _workers(config: ScanConfig | ConfirmConfig, notify: ProgressCallback) -> Workers:
    on_gpu = config.device == "auto" or config.device.startswith("cuda")
    if config.engine == "processes":
        from selector.core.processes import Processes

        cards = visible_cards() if on_gpu and ":" not in config.device else []
        return Processes(config.workers, cards, plugins(), notify)
    from selector.core.ray_workers import RayWorkers

    return RayWorkers(config.ray_address, config.workers, on_gpu, plugins())
