"""The command ``selector``: options, output and exit codes; no logic.

Nothing here imports torch, pandas, numpy or pydantic before a command runs: ``selector --help`` is
an answer, not a wait.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from selector.cli import demo, doctor, history, models, results, runs, store
from selector.cli.options import LazyGroup
from selector.core.version import SITE

app = typer.Typer(
    help="Which pretrained model should I start from, and how should I transfer it?",
    epilog=f"Manual: {SITE}\n\nExit codes: 0 success, 1 failure, 2 usage or configuration error, 3 finished with failed models, 130 "
    "interrupted.",
    no_args_is_help=True,
    cls=LazyGroup,
    pretty_exceptions_enable=False,  # errors are printed by guard.py; a traceback comes with --debug
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from selector.core.version import __version__

        typer.echo(f"selector {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


app.command("scan", epilog=runs.SCAN_EXAMPLES)(runs.scan)
app.command("confirm", epilog=runs.CONFIRM_EXAMPLES)(runs.confirm)
app.command("label")(runs.label)
app.command("report")(results.report)
app.command("compare")(results.compare)
app.command("predict")(results.predict)
app.command("export")(results.export)
app.command("push")(results.push)
app.command("proxies")(models.proxies)
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)
app.add_typer(models.app, name="zoo")
app.add_typer(store.app, name="store")
app.add_typer(history.app, name="history")


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
