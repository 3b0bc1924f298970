"""``selector report``, ``predict`` and ``export``: what is done with a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selector.cli import options as o
from selector.cli.guard import guarded
from selector.cli.output import document, print_rows, say
from selector.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

_RunFolder = Annotated[Path, typer.Argument(help="Folder of a run, as 'selector scan' named it.")]


@guarded
def report(
    run: _RunFolder,
    open_it: Annotated[bool, typer.Option("--open", help="Open the report in the browser.")] = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Write the run's HTML report again and say where it lies."""
    from selector.report.html import write_report
    from selector.results import load_ranking

    path = write_report(load_ranking(run))
    if json:
        document({"report": str(path)})
    else:
        typer.echo(str(path))
    if open_it:
        typer.launch(path.resolve().as_uri())


@guarded
def predict(
    run: _RunFolder,
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes an image.")] = 3,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Use a run's best model on images."""
    from selector.deploy import load_model

    predictions: Sequence[object] = load_model(best_folder(run)).predict(images, top=top)
    raise NotImplementedError(predictions)


def best_folder(run: Path) -> Path:
    """The saved model of a run (or the folder of a saved model itself).

    Raises:
        ConfigError: the run has none, because nothing was confirmed.
    """
    if (run / "config.json").is_file():
        return run
    if (run / "best").is_dir():
        return run / "best"
    raise ConfigError(
        f"{run} has no trained model (no folder 'best'); 'selector confirm {run}' fine-tunes the leading models and saves one."
    )


@guarded
def export(
    run: _RunFolder,
    onnx: Annotated[Path | None, typer.Option("--onnx", help="Write an ONNX file here.")] = None,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Export a run's best model for use without this package."""
    say("")
    raise NotImplementedError(print_rows)
