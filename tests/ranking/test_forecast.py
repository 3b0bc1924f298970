"""A predicted metric: only from confirmed pairs, with an interval that covers, apart from what was measured."""

import numpy as np
import pytest
from scipy import stats

import selector
from selector.ranking.forecast import ForecastPair, best_line, calibrate, confirmed_pairs, of_metric
from selector.ranking.history import History, Result
from selector.scan.past import identity_of
from tests.scan.test_scan import FAST, TINY

HOW = {"strategy": "full", "metric": "accuracy"}


def line(n, targets=1, noise=0.02, seed=0):
    rng = np.random.default_rng(seed)
    return [
        ForecastPair(f"t{i % targets}", float(x), float(0.4 + 0.5 * x + noise * rng.standard_normal()))
        for i, x in enumerate(rng.uniform(0.1, 0.9, n))
    ]


def test_the_interval_of_one_target_is_the_prediction_interval_of_the_textbook():
    pairs = line(8)
    found = calibrate(pairs, "t0", **HOW)
    x, y = np.array([p.normalized_score for p in pairs]), np.array([p.measured for p in pairs])
    fit = stats.linregress(x, y)
    s = np.sqrt(((y - fit.intercept - fit.slope * x) ** 2).sum() / 6)
    half = stats.t.ppf(0.95, 6) * s * np.sqrt(1 + 1 / 8 + (0.6 - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum())
    at = found.at(0.6)
    assert at.value == pytest.approx(fit.intercept + 0.6 * fit.slope)
    assert (at.low, at.high) == (pytest.approx(at.value - half), pytest.approx(at.value + half))
    assert (at.pairs, at.targets, at.metric, at.strategy) == (8, 1, "accuracy", "full")


def test_nothing_is_predicted_from_too_few_pairs_or_targets():
    assert calibrate(line(4), "t0", **HOW) is None
    assert calibrate(line(5), "t0", **HOW) is not None
    assert calibrate(line(9), "another", **HOW) is None  # one other target does not say how targets differ
    assert calibrate(line(8, targets=2), "another", **HOW) is None
    assert calibrate(line(9, targets=3), "another", **HOW) is not None
    falling = [ForecastPair("t", p.normalized_score, 1 - p.measured) for p in line(9)]
    assert calibrate(falling, "t", **HOW) is None


def test_the_interval_over_targets_covers_a_target_of_another_level():
    rng = np.random.default_rng(1)
    hits = []
    for _ in range(200):
        level = rng.normal(0, 0.1, 7)
        pairs = [
            ForecastPair(f"t{i % 7}", float(x), float(0.3 + 0.4 * x + level[i % 7] + 0.01 * rng.standard_normal()))
            for i, x in enumerate(rng.uniform(0.2, 0.8, 28))
        ]
        found = calibrate([p for p in pairs if p.target != "t6"], "t6", **HOW)
        new = next(p for p in pairs if p.target == "t6")
        if found is not None:
            at = found.at(new.normalized_score)
            hits.append(at.low <= new.measured <= at.high)
    assert len(hits) > 150
    assert 0.8 < np.mean(hits) <= 0.98


def test_shares_stay_shares():
    steep = [ForecastPair("t", x, y) for x, y in ((0.1, 0.2), (0.3, 0.5), (0.5, 0.7), (0.6, 0.9), (0.7, 0.97))]
    at = calibrate(steep, "t", **HOW).at(1.0)
    assert (at.value, at.high) == (1.0, 1.0)


def test_pairs_are_of_one_run_and_one_set_of_members():
    rows = [
        Result("t", "m", "normalized_score:knn", 0.5, kind="predicted", run="r"),
        Result("t", "m", "normalized_score:knn+logme", 0.6, kind="predicted", run="r"),
        Result("t", "m", "accuracy", 0.8, strategy="full", run="r"),
        Result("t", "other", "accuracy", 0.9, strategy="full", run="r"),
        Result("t", "m", "accuracy", 0.7, strategy="full", run="another"),
        Result("t", "m", "accuracy", 88.0, strategy="full", run="r", origin="published", source="x"),
    ]
    assert confirmed_pairs(rows, "normalized_score:knn") == {("full", "accuracy"): [ForecastPair("t", 0.5, 0.8)]}
    assert best_line(confirmed_pairs(rows, "normalized_score:knn"), "t") is None


def test_other_metrics_say_nothing():
    rows = [
        Result("t", "m", "normalized_score:knn", 0.5, kind="predicted", run="r"),
        Result("t", "m", "accuracy", 0.8, strategy="full", run="r"),
        Result("t", "m", "entity_f1", 0.6, strategy="full", run="r"),
    ]
    assert confirmed_pairs(of_metric(rows, "entity_f1"), "normalized_score:knn") == {
        ("full", "entity_f1"): [ForecastPair("t", 0.5, 0.6)]
    }
    assert confirmed_pairs(of_metric(rows, None), "normalized_score:knn") == {}


def test_a_scan_predicts_what_was_not_measured_in_a_column_of_its_own(photos, tmp_path):
    store, past = tmp_path / "store", History()
    plain = selector.rank(photos, **FAST, store=store)
    assert all(m.predicted is None for m in plain)
    assert "accuracy, predicted" not in str(plain)
    rng = np.random.default_rng(0)
    for t in range(4):
        for i, spec in enumerate(TINY):
            common = {"target": f"t{t}", "model": spec.name, "source": identity_of(spec), "run": f"r{t}"}
            normalized_score = 0.3 + 0.2 * i + 0.05 * t
            past.add([
                Result(metric="normalized_score:knn+logme", value=normalized_score, kind="predicted", **common),
                Result(metric="accuracy", value=0.4 + normalized_score / 2 + 0.01 * rng.standard_normal(), strategy="frozen", **common),
            ])  # fmt: skip
    ranking = selector.rank(photos, **FAST, store=store)
    for model in ranking:
        assert model.predicted.low <= model.predicted.value <= model.predicted.high
        assert (model.predicted.pairs, model.predicted.targets) == (8, 4)
        assert model.predicted.value == pytest.approx(0.4 + model.normalized_score / 2, abs=0.05)
    assert "predicted_frozen_accuracy" in ranking.to_dataframe()
    done = selector.confirm(ranking, top_k=1, strategies=["frozen"], store=store, out=tmp_path / "run")
    measured = next(m for m in done if m.measurements)
    other = next(m for m in done if not m.measurements)
    assert measured.predicted is None
    assert other.predicted is not None
    assert selector.load_ranking(tmp_path / "run")[other.name].predicted == other.predicted
