"""Each set by itself: orders, scopes, ceilings."""

import numpy as np
import pytest

from benchmarks.suite.by_set_table import measured, orders
from benchmarks.suite.ceiling import SeedNoise
from benchmarks.suite.members import Cells

NAMES = tuple("abcdef")
ACCURACY = np.array([10.0, 20.0, 30.0, 40.0, 50.0, 60.0])
SIZES = {"a": 1e6, "b": 1e6, "c": 1e7, "d": 1e7, "e": 1e8, "f": 1e9}
MEMBERS = dict.fromkeys(("knn", "probe", "logme"), ACCURACY / 100)
SILENT = SeedNoise({"": 0.0}, {})
CELLS = Cells(NAMES, MEMBERS, MEMBERS, np.zeros(6), ACCURACY)


def test_a_perfect_order_and_its_reverse() -> None:
    right = measured("s", "x", [(ACCURACY, CELLS)], SIZES)
    wrong = measured("s", "x", [(-ACCURACY, CELLS)], SIZES)
    assert (right["weighted_tau, all"], right["like_size_right"], right["regret@1"]) == (1.0, 1.0, 0.0)
    assert (wrong["weighted_tau, all"], wrong["like_size_right"]) == (-1.0, 0.0)
    assert (wrong["regret@1"], wrong["regret@3"]) == (50.0, 30.0)
    assert np.isnan(right["weighted_tau, upper half"])  # three are too few to say


def test_what_is_compared() -> None:
    found = dict(orders("s", CELLS, {}, {"t": dict(zip(NAMES, range(6), strict=True)), "s": {}}, SIZES, noise=SILENT))
    assert "transferability and trial, every model" not in found  # no trials here
    assert measured("s", "x", found["noise ceiling"], SIZES)["weighted_tau, all"] == 1.0  # without noise
    assert found["mean rank on the other sets"][0][0].tolist() == [0, 1, 2, 3, 4, 5]
    assert abs(measured("s", "x", found["chance"], SIZES)["weighted_tau, all"]) < 0.15
    trials = {("s", e): value for e, value in zip(NAMES, -ACCURACY, strict=True)}
    both = dict(orders("s", CELLS, trials, {}, SIZES, noise=SILENT))["transferability and trial, every model"][0][0]
    assert both == pytest.approx(0.5 * ACCURACY / 100 / 0.75 - 0.5 * ACCURACY, rel=0.1)
