"""What a confirmation makes of its budget: the share spent in optimizer steps, and the regret against a long one.

    python -m benchmarks.bench_budget --budgets 120 300 1200 [--loads quiet busy] [--sets ...] [--work DIR]

One row a set, seed, budget and load, written as it is measured; rows that are there already are not measured again. The
load is a loop on one core that does nothing but run. Regret is what the model that was handed over lacks, on the test
split, to the one that the longest quiet budget of the same set and seed hands over. Features and decoded images come
from an earlier call of the same ``--work`` or are made before the clock starts, as a scan leaves them behind; everything
else that a confirmation does is in the time. ``load_average`` is that of the last five minutes when it ended, its own
included: how quiet the machine was. ``share_in_steps`` is the time inside the training loop over the budget. Of the rest,
``setup_s`` goes to loading, heads and timing of steps (until the first training's first step), ``val_s`` to validation
and ``final_s`` to what follows the last step: test features, the test split, the verdict.
"""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.confirm_field import ENCODERS, Field, begin, target_of
from benchmarks.confirm_rows import OUT, environment
from benchmarks.rows import read_rows, write_rows
from selector.core.contracts import Progress
from selector.extract.inputs import ready
from selector.tuning import FineTuningResult, TuningCandidate, run_fine_tuning

IMAGES = 1200
LOADS = ("quiet", "busy")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_budget", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three encoders, 200 images: does it run?")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budgets", nargs="+", type=float, default=[120.0, 300.0, 1200.0], help="seconds")
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=list(LOADS))
    parser.add_argument("--sets", nargs="+", default=["flowers"])
    parser.add_argument("--work", type=Path, help="folder of features and decoded images; else a temporary one")
    parser.add_argument("--again", action="store_true", help="measure rows that are there already")
    args = parser.parse_args(argv)
    if (opened := begin(args.out)) is None:
        return 2
    assets, specs = opened
    names = list(ENCODERS)[:3] if args.quick else list(ENCODERS)
    table = args.out / "confirm_budget.csv"
    for name, budget, load in itertools.product(args.sets, args.budgets, args.loads):
        cell = (name, str(args.seed), f"{budget:g}", load)
        if not args.again and cell in map(_cell, read_rows(table)):
            continue
        with tempfile.TemporaryDirectory() as temporary:
            folder = args.work or Path(temporary)
            target = target_of(assets, name, 200 if args.quick else IMAGES, args.seed)
            field = Field(name, target, [specs[n] for n in names], 64, args.seed, folder / name)
            row = _measured(field, _Features(field), budget, load, Path(temporary))
        others = [r for r in read_rows(table) if _cell(r) != cell]
        write_rows(table, _with_regret([*others, row]))
        print(row, flush=True)
    return 0


def _measured(field: Field, features: _Features, budget: float, load: str, folder: Path) -> dict[str, Any]:
    """One confirmation and where its time went."""
    with _load(load == "busy"):
        result, seconds = _confirmed(field, features, budget, folder)
        average = os.getloadavg()[1]  # of five minutes, its own one included: how quiet the machine was
    trained = [h for h in result.history if "seconds" in h]
    steps = sum(float(h["seconds"]) for h in trained)
    return {
        "set": field.name, "seed": str(field.seed), "budget_s": f"{budget:g}", "load": load, "spent_s": round(seconds, 1),
        "steps_s": round(steps, 1), "share_in_steps": round(steps / budget, 3), "trainings": len(trained),
        "cooled_down": sum(h["steps_done"] < h["steps"] for h in trained), "optimizer_steps": sum(h["steps_done"] for h in trained),
        "setup_s": round(features.clock.first_step - features.clock.begun, 1),
        "val_s": round(sum(float(h.get("evaluate_seconds", 0.0)) for h in trained), 1),
        "final_s": round(features.clock.ended - features.clock.last_step, 1),
        "choice": f"{result.best.name} {result.best.strategy}" if result.best else "",
        "test": f"{_test_value(result):.4f}", "regret": "", "encoders": len(field.candidates), "images": len(field.target), "load_average": round(average, 1), **environment(),
    }  # fmt: skip


def _cell(row: Mapping[str, Any]) -> tuple[str, ...]:
    return row["set"], row["seed"], row["budget_s"], row["load"]


def _with_regret(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Against the longest quiet budget of the same set and seed."""
    for row in rows:
        quiet = [r for r in rows if (r["set"], r["seed"]) == (row["set"], row["seed"]) and r["load"] == "quiet"]
        longest = max(quiet, key=lambda r: float(r["budget_s"]), default=None)
        row["regret"] = "" if longest is None else f"{float(longest['test']) - float(row['test']):.4f}"
    return sorted(rows, key=lambda r: (r["set"], int(r["seed"]), r["load"], float(r["budget_s"])))


class _Clock:
    """When a confirmation took its first and its last step."""

    def __init__(self) -> None:
        self.begun = self.first_step = self.last_step = self.ended = math.nan

    def __call__(self, step: Progress) -> None:
        if step.stage == "train":
            now = time.perf_counter()
            self.last_step = now
            if math.isnan(self.first_step):
                self.first_step = now


class _Features:
    """What a scan leaves behind: features of every item, kept between calls."""

    def __init__(self, field: Field) -> None:
        self.clock = _Clock()
        self._rows: dict[str, np.ndarray] = {}
        for candidate in field.candidates:
            path = field.folder / f"{candidate.name}-{len(field.target)}-{field.seed}.npy"
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, self._encoded(field, candidate))
            self._rows[candidate.name] = np.load(path, allow_pickle=False)

    def __call__(self, name: str, indices: np.ndarray) -> np.ndarray:
        return self._rows[name][indices]

    @staticmethod
    def _encoded(field: Field, candidate: TuningCandidate) -> np.ndarray:
        encoder = candidate.load()
        pixels, every = field.pixels_for(encoder.image_preprocess), np.arange(len(field.target))
        with torch.inference_mode():
            parts = [
                encoder.encode(ready(pixels.batch(every[i : i + 64]), encoder.preprocess)).float().numpy()
                for i in range(0, len(every), 64)
            ]
        return np.concatenate(parts)


def _confirmed(field: Field, features: _Features, budget: float, folder: Path) -> tuple[FineTuningResult, float]:
    features.clock.begun = time.perf_counter()
    result = run_fine_tuning(
        field.candidates,
        field.target,
        field.task,
        field.pixels_for,
        budget_seconds=budget,
        seed=field.seed,
        repeats=0,
        device="cpu",
        features_for=features,
        checkpoint_folder=folder / "run",
        progress=features.clock,
    )
    features.clock.ended = time.perf_counter()
    return result, features.clock.ended - features.clock.begun


def _test_value(result: FineTuningResult) -> float:
    assert result.best is not None
    return next(m.test_value for m in result.measurements[result.best.name] if m.strategy == result.best.strategy)


@contextmanager
def _load(wanted: bool) -> Iterator[None]:
    """Another program on one core, while the block runs."""
    if not wanted:
        yield
        return
    other = multiprocessing.get_context("spawn").Process(target=_spin, daemon=True)
    other.start()
    try:
        yield
    finally:
        other.terminate()
        other.join()


def _spin() -> None:
    while True:
        pass


if __name__ == "__main__":
    sys.exit(main())
