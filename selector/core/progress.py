"""Progress: bars on a terminal, lines that are renewed in a notebook, a line now and then elsewhere, all with rate and time left."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from selector.core.units import format_duration

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from selector.core.contracts import Progress, ProgressCallback

EVERY_SECONDS = 10.0
"""Without a terminal: at most one line a stage and model in this time, besides the last one."""


NOTEBOOK_SECONDS = 0.2
"""In a notebook: least time between two renewals of what is shown."""


@contextmanager
def listening(progress: ProgressCallback | bool | None) -> Iterator[ProgressCallback]:
    """The listener of a call.

    Args:
        progress: a listener; True to show it, False for silence; None to show it in a notebook and silence elsewhere.
    """
    if callable(progress):
        yield progress
    elif progress is False or (progress is None and not in_notebook()):
        yield lambda _event: None
    elif in_notebook():
        with NotebookLines() as lines:
            yield lines
    else:
        with ProgressView() as view:
            yield view


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this; imports nothing."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return type(shell).__name__ == "ZMQInteractiveShell"


class NotebookLines:
    """What is under way in a notebook, one line per stage, in one output that is renewed: nothing but a last line stays."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, str], tuple[float, int, str]] = {}
        self._shown = -math.inf
        self._begun = time.monotonic()
        self._output: Any = None

    def __enter__(self) -> NotebookLines:
        return self

    def __exit__(self, *_: object) -> None:
        if self._output is not None:
            self._show(f"took {format_duration(time.monotonic() - self._begun)}")

    def __call__(self, event: Progress) -> None:
        key, now = (event.stage, event.model), time.monotonic()
        since, first, _ = self._lines.get(key, (now, event.done, ""))
        self._lines[key] = (since, first, line(event, now - since, first))
        if event.done >= event.total:
            del self._lines[key]
        if self._lines and now - self._shown >= NOTEBOOK_SECONDS:
            self._shown = now
            self._show("\n".join(text for *_, text in self._lines.values()))

    def _show(self, text: str) -> None:
        from IPython.display import display

        shown = {"text/plain": text}
        if self._output is None:
            self._output = display(shown, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._output.update(shown, raw=True)


class ProgressView:
    """A listener for ``progress=``; a context manager, because bars must be taken down again."""

    def __init__(self, stream: TextIO | None = None, *, bars: bool | None = None) -> None:
        self._stream = stream or sys.stderr
        self._bars = self._stream.isatty() if bars is None else bars
        self._started: dict[tuple[str, str], tuple[float, int]] = {}
        self._printed: dict[tuple[str, str], float] = {}
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._live: RichProgress | None = None

    def __enter__(self) -> ProgressView:
        if self._bars:
            self._live = _live_bars(self._stream)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __call__(self, event: Progress) -> None:
        key = (event.stage, event.model)
        now = time.monotonic()
        if key not in self._started or event.done < self._started[key][1]:
            self._started[key] = (now, event.done)
            self._printed.pop(key, None)
        since, first = self._started[key]
        if self._live is not None:
            self._draw(key, event)
        elif self._due(key, event, now):
            self._printed[key] = now
            self._stream.write(line(event, now - since, first) + "\n")
            self._stream.flush()
        if event.done >= event.total:
            self._started.pop(key)

    def _due(self, key: tuple[str, str], event: Progress, now: float) -> bool:
        if event.done >= event.total:
            return True
        last = self._printed.setdefault(key, self._started[key][0])
        return now - last >= EVERY_SECONDS

    def _draw(self, key: tuple[str, str], event: Progress) -> None:
        assert self._live is not None
        label = f"{event.stage} {event.model}".strip()
        if key not in self._tasks:
            self._tasks[key] = self._live.add_task(label, total=event.total, unit=event.unit, note=event.note)
        self._live.update(
            self._tasks[key],
            completed=event.done,
            total=event.total,
            unit=event.unit,
            note=event.note,
            description=label,
        )
        if event.done >= event.total:  # a finished bar becomes a line above the others
            task = self._live.tasks[self._live.task_ids.index(self._tasks[key])]
            self._live.console.print(line(event, task.elapsed or 0.0, 0), highlight=False, markup=False, style="dim")
            self._live.remove_task(self._tasks.pop(key))


def line(event: Progress, seconds: float, first: int = 0) -> str:
    """One event as text; ``seconds`` since the event that had ``first`` done."""
    parts = [" ".join(part for part in (event.stage, event.model) if part)]
    if event.total:
        parts.append(f"{event.done}/{event.total} {event.unit}")
    rate = (event.done - first) / seconds if seconds > 0 else 0.0
    if rate > 0:
        parts.append(f"{rate:.3g} {event.unit}/s")
        if event.done < event.total:
            parts.append(f"{format_duration((event.total - event.done) / rate)} left")
        else:
            parts.append(f"took {format_duration(seconds)}")
    if event.note:
        parts.append(event.note)
    return ", ".join(parts)


def under_way(names: Sequence[str], shown: int = 3) -> str:
    """A note of what workers have in hand.

    >>> under_way([]), under_way(["a", "b"]), under_way(["a", "b", "c", "d"])
    ('', '2 under way: a, b', '4 under way: a, b, c, …')
    """
    if not names:
        return ""
    return f"{len(names)} under way: {', '.join(names[:shown])}{', …' if len(names) > shown else ''}"


def _live_bars(stream: TextIO) -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Live
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            unit = task.fields.get("unit", "")
            return Text("" if not task.speed else f"{task.speed:.3g} {unit}/s", style="dim")

    class Label(ProgressColumn):
        def render(self, task: Task) -> Text:  # Text, not markup: model names may hold brackets
            return Text(task.description)

    return Live(
        Label(),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
        console=Console(file=stream),
        transient=True,
    )
