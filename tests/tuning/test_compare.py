"""Intervals and probabilities that hold where items, or items that decide, are few."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, norm

from benchmarks.bench_intervals import MAKERS, measure
from selector import tasks
from selector.core.task import Stats
from selector.tasks.segmentation import SegmentationStats
from selector.tuning.compare import advise, spread_of_changes, standings

TASK: Any = tasks.registry.get("classification")
ACCURACY = TASK.metrics["accuracy"]


def right(mask: np.ndarray) -> Stats:
    """Two classes, of which these items are right."""
    labels = np.arange(len(mask)) % 2
    return TASK.stats(5.0 * np.eye(2)[np.where(mask, labels, 1 - labels)], labels)


def discordant(more: int, fewer: int, count: int) -> dict[str, list[Stats]]:
    """``a`` alone is right on ``more`` items, ``b`` alone on ``fewer``, both on the rest."""
    place = np.arange(count)
    return {"a": [right(place >= fewer)], "b": [right((place < fewer) | (place >= fewer + more))]}


def mid_p(more: int, fewer: int) -> float:
    """Two-sided mid-p value of the sign test."""
    trials = more + fewer
    return min(1.0, 2 * float(binom.cdf(fewer - 1, trials, 0.5) + binom.pmf(fewer, trials, 0.5) / 2))


@pytest.mark.parametrize(("more", "fewer"), [(2, 0), (3, 0), (4, 0), (5, 1), (6, 1), (8, 2), (9, 3), (12, 4), (20, 10)])
@pytest.mark.parametrize("count", [46, 400])
def test_the_interval_agrees_with_the_sign_test(more: int, fewer: int, count: int) -> None:
    """Three items all one way are no evidence, however many items nobody disagrees on."""
    found = standings(discordant(more, fewer, count), "accuracy", ACCURACY)["b"]
    assert found.difference == pytest.approx((more - fewer) / count)
    probability = mid_p(more, fewer)
    if abs(probability - 0.1) > 0.02:  # 4,000 draws tell closer calls apart by chance
        assert (found.low > 0) == (probability < 0.1)
    assert found.p_best == pytest.approx(probability / 2, abs=0.02)


@pytest.mark.parametrize("count", [4, 9, 50])
def test_items_that_all_agree_leave_room_for_others(count: int) -> None:
    """Nothing differs on ``count`` items: about 1 - 0.05 ** (1 / (count + 1)) of the others may, either way."""
    equal = {name: [right(np.arange(count) % 4 > 0)] for name in "abc"}
    found = standings(equal, "accuracy", ACCURACY)
    rule = 1 - 0.05 ** (1 / (count + 1))
    assert 0.6 * rule < found["b"].high < 1.2 * rule
    assert found["b"].low == pytest.approx(-found["b"].high, rel=0.2)
    assert [standing.p_best for standing in found.values()] == pytest.approx([1 / 3] * 3, abs=0.03)


def test_differences_have_the_standard_error_of_the_formula() -> None:
    """√((d − δ²)/n) of two accuracies on the same n images; P(first) is Φ(δ / √(SE² + 2 s²)) where training is unfinished."""
    rng = np.random.default_rng(0)
    a = rng.random(2000) < 0.6
    b = np.where(rng.random(2000) < 0.2, ~a, a)
    delta = a.mean() - b.mean()
    error = np.sqrt(((a != b).mean() - delta**2) / 2000)
    entrants = {"a": [right(a)], "b": [right(b)]}
    found = standings(entrants, "accuracy", ACCURACY)
    assert found["b"].difference == pytest.approx(delta)
    assert (found["b"].high - found["b"].low) / 2 == pytest.approx(1.645 * error, rel=0.08)
    assert found["a"].p_best > 0.99
    unfinished = standings(entrants, "accuracy", ACCURACY, unfinished=0.05)["a"].p_best
    assert unfinished == pytest.approx(norm.cdf(delta / np.sqrt(error**2 + 2 * 0.05**2)), abs=0.03)


def test_the_spread_of_changes_is_that_of_the_true_changes() -> None:
    """Simulated networks whose true accuracies change by known amounts; means over many draws of the images."""
    rng = np.random.default_rng(0)

    def runs(accuracies: np.ndarray) -> list[Stats]:
        return [right(rng.random(300) < accuracy) for accuracy in accuracies]

    start = np.array([0.3, 0.4, 0.5, 0.6])
    for true in (np.zeros(4), np.array([0.0, 0.1, 0.2, 0.3])):
        found = [spread_of_changes(runs(start), runs(start + 0.05 + true), "accuracy") for _ in range(40)]
        # √ of a variance that is cut at 0 is biased upwards where the variance is small
        assert np.mean(np.square(found)) == pytest.approx(true.var(ddof=1), abs=0.0012)
    same = runs(start)
    assert spread_of_changes(same, same, "accuracy") == 0
    assert spread_of_changes(same[:1], same[1:2], "accuracy") == 0


@pytest.mark.parametrize("metric", ["log_loss", "macro_f1"])
def test_other_metrics_are_oriented(metric: str) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=200)
    good, bad = (TASK.stats(rng.normal(size=(200, 3)) + k * np.eye(3)[labels], labels) for k in (4, 1))
    compared = standings({"bad": [bad], "good": [good]}, metric, TASK.metrics[metric])
    assert compared["good"].p_best == 1
    assert compared["bad"].low > 0
    assert compared["good"].difference == 0


def test_four_images_do_not_settle_a_segmentation() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(400, 600, (4, 2))

    def stats(share: float) -> Stats:
        hit = (truth * (share + rng.normal(0, 0.01, truth.shape))).astype(int)
        return SegmentationStats({"hit": hit, "truth": truth, "said": truth})

    made = {"a": [stats(0.9)], "b": [stats(0.84)]}
    found = standings(made, "miou", tasks.registry.get("segmentation").metrics["miou"])["b"]
    spread = (found.high - found.low) / 2
    assert spread > 0.01  # a bootstrap of the four images has 0.006
    assert found.low < found.difference < found.high


def test_repeats_of_one_training_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    once = {name: [right(rng.random(200) < 0.8)] for name in "ab"}
    more = {name: [*runs, right(rng.random(200) < 0.6)] for name, runs in once.items()}
    widths = [
        max(s.high - s.low for s in standings(more, "accuracy", ACCURACY, repeats=repeats).values())
        for repeats in (True, False)
    ]
    assert widths[0] > 1.1 * widths[1]


def test_an_entrant_without_a_value_is_never_the_best() -> None:
    labels = np.zeros(8, int)
    made = {"a": [TASK.stats(np.eye(2)[labels], labels)], "b": [right(np.ones(8, bool))]}
    found = standings(made, "auroc", TASK.metrics["auroc"])
    assert found["a"].p_best == 0
    assert found["b"].p_best == 1


@pytest.mark.parametrize(
    ("task", "metric"),
    [("classification", "accuracy"), ("multilabel", "map"), ("regression", "mae"), ("tagging", "entity_f1"),
     ("segmentation", "miou"), ("detection", "map50")],
)  # fmt: skip
def test_intervals_on_few_items_hold(task: str, metric: str) -> None:
    """The committed table has 300 draws a cell; here 60 draws of 6 items must not contradict it."""
    pair = MAKERS[task][0]((1.5, 1.2), np.random.default_rng(1))
    row = measure(pair, task, metric, 6, 60, 0)
    assert float(row["coverage"]) >= 0.8  # 0.9 less two and a half standard errors


def advised(curves: Any, strategies: Any, masks: dict[str, list[np.ndarray]], **options: Any) -> list[str]:
    made = {name: [right(mask) for mask in runs] for name, runs in masks.items()}
    return advise(curves, strategies, made, "accuracy", ACCURACY, 0.01, **options)


PLACE = np.arange(300)
WEAK, MIDDLING, STRONG = (PLACE % n > 0 for n in (2, 3, 10))


def test_advice_follows_from_the_figures() -> None:
    masks = {"m frozen": [WEAK], "m full": [STRONG], "n frozen": [WEAK], "n full": [WEAK]}
    curves = {"m": [[75, 0.4], [150, 0.45], [300, 0.5]], "n": [[300, 0.5]]}
    m, n = advised(curves, {"m": ["full"], "n": ["full"]}, masks)
    assert m.startswith("m: take full; it gained 40.0 points over frozen (90% interval +")
    assert m.endswith("From 150 to 300 training items the linear probe gained 5.0 points: more items would help.")
    assert n == "n: take frozen; training gained nothing over the linear probe."
    masks["n full"] = [(WEAK | (PLACE % 60 == 0)) & ~np.isin(PLACE, [3, 5, 7])]  # a little is gained, a little lost
    (n,) = advised({}, {"n": ["full"]}, masks, sizes={"n": "Trained small."})
    assert n.startswith("n: full gained 0.7 points over frozen (90% interval -")
    assert n.endswith("which noise could explain: take frozen where the cost of training matters. Trained small.")


def test_advice_says_that_a_gain_is_the_mean_of_several_seeds() -> None:
    (sentence,) = advised({}, {"m": ["full"]}, {"m frozen": [WEAK], "m full": [STRONG]})
    assert "seeds" not in sentence
    twice = {"m frozen": [WEAK], "m full": [STRONG, MIDDLING]}  # the table shows the strong one: 40 points
    (sentence,) = advised({}, {"m": ["full"]}, twice)
    assert sentence.startswith(
        "m: take full; it gained 28.3 points over frozen (in the mean of 2 seeds, 90% interval +"
    )
    (sentence,) = advised({}, {"m": ["full"]}, {"m frozen": [STRONG], "m full": [MIDDLING, WEAK]})
    assert sentence == "m: take frozen; training gained nothing over the linear probe in the mean of 2 seeds."
