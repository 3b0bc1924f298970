"""The parent's end of a child process that runs packed jobs, one at a time."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection

from selector.core.answers import Answer, Module
from selector.core.contracts import ProgressCallback, no_progress
from selector.core.errors import SourceError


class Child:
    """One child process, started when it is first needed and made anew after a death.

    Args:
        modules: plugins that it imports first.
        shared: folder of shared values (``answers.opened``).
        environment: variables beside those of this process.
        cores: the processors that it may use; None for all.
        first: what it imports before it is ready.
    """

    def __init__(
        self,
        modules: Sequence[Module] = (),
        shared: str | None = None,
        environment: Mapping[str, str] | None = None,
        cores: Sequence[int] | None = None,
        notify: ProgressCallback = no_progress,
        first: Sequence[str] = (),
    ) -> None:
        self._first = tuple(first)
        self._modules, self._shared = list(modules), shared
        self._environment, self._cores = dict(environment or {}), cores
        self._notify = notify
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Connection | None = None
        self.busy = False

    @property
    def link(self) -> Connection:
        """Ready to be read when the child has something to say."""
        assert self._link is not None
        return self._link

    @property
    def pid(self) -> int:
        """Of the running child."""
        assert self._process is not None
        return self._process.pid

    def start(self, content: bytes) -> None:
        """Hand over a packed job; ``receive`` gives its answer.

        Raises:
            SourceError: no child can be started.
        """
        self._ensure()
        self.busy = True
        with contextlib.suppress(BrokenPipeError):  # it is dead: ``receive`` tells
            self.link.send_bytes(content)

    def receive(self) -> Answer | None:
        """The answer; None after a step was reported. Waits when there is nothing yet."""
        try:
            kind, *found = self.link.recv()
        except (EOFError, ConnectionError):
            how = self._how_it_died()
            self.close()
            return Answer("died", reason=how)
        except (pickle.UnpicklingError, AttributeError, ImportError, TypeError) as error:
            self.busy = False
            return Answer("model", reason=f"its result cannot be read here: {error}")
        if kind == "progress":
            self._notify(found[0])
            return None
        self.busy = False
        answer: Answer = found[0]
        return answer

    def interrupt(self, seconds: float) -> bool:
        """Ask the child to end as Ctrl-C does, and whether it did so in time; what it has open is closed then."""
        process = self._process
        try:
            if process is not None:
                process.send_signal(signal.SIGINT)
                process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        finally:
            self.close()
        return True

    def close(self) -> None:
        """End the child, whatever it is doing."""
        process, self._process = self._process, None
        link, self._link = self._link, None
        self.busy = False
        if link is not None:
            link.close()
        if process is not None:
            process.kill()
            process.wait()

    def _how_it_died(self) -> str:
        assert self._process is not None
        code = self._process.wait()
        if code >= 0:
            return f"ended itself with exit code {code}"
        known = {s.value: s.name for s in signal.Signals}
        full = " (has the system run out of memory?)" if -code == signal.SIGKILL else ""
        return f"was killed by {known.get(-code, f'signal {-code}')}{full}"

    def _ensure(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "selector.core.child", str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a network prints is no result
                start_new_session=True,  # an interrupt of the terminal is the parent's to pass on
                env={
                    **os.environ,
                    **self._environment,
                    "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path),
                },
            )
        if self._cores is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self._process.pid, self._cores)
        self._link = Connection(ours.detach())
        self._link.send(
            {
                "path": list(sys.path),
                "modules": self._modules,
                "shared": self._shared,
                "first": self._first,
                "level": logging.getLogger("selector").getEffectiveLevel(),
            }
        )
        try:
            self._link.recv()  # it is ready: what it imports counts for no network
        except (EOFError, ConnectionError):
            raise SourceError(
                "a child process for networks cannot be started; the reason is logged above. Run with isolate='off' "
                "(--isolate off) and engine='local' (--engine local)."
            ) from None
