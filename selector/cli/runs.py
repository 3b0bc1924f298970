"""``selector scan`` and ``selector confirm``: the commands that make a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from selector.cli import options as o
from selector.cli.guard import FAILED, guarded
from selector.cli.output import document, exit_code, print_ranking, print_rows, say
from selector.cli.progress import ProgressView

if TYPE_CHECKING:
    from selector.results import Ranking
    from selector.scan import Plan

STRATEGIES = "frozen,full"


@guarded
def scan(
    target: Annotated[
        str,
        typer.Argument(
            help="Image folder (class folders), CSV manifest of images, table of texts (CSV, TSV, JSONL, parquet), CoNLL "
            "file of tagged words.",
            metavar="TARGET",
        ),
    ],
    text_column: o.TextColumn = None,
    label_column: o.LabelColumn = None,
    zoo: o.ZooFile = None,
    models: o.Models = None,
    tags: o.Tags = None,
    layers: o.Layers = None,
    pooling: o.Pooling = None,
    proxies: o.Proxies = None,
    trust_zoo: o.TrustZoo = False,
    plugin: o.Plugin = None,
    max_params: o.MaxParams = None,
    max_latency: o.MaxLatency = None,
    max_memory: o.MaxMemory = None,
    licence: o.Licence = None,
    cost: o.Cost = "auto",
    max_samples: Annotated[
        int | None, typer.Option("--max-samples", min=2, help="Score a stratified subsample of so many items.")
    ] = None,
    on_bad_image: Annotated[
        Literal["skip", "fail"],
        typer.Option(
            "--on-bad-image",
            help="What to do about items that cannot be used: images that do not decode, texts without content.",
        ),
    ] = "skip",
    confirm: Annotated[
        bool,
        typer.Option("--confirm/--no-confirm", help="Fine-tune the leading models.", rich_help_panel="Confirmation"),
    ] = True,
    top_k: o.TopK = None,
    budget: o.Budget = None,
    strategies: o.Strategies = STRATEGIES,
    resolution: o.Resolution = None,
    metric: o.Metric = None,
    max_steps: o.MaxSteps = None,
    device: o.Device = "auto",
    store: o.Store = None,
    out: o.Out = None,
    offline: o.Offline = False,
    history: o.History = True,
    seed: o.Seed = 0,
    intervals: Annotated[
        bool, typer.Option("--intervals/--no-intervals", help="Compute 90 % intervals and probabilities.")
    ] = True,
    drop: Annotated[
        Literal["auto", "off", "force"], typer.Option(help="Stop models early that cannot reach the top k.")
    ] = "auto",
    precision: o.Precision = "auto",
    backend: o.Backend = "auto",
    trust: Annotated[
        Literal["stat", "content"],
        typer.Option(help="Whether files are known by size and time stamps, or read and hashed again."),
    ] = "stat",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show models, disk and estimated time; do nothing.")
    ] = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> int:
    """Rank the models of a zoo for a target, fine-tune the best few, save the winner."""
    o.go_offline(offline)
    o.load_plugins(plugin)
    from selector import scan as pipeline

    what: dict[str, Any] = {
        "zoo": zoo,
        "models": models,
        "tags": tags,
        "layers": layers,
        "pooling": pooling,
        "trust_zoo": trust_zoo,
        "max_samples": max_samples,
        "text_column": _columns(text_column),
        "label_column": label_column,
        "store": store,
        "offline": offline,
        "seed": seed,
        "device": device,
        "precision": precision,
        "backend": backend,
        "trust": trust,
        "max_params": max_params,
        "max_latency": max_latency,
        "max_memory": max_memory,
        "licence": licence,
        "cost": cost,
    }
    if dry_run:
        _show_plan(pipeline.plan(target, **what), as_json=json)
        return 0
    with ProgressView() as progress:
        ranking = pipeline.rank(
            target,
            **what,
            proxies=o.words(proxies),
            on_bad_image=on_bad_image,
            confirm=confirm,
            top_k=top_k,
            budget=budget,
            strategies=tuple(o.words(strategies) or ()),
            resolution=resolution,
            metric=metric,
            max_steps=max_steps,
            intervals=intervals,
            drop=drop,
            out=out,
            history=history,
            progress=progress,
        )
    if ranking.path is None and ranking.loaded_target is not None:  # the library saves only when asked
        ranking = ranking.save(pipeline.default_run_folder(ranking.loaded_target))
    return _finish(ranking, as_json=json)


@guarded
def confirm(
    run: Annotated[Path, typer.Argument(help="Folder of a run, as 'selector scan' named it.", metavar="RUN")],
    top_k: o.TopK = None,
    budget: o.Budget = None,
    strategies: o.Strategies = STRATEGIES,
    resolution: o.Resolution = None,
    metric: o.Metric = None,
    max_steps: o.MaxSteps = None,
    trust_zoo: o.TrustZoo = False,
    plugin: o.Plugin = None,
    device: o.Device = "auto",
    store: o.Store = None,
    out: o.Out = None,
    offline: o.Offline = False,
    history: o.History = True,
    json: o.Json = False,
    debug: o.Debug = False,
) -> int:
    """Fine-tune the leading models of a run and re-order its table by what was measured."""
    o.go_offline(offline)
    o.load_plugins(plugin)
    from selector import scan as pipeline

    with ProgressView() as progress:
        ranking = pipeline.confirm(
            run,
            top_k=top_k,
            budget=budget,
            strategies=tuple(o.words(strategies) or ()),
            resolution=resolution,
            metric=metric,
            max_steps=max_steps,
            device=device,
            store=store,
            out=out,
            offline=offline,
            trust_zoo=trust_zoo,
            history=history,
            progress=progress,
        )
    return _finish(ranking, as_json=json)


def _columns(text: str | None) -> str | list[str] | None:
    """One column, or the two of pairs."""
    named = o.words(text) or []
    return named[0] if len(named) == 1 else named or None


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
        best = ranking.path / "best"
        if best.is_dir():
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


def _tell_what_to_do(ranking: Ranking) -> None:
    """After a confirmation: the model to take, how sure that is, and how it was found; as on the report's first screen."""
    from selector.report.advice import advice

    found = advice(ranking)
    course = [str(line) for line in ranking.confirmation.get("course", ())]
    for line in ("", found.headline, *found.sure, *found.others, *course):
        typer.echo(line)


def _show_plan(plan: Plan, *, as_json: bool) -> None:
    from dataclasses import asdict

    from selector.core.units import format_count, format_duration, format_size

    if as_json:
        document(asdict(plan))
        return
    rows = [
        (m["name"], m["params"] and format_count(m["params"]), m["cached"], m["missing"], m.get("note", ""))
        for m in plan.models
    ]
    print_rows(["model", "params", "rows in store", "rows to extract", ""], rows, numeric=(1, 2, 3))
    time = "unknown until the first model has run" if plan.seconds is None else f"about {format_duration(plan.seconds)}"
    typer.echo(
        f"{len(plan.models)} models, {plan.images} {plan.noun}s; disk: {format_size(plan.disk_bytes)}; time: {time}"
    )
    for note in plan.notes:
        typer.echo(note)
