"""``selector scan``, ``selector confirm`` and ``selector label``: the commands that make a run or continue it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selector.cli import options as o
from selector.cli.guard import FAILED, SOME_FAILED, guarded
from selector.cli.output import document, exit_code, print_ranking, print_rows, say, stdout_kept
from selector.core.progress import ProgressView
from selector.core.version import SITE

if TYPE_CHECKING:
    from selector.report.overview import Rankings
    from selector.report.ranking import Ranking
    from selector.scan import Plan

MODELS_SHOWN = 20
"""Rows of the overview's table of models on the terminal; the page and --json hold all."""


SCAN_EXAMPLES = f"""Examples:

  selector scan photos/ --models '*lite*' --budget 10m --out runs/photos

  selector scan reviews.csv --text-column review --label-column stars --no-confirm

All options: selector scan --help-all. Manual: {SITE}"""

CONFIRM_EXAMPLES = f"""Examples:

  selector confirm runs/photos --top-k 3 --budget 20m

  selector confirm runs/photos --strategies frozen,full,lora --metric macro_f1

All options: selector confirm --help-all. Manual: {SITE}"""


@o.with_fields("ScanConfig")
@guarded
def scan(
    target: Annotated[
        list[str],
        typer.Argument(
            help="Dataset to rank for: folder with one folder per class, images with masks or boxes (COCO, VOC, YOLO), table of "
            "images or texts (CSV, TSV, JSONL, parquet), CoNLL file, or NPZ file of features. It needs no labels with "
            "--source-domain. Several datasets, or @FILE with one path per line, share one scan.",
            metavar="TARGET...",
        ),
    ],
    plugin: o.Plugin = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Models, disk space and time that the scan would take; nothing is run.")
    ] = False,
    json: o.Json = False,
    debug: o.Debug = False,
    **options: Any,
) -> int:
    """Rank the models of a zoo for a dataset, fine-tune the best few and save the best.

    The history of earlier results is read, and new results are added (--no-history: neither).
    """
    o.go_offline(options["offline"])
    o.load_plugins(plugin)
    from selector import scan as scanning
    from selector.config import ScanConfig

    options["out"] = options["out"] or True  # the library saves only when asked
    config = ScanConfig.of(**options)
    targets: object = target[0] if len(target) == 1 else target
    if dry_run:
        with stdout_kept():
            planned = scanning.plan(targets, config)
        _show_plans(planned, as_json=json)
        return 0
    with ProgressView() as progress, stdout_kept():
        found = scanning.rank(targets, config.model_copy(update={"progress": progress}))
    from selector.report.overview import Rankings

    code = _finish_several(found, as_json=json) if isinstance(found, Rankings) else _finish(found, as_json=json)
    if code or not config.confirm:
        return code
    rankings = found.rankings if isinstance(found, Rankings) else [found]
    left_out = [c.text for ranking in rankings for c in ranking.caveats if c.code == "task-not-trainable"]
    for text in left_out:
        say(f"not confirmed: {text}")
    return SOME_FAILED if left_out else 0


@o.with_fields("ConfirmConfig")
@guarded
def confirm(
    run: Annotated[Path, typer.Argument(help="Run folder, as printed by 'selector scan'.", metavar="RUN")],
    plugin: o.Plugin = None,
    json: o.Json = False,
    debug: o.Debug = False,
    **options: Any,
) -> int:
    """Fine-tune the leading models of a run and re-order its table by the measured values."""
    o.go_offline(options["offline"])
    o.load_plugins(plugin)
    from selector import scan as scanning
    from selector.config import ConfirmConfig

    config = ConfirmConfig.of(**options)
    with ProgressView() as progress, stdout_kept():
        ranking = scanning.confirm(run, config.model_copy(update={"progress": progress}))
    return _finish(ranking, as_json=json)


def _finish(ranking: Ranking, *, as_json: bool) -> int:
    """Print the result and where things lie."""
    if as_json:
        document(ranking.to_dict())
    else:
        print_ranking(ranking)
        if ranking.confirmation:
            _tell_what_to_do(ranking)
    if ranking.path is not None:
        from selector.report.html import write_report

        say(f"report: {write_report(ranking)}")
        from selector.results import best_folder

        if (best := best_folder(ranking)) is not None:
            from selector.report.advice import predict_command

            say(f"model:  {best} ({predict_command(ranking, ranking.best)})")
    if (code := exit_code(ranking)) == FAILED:
        from selector.scan.confirmation import UNTRAINED

        untrained = next((text for text in ranking.warnings if text.startswith(UNTRAINED)), None)
        say(
            f"error: {untrained}"
            if untrained
            else "error: no model was ranked; the table says why each one failed or which limit it exceeds."
        )
    return code


