"""How a job travels to another process or machine and comes back: pickled in, an ``Answer`` out.

Exceptions of other libraries need not survive a pipe, so an answer holds words. What the job logged comes back too, so
that messages appear where the run was started, whatever ran it.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from selector.core.contracts import Progress, ProgressCallback, no_progress
from selector.core.engine import Failure, Shared, failure_of, keeping_settings
from selector.core.errors import BadImagesError, ConfigError, OutOfMemory, SourceError, StoreError

Kind = Literal["result", "model", "memory", "store", "config", "bad", "died", "limit"]
Module = tuple[str, "str | None"]
"""A plugin: its name, and its file where it has no name of its own."""

_MOST = 128  # shared values that a worker keeps


@dataclass(frozen=True)
class Answer:
    """What became of a job.

    Attributes:
        kind: ``result``, or what sort of error; ``died`` when the process ended under it, ``limit`` when it was ended.
        result: of the function.
        reason, trace: of an error.
        bad: items that cannot be used, of ``BadImagesError``.
        records: what was logged meanwhile.
    """

    kind: Kind
    result: Any = None
    reason: str = ""
    trace: str = ""
    bad: tuple[tuple[str, str], ...] = ()
    records: tuple[logging.LogRecord, ...] = field(default=(), repr=False)

    def tell(self) -> None:
        """Log here what was logged there."""
        for record in self.records:
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)

    def error(self) -> Exception:
        """The exception that this error stands for; the worker's traceback is its note."""
        if self.kind == "bad":
            return BadImagesError(self.reason, list(self.bad))
        kinds: dict[str, type[Exception]] = {"store": StoreError, "config": ConfigError, "memory": OutOfMemory}
        error = kinds.get(self.kind, SourceError)(self.reason)
        if self.trace:
            error.add_note(self.trace)
        return error

    def failure(self) -> Failure:
        """Why there is no result, as the engine hands it over."""
        return Failure(self.reason.splitlines()[0][:300] if self.reason else self.kind, self.trace, self.error())


def packed(function: Callable[[Any], Any], item: Any, dumps: Callable[[Any], bytes] = pickle.dumps) -> bytes:
    """A job for another process.

    Raises:
        SourceError: it cannot be pickled.
    """
    try:
        return dumps((function, item))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        name = getattr(item, "name", type(item).__name__)
        raise SourceError(
            f"{name}: the target cannot be handed to another process ({error}); run with isolate='off' (--isolate off) "
            "and engine='local' (--engine local)."
        ) from None


def answered(content: bytes, level: int = logging.WARNING) -> Answer:
    """Run a packed job; nothing but an interrupt or a death gets past this."""
    kept = _Kept()
    logger = logging.getLogger("selector")
    before = logger.propagate, logger.level
    logger.addHandler(kept)
    logger.propagate = False
    logger.setLevel(level)
    try:
        with keeping_settings():  # a worker serves other networks after this one
            function, item = pickle.loads(content)  # noqa: S301  of the run that started this worker
            answer = Answer("result", function(item))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  a network that calls sys.exit is a failed network
        answer = _of_error(error)
    finally:
        logger.removeHandler(kept)
        logger.propagate, logger.level = before
    return Answer(answer.kind, answer.result, answer.reason, answer.trace, answer.bad, tuple(kept.records))


def _of_error(error: BaseException) -> Answer:
    whole = str(error)
    bad = tuple(error.bad) if isinstance(error, BadImagesError) else ()
    kind: Kind = "model"
    for name, classes in (
        ("bad", BadImagesError),
        ("store", StoreError),
        ("config", ConfigError),
        ("memory", OutOfMemory),
    ):
        if isinstance(error, classes):
            kind = name  # type: ignore[assignment]
            break
    found = failure_of(error)
    return Answer(kind, None, whole if kind in ("bad", "store", "config") else found.reason, found.traceback, bad)


class _Kept(logging.Handler):
    """Records in a form that can be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args = record.getMessage(), None
        if record.exc_info:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
            record.exc_info = None
        self.records.append(record)


# ---------------------------------------------------------------------------- of a worker process

_report: ProgressCallback = no_progress
_fetch: Callable[[str], bytes] | None = None
_opened: OrderedDict[str, Any] = OrderedDict()


def report(progress: Progress) -> None:
    """A step of the job that runs in this worker; heard where the run was started, if the worker can tell it."""
    _report(progress)


def worker(notify: ProgressCallback, fetch: Callable[[str], bytes] | None) -> None:
    """Make this process a worker: who hears of its steps, and where shared values come from."""
    global _report, _fetch
    _report, _fetch = notify, fetch


def opened(shared: Shared) -> Any:
    """The value of ``Engine.share``, kept for the jobs to come."""
    if shared.key not in _opened:
        assert _fetch is not None, "shared values are opened in workers"
        _opened[shared.key] = pickle.loads(_fetch(shared.key))  # noqa: S301  of the run that started this worker
        while len(_opened) > _MOST:
            _opened.popitem(last=False)
    _opened.move_to_end(shared.key)
    return _opened[shared.key]


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
