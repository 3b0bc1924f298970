"""Progress: bars on a terminal or in a notebook, a line now and then elsewhere, all with rate and time left."""

from __future__ import annotations

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


@contextmanager
def listening(progress: ProgressCallback | bool | None) -> Iterator[ProgressCallback]:
    """The listener of a call.

    Args:
        progress: a listener; True for bars, False for silence; None for bars in a notebook and silence elsewhere.
    """
    if callable(progress):
        yield progress
    elif progress is False or (progress is None and not in_notebook()):
        yield lambda _event: None
    elif in_notebook():
        with NotebookBars() as bars:
            yield bars
    else:
        with ProgressView() as view:
            yield view


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this; imports nothing."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return type(shell).__name__ == "ZMQInteractiveShell"


class NotebookBars:
    """A bar a stage that is under way, as a widget where ipywidgets are there and as text where not."""

    def __init__(self) -> None:
        self._bars: dict[tuple[str, str], Any] = {}

    def __enter__(self) -> NotebookBars:
        return self

    def __exit__(self, *_: object) -> None:
        for bar in self._bars.values():
            bar.close()
        self._bars.clear()

    def __call__(self, event: Progress) -> None:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # without ipywidgets it says so and draws text
            from tqdm.auto import tqdm
        key = (event.stage, event.model)
        if event.total and key not in self._bars:
            label = f"{event.stage} {event.model}".strip()
            self._bars[key] = tqdm(
                total=event.total, desc=label, unit=f" {event.unit}", leave=False, initial=event.done
            )
        if (bar := self._bars.get(key)) is None:
            return
        bar.total = event.total
        bar.set_postfix_str(event.note, refresh=False)
        bar.update(event.done - bar.n)
        if event.done >= event.total:
            self._bars.pop(key).close()


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
