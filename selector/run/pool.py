"""An executor over worker processes of this machine; a pool of one is what isolates third-party models.

Against accidents, not against malice: a worker has the rights of its driver. pebble and loky were looked at first: neither
has a memory limit, ends the processes that a job forked, reports progress, or says whose answer it is.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from selector.core.contracts import ProgressCallback, no_progress
from selector.core.resources import LIBRARIES, THREADS, own_cores
from selector.core.units import format_duration, format_size
from selector.run.executor import WorkerExecutor
from selector.run.job import Answer, JobT, Needs, Value, WorkerLimits, pack
from selector.run.worker import plugins

CORES = 4  # of a worker on a processor: beyond, one model gains less from a further core than a second model does
MOST_PROCESSES = 32  # of a worker, itself included: loaders of data need a few, a loop of forks has no end
_LOOK = 0.1  # seconds between looks at workers that compute
_SHARE = 0.9  # of the machine's memory that a model may take when nothing is said
_GRACE = 5.0  # seconds to end in after an interrupt, for jobs that report steps and keep what they have
_MARK = "SELECTOR_WORKER"  # environment variable of a worker and of all that it starts


class Pool(WorkerExecutor["_Worker"]):
    """Worker processes, started when there is a first job for them: a run that the store answers starts none.

    Args:
        workers: how many; None for one per GPU, or one for every four cores (at least two, where there are two).
        gpus: those that they share out, each as ``CUDA_VISIBLE_DEVICES`` names it; none for the processor.
        notify: called with the steps that workers report.
        pinned: whether each worker keeps to its share of the cores.
        now: the clock of time limits.
        threads: that all of them may keep busy together; None for one per core.
    """

    def __init__(
        self,
        workers: int | None = None,
        gpus: Sequence[str] = (),
        notify: ProgressCallback = no_progress,
        pinned: bool = True,
        now: Callable[[], float] = time.monotonic,
        threads: int | None = None,
    ) -> None:
        cores = own_cores()[:threads]
        self._number = workers or len(gpus) or max(min(2, len(cores)), len(cores) // CORES)
        self._places = [
            _place(k, self._number, gpus, cores, threads) if pinned else ({}, None) for k in range(self._number)
        ]
        self._notify, self._now = notify, now
        self._workers: list[_Worker] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._requests = 0

    @property
    def width(self) -> int:
        """See ``Executor.width``."""
        return self._number

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.end()
        self._workers = []
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _start(self, run: Callable[[JobT], Value], job: JobT, needs: Needs) -> _Worker:
        content, shared = pack((run, job))
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="selector-shared-")
        for value in shared:
            file = Path(self._folder.name) / value.key
            if not file.exists():
                file.write_bytes(pack(value.value)[0])
        if not self._workers:
            self._workers = [_Worker(self._folder.name, *place, self._notify, self._now) for place in self._places]
        worker = next(worker for worker in self._workers if not worker.busy)
        self._requests += 1
        worker.start(self._requests, content, needs.limits, ("torch", run.__module__))
        return worker

    def _wait(self, tickets: Sequence[_Worker]) -> list[tuple[_Worker, Answer]]:
        while True:
            ready = connection.wait([worker.link for worker in tickets], timeout=_LOOK)
            found = [(worker, worker.receive() if worker.link in ready else worker.look()) for worker in tickets]
            if done := [(worker, answer) for worker, answer in found if answer is not None]:
                return done

    def _stop(self, tickets: Sequence[_Worker]) -> None:
        for worker in tickets:
            worker.interrupt()


class _Worker:
    """One worker process at a time; another one takes its place after a death."""

    def __init__(
        self,
        folder: str,
        environment: Mapping[str, str],
        cores: Sequence[int] | None,
        notify: ProgressCallback,
        now: Callable[[], float],
    ) -> None:
        self._folder, self._environment, self._cores = folder, environment, cores
        self._notify, self._now = notify, now
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Connection | None = None
        self._limits: WorkerLimits | None = None
        self._request, self._part, self._mark = 0, "", ""
        self._ready = self.busy = False
        self._since = self._looked = 0.0

    @property
    def link(self) -> Connection:
        """Readable when the worker has something to say."""
        assert self._link is not None
        return self._link

    @property
    def pid(self) -> int:
        """Of the process, and of its group."""
        assert self._process is not None
        return self._process.pid

    def start(self, request: int, content: bytes, limits: WorkerLimits | None, first: Sequence[str]) -> None:
        """Hand over a packed job; ``receive`` and ``look`` give its answer."""
        if self._process is None or self._exited():
            self.end()
            self._launch(first)
        self._request, self._part, self._limits, self.busy = request, "", limits, True
        self._since = self._looked = self._now()
        with contextlib.suppress(OSError):  # it is dead: ``receive`` says so
            self.link.send_bytes(pickle.dumps((request, content)))

    def receive(self) -> Answer | None:
        """What the worker says: its answer, or None after a message that is none."""
        try:
            pid, request, kind, content = pickle.loads(self.link.recv_bytes())  # noqa: S301  of the worker
        except (EOFError, OSError, pickle.UnpicklingError):
            return self._died()
        if pid != self.pid or request not in (self._request, 0):
            return None  # of a copy, or of an earlier request
        if kind == "ready":
            self._ready, self._since = True, self._now()
        elif kind == "part":
            self._part = content
        elif kind == "progress":
            self._since = self._now() if self._limits and self._limits.between_steps else self._since
            self._notify(content)
        elif kind == "answer":
            self.busy = False
            if len(_family(self.pid)) > 1 and self._limits is not None:
                self.end()  # a model that left processes behind: none of them outlives its row
            return _read(content)
        return None

    def look(self) -> Answer | None:
        """An answer where the process ended without a word, or is beyond a limit and was ended."""
        if self._exited():  # a copy that holds the pipe would keep it open
            return self._died() if not self.link.poll() else None
        kind, reason = self._beyond()
        if kind is None:
            return None
        self.end()
        return Answer(kind, reason=reason, part=self._part)

    def interrupt(self) -> None:
        """End the process as Ctrl-C does where its job keeps what it has, then in any case."""
        if self.busy and self._process is not None and self._limits is not None and self._limits.between_steps:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.send_signal(signal.SIGINT)
                self._process.wait(_GRACE)
        self.end()

    def end(self) -> None:
        """End the process with all that it started, whatever they are doing."""
        process, self._process = self._process, None
        link, self._link = self._link, None
        self.busy = self._ready = False
        if link is not None:
            link.close()
        if process is not None:
            _end_group(process.pid, self._mark)
            process.wait()

    def _launch(self, first: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        self._mark = uuid.uuid4().hex
        path = [each or "." for each in sys.path]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "selector.run.worker", str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a model prints is no result
                start_new_session=True,  # its own process group; an interrupt of the terminal is the driver's to pass on
                env={**os.environ, **self._environment, _MARK: self._mark, "PYTHONPATH": os.pathsep.join(path)},
            )
        if self._cores is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self._process.pid, self._cores)
        self._link = Connection(ours.detach())
        setup = {
            "path": list(sys.path),
            "modules": plugins(),
            "shared": self._folder,
            "first": tuple(first),
            "level": logging.getLogger("selector").getEffectiveLevel(),
        }
        self._link.send_bytes(pickle.dumps(setup))

    def _exited(self) -> bool:
        """Whether the process ended; it is not reaped, so that nobody else gets its number while its group is ended."""
        assert self._process is not None
        try:
            return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def _died(self) -> Answer:
        """How the process ended."""
        process, part, ready = self._process, self._part, self._ready
        assert process is not None
        for _ in range(50):  # the pipe closes a moment before the process ends
            if self._exited():
                break
            time.sleep(_LOOK)
        self.end()
        if not ready:
            told = "a worker process cannot be started; the reason is logged above. Run with isolate='off' (--isolate off) and engine='local' (--engine local)."
            return Answer("model", reason=told)
        code = process.returncode
        known = {s.value: s.name for s in signal.Signals}
        full = " (has the system run out of memory?)" if -code == signal.SIGKILL else ""
        how = (
            f"was killed by {known.get(-code, f'signal {-code}')}{full}"
            if code < 0
            else f"ended itself with exit code {code}"
        )
        return Answer("died", reason=how, part=part)

    def _beyond(self) -> tuple[Any, str]:
        """Which limit the job is beyond, as (kind, reason); (None, "") within them."""
        now = self._now()
        limits = self._limits
        if limits is not None and self._ready and limits.seconds is not None and now - self._since > limits.seconds:
            why = f"took longer than {format_duration(limits.seconds)} for its rows and was ended; raise model_timeout (--model-timeout) if it needs more"
            return "timeout", why
        if now - self._looked < 5 * _LOOK:
            return None, ""
        self._looked = now
        family = _family(self.pid)
        if len(family) > MOST_PROCESSES:
            return "died", f"started {len(family) - 1} processes, more than {MOST_PROCESSES - 1}, and was ended"
        if limits is None:
            return None, ""
        most = limits.memory or int(_SHARE * psutil.virtual_memory().total)
        if (used := _memory(self.pid, family)) > most:
            why = f"took {format_size(used)} of memory, more than {format_size(most)}, and was ended; raise model_memory (--model-memory) if it needs more"
            return "died", why
        return None, ""


def _read(content: bytes) -> Answer:
    try:
        answer: Answer = pickle.loads(content)  # noqa: S301  of the worker
    except (pickle.UnpicklingError, AttributeError, ImportError, TypeError) as error:
        return Answer("model", reason=f"its result cannot be read here: {error}")
    return answer


def _family(leader: int) -> list[int]:
    """Processes of a worker: its group, and its children that left the group."""
    found = set()
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            if os.getpgid(pid) == leader:
                found.add(pid)
    with contextlib.suppress(psutil.Error):
        found.update(child.pid for child in psutil.Process(leader).children(recursive=True))
    return sorted(found)


def _memory(leader: int, family: Sequence[int]) -> int:
    """Bytes that a worker takes: its resident memory, and what the others have for themselves."""
    total = 0
    for pid in family:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            total += process.memory_info().rss if pid == leader else process.memory_full_info().uss
    return total


def _end_group(leader: int, mark: str) -> None:
    """Kill a process group, and what left it and still carries the mark of its worker."""
    with contextlib.suppress(OSError):
        os.killpg(leader, signal.SIGKILL)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != leader and process.environ().get(_MARK) == mark:
                process.kill()


def _place(
    k: int, number: int, gpus: Sequence[str], cores: Sequence[int], threads: int | None = None
) -> tuple[dict[str, str], list[int] | None]:
    """(environment, cores) of worker ``k``: a GPU, or a set of cores with as many threads.

    >>> _place(3, 4, [], [0, 1, 2, 3])
    ({'OMP_NUM_THREADS': '1'}, [3])
    >>> _place(3, 4, ["2", "5"], [0, 1, 2, 3])
    ({'CUDA_VISIBLE_DEVICES': '5'}, None)
    """
    if gpus:
        share = {} if threads is None else _threads(max(1, threads // number))
        return {"CUDA_VISIBLE_DEVICES": gpus[k % len(gpus)], **share}, None
    own = list(cores[k * len(cores) // number : (k + 1) * len(cores) // number]) or [cores[k % len(cores)]]
    if threads is not None:
        return _threads(len(own)), own
    return {"OMP_NUM_THREADS": str(min(int(os.environ.get("OMP_NUM_THREADS") or len(own)), len(own)))}, own


def _threads(number: int) -> dict[str, str]:
    return dict.fromkeys((THREADS, *LIBRARIES), str(number))
