"""Fine-tune every encoder of a suite on every set and write down what came out.

    SELECTOR_ASSETS=... python -m benchmarks.suite.ground_truth [--suite images|texts] [--quick] [--sets ...] [--encoders ...]

Resumable: finished cells are skipped. README.md beside this file has the protocol.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.assets import assets_folder
from benchmarks.suite import saved, suites, table, training
from benchmarks.suite.sets import LabeledSet
from benchmarks.suite.suites import Budget, Suite

CONFIRMED = 3  # encoders of a set that get a second seed once its column is complete


def main(argv: Sequence[str] | None = None) -> int:
    """Run the missing cells, set by set, in the suite's order of encoders."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suite.ground_truth", description=__doc__)
    suites.add_arguments(parser)
    parser.add_argument(
        "--out", type=Path, help="the table; the suite's own when left out, with --quick one in the cache"
    )
    parser.add_argument("--quick", action="store_true", help="a few items and steps: does it run?")
    parser.add_argument("--seed", type=int, default=0, help="of batches and augmentation; splits never move")
    parser.add_argument("--part", type=part, default=(1, 1), help="i/n: this process runs every n-th encoder")
    parser.add_argument(
        "--again",
        action="store_true",
        help=f"only second seeds, of the first {CONFIRMED} among the encoders measured so far (and named, if any are)",
    )
    args = parser.parse_args(argv)
    suite = suites.find(args.suite)
    assets = assets_folder(suite.needs)
    if assets is None:
        return 2
    every = list(suite.encoders(assets))
    sets = suites.chosen(parser, "sets", args.sets, suite.sets)
    chosen = suites.chosen(parser, "encoders", args.encoders, every)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    job = Job(suite, assets, suite.quick if args.quick else suite.budget, saved.folder(args.quick))
    out = args.out or suite.table("ground_truth", args.quick)
    loaded: LabeledSet | None = None
    if args.again:
        cells = second_seeds(sets, chosen, args.seed, args.part, out)
    else:
        cells = plan(sets, chosen, every, args.seed, args.part, out)
    for cell, again in cells:
        if loaded is None or loaded.name != cell.set_name:
            loaded = suite.load_set(cell.set_name, assets, job.budget)
        cell.run(job, loaded, again)
    return 0


def plan(
    sets: Sequence[str], names: Sequence[str], every: Sequence[str], seed: int, share: tuple[int, int], out: Path
) -> Iterator[tuple[Cell, int | None]]:
    """The missing cells of this process, decided one by one as rows arrive: a column, then second
    seeds for the leaders of every column that is complete by now (another process may have ended it)."""
    for position, set_name in enumerate(sets):
        for name in names[share[0] - 1 :: share[1]]:
            cell = Cell(set_name, name, seed, out)
            if cell.missing():
                yield cell, None
        for earlier in sets[: position + 1]:
            yield from _again(earlier, names, every, seed, share, out)


def second_seeds(
    sets: Sequence[str], names: Sequence[str], seed: int, share: tuple[int, int], out: Path
) -> Iterator[tuple[Cell, int | None]]:
    """Second seeds that are missing, set by set; a column need not be complete. Named encoders are ranked among each
    other, so that those below the leaders get one as well."""
    for set_name in sets:
        measured = [
            name
            for found, name, how, made in table.read(out)
            if (found, how, made) == (set_name, "full", seed) and name in names
        ]
        yield from _again(set_name, names, measured, seed, share, out)


def _again(
    set_name: str, names: Sequence[str], column: Iterable[str], seed: int, share: tuple[int, int], out: Path
) -> Iterator[tuple[Cell, int | None]]:
    """Second seeds that the leaders of a column lack."""
    for name in leaders(out, set_name, seed, column)[share[0] - 1 :: share[1]]:
        cell = Cell(set_name, name, seed + 1, out)
        if name in names and cell.missing(("full",)):
            yield cell, seed


def leaders(out: Path, set_name: str, seed: int, cards: Iterable[str]) -> list[str]:
    """The first encoders of a set by fully fine-tuned test accuracy; none before its column is complete."""
    rows = table.read(out)
    column = [rows.get((set_name, name, "full", seed)) for name in cards]
    if any(row is None for row in column):
        return []
    good = [row for row in column if row and row["status"] == "ok" and row["test_accuracy"] != "nan"]
    return [row["encoder"] for row in sorted(good, key=lambda row: -float(row["test_accuracy"]))[:CONFIRMED]]


