"""The executor that a call asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from selector.config import ConfirmConfig, ScanConfig
from selector.core.contracts import ProgressCallback
from selector.core.system import visible_cards
from selector.run.executor import Executor, InProcess, Routed
from selector.run.pool import Pool


@contextmanager
def open_executor(config: ScanConfig | ConfirmConfig, notify: ProgressCallback) -> Iterator[Executor]:
    """The executor of a run, closed behind it: its workers end with it.

    Raises:
        OptionError: Ray is not installed.
    """
    executor = Routed(_main(config, notify), Pool(1, notify=notify, pinned=False))
    try:
        yield executor
    finally:
        executor.close()


def _main(config: ScanConfig | ConfirmConfig, notify: ProgressCallback) -> Executor:
    on_gpu = config.device == "auto" or config.device.startswith("cuda")
    if config.engine == "processes":
        cards = visible_cards() if on_gpu and ":" not in config.device else []
        return Pool(config.workers, cards, notify)
    if config.engine == "ray":
        from selector.run.ray import RayCluster

        return RayCluster(config.ray_address, config.workers, on_gpu)
    return InProcess()
