"""The table of the second stage: pairs of like size, and the correlation of errors."""

import numpy as np

from benchmarks.suite.members import Cells
from benchmarks.suite.second_stage_table import correlations, like_size


def cells(accuracy: list[float]) -> Cells:
    return Cells(tuple("abcd"[: len(accuracy)]), {}, {}, np.zeros(len(accuracy)), np.array(accuracy))


def test_only_pairs_of_like_size_are_compared() -> None:
    """a and b are of like size and in the wrong order; c is far larger than both."""
    found = like_size(
        np.array([1.0, 2.0, 3.0]), cells([50.0, 40.0, 60.0]), {"a": 1e6, "b": 2e6, "c": 9e6}, np.ones(3, bool)
    )
    assert found == 0.0
    assert like_size(np.array([2.0, 1.0, 0.0]), cells([50.0, 40.0, 60.0]), {"a": 1e6, "b": 2e6, "c": 9e6}, np.ones(3, bool)) == 1.0  # fmt: skip


def test_ties_of_the_truth_say_nothing() -> None:
    assert np.isnan(like_size(np.array([1.0, 2.0]), cells([50.0, 50.0]), {"a": 1e6, "b": 1e6}, np.ones(2, bool)))


def test_scores_with_the_same_errors_correlate_fully() -> None:
    wrong, right = np.array([2.0, 1.0, 3.0, 4.0]), np.array([1.0, 2.0, 4.0, 3.0])
    scores = {"s": {"transferability": wrong, "trial": right, "knn": wrong, "probe": -wrong, "logme": wrong * 2}}
    rows = correlations({"s": cells([1.0, 2.0, 3.0, 4.0])}, scores)
    assert rows[0]["knn"] == rows[0]["logme"] == 1.0
    assert rows[0]["trial"] == 0.0
