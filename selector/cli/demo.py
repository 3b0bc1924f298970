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
    from selector.demo import run_photos

    started = time.perf_counter()
    if text:
        code = _texts(out or Path("runs/demo-text"), options, as_json=json)
        say(f"took:   {format_duration(time.perf_counter() - started)}")
        return code
    out = out or Path("runs/demo")
    with ProgressView() as progress:
        made = run_photos(out, **options, progress=progress)
    rows = [
        (f"{u.image.parent.name}/{u.image.name}", u.truth, *(f"{name} {100 * share:.0f}%" for name, share in u.top))
        for u in made.used
    ]
    if json:
        document({**made.ranking.to_dict(), "finding": made.finding, "used": rows})
    else:
        print_ranking(made.ranking)
        print_rows(["image", "is", "predicted", "then", "then"], rows)
    say(f"report: {made.report}")
    say(f"model:  {out / 'best'} (selector predict {out} IMAGES…)")
    say(f"took:   {format_duration(time.perf_counter() - started)}")
    return exit_code(made.ranking)


def _texts(out: Path, options: dict[str, Any], *, as_json: bool) -> int:
    from selector.demo import run_texts

    with ProgressView() as progress:
        made = run_texts(out, **options, progress=progress)
    rows = [(text, f"{label} {100 * share:.0f}%") for text, label, share in made.used]
    if as_json:
        document({**made.ranking.to_dict(), "used": rows})
    else:
        print_ranking(made.ranking)
        print_rows(["text", "predicted"], rows)
    say(f"report: {made.report}")
    say(f"model:  {out / 'best'} (selector predict {out} TEXTS…)")
    return exit_code(made.ranking)
