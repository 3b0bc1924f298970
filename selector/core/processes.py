"""Workers of a fleet as processes of this machine: one a device, or one a set of cores."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any

import xxhash

from selector.core.answers import Answer, Module, packed
from selector.core.child_process import Child
from selector.core.contracts import ProgressCallback, no_progress
from selector.core.engine import Needs, Shared

CORES = 4  # a worker on a processor: beyond, one network gains less from a further core than a second network does


class Processes:
    """A pool of child processes.

    Args:
        workers: how many; None for one a GPU, or one for every four cores (two at least, where there are two).
        gpus: those that they share out, each as ``CUDA_VISIBLE_DEVICES`` names it; none for the processor.
        modules: plugins that they import.
    """

    def __init__(
        self, workers: int | None = None, gpus: Sequence[str] = (), modules: Sequence[Module] = (),
        notify: ProgressCallback = no_progress,
    ) -> None:  # fmt: skip
        self._folder = tempfile.TemporaryDirectory(prefix="selector-shared-")
        cores = _cores()
        number = workers or len(gpus) or max(min(2, len(cores)), len(cores) // CORES)
        self._children = [
            Child(modules, self._folder.name, *_place(k, number, gpus, cores), notify=notify) for k in range(number)
        ]

    @property
    def room(self) -> int:
        return len(self._children)

    def start(self, function: Callable[[Any], Any], item: Any, needs: Needs) -> Child:
        content = packed(function, item)
        child = next(child for child in self._children if not child.busy)
        child.start(content)
        return child

    def wait(self, tickets: Sequence[Child]) -> list[tuple[Child, Answer]]:
        by_link = {child.link: child for child in tickets}
        done: list[tuple[Child, Answer]] = []
        while not done:
            for link in connection.wait(list(by_link)):
                child = by_link[link]  # type: ignore[index]
                if (answer := child.receive()) is not None:
                    done.append((child, answer))
        return done

    def stop(self, tickets: Sequence[Child]) -> None:
        for child in tickets:
            child.close()

    def share(self, value: Any) -> Shared:
        content = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        key = xxhash.xxh3_128_hexdigest(content)
        (Path(self._folder.name) / key).write_bytes(content)
        return Shared(key)

    def close(self) -> None:
        """End all processes."""
        for child in self._children:
            child.close()
        self._folder.cleanup()


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _place(k: int, number: int, gpus: Sequence[str], cores: Sequence[int]) -> tuple[dict[str, str], list[int] | None]:
    """(environment, cores) of worker ``k``: a GPU, or a set of cores with as many threads.

    >>> _place(3, 4, [], [0, 1, 2, 3])
    ({'OMP_NUM_THREADS': '1'}, [3])
    >>> _place(3, 4, ["2", "5"], [0, 1, 2, 3])
    ({'CUDA_VISIBLE_DEVICES': '5'}, None)
    """
    if gpus:
        return {"CUDA_VISIBLE_DEVICES": gpus[k % len(gpus)]}, None
    own = list(cores[k * len(cores) // number : (k + 1) * len(cores) // number]) or [cores[k % len(cores)]]
    threads = min(int(os.environ.get("OMP_NUM_THREADS") or len(own)), len(own))
    return {"OMP_NUM_THREADS": str(threads)}, own
