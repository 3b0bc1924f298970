"""Executors: each maps one pure function over jobs and yields results as they finish.

A job that fails is a ``Failure`` beside the other results, never the end of the run; only an interrupt ends it.
``InProcess`` is here; ``pool.Pool`` and ``ray.RayCluster`` share the driver ``WorkerExecutor``; ``Routed`` sends each job
where it may run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from selector.core.errors import SourceError
from selector.run.job import Answer, Failure, JobResult, JobT, Needs, Value, name_of, no_needs

log = logging.getLogger(__name__)

Ticket = TypeVar("Ticket")
"""What a job that is under way is known by."""

DEATHS = 2  # of workers with one part of a job; then it is given up


class Executor(Protocol):
    """Runs jobs; the results are the same whichever does."""

    @property
    def width(self) -> int:
        """How many jobs can be under way at once."""
        ...

    def map(
        self,
        run: Callable[[JobT], Value],
        jobs: Iterable[JobT],
        fatal: tuple[type[BaseException], ...] = (),
        needs: Callable[[JobT], Needs] = no_needs,
    ) -> Iterator[JobResult[JobT, Value]]:
        """Yield one result per job, in the order in which they finish.

        Args:
            run: called once per job; a function of a module where jobs travel.
            jobs: taken when there is room for one; may be a generator that reacts to earlier results.
            fatal: exceptions that concern the whole run (a full disk) and are raised.
            needs: what a job takes, and where it may run.
        """
        ...

    def close(self) -> None:
        """End the workers, if there are any; the next ``map`` starts them again."""
        ...


class InProcess:
    """Runs jobs one after another in this process."""

    width = 1

    def map(
        self,
        run: Callable[[JobT], Value],
        jobs: Iterable[JobT],
        fatal: tuple[type[BaseException], ...] = (),
        needs: Callable[[JobT], Needs] = no_needs,
    ) -> Iterator[JobResult[JobT, Value]]:
        """See ``Executor.map``."""
        own = os.getpid()
        for job in jobs:
            result: JobResult[JobT, Value]
            try:
                with keeping_settings(), _ending_copies(own):
                    result = JobResult(job, run(job))
            except fatal:
                raise
            except (KeyboardInterrupt, GeneratorExit):
                raise
            except BaseException as error:  # noqa: BLE001  one model's failure must not end the scan
                result = JobResult(job, failure=Failure.of(error))
                log.info("%s failed: %s", name_of(job), result.failure.reason if result.failure else "")
            yield result

    def close(self) -> None:
        """Nothing to end."""


class Routed:
    """Sends each job where it may run.

    Args:
        main: for jobs without needs of their own.
        isolated: a pool of one, for jobs with limits where ``main`` has no workers.
    """

    def __init__(self, main: Executor, isolated: Executor) -> None:
        self._main, self._isolated = main, isolated
        self._local = InProcess()

    @property
    def width(self) -> int:
        """See ``Executor.width``."""
        return self._main.width

    def map(
        self,
        run: Callable[[JobT], Value],
        jobs: Iterable[JobT],
        fatal: tuple[type[BaseException], ...] = (),
        needs: Callable[[JobT], Needs] = no_needs,
    ) -> Iterator[JobResult[JobT, Value]]:
        """See ``Executor.map``; jobs that cannot leave this process come last where there are workers."""
        local: list[JobT] = []

        def travelling() -> Iterator[JobT]:
            for job in jobs:
                found = needs(job)
                if found.local or found.drives:
                    local.append(job)
                else:
                    yield job

        if not isinstance(self._main, InProcess):
            with contextlib.closing(self._main.map(run, travelling(), fatal, needs)) as results:  # type: ignore[type-var]
                yield from results
            yield from self._local.map(run, local, fatal)
            return
        try:
            for job in jobs:
                found = needs(job)
                executor = self._main if found.local or found.limits is None else self._isolated
                with contextlib.closing(executor.map(run, [job], fatal, needs)) as results:  # type: ignore[type-var]
                    yield from results
        finally:
            self._isolated.close()  # its memory is free for what runs here next

    def close(self) -> None:
        """See ``Executor.close``."""
        self._main.close()
        self._isolated.close()


@dataclass(frozen=True)
class _Attempt(Generic[JobT]):
    job: JobT
    needs: Needs
    deaths: Mapping[str, int] = field(default_factory=dict)

    def again(self, answer: Answer) -> _Attempt[JobT] | None:
        """Another attempt where an answer leaves hope; None where it is final.

        A death may have been somebody else's doing (the system's killer of processes): the part of the job that was
        worked on is tried once more by a new worker. After the second death, or when it took too long, the job goes on
        without that part if it can.
        """
        if answer.kind == "memory" and not self.needs.alone:
            return replace(self, needs=replace(self.needs, alone=True))
        if answer.kind not in ("died", "timeout"):
            return None
        deaths = self.deaths.get(answer.part, 0) + 1
        if answer.kind == "died" and deaths < DEATHS:
            return replace(self, deaths={**self.deaths, answer.part: deaths})
        without: Callable[[str, str], JobT | None] | None = getattr(self.job, "without", None)
        rest = None if without is None or not answer.part else without(answer.part, answer.reason)
        return None if rest is None else replace(self, job=rest)


class WorkerExecutor(ABC, Generic[Ticket]):
    """The driver of executors with workers: back-pressure, order of completion, another attempt after a death."""

    @property
    @abstractmethod
    def width(self) -> int:
        """How many jobs may be under way: running, and a few waiting so that no worker idles."""

    @abstractmethod
    def close(self) -> None:
        """See ``Executor.close``."""

    @abstractmethod
    def _start(self, run: Callable[[JobT], Value], job: JobT, needs: Needs) -> Ticket:
        """Begin a job; returns its ticket. Raises ``SourceError`` where it cannot be handed over."""

    @abstractmethod
    def _wait(self, tickets: Sequence[Ticket]) -> list[tuple[Ticket, Answer]]:
        """At least one finished job, as soon as there is one."""

    @abstractmethod
    def _stop(self, tickets: Sequence[Ticket]) -> None:
        """Give up jobs that are under way."""

    def map(
        self,
        run: Callable[[JobT], Value],
        jobs: Iterable[JobT],
        fatal: tuple[type[BaseException], ...] = (),
        needs: Callable[[JobT], Needs] = no_needs,
    ) -> Iterator[JobResult[JobT, Value]]:
        """See ``Executor.map``. What is under way when the caller closes the iterator is given up."""
        source = iter(jobs)
        again: list[_Attempt[JobT]] = []
        open_: dict[Ticket, _Attempt[JobT]] = {}
        try:
            while True:
                while len(open_) < self.width:
                    attempt = again.pop() if again else next((_Attempt(j, needs(j)) for j in source), None)
                    if attempt is None:
                        break
                    try:
                        open_[self._start(run, attempt.job, attempt.needs)] = attempt
                    except SourceError as error:
                        yield JobResult(attempt.job, failure=Failure.of(error))
                if not open_:
                    return
                for ticket, answer in self._wait(list(open_)):
                    attempt = open_.pop(ticket)
                    answer.log()
                    if (second := attempt.again(answer)) is not None:
                        log.info("%s: its worker %s; it runs again", answer.part or name_of(attempt.job), answer.reason)
                        again.append(second)
                        continue
                    yield _result(attempt, answer, fatal)
        finally:
            self._stop(list(open_))


def _result(attempt: _Attempt[JobT], answer: Answer, fatal: tuple[type[BaseException], ...]) -> JobResult[JobT, Any]:
    job = attempt.job
    if answer.kind == "value":
        return JobResult(job, answer.value)
    if answer.kind in ("died", "timeout"):
        again = " (second attempt)" if answer.kind == "died" else ""
        answer = replace(answer, reason=f"{name_of(job)}: the process that ran this model {answer.reason}{again}.")
    failure = answer.failure()
    if isinstance(failure.error, fatal):
        raise failure.error
    log.info("%s failed: %s", name_of(job), failure.reason)
    return JobResult(job, failure=failure)


@contextlib.contextmanager
def _ending_copies(own: int) -> Iterator[None]:
    """A model that forks leaves a copy of this process, which must not go on with the run beside it."""
    try:
        yield
    finally:
        if os.getpid() != own:
            os._exit(0)


@contextlib.contextmanager
def keeping_settings() -> Iterator[None]:
    """Put back what code of others may change for a whole process, and with it for the models that come after.

    That is the working folder (relative paths, such as that of the run, must not move with it) and torch's default type,
    threads and whether gradients are taken.
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
