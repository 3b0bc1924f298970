"""``selector report``, ``compare``, ``predict``, ``export`` and ``push``: what is done with a finished run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selector.cli import options as o
from selector.cli.guard import FAILED, SOME_FAILED, guarded
from selector.cli.output import document, print_rows, say, stdout_kept
from selector.core.errors import ConfigError, SelectorError, first_line
from selector.core.units import printable

if TYPE_CHECKING:
    from selector.core.prediction import Predictions
    from selector.deploy import SavedModel

_WRITERS: dict[str, Callable[[Predictions], str]] = {
    ".csv": lambda found: found.to_csv(),
    ".jsonl": lambda found: "".join(dumps(row, ensure_ascii=False) + "\n" for row in found.to_dicts()),
    ".json": lambda found: dumps(found.to_dicts(), ensure_ascii=False, indent=1) + "\n",
}

_RunFolder = Annotated[Path, typer.Argument(help="Run folder, as printed by 'selector scan'.", metavar="RUN")]
_SavedModel = Annotated[
    str,
    typer.Argument(help="Run folder, as printed by 'selector scan', or a pushed model: hf:org/name.", metavar="RUN"),
]
_TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code", help="Permission for a model to run the Python code that its config.json names (default: no)."
    ),
]


@guarded
def report(
    run: _RunFolder,
    open_it: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Write the HTML report of a run again and print its path."""
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
    html: Annotated[Path | None, typer.Option("--html", help="HTML file for the comparison.")] = None,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Compare two runs: models that changed rank, and settings that differ."""
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
        say(line, err=False)
    print_rows(comparing.HEADERS, comparing.table(found), numeric=range(1, len(comparing.HEADERS)))
    for what, differences in (("setting", found.settings), ("version", found.versions)):
        if differences:
            print_rows([what, "first", "second"], differences)


@guarded
def predict(
    run: _SavedModel,
    images: Annotated[
        list[str],
        typer.Argument(
            help="Images: files, folders or globs. Texts: the text itself, .txt files with one text per line, .jsonl files, or "
            "tables (.csv, .tsv, .parquet). Tagged words: .jsonl files with one list of words per line. '-' reads stdin.",
            metavar="ITEMS…",
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="Number of classes to show per item.")] = 3,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Number of items per batch.")] = 32,
    text_column: Annotated[
        list[str] | None, typer.Option("--text-column", help="Table column of texts; give it twice for text pairs.")
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Predictions as CSV on stdout.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="File (.csv, .jsonl, .json) or folder for the predictions; masks and boxes go to a folder (default: "
            "predictions).",
        ),
    ] = None,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write a copy of each image with its mask or boxes drawn on it.")
    ] = False,
    min_score: Annotated[
        float | None,
        typer.Option(
            "--min-score", help="Lowest score of the boxes that are kept (default: chosen on validation items)."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Device: cpu (default), cuda, cuda:1 or mps.")] = "cpu",
    trust_code: _TrustCode = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> int:
    """Predict with the best model of a run."""
    from selector.deploy import load_model

    file = out if out is not None and out.suffix and not out.is_dir() else None
    if file is not None and file.suffix.lower() not in _WRITERS:
        raise ConfigError(f"--out {out}: expected a folder, or a file that ends with {', '.join(_WRITERS)}.")
    if file is not None and not file.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {file.parent}; create it first.")
    given = [sys.stdin if item == "-" else item for item in images]
    with stdout_kept():
        found = load_model(run, trust=trust_code).predict(
            given, top=top, batch_size=batch_size, device=device, text_column=text_column, min_score=min_score
        )
        if found.writes_files or overlay:
            folder = out if out is not None and file is None else Path("predictions")
            found = found.write(folder, overlay=overlay)
        elif out is not None and file is None:
            out.mkdir(parents=True, exist_ok=True)
            file = out / "predictions.csv"
    if file is not None:
        from selector.core.atomic import write_atomic

        write_atomic(file, _WRITERS[file.suffix.lower()](found).encode())
        say(f"{len(found)} predictions: {file}")
    if json:
        document(found.to_dicts())
    elif file is not None:
        pass  # they are in the file
    elif csv:
        typer.echo(printable(found.to_csv()) if sys.stdout.isatty() else found.to_csv(), nl=False)
    else:
        print_rows(*found.table(top))
    for row in found.errors:
        say(f"{row.item}: {row.error}")
    return FAILED if len(found.errors) == len(found) else SOME_FAILED if found.errors else 0


def _measured(run: Path, saved: SavedModel, path: Path) -> dict[str, float]:
    """What the ONNX file scores on a few validation items; nothing where the run's data are gone."""
    from selector.data import load_origin
    from selector.deploy.export import measure_onnx
    from selector.results import RUN_FILE, load_ranking

    try:
        ranking = load_ranking(run if (run / RUN_FILE).is_file() else run.parent)
        return measure_onnx(saved, path, load_origin(ranking.target.get("origin")))
    except SelectorError as error:
        say(f"not measured on validation items: {first_line(error)}")
        return {}


@guarded
def export(
    run: _SavedModel,
    onnx: Annotated[Path, typer.Option("--onnx", help="ONNX file to write.")],
    trust_code: _TrustCode = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Export the best model of a run for use without selector."""
    from selector.deploy import export_onnx, load_model
    from selector.deploy.export import files_beside

    with stdout_kept():
        saved = load_model(run, trust=trust_code)
        path = export_onnx(saved, onnx)
        measured = {} if run.startswith("hf:") else _measured(Path(run), saved, path)
    beside = files_beside(saved, path)
    if json:
        document({"onnx": str(path), "beside": [str(file) for file in beside], "measured": measured})
        return
    typer.echo(str(path))
    if measured:
        say(
            f"{measured['items']:.0f} validation items: {measured['onnx']:.4f} by the file, {measured['predict']:.4f} by "
            "predict; the model card says why they differ, where they do"
        )
    for file in beside:
        say(f"written beside it: {file}")


@guarded
def push(
    run: _RunFolder,
    repo: Annotated[str, typer.Argument(help="Repository on the Hugging Face hub: org/name.", metavar="REPO")],
    private: Annotated[bool, typer.Option("--private", help="A new repository is private (default: public).")] = False,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch to push to (default: main).")] = None,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Upload the best model of a run, with its model card, to the Hugging Face hub."""
    from selector.deploy import load_model

    with stdout_kept():
        address = load_model(run).push(repo, private=private, revision=revision)
    if json:
        document({"commit": address, "load": f"hf:{repo}"})
        return
    typer.echo(address)
    say(f"load it anywhere with: selector.load_model('hf:{repo}')")
