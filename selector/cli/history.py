"""``selector history``: what was measured before on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selector.cli import options as o
from selector.cli.guard import guarded
from selector.cli.output import document, print_rows, say

app = typer.Typer(help="Measured results of earlier runs: what the prior of a scan rests on.", no_args_is_help=True)

_File = Annotated[
    Path | None, typer.Option("--file", help="The history; SELECTOR_HISTORY or the user's own when not given.")
]
_Target = Annotated[str, typer.Option("--target", help="Only of this target: its fingerprint or its first characters.")]
_Model = Annotated[str, typer.Option("--model", help="Only of this model.")]
_Run = Annotated[str, typer.Option("--run", help="Only of this run.")]


@app.command("list")
@guarded
def list_results(
    target: _Target = "",
    model: _Model = "",
    run: _Run = "",
    file: _File = None,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """List the results, the oldest first. Predicted rows are kept for comparison and never enter a prior."""
    from dataclasses import asdict

    from selector.ranking.history import History

    history = History(file)
    found = [r for r in history.results(model=model, run=run) if r.target.startswith(target)]
    if json:
        document([asdict(result) for result in found])
        return
    if not found:
        say(f"no results in {history.path}; a confirmed run adds them.")
        return
    rows = [
        (
            r.when[:10],
            r.target_name or "–",
            r.target[:8],
            r.model,
            r.strategy or "–",
            r.metric,
            f"{r.value:.4f}",
            r.kind,
            r.run,
        )
        for r in found
    ]
    headers = ["when", "target", "", "model", "strategy", "metric", "value", "kind", "run"]
    print_rows(headers, rows, numeric=(6,))


@app.command("export")
@guarded
def export(
    to: Annotated[Path, typer.Argument(help="JSON lines to write.", metavar="FILE")],
    file: _File = None,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Write all results into a file, for another machine or a colleague."""
    from selector.ranking.history import History

    _tell(History(file).export(to), "exported", to, as_json=json)


@app.command("import")
@guarded
def import_(
    source: Annotated[Path, typer.Argument(help="A file that 'selector history export' wrote.", metavar="FILE")],
    file: _File = None,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Add the results of a file; known ones are replaced, not doubled."""
    from selector.ranking.history import History

    _tell(History(file).import_(source), "added", source, as_json=json)


@app.command("forget")
@guarded
def forget(
    shown: Annotated[
        str, typer.Argument(help="A run or a target, as 'selector history list' shows it.", metavar="[ID]")
    ] = "",
    target: Annotated[
        str, typer.Option("--target", help="Results of this target: its fingerprint or its first characters.")
    ] = "",
    model: _Model = "",
    run: _Run = "",
    everything: Annotated[bool, typer.Option("--all", help="All results.")] = False,
    file: _File = None,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Delete the results that match all that is named."""
    from selector.ranking.history import History

    history = History(file)
    named = {"target": target, "model": model, "run": run}
    if shown:
        named |= {history.column_of(shown): shown}
    _tell(history.forget(**named, everything=everything), "forgot", history.path, as_json=json)


def _tell(count: int, verb: str, file: Path, *, as_json: bool) -> None:
    if as_json:
        document({"file": str(file), "results": count})
    else:
        say(f"{verb} {count} results ({file})")
