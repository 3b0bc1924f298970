"""The budget's clock, and what a fine-tuning stage remembers from one call to the next."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from selector.tuning.journal import Journal
from selector.tuning.types import Cache

RESERVE_SECONDS = 3.0  # for what comes after the last round
BETWEEN = "between trainings"  # building, saving, comparing; waiting for workers


def seconds_by_part(parts: Sequence[str], moments: Sequence[tuple[float, Mapping[str, float]]]) -> dict[str, float]:
    """Where the time went; what has a name of its own is not counted in the part that it happened in.

    Args:
        parts: their names in order.
        moments: when each part began, and the last one ended, with the seconds named until then.

    >>> seconds_by_part(["loading", "trainings"], [(0.0, {}), (2.0, {}), (9.0, {"steps": 4.0})])
    {'loading': 2.0, 'steps': 4.0, 'trainings': 3.0}
    """
    found: dict[str, float] = {}
    for part, ((begun, before), (ended, after)) in zip(parts, itertools.pairwise(moments), strict=True):
        named = {name: seconds - before.get(name, 0.0) for name, seconds in after.items()}
        for name, seconds in named.items():
            if seconds:
                found[name] = found.get(name, 0.0) + seconds
        found[part] = max(0.0, ended - begun - sum(named.values()))
    return {**found, **{name: 0.0 for name in moments[-1][1] if name not in found}}


class Clock:
    """Seconds spent and left, over interruptions; the plan and what was decided on the way.

    Attributes:
        budget: seconds, or None for no limit.
        state: plain JSON, kept in the journal: seconds spent, of the budget those that were spent before the first call, rounds, resolution, costs, notes, tuning_log.
        reserve: seconds to keep for what comes after the last round.
        now: what is read for the time; tests give their own.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        journal: Journal,
        cache: Cache | None,
        now: Callable[[], float] = time.perf_counter,
        before: float = 0.0,
    ) -> None:
        self.now = now
        self.budget: float | None = settings["budget"]
        self.reserve = RESERVE_SECONDS
        self._settings = dict(settings)
        self._journal = journal
        self._cache = cache
        self._name = f"tournament-{Journal.key(settings)}"
        self.state = self._remembered()
        self.state.setdefault("before", before)
        self._begun = self.now()
        self._waiting_since: float | None = None

    @property
    def spent(self) -> float:
        """Seconds, those before an interruption included."""
        until = self.now() if self._waiting_since is None else self._waiting_since
        return float(self.state["spent"]) + until - self._begun

    @contextmanager
    def of_workers(self) -> Iterator[None]:
        """While workers work, their time counts (``charge``), and not the time spent waiting for them."""
        self._waiting_since = self.now()
        try:
            yield
        finally:
            self._begun += self.now() - self._waiting_since
            self._waiting_since = None

    def charge(self, seconds: float) -> None:
        """Count what a worker took on its device."""
        self.state["spent"] = float(self.state["spent"]) + seconds

    @property
    def left(self) -> float:
        """Seconds for training."""
        return (
            math.inf if self.budget is None else self.budget - float(self.state["before"]) - self.spent - self.reserve
        )

    def deadline(self) -> float:
        """As ``now()``: no step begins behind it, so that what comes after the last one ends within the budget."""
        return self.now() + max(0.0, self.left)

    @property
    def tuning_log(self) -> list[str]:
        """What has happened so far, in sentences."""
        return [str(line) for line in self.state.get("tuning_log", ())]

    def tell(self, line: str) -> None:
        """Add a sentence to the tuning log; one that an interrupted call already said is not said again."""
        if line not in self.tuning_log:
            self.state["tuning_log"] = [*self.tuning_log, line]

    def remember(self) -> None:
        """Write the state down, so that the same call goes on from here."""
        self._journal.write_json(self._name, {**self.state, "spent": self.spent})

    def finish(self) -> None:
        """The fine-tuning stage is over: the same call reads its records, another folder gets its plan."""
        if self._cache is not None and self.state["rounds"]:
            self._cache.put("tournament", self._settings, {**self.state, "spent": self.spent})
        self.state["finished"] = True
        self.remember()

    def _remembered(self) -> dict[str, Any]:
        state = self._journal.read_json(self._name)
        if state is None and self._cache is not None:
            plan = self._cache.get("tournament", self._settings)
            if plan:  # the same plan as last time, so that the table is the same
                state = {**plan, "spent": 0.0, "done": 0}
        if state is not None and state.get("finished"):
            state["spent"] = 0.0  # everything is read again, nothing is trained
        return state or {"spent": 0.0, "rounds": [], "done": 0}
