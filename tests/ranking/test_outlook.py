"""Probabilities of the value after training: their constants, their draws, and how well they mean what they say."""

import csv

import numpy as np
import pytest

from benchmarks.suite import best_probability
from benchmarks.suite.suites import RESULTS
from selector.core.contracts import Score
from selector.ranking.combination import LabelFacts, combine, out_of_reach
from selector.ranking.outlook import Outlook, Spread, family, spread

FACTS = LabelFacts.of(np.arange(400) % 4, "classes")
WIDE = Spread(between=0.1, within=0.01, freedom=4)


def pool(values: dict[str, float]) -> dict[str, dict[str, Score]]:
    """Scores that are known to a thousandth."""
    rng = np.random.default_rng(0)
    made = {}
    for name, value in values.items():
        share = FACTS.chance + value * (1 - FACTS.chance)
        made[name] = {"knn": Score(share, blocks=share + 0.0003 * rng.normal(size=10))}
    return made


def test_relatives_train_alike_and_others_do_not():
    outlook = Outlook({"a": "x", "b": "x", "c": "y"}, WIDE)
    drawn = outlook.draws(["a", "b", "c"], 4000, np.random.default_rng(0))
    apart = np.median(np.abs(drawn[:, [0]] - drawn[:, [1, 2]]), axis=0)
    assert apart[1] > 5 * apart[0]
    twice = Outlook(outlook.families, WIDE, 2.0).draws(["a", "b", "c"], 4000, np.random.default_rng(0))
    assert twice == pytest.approx(2 * drawn)


def test_targets_of_another_kind_spread_models_more():
    sources = {"a": "timm:resnet18.a1_in1k"}
    assert Outlook.of(sources, "image", "classes").factor == 1.0
    assert Outlook.of(sources, "image", "real").factor == spread().unlike > 1.0


@pytest.mark.parametrize(
    ("source", "expected"),
    [("timm:vit_small_patch14.dinov2", "vit"), ("transformers:org/all-MiniLM-L6-v2", "minilm"), ("onnx:/a/b/7.onnx", "onnx"),
     ("timm:resnet50.tv_in1k@layer3", "resnet")],
)  # fmt: skip
def test_families_are_read_off_names(source, expected):
    assert family(source) == expected


def test_a_score_that_is_certain_leaves_training_open():
    """Four hundredths ahead: sure by the rows, one of several after training; pruned is only what is far behind."""
    scores = pool({"first": 0.60, "second": 0.56, "last": 0.05})
    by_rows, trained = combine(scores, FACTS, top_k=1), combine(scores, FACTS, top_k=1, outlook=Outlook(constants=WIDE))
    assert by_rows["first"].p_best == 1
    assert not by_rows["second"].tied
    assert 0.55 < (trained["first"].p_best or 0) < 0.8
    assert trained["second"].tied
    assert [trained[n].low for n in scores] == [by_rows[n].low for n in scores]  # the interval is that of the score
    assert out_of_reach(by_rows, 1) == ["second", "last"]
    assert out_of_reach(trained, 1) == ["last"]


def test_the_package_carries_what_the_suite_says():
    assert spread().between in best_probability.BETWEEN
    assert spread().within in best_probability.WITHIN
    assert 0 < spread().within < spread().between
    with (RESULTS / "best_probability.csv").open(encoding="utf-8") as file:
        rows = {row["scope"]: row for row in csv.DictReader(file)}
    for row in rows.values():  # each dataset with constants of the others
        assert float(row["error"]) <= 0.08
        assert abs(float(row["p_best_of_first"]) - float(row["first_is_best"])) <= 0.1


def test_p_best_is_how_often_models_are_best(assets):
    """The shipped constants on the committed tables: calibrated, and better than the noise of the rows alone."""
    sets = best_probability.datasets(assets)
    rows = Spread(between=0.0, within=0.0, freedom=4)
    made, plain = (
        [cell for one in sets.values() for cell in best_probability.cells(one, constants, 1)]
        for constants in (spread(), rows)
    )
    found = best_probability.reliability("all", made, len(sets))[0]
    assert float(str(found["error"])) <= 0.05
    assert best_probability.log_loss(made) < 0.9 * best_probability.log_loss(plain)
    pruned = [best_probability.out_of_reach(one, spread(), 1) for one in sets.values()]
    assert not any(best for best, _ in pruned)
    assert np.mean([share for _, share in pruned]) > 0.2
