"""``selector proxies``: the scores, and what one of them means."""

from __future__ import annotations

from typing import Annotated

import typer

from selector.cli import options as o
from selector.cli.guard import guarded


@guarded
def proxies(
    name: Annotated[str | None, typer.Argument(help="Explain this one.")] = None,
    plugin: o.Plugin = None,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """List the proxies, or explain one: what it measures, its range, cost and source."""
    o.load_plugins(plugin)
    raise NotImplementedError
