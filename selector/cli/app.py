"""The commands by name."""

from __future__ import annotations

from typing import Annotated

import typer

from selector.cli import demo, doctor, history, models, results, runs, store
from selector.cli.options import LazyGroup
from selector.core.site import SITE

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
app.command("proxies")(models.proxies)
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)
app.add_typer(models.app, name="zoo")
app.add_typer(store.app, name="store")
app.add_typer(history.app, name="history")
