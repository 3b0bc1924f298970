"""What runs inside a worker: jobs that arrive on a pipe, one after another, until the pipe closes.

Started as ``python -m selector.run.worker FD PARENT`` (``pool.Pool``). What a model prints goes to stderr. Every message
carries the process and the request that it belongs to; a copy of the worker that a model forked says nothing and ends.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from selector.core.contracts import Progress
from selector.core.registry import registered_rooms
from selector.run.executor import keeping_settings
from selector.run.job import Answer, fetch_shared_with, unpack

Module = tuple[str, "str | None"]
"""A plugin: its name, and its file where it has no name of its own."""


class Channel:
    """The worker's end of the pipe."""

    def __init__(self, link: Connection) -> None:
        self._link, self._pid = link, os.getpid()
        self.request, self.part = 0, ""
        os.register_at_fork(after_in_child=self._close_in_copy)

    @property
    def is_own(self) -> bool:
        """Whether this process is the worker, and not a copy that a model forked."""
        return os.getpid() == self._pid

    def say(self, kind: str, content: object) -> None:
        """Send a message of the request that is under way."""
        if self.is_own:
            self._link.send_bytes(pickle.dumps((self._pid, self.request, kind, content)))

    def receive(self) -> bytes:
        """The next message of the driver."""
        return self._link.recv_bytes()

    def _close_in_copy(self) -> None:
        with contextlib.suppress(OSError):
            self._link.close()


_channel: Channel | None = None


def report(progress: Progress) -> None:
    """Report a step of the job that runs in this worker to where the run was started, if the worker can."""
    if _channel is not None:
        _channel.say("progress", progress)


@contextlib.contextmanager
def working_on(part: str) -> Iterator[None]:
    """Say which part of its job this worker is at: what it dies of there is put down to that part. Elsewhere nothing."""
    if _channel is None:
        yield
        return
    outer, _channel.part = _channel.part, part
    _channel.say("part", part)
    try:
        yield
    finally:
        _channel.part = outer
        _channel.say("part", outer)


def answer(content: bytes, level: int = logging.WARNING) -> Answer:
    """Run a packed job; nothing but an interrupt or a death gets past this."""
    records = _Records()
    logger = logging.getLogger("selector")
    before = logger.propagate, logger.level
    logger.addHandler(records)
    logger.propagate = False
    logger.setLevel(level)
    try:
        with keeping_settings():  # a worker serves other models after this one
            run, job = unpack(content)
            found = Answer("value", run(job))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  a model that calls sys.exit is a failed model
        found = Answer.of_error(error)
    finally:
        logger.removeHandler(records)
        logger.propagate, logger.level = before
    return replace(found, records=tuple(records.kept))


class _Records(logging.Handler):
    """Log records in a form that can be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args = record.getMessage(), None
        if record.exc_info:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
            record.exc_info = None
        self.kept.append(record)


# ---------------------------------------------------------------------------- plugins


def plugins() -> list[Module]:
    """Modules outside the package that registered something in one of its rooms: workers import them too."""
    found = [each for room in registered_rooms() for each in room.loaded().values()]
    names = {getattr(each, "function", each).__module__ for each in found}
    own = (name for name in sorted(names) if not name.startswith("selector."))
    return [(name, getattr(sys.modules.get(name), "__file__", None)) for name in own if name != "__main__"]


def import_plugins(modules: Sequence[Module]) -> None:
    """Import the plugins of the run, by name or from their files: they register sources, proxies and tasks."""
    for name, file in modules:
        if name in sys.modules:
            continue
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name.partition(".")[0] or file is None:
                raise
            _import_file(name, file)


def _import_file(name: str, file: str) -> None:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


# ---------------------------------------------------------------------------- the process


def main(number: int, parent: int) -> None:
    """Serve jobs from the pipe with file descriptor ``number``."""
    global _channel
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    os.set_inheritable(number, False)
    _channel = channel = Channel(Connection(number))
    setup = pickle.loads(channel.receive())  # noqa: S301  of the run that started this worker
    sys.path[:] = setup["path"]
    fetch_shared_with(lambda key: (Path(setup["shared"]) / key).read_bytes())
    import_plugins(setup["modules"])
    for name in setup["first"]:  # what takes seconds counts for no model
        importlib.import_module(name)
    channel.say("ready", None)
    while True:
        try:
            request, content = pickle.loads(channel.receive())  # noqa: S301
        except EOFError:
            return
        channel.request, channel.part = request, ""
        found = answer(content, setup["level"])
        if not channel.is_own:
            os._exit(0)  # a copy that came back from the job of its original
        channel.say("answer", _sendable(found))


def _sendable(found: Answer) -> bytes:
    """An answer as the pipe takes it; a value that cannot be pickled is the failure of its job, not of this process."""
    try:
        return pickle.dumps(found)
    except Exception as error:  # noqa: BLE001  whatever the objects of a plugin raise
        reason = f"its result cannot be handed to another process: {type(error).__name__}: {error}"
        return pickle.dumps(Answer("model", reason=reason))


def _end_with(parent: int) -> None:
    """No model runs on when the run that asked for it was killed, nor does any copy of it."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    from selector.run import worker  # the module that jobs import, and not this second copy of it

    try:
        worker.main(int(sys.argv[1]), int(sys.argv[2]))
    except KeyboardInterrupt:  # the driver was interrupted and says so
        sys.exit(130)
