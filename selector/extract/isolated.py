"""Jobs in a child process: what crashes, hangs, ends the process or eats the memory costs one model its row.

Against accidents, not against malice: the child has the rights of its parent. One child serves job after job, so that
libraries are imported once; it is made anew after a death.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from selector import proxies, sources, tasks
from selector.core.answers import Answer, Module, packed
from selector.core.child_process import Child
from selector.core.contracts import ProgressCallback, no_progress
from selector.core.errors import SourceError
from selector.core.registry import Registry
from selector.core.units import format_duration, format_size
from selector.extract.job import ExtractJob, ExtractResult
from selector.extract.run import extract
from selector.zoo import ModelSpec
from selector.zoo.trust import runs_code

Mode = Literal["auto", "on", "off"]

_FIRST = ("selector.extract.encode", "selector.extract.run", "torch")  # what takes seconds counts for no network
_LOOK = 0.1  # seconds between looks at a child that computes
_SHARE = 0.9  # of the machine's memory that a network may take when nothing is said


@dataclass(frozen=True)
class Isolation:
    """Which networks run in a child process, and what they may take there.

    Attributes:
        mode: ``on`` for all, ``off`` for none, ``auto`` for the code and the graphs of others: ``python:`` and
            ``onnx:`` entries of a zoo file.
        from_file: whether the zoo is a file that somebody wrote (and not the shipped one, nor a library call's own).
        timeout: seconds that one network may take for a round of rows; None for no limit.
        memory: bytes of resident memory at most; None for nine tenths of the machine's.
    """

    mode: Mode = "off"
    from_file: bool = False
    timeout: float | None = None
    memory: int | None = None

    def concerns(self, spec: ModelSpec) -> bool:
        """Whether a model runs in the child process."""
        if sys.platform == "win32" or self.mode == "off":
            return False
        return self.mode == "on" or (self.from_file and of_others(spec))


def of_others(spec: ModelSpec) -> bool:
    """Whether a model is code or a graph that no library of ours vouches for."""
    return spec.source_name == "onnx" or runs_code(spec.source_name, spec.model_id)


class IsolatedCalls:
    """Calls functions in a child process, within limits.

    Args:
        isolation: limits of a call.
        notify: called with the steps that the child reports.
        modules: plugins that it imports first.
        grace: seconds that it has to end in after an interrupt, for what it keeps on record.
    """

    def __init__(
        self,
        isolation: Isolation,
        notify: ProgressCallback = no_progress,
        modules: Sequence[Module] | None = None,
        grace: float = 0.0,
    ) -> None:
        self._grace = grace
        self._isolation = isolation
        self._notify = notify
        self._modules = modules
        self._child: Child | None = None
        self.pid = 0

    def ask(self, function: Callable[[Any], Any], item: Any, *, steps_count: bool = False) -> Answer:
        """``function(item)`` in the child. What it logged is logged here; ``pid`` is the process that did it.

        Args:
            steps_count: whether the limit of time is from one step that it reports to the next, and not for the call.
        Raises:
            SourceError: the item cannot be pickled, or no child can be started.
        """
        content = packed(function, item)
        modules = plugins() if self._modules is None else self._modules
        child = self._child = self._child or Child(modules, notify=self._notify, first=_FIRST)
        try:
            child.start(content)
            self.pid = child.pid
            answer = self._wait(child, steps_count)
        except BaseException:  # an interrupt as well: the child may be in an endless loop
            if child.busy:
                child.interrupt(self._grace)
            raise
        answer.tell()
        return answer

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is not None:
            child.close()

    def _wait(self, child: Child, steps_count: bool) -> Answer:
        started = time.monotonic()
        while True:
            if child.link.poll(_LOOK):
                if (answer := child.receive()) is not None:
                    return answer
                started = time.monotonic() if steps_count else started
                continue
            if reason := self._beyond(child.pid, time.monotonic() - started):
                child.close()
                return Answer("limit", reason=reason)

    def _beyond(self, pid: int, seconds: float) -> str:
        """Which limit a child is beyond; empty when it is within them."""
        import psutil

        limit = self._isolation.timeout
        if limit is not None and seconds > limit:
            return (
                f"it took longer than {format_duration(limit)} for its rows and was ended; raise model_timeout "
                "(--model-timeout) if it needs more."
            )
        most = self._isolation.memory or int(_SHARE * psutil.virtual_memory().total)
        with contextlib.suppress(psutil.Error):
            used = psutil.Process(pid).memory_info().rss
            if used > most:
                return (
                    f"it took {format_size(used)} of memory, more than {format_size(most)}, and was ended; raise "
                    "model_memory (--model-memory) if it needs more."
                )
        return ""


class IsolatedJobs(IsolatedCalls):
    """Runs extraction jobs in a child process."""

    def run(self, job: ExtractJob) -> ExtractResult:
        """``extract(job)`` in the child.

        Raises:
            SourceError: the network failed, died, took too long or too much memory; the message names it.
            StoreError, ConfigError, BadImagesError: as ``extract`` raises them.
        """
        # the next network is not loaded beside: a death would be put down to the wrong one
        answer = self.ask(extract, replace(job, next_spec=None))
        if answer.kind == "died":
            raise SourceError(f"{job.name}: the process that ran this model {answer.reason}.")
        if answer.kind != "result":
            named = answer.kind == "bad" or answer.reason.startswith(job.name)
            raise (answer if named else replace(answer, reason=f"{job.name}: {answer.reason}")).error()
        result: ExtractResult = answer.result
        return result


def plugins(*more: Registry[Any]) -> list[Module]:
    """Modules outside the package that registered sources, proxies or tasks, or something in one of ``more``
    registries: other processes import them too."""
    rooms = [room.registry for room in (sources, proxies, tasks)]
    found = [each for registry in (*rooms, *more) for each in registry.loaded().values()]
    names = {getattr(each, "function", each).__module__ for each in found}
    own = (name for name in sorted(names) if not name.startswith("selector."))
    return [(name, getattr(sys.modules.get(name), "__file__", None)) for name in own if name != "__main__"]
