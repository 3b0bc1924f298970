"""What executors run, and what comes of it: jobs as values, results, failures, and how both travel between processes."""

from __future__ import annotations

import io
import logging
import pickle
import traceback
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from selector.core.errors import (
    BadImagesError,
    BudgetEnded,
    ConfigError,
    OutOfMemory,
    SelectorError,
    SourceError,
    StoreError,
)

JobT = TypeVar("JobT")
Value = TypeVar("Value")

_KEPT = 128  # shared values that a worker keeps


class Job(Protocol):
    """Any picklable value. ``name`` is for messages; a job of several parts may also have ``without(part, reason)``, which
    gives the job that is left when workers died of one of them (``WorkerExecutor.map``)."""

    @property
    def name(self) -> str: ...


@dataclass(frozen=True)
class WorkerLimits:
    """What a job may take in a worker that runs it for safety.

    Attributes:
        seconds: wall-clock time; None for no limit.
        memory: bytes of resident memory of the worker and its children; None for nine tenths of the machine's.
        between_steps: whether the time counts from one reported step to the next, and not for the whole job.
    """

    seconds: float | None = None
    memory: int | None = None
    between_steps: bool = False


@dataclass(frozen=True)
class Needs:
    """What a job takes, and where it may run.

    Attributes:
        bytes: memory on the device, measured or estimated; None where nothing is known.
        alone: whether it must not share a device.
        local: whether it holds objects that only this process has.
        drives: whether it runs jobs itself: where there are workers it stays in this process and hands them out.
        limits: of a job that must not take this process with it; None for one that may run anywhere.
    """

    bytes: int | None = None
    alone: bool = False
    local: bool = False
    drives: bool = False
    limits: WorkerLimits | None = None


def no_needs(job: object) -> Needs:
    """Of a job of which nothing is known."""
    return Needs()


def name_of(job: object) -> str:
    """For messages: the representation of a job may be megabytes of arrays."""
    return str(getattr(job, "name", type(job).__name__))


# ---------------------------------------------------------------------------- results


@dataclass(frozen=True)
class Failure:
    """Why a job gave no value: ``reason`` for a table cell, ``traceback`` for the report."""

    reason: str
    traceback: str
    error: BaseException

    @staticmethod
    def of(error: BaseException) -> Failure:
        """The failure that an exception stands for; the frames that hold the model and its tensors are dropped."""
        text = str(error) or type(error).__name__
        reason = text if isinstance(error, SelectorError) else f"{type(error).__name__}: {text}"
        if isinstance(error, SystemExit):
            reason = f"it called sys.exit({error.code!r})"
        trace = "".join(traceback.format_exception(error))
        _drop_frames(error)
        return Failure(reason.splitlines()[0][:300], trace, error)

    def __reduce__(self) -> tuple[object, ...]:
        """Exceptions of other libraries need not survive a pipe: the error arrives as one of ours."""
        kind = next((k for k in (StoreError, ConfigError, BudgetEnded) if isinstance(self.error, k)), SourceError)
        return Failure, (self.reason, self.traceback, kind(self.reason))


@dataclass(frozen=True)
class JobResult(Generic[JobT, Value]):
    """A finished job with its value or its failure."""

    job: JobT
    value: Value | None = None
    failure: Failure | None = None


def _drop_frames(error: BaseException) -> None:
    seen: set[int] = set()
    open_: list[BaseException | None] = [error]
    while open_:
        link = open_.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        link.__traceback__ = None
        open_ += [link.__cause__, link.__context__]
        open_ += link.exceptions if isinstance(link, BaseExceptionGroup) else ()


Kind = Literal["value", "model", "memory", "store", "config", "bad", "died", "timeout"]
_KINDS: tuple[tuple[Kind, type[SelectorError]], ...] = (
    ("bad", BadImagesError),
    ("store", StoreError),
    ("config", ConfigError),
    ("memory", OutOfMemory),
)


