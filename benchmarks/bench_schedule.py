"""Which schedule makes the better model when time runs out: half a cosine that is cooled down, or warm-up, plateau, decay?

    SELECTOR_ASSETS=... python -m benchmarks.bench_schedule [--quick] [--sets ...] [--seeds ...] [--work DIR] [--seconds S]

Every network is fine-tuned in full at two rates under both schedules, planned for the same steps and ended by a clock that
counts steps: at a quarter, at six tenths, or never. Both are cooled down as ``tuning.strategies._loop`` does it; they
differ in what comes before. ``cosine`` is the package's; ``plateau`` warms up as long, stays at the full rate, and falls
linearly over the last quarter of the steps planned. The rate is chosen on validation, as in a confirmation.
``confirm_schedule.csv`` has a row a set, network, seed, end and schedule; rows that are there are not measured again.
``confirm_schedule_summary.csv``: test accuracy of the plateau minus that of the cosine in points, with 90 % intervals.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.confirm_field import Field, begin, target_of
from benchmarks.confirm_rows import OUT, environment, mean_over_sets
from benchmarks.rows import read_rows, write_rows
from selector.tuning.heads import prepare_start, solve
from selector.tuning.journal import Journal
from selector.tuning.loading import load, settle_precision
from selector.tuning.strategies import _loop
from selector.tuning.trial import Trial, final_stats, rates_of, run_trial
from selector.tuning.workbench import Workbench

SETS = ("flowers", "cifar10", "dtd10")
NETWORKS = ("cifar_resnet20", "mnv1_025")
ENDS = (0.25, 0.6, 1.0)  # of the steps planned
IMAGES, STEPS, RATES = 800, 80, 2
KEY = ("set", "network", "seed", "end", "schedule")


def plateau(step: int, steps: int, cooling: tuple[int, int] | None = None) -> float:
    """The counterpart of ``_loop._schedule``.

    >>> [round(plateau(step, 20), 2) for step in (0, 1, 2, 14, 15, 19)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 0.2]
    """
    if cooling is not None:
        first, end = cooling
        return plateau(first, steps) * (end - step) / (end - first + 1)
    warmup = max(1, round(_loop.WARMUP * steps))
    length = max(1, round(_loop.COOL_DOWN * steps))
    return min((step + 1) / warmup, 1.0, (steps - step) / length)


SCHEDULES = {"cosine": _loop._schedule, "plateau": plateau}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is not there yet, then sum it up."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_schedule", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one set, network and seed, few steps: does it run?")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--work", type=Path, help="folder of decoded pictures; else a temporary one")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no cell is begun behind them")
    args = parser.parse_args(argv)
    if (opened := begin(args.out)) is None:
        return 2
    assets, specs = opened
    networks, seeds, sets = (NETWORKS[:1], [0], args.sets[:1]) if args.quick else (NETWORKS, args.seeds, args.sets)
    table, begun = args.out / "confirm_schedule.csv", time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        for seed, name, network in itertools.product(seeds, sets, networks):
            cells = [
                cell for cell in itertools.product(ENDS, SCHEDULES)
                if (name, network, str(seed), f"{cell[0]:g}", cell[1])
                not in {tuple(row[key] for key in KEY) for row in read_rows(table)}
            ]  # fmt: skip
            if not cells or time.perf_counter() - begun > args.seconds:
                continue
            target = target_of(assets, name, 200 if args.quick else IMAGES, seed)
            field = Field(
                name, target, [specs[network]], STEPS, seed, (args.work or Path(temporary)) / f"{name}-{seed}"
            )
            rows = [_measured(field, end, schedule, 8 if args.quick else STEPS) for end, schedule in cells]
            write_rows(table, sorted([*read_rows(table), *rows], key=lambda row: [str(row[key]) for key in KEY]))
            print(*rows, sep="\n", flush=True)
    summary = summarise(read_rows(table))
    write_rows(args.out / "confirm_schedule_summary.csv", summary)
    print(*summary, sep="\n")
    return 0


class _Steps:
    """A clock that counts the batches that were read."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> float:
        return float(self.count)


def _measured(field: Field, end: float, schedule: str, steps: int) -> dict[str, Any]:
    """One network under one schedule, ended at a share of the steps planned."""
    clock = _Steps()

    def pixels_for(preprocess: Any) -> Any:
        inner = field.pixels_for(preprocess)

        class Counted:
            def batch(self, indices: np.ndarray) -> Any:
                clock.count += 1
                return inner.batch(indices)

        return Counted()

    with tempfile.TemporaryDirectory() as folder, patch.object(_loop, "_schedule", SCHEDULES[schedule]):
        journal = Journal(Path(folder), field.task.stats_type)
        bench = Workbench(field.target, field.task, pixels_for, journal, "cpu", 32, augment=True, now=clock)
        (candidate,) = field.candidates
        loaded = load(bench, candidate)
        solve(bench, loaded, float("inf"))
        settle_precision(bench, loaded)
        prepare_start(bench, loaded)
        loaded.forward_seconds = float("nan")  # in this clock's steps the passes over the validation items cost nothing
        found = []
        for rate in rates_of(loaded, "full")[:RATES]:
            trial = Trial(candidate.name, "full", rate, field.seed)
            record = run_trial(bench, loaded, trial, steps, clock() + (end * steps if end < 1 else float("inf")))
            if record is not None and record.stats is not None:
                test = final_stats(bench, loaded, trial, steps, "test", {}).value("accuracy")
                found.append((record.stats.value("accuracy"), test, rate, int(record.facts["steps"])))
    val, test, rate, done = max(found)
    return {
        "set": field.name, "network": candidate.name, "seed": field.seed, "end": f"{end:g}", "schedule": schedule,
        "steps": steps, "steps_done": done, "rate": rate, "val": round(val, 4), "test": round(test, 4),
        "images": len(field.target), **environment(),
    }  # fmt: skip


def summarise(rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Differences in points by end; sets and seeds are drawn for the intervals."""
    tests = {tuple(row[key] for key in KEY): 100 * float(row["test"]) for row in rows}
    summary = []
    for end in ENDS:
        values: dict[str, list[float]] = defaultdict(list)
        cosine = []
        for name, network, seed, at, schedule in tests:
            other = (name, network, seed, at, "cosine")
            if schedule == "plateau" and at == f"{end:g}" and other in tests:
                values[name].append(tests[name, network, seed, at, schedule] - tests[other])
                cosine.append(tests[other])
        if values:
            mean, low, high = (round(v, 2) for v in mean_over_sets(values))
            summary.append(
                {
                    "end": f"{end:g}", "pairs": sum(map(len, values.values())), "sets": len(values),
                    "cosine": round(float(np.mean(cosine)), 2), "plateau_minus_cosine": mean, "low": low, "high": high,
                }
            )  # fmt: skip
    return summary


if __name__ == "__main__":
    sys.exit(main())
