"""What a confirmation makes of its budget: the share spent in optimiser steps, and the regret against a long one.

    python -m benchmarks.bench_budget --budgets 120 300 1200

One row a set, budget and load. The load is a loop on one core that does nothing but run. Regret is what the model
that was handed over lacks, on the test split, to the one that a confirmation without a budget hands over. Features
are computed in the first call of each set and are in nobody's time, as in a scan.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.assets import assets_folder
from benchmarks.bench_confirm import ENCODERS, ZOO, _Field, _target
from benchmarks.confirm_rows import OUT, environment, one_thread_count
from benchmarks.rows import write_rows
from selector.tuning import TournamentResult, run_tournament
from selector.zoo import load_zoo

IMAGES = 1200


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_budget", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one set, three encoders, 200 images: does it run?")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budgets", nargs="+", type=float, default=[120.0, 300.0, 1200.0], help="seconds")
    parser.add_argument("--sets", nargs="+", default=["flowers", "dtd10"])
    args = parser.parse_args(argv)
    assets = assets_folder("models/ and data/")
    if assets is None:
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    one_thread_count()
    names = list(ENCODERS)[:3] if args.quick else list(ENCODERS)
    specs = {spec.name: spec for spec in load_zoo(ZOO, trust=True).models}
    rows: list[dict[str, Any]] = []
    for name in args.sets[:1] if args.quick else args.sets:
        with tempfile.TemporaryDirectory() as temporary:
            target = _target(assets, name, 200 if args.quick else IMAGES, args.seed)
            field = _Field(name, target, [specs[n] for n in names], 64, args.seed, Path(temporary))
            features = _Features(field)
            free, _ = _confirmed(field, features, None, "free")
            reached = _test_value(free)
            for loaded in (False, True):
                for budget in args.budgets:
                    with _load(loaded):
                        result, seconds = _confirmed(field, features, budget, f"{budget:g}-{loaded}")
                    steps = sum(float(h["seconds"]) for h in result.history if "seconds" in h)
                    rows.append(
                        {
                            "set": name, "budget_s": budget, "busy_core": loaded, "spent_s": round(seconds, 1),
                            "share_in_steps": round(steps / budget, 3), "trainings": len(result.history),
                            "cooled_down": sum(h.get("steps_done", 0) < h.get("steps", 0) for h in result.history),
                            "choice": f"{result.best.name} {result.best.strategy}" if result.best else "",
                            "test": round(_test_value(result), 4), "regret": round(reached - _test_value(result), 4),
                            "encoders": len(names), "images": len(target), **environment(),
                        }
                    )  # fmt: skip
                    print({k: rows[-1][k] for k in list(rows[-1])[:10]}, flush=True)
                    write_rows(args.out / "confirm_budget.csv", rows)
    return 0


class _Features:
    """What a scan leaves behind: features of every item, read from memory."""

    def __init__(self, field: _Field) -> None:
        from selector.extract.inputs import ready

        self._rows: dict[str, np.ndarray] = {}
        for candidate in field.candidates:
            encoder = candidate.load()
            pixels, every = field.pixels_for(encoder.image_preprocess), np.arange(len(field.target))
            import torch

            with torch.inference_mode():
                parts = [
                    encoder.encode(ready(pixels.batch(every[i : i + 64]), encoder.preprocess)).float().numpy()
                    for i in range(0, len(every), 64)
                ]
            self._rows[candidate.name] = np.concatenate(parts)

    def __call__(self, name: str, indices: np.ndarray) -> np.ndarray:
        return self._rows[name][indices]


def _confirmed(field: _Field, features: _Features, budget: float | None, folder: str) -> tuple[TournamentResult, float]:
    begun = time.perf_counter()
    result = run_tournament(
        field.candidates,
        field.target,
        field.task,
        field.pixels_for,
        budget_seconds=budget,
        seed=field.seed,
        repeats=0,
        device="cpu",
        features_for=features,
        checkpoint_folder=field.folder / folder,
    )
    return result, time.perf_counter() - begun


def _test_value(result: TournamentResult) -> float:
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
