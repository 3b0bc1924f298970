"""Is a confirmation of the models that micro trials leave open as good as one of the first three, and as quick?

    SELECTOR_ASSETS=... python -m benchmarks.bench_confirm_sets [--sets ...] [--seeds N ...] [--steps N] [--out DIR]

One row a set and seed in ``confirm_sets.csv``: eight encoders are ranked, then confirmed twice from copies of the same
store, with ``trials=2`` and no ``top_k``, and with ``top_k=3`` and no trials. The sets, encoders, sizes and splits are those
of ``bench_confirm``; ``best_test`` is what the best of all encoders reached there when each was trained in full. Seconds
are of the processor, of the whole confirmation: loading, trials, probes, trainings, the test split.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import selector
from benchmarks.bench_confirm import HELD_OUT, IMAGES, SETS, STEPS
from benchmarks.confirm_field import ENCODERS, begin, sized, target_of
from benchmarks.confirm_rows import OUT, environment, put_row
from benchmarks.rows import read_rows
from selector.core.contracts import Target
from selector.report.ranking import Ranking
from selector.zoo import ModelSpec

FIXED = 3
BUDGET = "4h"  # bounds nothing here; with a budget the set may cost no more than the first three would
TRIALS = 2.0  # times the extraction; a thousand items of 64 pixels leave no steps to a trial that costs it once


def main(argv: Sequence[str] | None = None) -> int:
    """Run the missing rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_confirm_sets", description=__doc__)
    parser.add_argument("--sets", nargs="+", default=[*SETS, *HELD_OUT], choices=[*SETS, *HELD_OUT])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=STEPS, help="of a finalist's training")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(argv)
    if (opened := begin(args.out)) is None:
        return 2
    assets, specs = opened
    table = args.out / "confirm_sets.csv"
    best = {(r["set"], int(r["seed"])): float(r["best_test"]) for r in read_rows(OUT / "confirm_regret.csv")}
    for seed in args.seeds:
        for name in args.sets:
            if any((r["set"], r["seed"]) == (name, str(seed)) for r in read_rows(table)):
                continue
            with tempfile.TemporaryDirectory() as folder:
                row = compare(
                    target_of(assets, name, IMAGES, seed), list(specs.values()), args.steps, seed, Path(folder)
                )
            row = {"set": name, "seed": seed, "best_test": best.get((name, seed), ""), **row, **environment()}
            put_row(table, row)
            print(row, flush=True)
    return 0


def compare(target: Target, specs: Sequence[ModelSpec], steps: int, seed: int, folder: Path) -> dict[str, Any]:
    """Both confirmations of one set."""
    zoo = [sized(spec) for spec in specs if spec.name in ENCODERS]
    common = {"history": False, "trust_zoo": True, "seed": seed}
    selector.rank(target, zoo=zoo, store=folder / "store", out=folder / "run", cost="off", drop="off", **common)
    row: dict[str, Any] = {"encoders": len(zoo), "steps": steps}
    for how, asked in (("fixed", {"top_k": FIXED, "trials": 0.0}), ("adaptive", {"trials": TRIALS})):
        store, run = folder / f"store-{how}", folder / f"run-{how}"
        shutil.copytree(folder / "store", store)
        shutil.copytree(folder / "run", run)
        begun = time.process_time()
        found = selector.confirm(
            run, target=target, store=store, out=run, max_steps=steps, budget=BUDGET, **asked, **common
        )
        row |= {f"{how}_{k}": v for k, v in _summary(found).items()}
        row[f"{how}_cpu_seconds"] = round(time.process_time() - begun, 1)
    return row | {"time_ratio": round(row["adaptive_cpu_seconds"] / row["fixed_cpu_seconds"], 3)}


def _summary(ranking: Ranking) -> dict[str, Any]:
    handed = next(
        m for m in ranking.best.measurements if "error_analysis" in m.extra
    )  # what is handed over alone has one
    return {
        "models": " ".join(m.name for m in ranking if m.measurements),
        "trials": sum(m.trial is not None and m.trial.after is not None for m in ranking),
        "choice": f"{ranking.best.name} {handed.strategy}",
        "test": handed.test_value,
    }


if __name__ == "__main__":
    sys.exit(main())
