"""``selector report``, ``compare``, ``predict`` and ``export``: what is done with a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selector.cli import options as o
from selector.cli.guard import FAILED, SOME_FAILED, guarded
from selector.cli.output import document, print_rows, say, stdout_kept

_RunFolder = Annotated[Path, typer.Argument(help="Folder of a run, as 'selector scan' named it.", metavar="RUN")]
_TrustCode = Annotated[
    bool, typer.Option("--trust-code", help="Let a model run the python code that its config.json names.")
]


@guarded
def report(
    run: _RunFolder,
    open_it: Annotated[bool, typer.Option("--open", help="Open the report in the browser.")] = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Write the run's HTML report again and say where it lies."""
    from selector.report.html import write_report
    from selector.report.ranking import load_ranking

    path = write_report(load_ranking(run))
    if json:
        document({"report": str(path)})
    else:
        typer.echo(str(path))
    if open_it:
        typer.launch(path.resolve().as_uri())


@guarded
def compare(
    first: _RunFolder,
    second: _RunFolder,
    html: Annotated[Path | None, typer.Option("--html", help="Also write the comparison as an HTML file.")] = None,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Say which models moved from one run to another, and which settings differ."""
    from selector.report import compare as comparing
    from selector.report.ranking import load_ranking

    found = comparing.compare(load_ranking(first), load_ranking(second))
    if html is not None:
        from selector.report.html import write_comparison

        say(f"comparison: {write_comparison(found, html)}")
    if json:
        document(found.to_dict())
        return
    for line in found.summary():
        typer.echo(line)
    print_rows(comparing.HEADERS, comparing.table(found), numeric=range(1, len(comparing.HEADERS)))
    for what, differences in (("setting", found.settings), ("version", found.versions)):
        if differences:
            print_rows([what, "first", "second"], differences)


@guarded
def predict(
    run: _RunFolder,
    images: Annotated[
        list[str],
        typer.Argument(
            help="Image files, folders or globs; for a text model texts, .txt files with a text a line, or .jsonl files "
            "with a text or a pair a line; for a tagging model .jsonl files with a list of words a line.",
            metavar="ITEMS…",
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="How many classes an image.")] = 3,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images at a time.")] = 32,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    to: Annotated[
        Path | None,
        typer.Option("--to", help="Folder for the masks of a segmentation model; 'predictions' when not given."),
    ] = None,
    overlay: Annotated[bool, typer.Option("--overlay", help="Also write each picture under its mask.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    trust_code: _TrustCode = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> int:
    """Use a run's best model on images or texts."""
    from selector.deploy import load_model

    with stdout_kept():
        found = load_model(run, trust=trust_code).predict(images, top=top, batch_size=batch_size, device=device)
        if found.writes_files or to is not None or overlay:
            found = found.write(to or Path("predictions"), overlay=overlay)
    if json:
        document(found.to_dicts())
    elif csv:
        typer.echo(found.to_csv(), nl=False)
    else:
        print_rows(*found.table(top))
    for row in found.errors:
        say(f"{row.item}: {row.error}")
    return FAILED if len(found.errors) == len(found) else SOME_FAILED if found.errors else 0


@guarded
def export(
    run: _RunFolder,
    onnx: Annotated[Path, typer.Option("--onnx", help="The ONNX file to write.")],
    trust_code: _TrustCode = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Export a run's best model for use without this package."""
    from selector.deploy import export_onnx

    with stdout_kept():
        path = export_onnx(run, onnx, trust=trust_code)
    if json:
        document({"onnx": str(path)})
    else:
        typer.echo(str(path))
