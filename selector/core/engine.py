"""A generic executor: maps a job over items and hands results back as they finish.

It knows no job. A failing item is a ``Failure`` beside the other results, never the end of the
run; only an interrupt ends it. This one runs in the calling process; ``fleet.Fleet`` runs on workers
elsewhere and has the same ``map``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from selector.core.errors import BudgetEnded, ConfigError, SelectorError, SourceError, StoreError

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Failure:
    """Why an item gave no result: ``reason`` for a table cell, ``traceback`` for the report."""

    reason: str
    traceback: str
    error: BaseException

    def __reduce__(self) -> tuple[Any, ...]:
        """Exceptions of other libraries need not survive a pipe: the error arrives as one of ours."""
        kind = next((k for k in (StoreError, ConfigError, BudgetEnded) if isinstance(self.error, k)), SourceError)
        return Failure, (self.reason, self.traceback, kind(self.reason))


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """One finished item with its result or its failure."""

    item: Item
    result: Result | None = None
    failure: Failure | None = None


@dataclass(frozen=True)
class Shared:
    """A value that many jobs read: it is handed over once a worker and not once a job."""

    key: str


@dataclass(frozen=True)
class Needs:
    """What an item takes, for engines that share out devices.

    Attributes:
        bytes: memory on the device, measured or estimated; None where nothing is known.
        alone: whether it must not share a device.
        shared: the values that it reads (``Engine.share``).
    """

    bytes: int | None = None
    alone: bool = False
    shared: tuple[Shared, ...] = ()


def _no_needs(item: object) -> Needs:
    return Needs()


class Engine(Protocol):
    """Where jobs run. ``in_process`` says whether a job may use objects of this process; elsewhere function,
    items and results are pickled."""

    in_process: bool

    @property
    def width(self) -> int:
        """How many jobs it can have under way at once."""
        ...

    def share(self, value: Any) -> Shared:
        """Hand a value over once for many jobs, which read it with ``answers.opened``; not in this process."""
        ...

    def map(
        self,
        job: Callable[[Item], Result],
        items: Iterable[Item],
        fatal: tuple[type[BaseException], ...] = (),
        needs: Callable[[Item], Needs] = _no_needs,
    ) -> Iterator[Outcome[Item, Result]]:
        """Yield an outcome an item, in the order in which they finish; see ``LocalEngine.map``."""
        ...


class LocalEngine:
    """Runs the items one after another in this process."""

    in_process = True
    width = 1

    def share(self, value: Any) -> Shared:
        """Nothing needs handing over in one process."""
        raise NotImplementedError("jobs of this process read their values themselves")

    def map(
        self,
        job: Callable[[Item], Result],
        items: Iterable[Item],
        fatal: tuple[type[BaseException], ...] = (),
        needs: Callable[[Item], Needs] = _no_needs,
    ) -> Iterator[Outcome[Item, Result]]:
        """Yield an outcome an item, in the order in which they finish.

        Args:
            job: called once an item.
            items: what to work on; may be a generator that reacts to earlier results.
            fatal: exceptions that concern the whole run (a full disk) and are passed on.
            needs: what an item takes; this engine gives each all there is.
        """
        for item in items:
            try:
                with keeping_settings():
                    outcome = Outcome(item, result=job(item))
            except fatal:
                raise
            except (KeyboardInterrupt, GeneratorExit):
                raise
            except BaseException as error:  # noqa: BLE001  one model's failure must not end the scan
                outcome = Outcome(item, failure=failure_of(error))
                name = getattr(item, "name", type(item).__name__)  # an item's repr may be megabytes of arrays
                log.info("%s failed: %s", name, outcome.failure.reason if outcome.failure else "")
            yield outcome


@contextlib.contextmanager
def keeping_settings() -> Iterator[None]:
    """Code of others may change what a whole process shares, and with it the networks that come after.

    Put back are the working folder (relative paths, such as that of the run, must not move with it) and torch's default
    type, threads and whether gradients are taken.
    """
    before, torch = _folder(), _torch()
    kept = (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()) if torch else None
    try:
        yield
    finally:
        if _folder() != before:
            with contextlib.suppress(FileNotFoundError):  # somebody removed it, and what needs it will say so
                os.chdir(before)
        if (torch := _torch()) is not None:
            kind, gradients, threads = kept or (torch.float32, True, torch.get_num_threads())
            torch.set_default_dtype(kind)
            torch.set_grad_enabled(gradients)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)


def _folder() -> str:
    """The working folder; empty where it is gone."""
    try:
        return os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        return ""


def _torch() -> Any:
    """torch, where it was imported: for this alone it would take seconds, and a thread may be at it just now."""
    found = sys.modules.get("torch")
    return None if found is None or getattr(found.__spec__, "_initializing", False) else found


def failure_of(error: BaseException) -> Failure:
    """The failure that an exception stands for."""
    text = str(error) or type(error).__name__
    reason = text if isinstance(error, SelectorError) else f"{type(error).__name__}: {text}"
    if isinstance(error, SystemExit):
        reason = f"it called sys.exit({error.code!r})"
    trace = "".join(traceback.format_exception(error))
    _let_go(error)
    return Failure(reason.splitlines()[0][:300], trace, error)


def _let_go(error: BaseException) -> None:
    """Drop the frames of an exception and of all that it came from: they hold the network and its tensors."""
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
