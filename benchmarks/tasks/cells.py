"""A cell of the ground truth and its row: one encoder, one set, one head, one strategy, one seed."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.suite import table
from benchmarks.suite.ground_truth import cpu_name

RESULTS = Path(__file__).parents[1] / "results" / "tasks"
TRUTH = RESULTS / "ground_truth.csv"
COLUMNS = (
    "task", "set", "encoder", "head", "strategy", "seed", "size", "n_train", "n_val", "n_test", "steps", "rates_tried",
    "rate", "metric", "val_value", "test_value", "test_by_output", "seconds", "precision", "threads", "torch", "torchvision",
    "timm", "cpu", "status", "reason",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """What a row is about."""

    task: str
    set: str
    encoder: str
    head: str
    strategy: str
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What training or solving gave.

    Attributes:
        metric: name of what ``val`` and ``test`` are; higher is better.
        val, test: mean over outputs.
        by_output: test value of each output, label or class.
        facts: size, counts, steps, rate, rates_tried, precision: columns of the row.
    """

    metric: str
    val: float
    test: float
    by_output: Mapping[str, float]
    facts: Mapping[str, Any] = field(default_factory=dict)


def finished(path: Path) -> set[Cell]:
    """Cells that have a row with status ``ok``; failed ones are tried again."""
    return {cell for cell, row in read(path).items() if row["status"] == "ok"}


def read(path: Path) -> dict[Cell, dict[str, str]]:
    """The last row of each cell."""
    return {cell_of(row): row for row in table.whole_rows(path)}


def cell_of(row: Mapping[str, str]) -> Cell:
    return Cell(row["task"], row["set"], row["encoder"], row["head"], row["strategy"], int(row["seed"]))


def by_output(row: Mapping[str, str]) -> dict[str, float]:
    """``log_price:0.5;area:0.2`` -> {"log_price": 0.5, "area": 0.2}."""
    pairs = (part.rpartition(":") for part in row["test_by_output"].split(";") if part)
    return {name: float(value) for name, _, value in pairs}


def run(cells: Iterable[Cell], measure: Callable[[Cell], Outcome], out: Path, threads: int) -> None:
    """Measure what is not finished; every row is forced to the disk as soon as it is there."""
    for cell in cells:
        if cell in finished(out):
            continue
        started = time.perf_counter()
        outcome, reason = None, ""
        try:
            outcome = measure(cell)
        except Exception:  # noqa: BLE001  a cell that fails is a row, not the end of the run
            reason = " | ".join(traceback.format_exc(limit=-2).split("\n")).strip(" |")
        row = row_of(cell, outcome, reason, time.perf_counter() - started, threads)
        table.append(out, row, COLUMNS)
        shown = (
            "set",
            "encoder",
            "head",
            "strategy",
            "seed",
            "rates_tried",
            "val_value",
            "test_value",
            "test_by_output",
        )
        print(*(row.get(name, "") for name in (*shown, "seconds", "status", "reason")), flush=True)


def row_of(cell: Cell, outcome: Outcome | None, reason: str, seconds: float, threads: int) -> dict[str, Any]:
    """A row of the table, versions and hardware included."""
    row: dict[str, Any] = {
        **vars(cell), "seconds": f"{seconds:.1f}", "threads": threads, "cpu": cpu_name(), "reason": reason,
        "status": "ok" if outcome else "failed",
        **{name: metadata.version(name) for name in ("torch", "torchvision", "timm")},
    }  # fmt: skip
    if outcome:
        row |= dict(outcome.facts) | {
            "metric": outcome.metric, "val_value": f"{outcome.val:.6f}", "test_value": f"{outcome.test:.6f}",
            "test_by_output": ";".join(f"{name}:{value:.6f}" for name, value in outcome.by_output.items()),
        }  # fmt: skip
    return row
