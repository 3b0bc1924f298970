"""``selector doctor``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from selector.cli import options as o
from selector.cli.guard import guarded
from selector.cli.output import document, print_rows


@o.with_fields("ScanConfig", "store", "offline")
@guarded
def doctor(
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that the hub has for an answer.")] = 3.0,
    json: o.Json = False,
    debug: o.Debug = False,
    **options: Any,
) -> None:
    """Show devices, versions, threads, compiler, disk, and whether the hub can be reached."""
    from dataclasses import asdict

    from selector.cli._doctor import examine

    findings = examine(options["store"], offline=options["offline"], timeout=timeout)
    if json:
        document([asdict(finding) for finding in findings])
        return
    marks = {True: "ok", False: "!", None: ""}
    print_rows(["", "what", "found", ""], [(f.topic, f.name, f.value, marks[f.ok]) for f in findings])
    for finding in findings:
        if finding.ok is False:
            typer.echo(f"! {finding.name}: {finding.hint}")
