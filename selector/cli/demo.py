"""``selector demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from selector.cli import options as o
from selector.cli.guard import guarded
from selector.cli.output import document, exit_code, print_ranking, print_rows, say
from selector.core.progress import ProgressView


@o.with_fields("ScanConfig", "store", "device", "seed")
@guarded
def demo(
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/demo or runs/demo-text when not given.")] = None,
    text: Annotated[bool, typer.Option("--text", help="Texts instead of photos; needs the extra 'demo-text'.")] = False,
    json: o.Json = False,
    debug: o.Debug = False,
    **options: Any,
) -> int:
    """Show the whole path on published photos with real weights, offline: minutes once, then seconds."""
    import time

    from selector.core.units import format_duration
    from selector.demo import run_photos, run_texts

    started = time.perf_counter()
    out = out or Path("runs/demo-text" if text else "runs/demo")
    more: dict[str, object] = {}
    rows: list[tuple[str, ...]]
    with ProgressView() as progress:
        if text:
            written = run_texts(out, **options, progress=progress)
            ranking, page, headers = written.ranking, written.report, ["text", "predicted"]
            rows = [(said, f"{label} {100 * share:.0f}%") for said, label, share in written.used]
        else:
            made = run_photos(out, **options, progress=progress)
            ranking, page, headers = made.ranking, made.report, ["image", "is", "predicted", "then", "then"]
            more["finding"] = made.finding
            rows = [
                (f"{u.image.parent.name}/{u.image.name}", u.truth, *(f"{n} {100 * share:.0f}%" for n, share in u.top))
                for u in made.used
            ]
    if json:
        document({**ranking.to_dict(), **more, "used": rows})
    else:
        print_ranking(ranking)
        print_rows(headers, rows)
    say(f"report: {page}")
    say(f"model:  {out / 'best'} (selector predict {out} {'TEXTS' if text else 'IMAGES'}…)")
    say(f"took:   {format_duration(time.perf_counter() - started)}")
    return exit_code(ranking)
