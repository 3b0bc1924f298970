"""Intervals and probabilities that hold where items, or items that decide, are few."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from benchmarks.bench_intervals import MAKERS, measure
from selector import tasks
from selector.core.task import Stats
from selector.tasks.segmentation import SegmentationStats
from selector.tuning.compare import standings

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
    found = standings(discordant(0, 0, count), "accuracy", ACCURACY)["b"]
    rule = 1 - 0.05 ** (1 / (count + 1))
    assert 0.6 * rule < found.high < 1.2 * rule
    assert found.low == pytest.approx(-found.high, rel=0.2)


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
