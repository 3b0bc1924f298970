"""Orders by transferability and trials: what is learned has not seen the set it is judged on."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.suite.members import Cells
from benchmarks.suite.second_stage_variants import (
    TriedSet,
    by_reliability,
    compare,
    empirical_bayes,
    every_variant,
    extrapolated,
    plain,
    reliabilities,
    stacked,
    without_a_prior_that_trials_contradict,
)

NAMES = tuple("abcdefgh")


def tried(seed: int, held_out: int = 10**9) -> TriedSet:
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.2, 0.9, len(NAMES))
    noise = [rng.normal(0, 0.2, len(NAMES)) for _ in range(4)]
    after = np.clip(truth + noise[1] / 4, 0.05, 0.95)
    cells = Cells(NAMES, {}, {}, np.zeros(len(NAMES)), 100 * truth)
    zero, curve = np.zeros(len(NAMES)), np.stack([after - 0.2, after - 0.1, after], axis=1)
    return TriedSet(cells, truth + noise[0], after + noise[2], after, noise[3], zero, held_out, zero, curve)


def test_without_sampling_error_nothing_is_drawn_towards_a_mean() -> None:
    one = tried(0)
    assert reliabilities(one) == pytest.approx((1.0, 1.0), abs=1e-6)
    for variant in (by_reliability, empirical_bayes):
        np.testing.assert_allclose(variant(one, ()), one.score + one.after, atol=1e-6)


def test_a_trial_that_is_all_noise_leaves_the_order_to_the_transferability() -> None:
    one = tried(0, held_out=1)
    one = replace(one, after=0.5 + one.after / 100)
    assert reliabilities(one)[1] == 0.0
    assert np.argsort(by_reliability(one, ())).tolist() == np.argsort(one.score).tolist()


def test_stacked_weights_come_from_the_other_sets() -> None:
    one = tried(0)
    others = [replace(o, score=o.score[::-1].copy()) for o in (tried(1), tried(2))]  # that say nothing there
    turned = replace(one, cells=replace(one.cells, accuracy=one.cells.accuracy[::-1].copy()))
    found = stacked(0.1)(one, others)
    np.testing.assert_array_equal(found, stacked(0.1)(turned, others))
    strict = stacked(1e6)(one, others)  # drawn to the plain mean
    assert np.corrcoef(strict, one.score + one.after)[0, 1] == pytest.approx(1, abs=1e-4)
    assert np.corrcoef(found, one.after)[0, 1] > np.corrcoef(strict, one.after)[0, 1]


def test_a_row_a_variant() -> None:
    sets = {n: tried(i) for i, n in enumerate("xyz")}
    rows = {row["variant"]: row for row in compare(sets)}
    assert rows["trial"]["weighted_tau"] > rows["transferability"]["weighted_tau"]
    perfect = {n: replace(s, score=s.cells.accuracy, after=s.cells.accuracy / 100) for n, s in sets.items()}
    assert compare(perfect)[0] | {"variant": ""} == {
        "variant": "", "sets": 3, "weighted_tau": 1.0, "spearman": 1.0, "regret@1": 0.0, "regret@3": 0.0,
        "weighted_tau, upper half": 1.0,
    }  # fmt: skip


def test_a_prior_is_left_out_where_trials_order_against_it() -> None:
    one = tried(0)
    with_it = replace(one, shift=one.after / 10)
    np.testing.assert_array_equal(without_a_prior_that_trials_contradict(with_it, ()), plain(with_it, ()))
    against = replace(one, shift=-one.after / 10)
    np.testing.assert_allclose(
        without_a_prior_that_trials_contradict(against, ()), one.score - against.shift + one.after
    )


def test_a_curve_goes_on_straight_over_the_logarithm_of_the_steps() -> None:
    steps = np.array([8, 16, 24])
    slope = np.linspace(0.01, 0.1, len(NAMES))
    one = replace(tried(0), curve=0.1 + slope[:, None] * np.log(steps), score=np.zeros(len(NAMES)))
    np.testing.assert_allclose(extrapolated(150)(one, ()), 0.1 + slope * np.log(150))
    sets = {
        "x": replace(one, score=one.after),
        "y": replace(tried(1), curve=np.full((len(NAMES), 3), np.nan)),
    }  # where no curve was kept
    counts = {row["variant"]: row["sets"] for row in every_variant(sets)}
    assert (counts["plain mean"], counts["plain mean, sets with curves"]) == (2, 1)
    assert counts["curve extrapolated to 48 steps, sets with curves"] == 1
