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
    run: Annotated[Path, typer.Argument(help="Folder of a run of a target without labels.", metavar="RUN")],
    count: Annotated[int, typer.Option(min=1, help="How many items to ask for.")] = 25,
    answers: Annotated[
        Path | None, typer.Option(help="The table with labels filled in: they decide, and more items are asked for.")
    ] = None,
    trust_zoo: Annotated[bool, typer.Option("--trust-zoo", help="Let 'python:' entries of the zoo run code.")] = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Ask for the labels that would best tell the adapted models apart, and choose again with those that are known."""
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
            f"{first[0]} {first[1]} was handed over without labels and stands first until another is the best with a "
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
