"""The ranking as a table: text for a terminal, HTML for a notebook."""

from __future__ import annotations

import io
import shutil
from html import escape
from typing import TYPE_CHECKING

from selector.core.units import printable
from selector.report.view import MARKS, Column, TableView, groups, legend, table_view
from selector.results import StoredRanking

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_COLORS = {"model": "bold", "measured": "green", "predicted": "cyan", "facts": "dim"}


def render_text(ranking: StoredRanking, *, width: int | None = None, limit: int | None = None) -> str:
    """The table as plain text, without color codes.

    Args:
        ranking: what to show.
        width: characters a line; by default those of the terminal, or 160 without one. Columns
            that do not fit are left out, facts first, and named below the table.
        limit: at most so many models; the failed ones are named below anyway.
    """
    from rich.console import Console

    out = io.StringIO()
    width = width or shutil.get_terminal_size((160, 40)).columns
    console = Console(file=out, width=width, color_system=None, force_terminal=False, highlight=False, emoji=False)
    console.print(renderable(ranking, width=width, limit=limit))
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip("\n").splitlines())


def renderable(ranking: StoredRanking, *, width: int, limit: int | None = None) -> RenderableType:
    """The same as an object that rich draws, with colors where the console has them."""
    from rich.console import Group
    from rich.text import Text

    view = table_view(ranking)
    columns, dropped = _fit(view, width)
    notes = _of_what_is_shown(view, {column.key for column in columns})
    if dropped:
        notes.insert(0, f"Hidden columns: {', '.join(column.title for column in dropped)}.")
    if limit is not None and len(view.rows) > limit:
        notes.insert(0, f"… and {len(view.rows) - limit} more; the report and run.json hold all of them.")
    if told := legend(columns):
        notes.insert(0, told)
    return Group(_table(view, columns, limit), *(Text(printable(note)) for note in notes))


def render_html(ranking: StoredRanking) -> str:
    """The table as an HTML fragment; every value is escaped."""
    view = table_view(ranking)
    head = "".join(
        f'<th colspan="{span}" scope="colgroup" style="text-align:center">{heading}</th>'
        for heading, span in groups(view)
    )
    titles = "".join(
        f'<th scope="col" title="{escape(column.help)}" style="text-align:{_align(column)}">{escape(column.title)}</th>'
        for column in view.columns
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td title="{escape(cell.title)}" style="text-align:{_align(column)}">{escape(cell.text)}</td>'
            for column, cell in zip(view.columns, row.cells, strict=True)
        )
        + "</tr>"
        for row in view.rows
    )
    notes = "".join(f"<p>{escape(note)}</p>" for note in (legend(view.columns), *view.notes) if note)
    return (
        f'<table class="selector-ranking"><caption>{escape(view.title)}</caption>'
        f"<thead><tr>{head}</tr><tr>{titles}</tr></thead><tbody>{body}</tbody></table>{notes}"
    )


def _align(column: Column) -> str:
    return "right" if column.numeric else "left"


def _fit(view: TableView, width: int) -> tuple[list[Column], list[Column]]:
    """Columns that fit, and those left out: the highest ``drop`` goes first."""
    needed = {
        column.key: max(
            [*map(len, _two_lines(column.title).split("\n")), *(len(row.cells[i].text) for row in view.rows)]
        )
        + 3
        for i, column in enumerate(view.columns)
    }
    shown, dropped = list(view.columns), []
    while sum(needed[column.key] for column in shown) > width and any(column.drop for column in shown):
        # of several with the same order the rightmost goes: the first proxies are the likeliest to be known
        worst = max(enumerate(shown), key=lambda pair: (pair[1].drop, pair[0]))[1]
        shown.remove(worst)
        dropped.append(worst)
    return shown, dropped


def _two_lines(title: str) -> str:
    """A heading broken before its parenthesis, else where its longer half is shortest.

    >>> _two_lines("linear probe (val)").split("\\n"), _two_lines("knn")
    (['linear probe', '(val)'], 'knn')
    """
    if " (" in title:
        return title.replace(" (", "\n(", 1)
    words = title.split(" ")
    broken = ["\n".join((" ".join(words[:i]), " ".join(words[i:]))) for i in range(1, len(words))]
    return min([title, *broken], key=lambda text: max(map(len, text.split("\n"))))


def _of_what_is_shown(view: TableView, keys: set[str]) -> list[str]:
    """The notes without those that explain a mark of columns that were left out."""
    texts = "".join(
        cell.text
        for row in view.rows
        for column, cell in zip(view.columns, row.cells, strict=True)
        if column.key in keys
    )
    return [note for note in view.notes if note[0] not in MARKS or note[0] in texts]


def _table(view: TableView, columns: list[Column], limit: int | None) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(printable(view.title)), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1)
    )
    for column in columns:
        stays = column.key in ("rank", "model") or column.numeric
        table.add_column(
            Text(_two_lines(printable(column.title))),
            justify="right" if column.numeric else "left",
            style=_COLORS[column.group],
            no_wrap=stays and column.key != "model",
            overflow="fold",
        )
    positions = [view.columns.index(column) for column in columns]
    for row in view.rows[:limit]:
        # Text, not str: a model name with brackets is not markup
        table.add_row(*(Text(printable(row.cells[i].text)) for i in positions))
    return table
