"""This package, by its public functions: scan, heads, training and the choice within the time, then the saved model."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from _common import read_cell, report

import selector


def main() -> None:
    """Rank the one model with a budget, and let what is saved predict test."""
    refit = sys.argv[1] != "no-refit"
    if not refit:
        del sys.argv[1]
    cell = read_cell()
    images = "arch" in cell.facts
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        begun = time.perf_counter()
        ranking = selector.rank(
            cell.folder if images else cell.folder / "texts.jsonl", zoo=cell.facts["zoo"], models=[cell.facts["model"]],
            trust_zoo=True, confirm=True, budget=cell.seconds, refit=refit, store=Path(temporary) / "store", out=run, threads=1,
            history=False, progress=False,
        )  # fmt: skip
        used = time.perf_counter() - begun
        best = ranking.best.best_measurement()
        assert best is not None
        if images:
            paths = sorted((cell.folder / "test").glob("*/*"))
            items, truth = [str(path) for path in paths], [path.parent.name for path in paths]
        else:
            items, labels = cell.texts("test")
            truth = [str(label) for label in labels]
        named = [str(name) for name in selector.load_model(run, trust=True).predict(items).labels]
        right = sum(one == other for one, other in zip(named, truth, strict=True)) / len(truth)
        size = None if best.resolution is None else best.resolution[0]
        tried = {
            f"{m.strategy} {m.resolution and m.resolution[0]} px, {m.steps} steps": round(m.val_value, 4)
            for m in ranking.best.measurements
        }
        report(
            cell, right, used, strategy=best.strategy, size=size, steps=best.steps, rate=best.learning_rate, tried=tried
        )


if __name__ == "__main__":
    main()
