"""The command ``selector``: options, output and exit codes; no logic.

Nothing here imports torch, pandas, numpy or pydantic before a command runs: ``selector --help`` is
an answer, not a wait.
"""

from __future__ import annotations

import os
from pathlib import Path

from selector.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line and end the process with its exit code."""
    _wait_asleep()
    app(prog_name="selector")


def _wait_asleep(load: Path = Path("/proc/loadavg")) -> None:
    """Let OpenMP's threads sleep while they wait for each other, where other programs run on this machine's cores.

    By default they spin, and what waits for a thread that has no core spins away the time of the one it waits for: five
    times as long for an EfficientNet-Lite0 on two cores at a load of 7. Read by OpenMP when it is loaded, so before torch
    is; what the environment says already is left.
    """
    try:
        running = int(load.read_text(encoding="ascii").split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        return
    if running > 1:  # one is this process
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        os.environ.setdefault("KMP_BLOCKTIME", "0")
