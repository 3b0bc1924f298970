"""The command ``selector``: options, output and exit codes; no logic.

Nothing here imports torch, pandas, numpy or pydantic before a command runs: ``selector --help`` is
an answer, not a wait.
"""

from __future__ import annotations

from selector.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line and end the process with its exit code."""
    app(prog_name="selector")
