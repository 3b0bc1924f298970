"""How long listing, planning, table and report of all of timm take; nothing is fetched or extracted.

    python -m benchmarks.bench_listing [--models 1500] [--out FILE]

Processor seconds of this process, the quickest of three, so that other work on the machine does not count. The first
listing of an installed timm imports it once (in a process of its own) and is left out.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import selector
from benchmarks.rows import read_rows, write_rows
from selector.core.system import versions
from selector.report.html import render_report
from selector.report.table import render_text
from selector.scan.selection import choose_models

OUT = Path(__file__).parent / "results" / "bench_listing.csv"
COLUMNS = ("what", "models", "seconds", "bytes", "python", "timm", "selector", "cpu")


def main(argv: Sequence[str] | None = None) -> int:
    """A row a step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=1500, help="rows of the table and the report")
    parser.add_argument("--quick", action="store_true", help="fewer models in table and report")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(argv)
    ranking = many(100 if args.quick else args.models, args.seed)
    rows = read_rows(args.out)
    listed, _ = choose_models(None, "timm:*")
    with tempfile.TemporaryDirectory() as folder:
        target, options = pictures(args.seed), {"models": "timm:*", "store": folder}
        steps: dict[str, tuple[int, Callable[[], Any]]] = {
            "list": (len(listed), lambda: choose_models(None, "timm:*")),
            "plan": (len(listed), lambda: selector.plan(target, **options)),
            "table": (len(ranking), lambda: render_text(ranking, width=200)),
            "json": (len(ranking), ranking.to_json),
            "report": (len(ranking), lambda: render_report(ranking)),
        }
        os.environ.pop("HF_HUB_OFFLINE", None)  # a plan of so many asks the hub for none
        told = {name: versions().get(name, "") for name in ("python", "timm", "selector", "cpu")}
        for what, (models, step) in steps.items():
            seconds, made = min((timed(step) for _ in range(3)), key=lambda found: found[0])
            size = len(made) if isinstance(made, str) else ""
            rows.append({"what": what, "models": models, "seconds": round(seconds, 2), "bytes": size, **told})
            print(rows[-1], file=sys.stderr, flush=True)
    write_rows(args.out, rows, COLUMNS)
    return 0


def timed(step: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds, and what came of it."""
    started = time.process_time()
    made = step()
    return time.process_time() - started, made


def pictures(seed: int) -> Any:
    """A target of noise: what a plan takes does not depend on what the images show."""
    rng = np.random.default_rng(seed)
    return selector.load_target(
        (rng.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8), np.arange(60) % 3), name="noise"
    )


def many(models: int, seed: int) -> Any:
    """A ranking with so many rows, each with scores, intervals and a cost."""
    rng = np.random.default_rng(seed)
    labels = np.arange(120) % 3
    found = selector.rank_features({"one": rng.standard_normal((120, 8)) + np.eye(8)[labels]}, labels)
    (one,) = found
    rows = tuple(
        replace(
            one, name=f"timm:model_{i}.tag", rank=i + 1, transferability=1 - i / models, num_parameters=1000 * (i + 1)
        )
        for i in range(models)
    )
    return replace(found, models=rows)


if __name__ == "__main__":
    sys.exit(main())
