"""The table of the second stage: what ships, what the other sets choose, pairs of like size, the correlation of errors."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.suite.ceiling import SeedNoise
from benchmarks.suite.members import Cells
from benchmarks.suite.second_stage_replay import TRAINING, Stage, confirm, fixed, half_widths, second_stage
from benchmarks.suite.second_stage_table import (
    OPEN_MARGINS,
    agreement,
    best_margin,
    correlations,
    left_out,
    like_size,
    of_outcome,
    outcomes,
    passes,
    replayed,
)
from selector.ranking.second_stage import MOST_TRIALS
from selector.results import PilotCell


def cells(accuracy: list[float]) -> Cells:
    return Cells(tuple("abcdefghij"[: len(accuracy)]), {}, {}, np.zeros(len(accuracy)), np.array(accuracy))


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
    return {"before": str(before), "after": str(after), "status": "ok", "reason": "", "right": bits, "held_out": str(len(right)), "trial_seconds": str(seconds)}  # fmt: skip


def test_errors_of_trials_are_paired() -> None:
    """a and b are wrong on the same items, c on others."""
    right = {"a": [1, 1, 1, 0, 0, 0, 0, 0], "b": [1, 1, 1, 1, 0, 0, 0, 0], "c": [0, 0, 0, 0, 1, 1, 1, 0]}
    tried = {n: PilotCell("ok", after=float(np.mean(r))) for n, r in right.items()}
    found = half_widths(tried, {("s", n): trial(0.0, 0.0, r) for n, r in right.items()}, "s")
    assert found["b"] == 0.0  # the best
    assert found["a"] == 1.645 * np.sqrt(np.var([0, 0, 0, 1, 0, 0, 0, 0]) / 8)
    assert found["c"] > 2 * found["a"]


def scored(transferability: np.ndarray, after: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "transferability": transferability, "transferability, no prior": transferability, "trial": after,
        "trial and probe": after / 2,
    }  # fmt: skip


def test_each_set_is_judged_by_what_the_other_sets_choose() -> None:
    """On x trials order as the truth does and transferability the other way round, on y and z the contrary."""
    own = {n: cells([1.0, 2.0, 3.0, 4.0]) for n in "xyz"}
    up, down = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.4, 0.3, 0.2, 0.1])
    scores = {n: scored(*((down, up) if n == "x" else (up, down))) for n in "xyz"}
    trials = {(n, e): trial(0.0, float(scores[n]["trial"][i]), [1] * 8) for n in "xyz" for i, e in enumerate("abcd")}
    stages = replayed(own, scores, trials)["full"]
    rows = {str(row["set"]): row for row in left_out("full", own, scores, stages, stages, trials)}
    assert rows["x"]["weight"] == 0.0
    assert rows["x"]["weighted_tau_all"] == -1.0
    assert rows["x"]["first_3_models"] == 3
    assert rows["x"]["first_3_regret"] == 1.0  # d is the last by transferability
    assert fixed("x", stages["x"], own["x"], trials)["seconds"] == round(TRAINING * 6.0, 1)
    # four trials cost a third of a training, so that two are confirmed in the time of three; without the limit all are near
    seconds = TRAINING * 6.0
    assert (rows["y"]["shipped_models"], rows["y"]["shipped_unlimited_models"]) == (2, 4)
    assert rows["y"]["shipped_seconds"] <= seconds < rows["y"]["shipped_unlimited_seconds"]
    best = outcomes(own, scores, trials, {n: dict(zip("abcd", [1.0, 2.0, 3.0, 4.0], strict=True)) for n in "xyz"})
    assert {row["outcome"] for row in best} == {"full", "frozen", "better of both"}
    assert next(row["chosen"] for row in best if row["outcome"] == "full") >= 1


def stage(values: dict[str, float]) -> Stage:
    return Stage(np.zeros(4), ("a", "b", "c"), values, dict.fromkeys(values, 0.0), dict.fromkeys(values, 1.0))


def test_the_margin_that_the_other_sets_choose_is_the_best_there_and_no_larger() -> None:
    """d is the best and no contender, so no margin reaches regret 0; c, the best of the contenders, lies 0.04 behind."""
    near = stage({"a": 0.50, "b": 0.49, "c": 0.46})
    own = cells([90.0, 89.0, 93.0, 95.0])
    regrets = {m: confirm(near, own, m, limited=False)["regret"] for m in OPEN_MARGINS}
    assert regrets == {0.01: 5.0, 0.02: 5.0, 0.03: 5.0, 0.05: 2.0, 0.08: 2.0, 0.12: 2.0}
    assert best_margin([(near, own)], limited=False) == 0.05
    # where one set needs the wide margin and the other only pays for it, the mean regret decides before the time
    costly = stage({"a": 0.50, "b": 0.49, "c": 0.40})
    assert best_margin([(costly, cells([95.0, 90.0, 80.0, 70.0]))], limited=False) == 0.01
    assert best_margin([(near, own), (costly, cells([95.0, 90.0, 80.0, 70.0]))], limited=False) == 0.05


def test_what_ships_gives_the_leading_six_a_trial() -> None:
    """j trains best by far and is ranked last: without a trial it stays there. f is the best of those that have one."""
    ten = cells([float(i) for i in range(10)])
    score = np.linspace(0.9, 0.0, 10)
    after = np.array([0.5, 0.5, 0.5, 0.5, 0.5, 0.99, 0.5, 0.5, 0.5, 1.0])
    right = {e: [int(i < 100 * a) for i in range(100)] for e, a in zip(ten.names, after, strict=True)}
    trials = {("s", e): trial(0.5 if e != "f" else 0.0, float(np.mean(r)), r) for e, r in right.items()}
    found = second_stage("s", ten, score, score, trials, frozen_too=False)
    assert set(found.values) == set("abcdef")
    assert len(found.values) == MOST_TRIALS
    order = [ten.names[i] for i in np.argsort(-found.order)]
    assert order == ["a", "f", "b", "c", "d", "e", "g", "h", "i", "j"]
    too = second_stage("s", ten, score, score, trials, frozen_too=True)  # f's probe is as bad as its transferability
    assert [ten.names[i] for i in np.argsort(-too.order)] == list("abcdefghij")
    assert found.first == too.first == ("a", "b", "c")


def test_a_prior_may_be_left_out_where_the_trials_of_the_contenders_order_against_it() -> None:
    """The prior alone puts a before f; their trials, and those of all between, say the contrary."""
    ten = cells([float(i) for i in range(10)])
    shift, score = np.linspace(0.5, 0.0, 10), np.full(10, 0.3)
    after = np.linspace(0.60, 0.69, 10)
    trials = {("s", e): trial(a, a, [1] * 8) for e, a in zip(ten.names, after, strict=True)}
    found = second_stage("s", ten, score + shift, score, trials, frozen_too=False, prior_by_trials=True)
    order = [ten.names[i] for i in np.argsort(-found.order)]
    assert order[:6] == list("fedcba")
    assert found.values["f"] - found.values["a"] == pytest.approx((after[5] - after[0]) / 2)
    kept = second_stage("s", ten, score + shift, score, trials, frozen_too=False)
    assert kept.values["a"] > kept.values["f"]
    assert found.first == ("a", "b", "c")  # what would be confirmed without trials has the prior


def test_the_better_of_both_outcomes_counts_by_default() -> None:
    own = {"s": cells([1.0, 5.0, 3.0])}
    frozen = {"s": {"a": 2.0, "b": 1.0, "c": 4.0, "d": 9.0}}
    assert of_outcome(own, frozen, "better of both")["s"].accuracy.tolist() == [2.0, 5.0, 4.0]
    assert of_outcome(own, frozen, "frozen")["s"].accuracy.tolist() == [2.0, 1.0, 4.0]
    assert of_outcome(own, frozen, "full")["s"].accuracy.tolist() == [1.0, 5.0, 3.0]


def test_a_table_of_every_outcome_scope_and_score_begins_with_what_ships() -> None:
    ten = {n: replace(cells([float(i) for i in range(10)]), prior=np.zeros(10)) for n in "st"}
    scores = {n: scored(np.linspace(0, 0.9, 10), np.linspace(0, 0.9, 10)) for n in ten}
    trials = {(n, e): trial(0.5, 0.1 * i, [1] * 8) for n in ten for i, e in enumerate("abcdefghij")}
    frozen = {n: dict.fromkeys("abcdefghij", 4.5) for n in ten}
    rows = agreement(
        ten,
        scores,
        replayed(ten, scores, trials),
        dict.fromkeys("abcdefghij", 1.0),
        frozen,
        SeedNoise({"": 1.0}, {}),
        20,
    )
    assert [row["score"] for row in rows[:2]] == ["shipped: full", "shipped: frozen and full"]
    assert rows[0]["weighted_tau"] == 1.0
    by_score = {(row["outcome"], row["scope"], row["score"]): row for row in rows}
    assert 0.7 < by_score["full", "all", "noise ceiling"]["weighted_tau"] < 0.95
    assert ("better of both", "all", "noise ceiling") not in by_score
    assert by_score["better of both", "all", "shipped: full"]["regret@1"] == 0.0


def test_what_a_trial_costs_is_counted_in_forward_passes() -> None:
    assert passes(items=1000) == pytest.approx((200 + 3 * 24 * 16) / 1000)
    assert passes(probe=True, items=1000) == pytest.approx((400 + 2 * 200 + 3 * 24 * 16) / 1000)