@dataclass(frozen=True)
class Answer:
    """What a worker says of a job, in plain values.

    Attributes:
        kind: ``value``, or what sort of error; ``died`` when the process ended under it or took too much memory,
            ``timeout`` when it took too long.
        reason, trace: of an error.
        bad: items that cannot be used, of ``BadImagesError``.
        part: of the job that was worked on when the process ended; empty for the whole.
        records: what was logged meanwhile.
    """

    kind: Kind
    value: Any = None
    reason: str = ""
    trace: str = ""
    bad: tuple[tuple[str, str], ...] = ()
    part: str = ""
    records: tuple[logging.LogRecord, ...] = field(default=(), repr=False)

    @staticmethod
    def of_error(error: BaseException) -> Answer:
        """The answer of a job that raised."""
        whole = str(error)
        bad = tuple(error.bad) if isinstance(error, BadImagesError) else ()
        kind: Kind = next((name for name, kind in _KINDS if isinstance(error, kind)), "model")
        failure = Failure.of(error)
        return Answer(
            kind, None, whole if kind in ("bad", "store", "config") else failure.reason, failure.traceback, bad
        )

    def log(self) -> None:
        """Log in this process what was logged in the worker."""
        for record in self.records:
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)

    def failure(self) -> Failure:
        """Why there is no value; the worker's traceback is a note of the error."""
        error: SelectorError
        if self.kind == "bad":
            error = BadImagesError(self.reason, list(self.bad))
        else:
            error = dict(_KINDS).get(self.kind, SourceError)(self.reason)
        if self.trace:
            error.add_note(self.trace)
        return Failure(self.reason.splitlines()[0][:300] if self.reason else self.kind, self.trace, error)


# ---------------------------------------------------------------------------- values that many jobs share


class Shared(Generic[Value]):
    """A value that many jobs read. In its own process it is the object itself; a job that travels carries its key, and a
    worker fetches the value once."""

    def __init__(self, value: Value, key: str = "") -> None:
        self.key = key or uuid.uuid4().hex
        self._value: tuple[Value, ...] = () if key else (value,)

    @property
    def value(self) -> Value:
        """The value; in a worker it is fetched on first use."""
        return self._value[0] if self._value else _fetched(self.key)


_fetched_values: OrderedDict[str, object] = OrderedDict()
_fetch: Callable[[str], bytes] | None = None


def fetch_shared_with(fetch: Callable[[str], bytes] | None) -> None:
    """Say where a worker gets shared values from: pickled, by key."""
    global _fetch
    _fetch = fetch


def _fetched(key: str) -> Any:
    if key not in _fetched_values:
        assert _fetch is not None, "a shared value that is not of this process is read in workers"
        _fetched_values[key] = unpack(_fetch(key))
        while len(_fetched_values) > _KEPT:
            _fetched_values.popitem(last=False)
    _fetched_values.move_to_end(key)
    return _fetched_values[key]


# ---------------------------------------------------------------------------- serialization


def pack(value: object, pickler: type[pickle.Pickler] = pickle.Pickler) -> tuple[bytes, tuple[Shared[object], ...]]:
    """Pickle a value for another process.

    Returns:
        The bytes, and the shared values that they name by key.
    Raises:
        SourceError: it cannot be pickled.
    """
    shared: dict[str, Shared[object]] = {}

    class Packer(pickler):  # type: ignore[misc,valid-type]
        def persistent_id(self, found: object) -> str | None:
            if not isinstance(found, Shared):
                return None
            shared[found.key] = found
            return found.key

    content = io.BytesIO()
    try:
        Packer(content, pickle.HIGHEST_PROTOCOL).dump(value)
    except (pickle.PicklingError, TypeError, AttributeError, ValueError) as error:
        job = value[1] if isinstance(value, tuple) and len(value) == 2 else value
        raise SourceError(
            f"{name_of(job)}: the target cannot be handed to another process ({error}); run with isolate='off' (--isolate "
            "off) and engine='local' (--engine local)."
        ) from None
    return content.getvalue(), tuple(shared.values())


def unpack(content: bytes) -> Any:
    """What ``pack`` packed; only ever of the run that started this worker."""

    class Unpacker(pickle.Unpickler):
        def persistent_load(self, key: str) -> Shared[object]:
            return Shared(None, key)

    return Unpacker(io.BytesIO(content)).load()
