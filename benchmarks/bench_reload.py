"""What loading networks again in each round of a scan costs.

    SELECTOR_ASSETS=... python -m benchmarks.bench_reload [--items 500] [--out FILE]

The encoders of the assets scan photos of flowers with an empty store, in the usual three rounds of a quarter, a half and
all rows. A row a round: how many networks ran, the processor seconds of the process, and of these what went into loading
networks, into making them ready (backend, precision, conversion), and into doing that for the next one beside the one
that runs. A network that stays in memory from round to round would save what the second and third round have there.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import selector
from benchmarks.bench_dropping import HERE, image_set
from benchmarks.rows import read_rows, write_rows
from selector.core.system import versions
from selector.data import subsample
from selector.extract import encode, open_ahead
from selector.extract.workspace import Workspace
from selector.scan.rounds import Rounds
from selector.zoo import load_zoo

OUT = HERE / "results" / "bench_reload.csv"
COLUMNS = ("round", "items", "models", "seconds", "load", "ready", "ahead", "python", "torch", "selector", "cpu")


def main(argv: Sequence[str] | None = None) -> int:
    """A row a round, added to the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=500, help="photos")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="60 photos, networks for small images")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(argv)
    models = list(load_zoo(HERE / "assets-zoo.yaml", trust=True).models)
    if args.quick:
        args.items = 60
        models = [spec for spec in models if spec.preprocess.changes()["input_size"][1] <= 32]
    found = measured(subsample(image_set("flowers"), args.items, args.seed), models, args.seed)
    told = {key: versions().get(key, "") for key in ("python", "torch", "selector", "cpu")}
    rows = [{**row, "items": args.items, **told} for row in found]
    write_rows(args.out, [*read_rows(args.out), *rows], COLUMNS)
    for row in found:
        print(row)
    again = sum(row["load"] + row["ready"] + row["ahead"] for row in found[1:])
    print(f"again: {again:.1f} s of {sum(row['seconds'] for row in found):.1f} s")
    return 0


def measured(target: Any, models: Sequence[Any], seed: int) -> list[dict[str, Any]]:
    """Processor seconds by round and stage of one scan."""
    rows: list[dict[str, Any]] = []

    def timed(function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            started = time.thread_time()  # of the thread that does it: the next network's is another one
            try:
                return function(*args, **options)
            finally:
                rows[-1][stage] += time.thread_time() - started

        return call

    step = Rounds.step

    def stepped(rounds: Rounds, share: float) -> None:
        rows.append({"round": len(rows) + 1, "models": len(rounds.running), "load": 0.0, "ready": 0.0, "ahead": 0.0})
        started = time.process_time()
        step(rounds, share)
        rows[-1]["seconds"] = time.process_time() - started

    with ExitStack() as stack:
        for owner, name, replaced in (
            (Rounds, "step", stepped),
            (Workspace, "_load", timed(Workspace._load, "load")),
            (encode, "open_runner", timed(encode.open_runner, "ready")),
            (open_ahead, "open_ahead", timed(open_ahead.open_ahead, "ahead")),
        ):
            stack.enter_context(mock.patch.object(owner, name, replaced))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        selector.rank(target, zoo=models, store=folder, cost="off", drop="force", seed=seed)
    return [{key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()} for row in rows]


if __name__ == "__main__":
    sys.exit(main())