def part(text: str) -> tuple[int, int]:
    """``2/3`` -> (2, 3)."""
    number, of = (int(piece) for piece in text.split("/"))
    if not 1 <= number <= of:
        raise ValueError(text)
    return number, of


@dataclass(frozen=True)
class Job:
    """What all cells of a run share; ``features`` is the folder in which frozen features are kept."""

    suite: Suite
    assets: Path
    budget: Budget
    features: Path


@dataclass(frozen=True)
class Cell:
    """One encoder on one set with one seed: two rows, ``frozen`` and ``full``."""

    set_name: str
    encoder: str
    seed: int
    out: Path

    def missing(self, strategies: Sequence[str] = ("frozen", "full")) -> list[str]:
        finished = table.done(table.read(self.out))
        return [s for s in strategies if (self.set_name, self.encoder, s, self.seed) not in finished]

    def run(self, job: Job, data: LabeledSet, again: int | None = None) -> None:
        """Solve, train, append; with ``again`` only ``full``, at the rate that seed ``again`` chose."""
        train, val, test = (data.rows(split) for split in ("train", "val", "test"))
        facts = {
            "n_train": len(train), "n_val": len(val), "n_test": len(test), "classes": data.classes,
            "torch": torch.__version__, "cpu": cpu_name(),
            job.suite.library: metadata.version(job.suite.library),
        }  # fmt: skip
        started = time.perf_counter()
        rate = None
        try:
            learner = job.suite.open(self.encoder, data, job.assets)
            facts["size"] = learner.size
            features, source_logits = learner.features()
            head = training.solve_head(features, data.labels, train, val, data.classes)
            if again is None:
                saved.save(
                    job.features / data.name / f"{self.encoder}.npz", data, learner.size, features, source_logits
                )
            else:
                first = table.read(self.out)[self.set_name, self.encoder, "full", again]
                rate = float(first["rate"])
        except Exception:  # noqa: BLE001  a cell that fails is a row, not the end of the run
            for strategy in ("frozen", "full") if again is None else ("full",):
                self._write(job, strategy, facts, started, reason=traceback.format_exc(limit=-2))
            return
        if again is None:
            facts["precision"] = learner.features_precision
            self._measure(job, "frozen", facts, started, lambda: training.frozen(head, features, data))
        started = time.perf_counter()
        facts["precision"] = learner.precision
        self._measure(
            job, "full", facts, started,
            lambda: training.full(learner, data, head, steps=job.budget.steps, seed=self.seed, rate=rate),
        )  # fmt: skip

    def _measure(
        self, job: Job, strategy: str, facts: dict[str, Any], started: float, work: Callable[[], training.Result]
    ) -> None:
        if strategy not in self.missing((strategy,)):
            return
        try:
            result = work()
        except Exception:  # noqa: BLE001  a cell that fails is a row, not the end of the run
            self._write(job, strategy, facts, started, reason=traceback.format_exc(limit=-2))
        else:
            self._write(job, strategy, facts, started, result)

    def _write(
        self,
        job: Job,
        strategy: str,
        facts: dict[str, Any],
        started: float,
        result: training.Result | None = None,
        reason: str = "",
    ) -> None:
        row = {
            "set": self.set_name, "encoder": self.encoder, "strategy": strategy, "seed": self.seed, **facts,
            "seconds": f"{time.perf_counter() - started:.1f}", "status": "ok" if result else "failed",
            "reason": " | ".join(reason.split("\n")).strip(" |"),
        }  # fmt: skip
        if result:
            row |= {
                "steps": result.steps, "rates_tried": result.tried, "diverged": int(result.diverged),
                "rate": "" if result.rate is None else f"{result.rate:g}",
                "val_accuracy": f"{result.val_accuracy:.6f}", "test_accuracy": f"{result.test_accuracy:.6f}",
                "test_log_loss": f"{result.test_log_loss:.6f}",
            }  # fmt: skip
        table.append(self.out, row, table.columns(job.suite.library))
        print(*(row.get(c, "") for c in ("set", "encoder", "strategy", "seed", "rates_tried", "rate", "val_accuracy",
              "test_accuracy", "seconds", "status", "reason")), flush=True)  # fmt: skip


def cpu_name() -> str:
    """Model and core count."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{name} x{os.cpu_count()}"


if __name__ == "__main__":
    sys.exit(main())
