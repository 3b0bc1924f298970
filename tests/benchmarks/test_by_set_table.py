"""Each set by itself: orders, scopes, ceilings."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.suite.by_set_table import errors, measured, orders, seed_deviations
from benchmarks.suite.members import Cells

NAMES = tuple("abcdef")
ACCURACY = np.array([10.0, 20.0, 30.0, 40.0, 50.0, 60.0])
SIZES = {"a": 1e6, "b": 1e6, "c": 1e7, "d": 1e7, "e": 1e8, "f": 1e9}
MEMBERS = dict.fromkeys(("knn", "probe", "logme"), ACCURACY / 100)
CELLS = Cells(NAMES, MEMBERS, MEMBERS, np.zeros(6), ACCURACY)


def test_a_perfect_order_and_its_reverse() -> None:
    right = measured("s", "x", [ACCURACY], CELLS, SIZES)
    wrong = measured("s", "x", [-ACCURACY], CELLS, SIZES)
    assert (right["weighted_tau, all"], right["like_size_right"], right["regret@1"]) == (1.0, 1.0, 0.0)
    assert (wrong["weighted_tau, all"], wrong["like_size_right"]) == (-1.0, 0.0)
    assert (wrong["regret@1"], wrong["regret@3"]) == (50.0, 30.0)
    assert np.isnan(right["weighted_tau, upper half"])  # three are too few to say


def test_what_is_compared() -> None:
    found = dict(orders("s", CELLS, {}, {"t": dict(zip(NAMES, range(6), strict=True)), "s": {}}, SIZES, noise=0.0))
    assert "transferability and trial" not in found  # no trials here
    assert measured("s", "x", found["noise ceiling"], CELLS, SIZES)["weighted_tau, all"] == 1.0  # without noise
    assert found["mean rank on the other sets"][0].tolist() == [0, 1, 2, 3, 4, 5]
    assert abs(measured("s", "x", found["chance"], CELLS, SIZES)["weighted_tau, all"]) < 0.15
    trials = {("s", e): value for e, value in zip(NAMES, -ACCURACY, strict=True)}
    both = dict(orders("s", CELLS, trials, {}, SIZES, noise=0.0))["transferability and trial"][0]
    assert both == pytest.approx(0.5 * ACCURACY / 100 / 0.75 - 0.5 * ACCURACY, rel=0.1)


def test_the_spread_between_seeds_of_each_set(tmp_path: Path) -> None:
    columns = "set,encoder,strategy,seed,status,diverged,test_accuracy"
    rows = [
        "s,a,full,0,ok,0,0.50",
        "s,a,full,1,ok,0,0.52",
        "s,b,full,0,ok,0,0.7",
        "t,a,frozen,0,ok,0,0.1",
        "t,a,frozen,1,ok,0,0.9",
    ]
    (tmp_path / "ground_truth.csv").write_text("\n".join([columns, *rows]) + "\n")
    suite = SimpleNamespace(table=lambda what: tmp_path / f"{what}.csv")
    found = seed_deviations(suite)  # type: ignore[arg-type]
    assert found["s"] == pytest.approx(np.std([50.0, 52.0], ddof=1))
    assert "t" not in found


def test_a_score_with_the_errors_of_the_default_adds_nothing() -> None:
    wrong = np.array([20.0, 10.0, 30.0, 40.0, 60.0, 50.0])
    cells = Cells(NAMES, dict.fromkeys(MEMBERS, wrong / 100), MEMBERS, np.zeros(6), ACCURACY)
    other = [10.0, 20.0, 40.0, 30.0, 50.0, 60.0]
    scores = {"same": dict(zip(NAMES, wrong, strict=True)), "other": dict(zip(NAMES, other, strict=True))}
    same, apart = errors("s", cells, {k: {"s": v} for k, v in scores.items()})
    assert (same["correlation_of_errors"], same["weighted_tau"]) == (1.0, same["default"])
    assert apart["correlation_of_errors"] == 0.0
    assert list(errors("s", cells, {"elsewhere": {"t": scores["same"]}})) == []
