"""What the benches of scale compute beside running: ground truth by strategy, the summary."""

from __future__ import annotations

import pandas as pd
import pytest

from benchmarks import bench_many, bench_scan_budget


def test_the_truth_of_a_model_is_its_best_strategy_in_the_mean_over_seeds() -> None:
    table = pd.read_csv(bench_scan_budget.TRUTH)
    table = table[table.status == "ok"]
    cells = table.drop_duplicates(["set", "encoder", "strategy", "seed"], keep="last")
    expected = cells.groupby(["set", "encoder", "strategy"]).test_accuracy.mean().groupby(["set", "encoder"]).max()
    found = bench_scan_budget.accuracies()
    assert {(s, e): v for s, values in found.items() for e, v in values.items()} == pytest.approx(expected.to_dict())


def test_the_summary_says_spent_looked_at_and_regret() -> None:
    row = {"share": 25, "spent": 0.2, "looked_at": 9, "models": 18, "choice": "a", "whole_choice": "a", "regret": 0.0}
    lines = bench_scan_budget.summary([row, {**row, "choice": "b", "regret": 1.5, "spent": 0.24}])
    assert lines[-1] == "| 25% | 22.0% | 50% | 1 of 2 | +0.75 | +1.50 |"


def test_the_figure_of_many_targets_has_a_line_a_number_of_targets() -> None:
    rows = [{"models": m, "targets": t, "seconds": m * t / 2} for m in (5, 15) for t in (1, 4)]
    drawn = bench_many.figure(rows)
    assert drawn.count("<polyline") == 4  # two lines, and scans one by one beside each
    assert "4 targets" in drawn
    assert "1 target<" in drawn
