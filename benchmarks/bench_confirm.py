"""Does the tournament find what training everything would find, and for how little?

    SELECTOR_ASSETS=... python -m benchmarks.bench_confirm [--quick] [--out DIR] [--seeds N ...] [--sets ...] [--work DIR]

One row a set and seed; the seed draws the images, the splits and the order of the batches. A run
replaces its own rows and keeps the others.

- ``confirm_regret.csv``: the tournament against the rule "train every encoder in full, at every rate
  of the grid, for the maximum of steps, with one seed, and take the best validation accuracy", on the
  same splits and images. Regret is the test accuracy of the best encoder under the rule minus that
  of the model chosen, in points. ``trained_regret`` is that of the best among the tournament's
  fine-tuned configurations, as if the frozen encoders were no choice. ``wide_*`` is the rule with the frozen
  encoders as further choices: what the tournament loses against it, it loses by training less; what
  both lose, validation images could not tell. Cost is the processor time of training and evaluating
  (other work on the machine does not count) and optimiser steps.
- ``confirm_rounds.csv``: validation accuracy frozen, after the first round, and after training in full; the rank
  agreement of the last two.
- ``confirm_summary.csv``: means over sets and seeds with 90 % intervals, apart for the sets that were
  looked at all along while the tournament was made and for those that were looked at once.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.confirm_field import ENCODERS, Field, begin, target_of
from benchmarks.confirm_rows import OUT, environment, mean_over_sets, put_row
from benchmarks.rows import read_rows, write_rows
from selector.core.task import Stats
from selector.ranking import agreement
from selector.tuning import TournamentResult, run_tournament
from selector.tuning.heads import frozen_stats, prepare_start, solve
from selector.tuning.journal import Journal
from selector.tuning.loading import load, settle_precision
from selector.tuning.trial import Trial, final_stats, rates_of, run_trial
from selector.tuning.workbench import Workbench

SETS = ("flowers", "cifar10", "pneumoniamnist", "dtd10", "brainmri")
HELD_OUT = ("mnist", "textile", "digits")  # looked at once, with one seed, when two rounds were chosen over three
IMAGES, STEPS = 1200, 64


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison and write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_confirm", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one set, three encoders, few steps: does it run?")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--steps", type=int, default=STEPS, help="of the rule's trainings and of the tournament's winner"
    )
    parser.add_argument("--sets", nargs="+", default=[*SETS, *HELD_OUT], choices=[*SETS, *HELD_OUT])
    parser.add_argument(
        "--work",
        type=Path,
        help="folder of trainings, to go on after an interruption, and to train only what is new when the "
        "tournament's rules change; else a temporary one",
    )
    args = parser.parse_args(argv)
    if (opened := begin(args.out)) is None:
        return 2
    assets, specs = opened
    names = list(ENCODERS)[:3] if args.quick else list(ENCODERS)
    for seed in args.seeds[:1] if args.quick else args.seeds:
        for name in args.sets[:1] if args.quick else args.sets:
            with tempfile.TemporaryDirectory() as temporary:
                folder = args.work / f"{name}-{seed}" if args.work else Path(temporary)
                target = target_of(assets, name, 200 if args.quick else IMAGES, seed)
                field = Field(name, target, [specs[n] for n in names], 8 if args.quick else args.steps, seed, folder)
                row, first_round = _compare(field)
            put_row(args.out / "confirm_regret.csv", {**row, **environment()})
            put_row(args.out / "confirm_rounds.csv", {**first_round, **environment()})
            print({k: v for k, v in row.items() if k in SHOWN}, flush=True)
    summary = summarise(read_rows(args.out / "confirm_regret.csv"))
    write_rows(args.out / "confirm_summary.csv", summary)
    for line in summary:
        print(line)
    return 0


SHOWN = (
    "set", "seed", "rule_choice", "rule_test", "wide_choice", "wide_test", "tournament_choice", "tournament_test",
    "trained_choice", "cpu_share", "settled",
)  # fmt: skip


# ---------------------------------------------------------------------------- one set and seed


def _compare(field: Field) -> tuple[dict[str, Any], dict[str, Any]]:
    """The row of the regret and the row of the rounds."""
    rule = _rule(field)
    result = _tournament(field)
    assert result.best is not None
    full, frozen = rule["full"], rule["frozen"]
    chosen = next(m for m in result.measurements[result.best.name] if m.strategy == result.best.strategy)
    trained = {n: m for n, ms in result.measurements.items() for m in ms if m.strategy == "full" and m.test}
    trained_choice = max(trained, key=lambda n: trained[n].merit)
    rule_choice = max(full, key=lambda n: full[n][0])
    # frozen ones first: among equals the tournament takes those as well
    wide = {f"{n} frozen": v for n, v in frozen.items()} | {f"{n} full": v for n, v in full.items()}
    wide_choice = max(wide, key=lambda n: wide[n][0])
    most = max(test for _, test in full.values())

    def regret(test: float) -> float:
        return round(100 * (most - test), 2)

    seconds = sum(float(h["processor_seconds"]) for h in result.history)
    steps = sum(int(h["steps"]) for h in result.history)
    row = {
        "set": field.name,
        "seed": field.seed,
        "held_out": field.name in HELD_OUT,
        **{f"n_{split}": len(field.target.indices(split)) for split in ("train", "val", "test")},
        "encoders": len(full),
        "max_steps": field.steps,
        "rates": 3,
        "rule_choice": rule_choice,
        "rule_val": round(full[rule_choice][0], 4),
        "rule_test": round(full[rule_choice][1], 4),
        "wide_choice": wide_choice,
        "wide_val": round(wide[wide_choice][0], 4),
        "wide_test": round(wide[wide_choice][1], 4),
        "tournament_choice": f"{result.best.name} {result.best.strategy}",
        "tournament_val": round(chosen.val_value, 4),
        "tournament_test": round(chosen.test_value, 4),
        "trained_choice": trained_choice,
        "trained_val": round(trained[trained_choice].val_value, 4),
        "trained_test": round(trained[trained_choice].test_value, 4),
        "best_test": round(most, 4),
        "rule_regret": regret(full[rule_choice][1]),
        "wide_regret": regret(wide[wide_choice][1]),
        "tournament_regret": regret(chosen.test_value),
        "trained_regret": regret(trained[trained_choice].test_value),
        "rule_cpu_seconds": round(rule["seconds"], 1),
        "tournament_cpu_seconds": round(seconds, 1),
        "cpu_share": round(seconds / rule["seconds"], 3),
        "step_share": round(steps / rule["steps"], 3),
        "settled": result.settled,
    }
    first: dict[str, float] = dict.fromkeys(full, 0.0)
    for h in result.history:
        if h["round"] == 1 and h["value"] is not None:
            first[h["model"]] = max(first[h["model"]], float(h["value"]))
    values, finals = list(first.values()), [full[n][0] for n in first]
    first_round = {
        "set": field.name,
        "seed": field.seed,
        "encoders": len(full),
        "first_round_steps": min(int(h["steps"]) for h in result.history),
        "final_steps": field.steps,
        "weighted_tau": round(agreement.weighted_tau(values, finals), 3),
        "spearman": round(agreement.spearman(values, finals), 3),
        "frozen": _listed({n: v[0] for n, v in frozen.items()}),
        "first_round": _listed(first),
        "final": _listed({n: v[0] for n, v in full.items()}),
    }
    return row, first_round


def _tournament(field: Field) -> TournamentResult:
    """The tournament, under its rules of today: what was trained before is read, the plan is made anew."""
    folder = field.folder / "tournament"
    for plan in folder.glob("tournament-*.json"):
        plan.unlink()
    return run_tournament(
        field.candidates,
        field.target,
        field.task,
        field.pixels_for,  # type: ignore[arg-type]
        strategies=("full",),
        max_steps=field.steps,
        repeats=0,
        device="cpu",
        seed=field.seed,
        checkpoint_folder=folder,
    )


def _rule(field: Field) -> dict[str, Any]:
    """Every encoder in full at every rate: (val, test) accuracy of its best rate, and of its frozen head."""
    kept = field.folder / "rule.json"
    if kept.is_file():
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        if found["steps_each"] == field.steps and list(found["full"]) == [c.name for c in field.candidates]:
            return found
    bench = Workbench(
        field.target, field.task, field.pixels_for, Journal(field.folder / "rule", field.task.stats_type), "cpu", 32, True  # type: ignore[arg-type]
    )  # fmt: skip

    def accuracy(stats: Stats | None) -> float:
        return 0.0 if stats is None else stats.value("accuracy")

    full: dict[str, tuple[float, float]] = {}
    frozen: dict[str, tuple[float, float]] = {}
    steps, seconds = 0, 0.0
    for candidate in field.candidates:
        loaded = load(bench, candidate)
        head = solve(bench, loaded, math.inf)
        frozen[candidate.name] = (
            accuracy(head.stats if head else None),
            accuracy(frozen_stats(bench, loaded, "test", {})),
        )
        settle_precision(bench, loaded)
        prepare_start(bench, loaded)
        best = (0.0, 0.0)
        for rate in rates_of(loaded, "full"):
            trial = Trial(candidate.name, "full", rate, field.seed)
            record = run_trial(bench, loaded, trial, field.steps)
            assert record is not None
            steps += int(record.facts["steps"])
            seconds += float(record.facts["processor_seconds"])
            val = accuracy(record.stats)
            if val > best[0]:
                best = (val, accuracy(final_stats(bench, loaded, trial, field.steps, "test", {})))
        full[candidate.name] = best
    found = {"full": full, "frozen": frozen, "steps": steps, "seconds": seconds, "steps_each": field.steps}
    kept.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def _listed(values: Mapping[str, float]) -> str:
    return ";".join(f"{name}={value:.3f}" for name, value in values.items())


# ---------------------------------------------------------------------------- all of them


def summarise(rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Regret beyond that of the rule, in points, by group of sets; and the share of its processor time."""
    summary = []
    for group, wanted in (("tuned", ("False",)), ("held out", ("True",)), ("all", ("False", "True"))):
        chosen = [row for row in rows if row["held_out"] in wanted]
        if not chosen:
            continue
        line: dict[str, Any] = {"group": group, "sets": len({r["set"] for r in chosen}), "rows": len(chosen)}
        for column in ("tournament", "trained", "wide"):
            values = defaultdict(list)
            for row in chosen:
                values[row["set"]].append(float(row[f"{column}_regret"]) - float(row["rule_regret"]))
            mean, low, high = mean_over_sets(values)
            line |= {column: round(mean, 2), f"{column}_low": round(low, 2), f"{column}_high": round(high, 2)}
        spent, whole = (sum(float(r[f"{column}_cpu_seconds"]) for r in chosen) for column in ("tournament", "rule"))
        summary.append({**line, "cpu_share": round(spent / whole, 3)})
    return summary


if __name__ == "__main__":
    sys.exit(main())
