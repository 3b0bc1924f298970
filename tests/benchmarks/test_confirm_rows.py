"""Rows and means of the tables on confirmation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.confirm_rows import mean_over_sets, put_row
from benchmarks.rows import read_rows


def test_a_row_replaces_that_of_its_set_and_seed_only(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    for row in (("b", 0, 1.0), ("a", 1, 2.0), ("a", 0, 3.0), ("b", 0, 4.0)):
        put_row(path, dict(zip(("set", "seed", "value"), row, strict=True)))
    assert [(r["set"], r["seed"], r["value"]) for r in read_rows(path)] == [
        ("a", "0", "3.0"),
        ("a", "1", "2.0"),
        ("b", "0", "4.0"),
    ]
    put_row(path, {"set": "a", "seed": 0, "other": 1})  # of another version of the benchmark
    assert [list(r) for r in read_rows(path)] == [["set", "seed", "other"]]


def test_the_interval_is_over_sets_and_seeds() -> None:
    assert mean_over_sets({"a": [1.0, 3.0], "b": [4.0]})[0] == pytest.approx(3.0)  # a set counts once
    assert mean_over_sets({"a": [2.0, 2.0], "b": [2.0]}) == (2.0, 2.0, 2.0)
    rng = np.random.default_rng(0)
    values = {str(i): rng.normal(size=200).tolist() for i in range(60)}
    values = {
        name: [v + shift for v in found]
        for (name, found), shift in zip(values.items(), rng.normal(size=60), strict=True)
    }
    mean, low, high = mean_over_sets(values)
    error = np.std([np.mean(v) for v in values.values()], ddof=1) / np.sqrt(60)
    assert low < mean < high
    assert (high - low) / 2 == pytest.approx(1.645 * error, rel=0.1)
