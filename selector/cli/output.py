"""Results on stdout, messages on stderr."""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import typer

from selector.cli.guard import FAILED, SOME_FAILED
from selector.core.units import printable

if TYPE_CHECKING:
    from selector.report.ranking import Ranking


@contextlib.contextmanager
def stdout_kept() -> Iterator[None]:
    """What networks, plugins and libraries print meanwhile goes to stderr: stdout is the result of the command."""
    try:
        real = sys.stdout.fileno() == 1
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):  # closed, or no file
        real = False
    with contextlib.redirect_stdout(sys.stderr):
        if not real:
            yield
            return
        kept = os.dup(1)
        try:
            os.dup2(2, 1)  # C++ libraries print past Python
            yield
        finally:
            with contextlib.suppress(OSError, AttributeError):
                ctypes.CDLL(None).fflush(None)  # what they have not written yet
            os.dup2(kept, 1)
            os.close(kept)


def _terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()  # None where the caller closed it


def document(data: object) -> None:
    """The one JSON document of ``--json``."""
    typer.echo(printable(json.dumps(data, indent=1, ensure_ascii=False, default=str), as_json=True))


def say(message: str, *, err: bool = True) -> None:
    """A line for the person, on stderr; of the result, on stdout."""
    typer.echo(printable(message), err=err)


def console_width() -> int:
    """Characters a line: the terminal's, or plenty when the output goes into a file."""
    return shutil.get_terminal_size((160, 40)).columns


def print_ranking(ranking: Ranking, limit: int | None = 40) -> None:
    """The table on stdout, in color on a terminal."""
    from rich.console import Console

    from selector.report.table import render_text, renderable

    if _terminal():
        console = Console(highlight=False)
        console.print(renderable(ranking, width=console.width, limit=limit))
    else:
        typer.echo(render_text(ranking, width=console_width(), limit=limit))


def print_rows(headers: Sequence[str], rows: Sequence[Sequence[object]], numeric: Sequence[int] = ()) -> None:
    """A plain table on stdout; ``numeric`` columns are aligned to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, header in enumerate(headers):
        table.add_column(header, justify="right" if index in numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("–" if value is None else printable(str(value))) for value in row))
    if _terminal():
        Console(highlight=False).print(table)
        return
    out = io.StringIO()
    Console(file=out, width=console_width(), color_system=None, highlight=False).print(table)
    typer.echo("\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip("\n"))


def exit_code(ranking: Ranking) -> int:
    """0, or 3 when some models failed, or 1 when none was ranked (all failed or exceed the limits) or a confirmation
    measured none."""
    if ranking.confirmation and not any(model.best_measurement() for model in ranking):
        return FAILED
    if all(model.status in ("failed", "excluded") for model in ranking):
        return FAILED
    return SOME_FAILED if ranking.failures else 0
