"""What the benches of scale compute beside running: ground truth by strategy, the summary."""

import pandas as pd
import pytest

from benchmarks import bench_many_models, bench_scan_budget
from benchmarks.rows import read_rows
from selector.extract.job import wanted_of
from selector.store import FeatureStore


def test_the_truth_of_a_model_is_its_best_strategy_in_the_mean_over_seeds():
    table = pd.read_csv(bench_scan_budget.TRUTH)
    table = table[table.status == "ok"]
    cells = table.drop_duplicates(["set", "encoder", "strategy", "seed"], keep="last")
    expected = cells.groupby(["set", "encoder", "strategy"]).test_accuracy.mean().groupby(["set", "encoder"]).max()
    found = bench_scan_budget.accuracies()
    assert {(s, e): v for s, values in found.items() for e, v in values.items()} == pytest.approx(expected.to_dict())


def test_the_summary_says_spent_looked_at_and_regret():
    row = {"share": 25, "spent": 0.2, "looked_at": 9, "models": 18, "choice": "a", "whole_choice": "a", "regret": 0.0}
    lines = bench_scan_budget.summary([row, {**row, "choice": "b", "regret": 1.5, "spent": 0.24}])
    assert lines[-1] == "| 25% | 22.0% | 50% | 1 of 2 | +0.75 | +1.50 |"


def test_many_models_stay_within_their_sizes(tmp_path):
    """Bytes of 60 models: the aims for 1,500 are 3 MB of report and 5 MB of run.json."""
    assert bench_many_models.main(["--quick", "--out", str(tmp_path / "rows.csv")]) == 0
    found = {row["what"]: row for row in read_rows(tmp_path / "rows.csv")}
    assert int(found["known"]["bytes"]) / 60 < 5e6 / 1500
    assert int(found["report"]["bytes"]) - 75_000 < 60 * 2000  # beside style, script and figures


def test_a_known_scan_replaces_no_file_of_the_store(tmp_path):
    """To note the time of use by replacing a file took half of a scan of 1,500 models."""
    store = FeatureStore(tmp_path / "store")
    target, specs = bench_many_models.images(0), bench_many_models.models(3)
    bench_many_models.fill(store, target, specs, 0)
    before = {path: path.stat().st_ino for path in (tmp_path / "store" / "entries").rglob("used.json")}
    stamped = {path: path.stat().st_mtime for path in before}
    again = FeatureStore(tmp_path / "store")
    assert all(again.resolve(wanted_of(spec, "cpu", "float32", "eager")) is not None for spec in specs)
    assert len(before) == 3
    assert {path: path.stat().st_ino for path in before} == before
    assert all(path.stat().st_mtime > stamped[path] for path in before)
    used = [entry.used for entry in again.list_entries()]
    assert used == sorted(set(used))
