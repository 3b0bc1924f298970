"""Rows of the tables on confirmation: where they go, what stands in each, how they are summed up."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.rows import read_rows, write_rows
from selector.core.system import versions

OUT = Path(__file__).parent / "results"
DRAWS = 10_000


def one_thread_count() -> None:
    """Let torch use as many threads as OMP_NUM_THREADS says (2 without it), and no more."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def environment() -> dict[str, Any]:
    """Versions and hardware of this run."""
    found = versions()
    return {
        "selector": found["selector"],
        "torch": found.get("torch"),
        "timm": found.get("timm"),
        "cpu": found["cpu"],
        "threads": torch.get_num_threads(),
    }


def put_row(path: Path, row: Mapping[str, Any]) -> None:
    """Put one row into the table in place of that of the same set and seed; other rows stay as they are.

    A table with other columns is of another version of the benchmark and is begun anew.
    """
    cell = (row["set"], str(row["seed"]))
    others = [r for r in read_rows(path) if list(r) == list(row) and (r["set"], r["seed"]) != cell]
    write_rows(path, sorted([*others, row], key=lambda r: (str(r["set"]), int(r["seed"]))))


def mean_over_sets(values: Mapping[str, Sequence[float]], seed: int = 0) -> tuple[float, float, float]:
    """Mean over sets of the mean over a set's seeds, with its 90% interval.

    The interval is a bootstrap in two steps: sets are drawn, then seeds within each.

    Args:
        values: by set, one a seed.
    Returns:
        mean, low, high.
    """
    rng = np.random.default_rng(seed)
    groups = [np.asarray(v, dtype=float) for v in values.values()]
    picked = rng.integers(len(groups), size=(DRAWS, len(groups)))
    means = np.empty(picked.shape)
    for j, group in enumerate(groups):
        places = picked == j
        means[places] = group[rng.integers(len(group), size=(places.sum(), len(group)))].mean(axis=1)
    low, high = np.quantile(means.mean(axis=1), [0.05, 0.95])
    return float(np.mean([g.mean() for g in groups])), float(low), float(high)
