"""Jobs in a child process: what crashes, hangs, ends the process or eats the memory costs one model its row.

Against accidents, not against malice: the child has the rights of its parent. One child serves job after job, so that
libraries are imported once; it is made anew after a death.
"""

from __future__ import annotations

import contextlib
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any, Literal

from selector import sources
from selector.core.contracts import ProgressCallback, no_progress
from selector.core.errors import BadImagesError, ConfigError, SourceError, StoreError
from selector.core.units import format_duration, format_size
from selector.extract.job import ExtractJob, ExtractResult
from selector.zoo import ModelSpec
from selector.zoo.trust import runs_code

Mode = Literal["auto", "on", "off"]

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


class IsolatedJobs:
    """Runs jobs in a child process.

    Args:
        isolation: limits of a job.
        notify: called with the steps that the child reports.
    """

    def __init__(self, isolation: Isolation, notify: ProgressCallback = no_progress) -> None:
        self._isolation = isolation
        self._notify = notify
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Connection | None = None

    def run(self, job: ExtractJob) -> ExtractResult:
        """``extract(job)`` in the child.

        Raises:
            SourceError: the network failed, died, took too long or too much memory; the message names it.
            StoreError, ConfigError, BadImagesError: as ``extract`` raises them.
        """
        try:
            # the next network is not loaded beside: a death would be put down to the wrong one
            content = pickle.dumps(replace(job, next_spec=None), pickle.HIGHEST_PROTOCOL)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise SourceError(
                f"{job.name}: the target cannot be handed to another process ({error}); run with isolate='off' "
                "(--isolate off)."
            ) from None
        try:
            return self._ask(job.name, content)
        except BaseException:  # an interrupt as well: the child may be in an endless loop
            if self._busy:
                self.close()
            raise

    def close(self) -> None:
        """End the child."""
        process, self._process = self._process, None
        link, self._link = self._link, None
        if link is not None:
            link.close()
        if process is not None:
            process.kill()
            process.wait()

    # ---------------------------------------------------------------- the conversation

    _busy = False

    def _ask(self, name: str, content: bytes) -> ExtractResult:
        process, link = self._child()
        self._busy = True
        started = time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # it is dead: said below
            link.send_bytes(content)
        while True:
            if link.poll(_LOOK):
                try:
                    kind, *found = link.recv()
                except (EOFError, ConnectionError):
                    raise self._died(name, process) from None
                if kind == "progress":
                    self._notify(found[0])
                    continue
                self._busy = False
                if kind == "result":
                    result: ExtractResult = found[0]
                    return result
                raise _raised(name, *found)
            self._check(name, process, time.monotonic() - started)

    def _check(self, name: str, process: subprocess.Popen[bytes], seconds: float) -> None:
        import psutil

        limit = self._isolation.timeout
        if limit is not None and seconds > limit:
            raise SourceError(
                f"{name}: it took longer than {format_duration(limit)} for its rows and was ended; raise model_timeout "
                "(--model-timeout) if it needs more."
            )
        most = self._isolation.memory or int(_SHARE * psutil.virtual_memory().total)
        with contextlib.suppress(psutil.Error):
            used = psutil.Process(process.pid).memory_info().rss
            if used > most:
                raise SourceError(
                    f"{name}: it took {format_size(used)} of memory, more than {format_size(most)}, and was ended; raise "
                    "model_memory (--model-memory) if it needs more."
                )

    def _died(self, name: str, process: subprocess.Popen[bytes]) -> SourceError:
        code = process.wait()
        if code < 0:
            known = {s.value: s.name for s in signal.Signals}
            how = f"was killed by {known.get(-code, f'signal {-code}')}" + (
                " (has the system run out of memory?)" if -code == signal.SIGKILL else ""
            )
        else:
            how = f"ended itself with exit code {code}"
        return SourceError(f"{name}: the process that ran this model {how}.")

    def _child(self) -> tuple[subprocess.Popen[bytes], Connection]:
        import os
        import socket

        if self._process is not None and self._link is not None and self._process.poll() is None:
            return self._process, self._link
        self.close()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "selector.extract.worker", str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a network prints is no result
                start_new_session=True,  # an interrupt of the terminal is the parent's to pass on
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
            )
        self._link = Connection(ours.detach())
        self._link.send({"path": list(sys.path), "modules": _plugins()})
        try:
            self._link.recv()  # it is ready: what it imports counts for no network
        except (EOFError, ConnectionError):
            raise SourceError(
                "a child process for networks cannot be started; its reason stands above. Run with isolate='off' "
                "(--isolate off)."
            ) from None
        return self._process, self._link


def _plugins() -> list[tuple[str, str | None]]:
    """Modules outside the package that registered sources: the child imports them too."""
    names = {type(found).__module__ for found in sources.registry.loaded().values()}
    own = (name for name in sorted(names) if not name.startswith("selector."))
    return [(name, getattr(sys.modules.get(name), "__file__", None)) for name in own if name != "__main__"]


def _raised(name: str, kind: str, message: str, trace: str, bad: list[tuple[str, str]]) -> Exception:
    kinds: dict[str, Any] = {"store": StoreError, "config": ConfigError}
    if kind == "bad":
        return BadImagesError(message, bad)
    error: Exception = kinds.get(kind, SourceError)(message if message.startswith(name) else f"{name}: {message}")
    error.add_note(trace)  # of the child: the report shows it
    return error
