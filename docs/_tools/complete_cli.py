"""The commands with all their options, as ``sphinxcontrib.typer`` needs them: selector makes a command's options on use."""

from __future__ import annotations

from typing import Any

import click
import typer

from selector.cli import app

group: Any = typer.main.get_command(app)


def _resolved(parent: Any, path: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in parent.list_commands(click.Context(parent)):
        _, command, _ = parent.resolve_command(click.Context(parent, info_name="selector"), [name])
        if hasattr(command, "list_commands"):
            found |= _resolved(command, (*path, name))
        else:
            found[" ".join((*path, name))] = command
    return found


commands: dict[str, Any] = _resolved(group, ())
"""By their words: ``scan``, ``zoo list``, …"""

globals().update({name.replace(" ", "_").replace("-", "_"): command for name, command in commands.items()})
