"""An engine over workers elsewhere: back-pressure, order of completion, another attempt after a death.

The same driver for processes of this machine and for Ray; ``Workers`` is what differs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol

from selector.core.answers import Answer
from selector.core.engine import Failure, Item, Needs, Outcome, Result, Shared, failure_of
from selector.core.errors import SourceError

log = logging.getLogger(__name__)


class Workers(Protocol):
    """Where jobs of a fleet run."""

    @property
    def room(self) -> int:
        """How many jobs may be under way at once: running, and a few waiting so that nobody idles."""
        ...

    def start(self, function: Callable[[Any], Any], item: Any, needs: Needs) -> Hashable:
        """Begin a job; returns its ticket. Raises ``SourceError`` when it cannot be handed over."""
        ...

    def wait(self, tickets: Sequence[Any]) -> list[tuple[Any, Answer]]:
        """At least one finished job, as soon as there is one."""
        ...

    def stop(self, tickets: Sequence[Any]) -> None:
        """Give up jobs that are under way."""
        ...

    def share(self, value: Any) -> Shared:
        """Hand a value over once for many jobs."""
        ...

    def close(self) -> None:
        """End all workers."""
        ...


@dataclass(frozen=True)
class _Attempt(Generic[Item]):
    item: Item
    needs: Needs
    died: bool = False

    def again(self, answer: Answer) -> _Attempt[Item] | None:
        """Another attempt, where an answer leaves hope: once after a death, once with a whole device for want of memory."""
        if answer.kind == "died" and not self.died:
            return replace(self, died=True)
        if answer.kind == "memory" and not self.needs.alone:
            return replace(self, needs=replace(self.needs, alone=True))
        return None


class Fleet:
    """Runs items on workers, which start when there is a first item: a run that the store answers starts none.

    Args:
        start: makes the workers.
    """

    in_process = False

    def __init__(self, start: Callable[[], Workers]) -> None:
        self._start = start
        self._workers: Workers | None = None

    @property
    def workers(self) -> Workers:
        """Started by now."""
        if self._workers is None:
            self._workers = self._start()
        return self._workers

    @property
    def width(self) -> int:
        """See ``Workers.room``."""
        return self.workers.room

    def close(self) -> None:
        """End the workers."""
        workers, self._workers = self._workers, None
        if workers is not None:
            workers.close()

    def share(self, value: Any) -> Shared:
        """See ``Workers.share``."""
        return self.workers.share(value)

    def map(
        self,
        job: Callable[[Item], Result],
        items: Iterable[Item],
        fatal: tuple[type[BaseException], ...] = (),
        needs: Callable[[Item], Needs] = lambda item: Needs(),
    ) -> Iterator[Outcome[Item, Result]]:
        """See ``Engine.map``; items are taken when there is room for them, and what is under way when the caller
        closes the iterator is given up."""
        source = iter(items)
        again: list[_Attempt[Item]] = []
        open_: dict[Any, _Attempt[Item]] = {}
        try:
            while True:
                while len(open_) < self.workers.room:
                    attempt = again.pop() if again else next((_Attempt(i, needs(i)) for i in source), None)
                    if attempt is None:
                        break
                    try:
                        open_[self.workers.start(job, attempt.item, attempt.needs)] = attempt
                    except SourceError as error:
                        yield Outcome(attempt.item, failure=failure_of(error))
                if not open_:
                    return
                for ticket, answer in self.workers.wait(list(open_)):
                    attempt = open_.pop(ticket)
                    answer.tell()
                    if (second := attempt.again(answer)) is not None:
                        log.info("%s: its worker %s; it runs again", _name(attempt.item), answer.reason)
                        again.append(second)
                        continue
                    yield self._outcome(attempt, answer, fatal)
        finally:
            self.workers.stop(list(open_))

    def _outcome(
        self, attempt: _Attempt[Item], answer: Answer, fatal: tuple[type[BaseException], ...]
    ) -> Outcome[Item, Result]:
        if answer.kind == "result":
            return Outcome(attempt.item, result=answer.result)
        if answer.kind == "died":
            reason = f"{_name(attempt.item)}: the process that ran this model {answer.reason}, twice."
            return Outcome(attempt.item, failure=Failure(reason, answer.trace, SourceError(reason)))
        failure = answer.failure()
        if isinstance(failure.error, fatal):
            raise failure.error
        log.info("%s failed: %s", _name(attempt.item), failure.reason)
        return Outcome(attempt.item, failure=failure)


def _name(item: object) -> str:
    return str(getattr(item, "name", type(item).__name__))