def _finish_several(rankings: Rankings, *, as_json: bool) -> int:
    """Print the overview and where it lies; 1 when no target was ranked, 3 when some target or model failed."""
    from selector.report.overview import OVERVIEW_FILE, model_table, summary, target_table

    found = rankings.overview()
    if as_json:
        document(rankings.to_dict())
    else:
        print_rows(*target_table(found), numeric=range(2, 8))
        headers, rows = model_table(found)
        print_rows(headers, rows[:MODELS_SHOWN], numeric=(1, 2, 3))
        if len(rows) > MODELS_SHOWN:
            typer.echo(f"and {len(rows) - MODELS_SHOWN} more models")
        for line in summary(found):
            say(line, err=False)
    if rankings.path is not None:
        say(f"overview: {rankings.path / OVERVIEW_FILE}")
    codes = [exit_code(ranking) for ranking in rankings.rankings]
    if all(code == FAILED for code in codes):
        return FAILED
    return SOME_FAILED if any(codes) or len(codes) < len(rankings) else 0


def _tell_what_to_do(ranking: Ranking) -> None:
    """After a confirmation: the model to take, how sure that is, and how it was found; as on the report's first screen."""
    from selector.report.advice import advice

    found = advice(ranking)
    tuning_log = [str(line) for line in ranking.confirmation.get("tuning_log", ())]
    for line in ("", found.headline, *found.sure, *found.others, *tuning_log):
        say(line, err=False)


def _show_plans(plans: Any, *, as_json: bool) -> None:
    """One plan, or one a target."""
    from dataclasses import asdict

    several = list(plans) if isinstance(plans, Sequence) else [plans]
    if as_json:
        document([asdict(plan) for plan in several] if isinstance(plans, Sequence) else asdict(plans))
        return
    for plan in several:
        _show_plan(plan)


def _fit_cells(model: Mapping[str, Any]) -> tuple[str | None, str | None, str | None, str | None]:
    """Memory of the scan and of the training with batch and side, epochs of the budget, and whether it fits."""
    from selector.core.units import format_size

    scan = None if model["scan_bytes"] is None else f"{format_size(model['scan_bytes'])} ({model['scan_batch']})"
    train = epochs = None
    if model["training_bytes"] is not None:
        at = f", {model['training_side']} px" if model["training_side"] else ""
        train = f"{format_size(model['training_bytes'])} ({model['training_batch']}{at})"
    if model["training_epochs"] is not None:
        epochs = f"{model['training_epochs']:.0f}"
    return scan, train, epochs, None if model["fits"] is None else model["fits"] or "yes"


def _show_plan(plan: Plan) -> None:
    from selector.core.units import format_count, format_duration, format_size

    usable = [m for m in plan.models if not m["note"]]
    rows = [
        (m["name"], m["params"] and format_count(m["params"]), m["cached"], m["missing"], *_fit_cells(m))
        for m in usable
    ]
    heads = ["model", "params", "stored rows", "to extract", "to scan", "to train", "epochs", "fits"]
    shown = [i for i in range(len(heads)) if i < 4 or any(row[i] is not None for row in rows)]
    print_rows([heads[i] for i in shown], [[row[i] for i in shown] for row in rows], numeric=(1, 2, 3, 4, 5, 6))
    typer.echo(f"{len(usable)} of {len(plan.models)} models usable, {plan.images} {plan.noun}s")
    typer.echo(f"{plan.decoded} items of all splits are read and prepared")
    for reason, names in (plan.unusable or {}).items():
        listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        say(f"not usable: {listed}: {reason}", err=False)
    beside = {"decoded images": plan.pixel_bytes, "compiled models, at most": plan.compiled_bytes}
    kept = [
        f"{format_size(plan.disk_bytes)} of rows",
        *(f"{format_size(n)} of {what}" for what, n in beside.items() if n),
    ]
    typer.echo(f"disk: {'; '.join(kept)}")
    if plan.fetch_bytes:
        typer.echo(f"to fetch: {format_size(plan.fetch_bytes)} of weights")
    if plan.seconds is not None:
        typer.echo(f"time: about {format_duration(plan.seconds)}")
    elif plan.seconds_low is not None and plan.seconds_high is not None:
        typer.echo(f"time: {format_duration(plan.seconds_low)} to {format_duration(plan.seconds_high)}, estimated")
    else:
        typer.echo("time: unknown until the first model has run")
    if plan.free_bytes is not None:
        cards = "" if plan.device_bytes is None else f", {format_size(plan.device_bytes)} of the GPU's"
        typer.echo(
            f"memory: {format_size(plan.free_bytes)} are free{cards}; a model adds 'to scan' and 'to train' (items at once)"
        )
    for note in plan.notes:
        say(note, err=False)


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
