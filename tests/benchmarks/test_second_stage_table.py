"""The table of the second stage: pairs of like size, and the correlation of errors."""

import numpy as np

from benchmarks.suite.members import Cells
from benchmarks.suite.second_stage_table import (
    TRAINING,
    correlations,
    fixed,
    half_widths,
    left_out,
    like_size,
    outcomes,
)
from selector.results import TrialCell


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


def trial(before: float, after: float, right: list[int], seconds: float = 2.0) -> dict[str, str]:
    bits = np.packbits(np.array(right, np.uint8)).tobytes().hex()
    return {"before": str(before), "after": str(after), "right": bits, "held_out": str(len(right)), "trial_seconds": str(seconds)}  # fmt: skip


def test_errors_of_trials_are_paired() -> None:
    """a and b are wrong on the same items, c on others."""
    right = {"a": [1, 1, 1, 0, 0, 0, 0, 0], "b": [1, 1, 1, 1, 0, 0, 0, 0], "c": [0, 0, 0, 0, 1, 1, 1, 0]}
    tried = {n: TrialCell("ok", after=float(np.mean(r))) for n, r in right.items()}
    found = half_widths(tried, {("s", n): trial(0.0, 0.0, r) for n, r in right.items()}, "s")
    assert found["b"] == 0.0  # the best
    assert found["a"] == 1.645 * np.sqrt(np.var([0, 0, 0, 1, 0, 0, 0, 0]) / 8)
    assert found["c"] > 2 * found["a"]


def test_each_set_is_judged_by_what_the_other_sets_choose() -> None:
    """On x trials order as the truth does and transferability the other way round, on y and z the contrary."""
    own = {n: cells([1.0, 2.0, 3.0, 4.0]) for n in "xyz"}
    up, down = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.4, 0.3, 0.2, 0.1])
    scores = {n: {"transferability": down if n == "x" else up, "trial": up if n == "x" else down} for n in "xyz"}
    trials = {(n, e): trial(0.0, float(scores[n]["trial"][i]), [1] * 8) for n in "xyz" for i, e in enumerate("abcd")}
    rows = {str(row["set"]): row for row in left_out(own, scores, trials)}
    assert rows["x"]["weight"] == 0.0
    assert rows["x"]["weighted_tau"] == -1.0
    assert rows["x"]["first_3_models"] == 3
    assert rows["x"]["first_3_regret"] == 1.0  # d is the last by transferability
    assert fixed(own["x"], down, trials, "x")["seconds"] == round(TRAINING * 6.0, 1)
    # six trials cost half a training, so that two are confirmed in the time of three; without the limit all four are near
    seconds = TRAINING * 6.0
    assert (rows["y"]["shipped_models"], rows["y"]["unlimited_models"]) == (2, 4)
    assert rows["y"]["shipped_seconds"] <= seconds < rows["y"]["unlimited_seconds"]
    best = outcomes(own, scores, trials, {n: dict(zip("abcd", [1.0, 2.0, 3.0, 4.0], strict=True)) for n in "xyz"})
    assert {row["outcome"] for row in best} == {"full", "frozen", "better of both"}
    assert next(row["chosen"] for row in best if row["outcome"] == "full") >= 1
