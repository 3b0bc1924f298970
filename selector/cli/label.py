"""``selector label``: few labels of a target that has none, where they tell the leading models apart."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selector.cli import options as o
from selector.cli.guard import guarded
from selector.cli.output import document, print_rows, say, stdout_kept
from selector.core.progress import ProgressView


@guarded
def label(
    run: Annotated[Path, typer.Argument(help="Run folder of a target without labels.", metavar="RUN")],
    count: Annotated[int, typer.Option(min=1, help="Number of items to label (default: 25).")] = 25,
    answers: Annotated[
        Path | None,
        typer.Option(help="Table with labels filled in: they are used for the choice, and more items are selected."),
    ] = None,
    trust_zoo: Annotated[
        bool, typer.Option("--trust-zoo", help="Permission for 'python:' zoo entries to run their code (default: no).")
    ] = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Ask for the labels that best tell the adapted models apart, and choose again with the known ones."""
    from selector import api
    from selector.report.html import REPORT_FILE
    from selector.report.ranking import load_ranking
    from selector.results import BEST
    from selector.tuning.labeling import LEFT_FROM

    with ProgressView() as progress, stdout_kept():
        asked = api.label(run, count=count, answers=answers, trust_zoo=trust_zoo, progress=progress)
    if json:
        document(
            {"table": str(asked.table), "page": str(asked.page), "items": list(asked.items), "standing": asked.standing}
        )
        return
    rows = [(model, strategy, f"{accuracy:.3f}", f"{p:.2f}") for model, strategy, accuracy, p in asked.standing[:10]]
    print_rows(["model", "strategy", "expected accuracy", "P(best)"], rows, numeric=(2, 3))
    first = asked.standing[0]
    if any(row[2] > first[2] for row in asked.standing):
        say(
            f"{first[0]} {first[1]} was selected without labels and stays first until another model is the best with a "
            f"probability of {LEFT_FROM:g}."
        )
    if answers is not None:
        ranking = load_ranking(run)
        for note in ranking.confirmation["adaptation"]["notes"]:
            say(note)
        say(f"report: {run / REPORT_FILE}")
        say(f"model:  {run / BEST}")
    say(f"label:  {asked.table}, or on the page {asked.page}")
    say(f"then:   selector label {run} --answers {asked.table}")
