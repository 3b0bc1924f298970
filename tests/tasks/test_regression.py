"""Real values: metrics against scikit-learn, intervals that cover, units, masks, the whole way to predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn import metrics as sk

import selector
from selector.core.errors import TargetError
from selector.tasks.regression import METRICS, Regression, conformal_half
from selector.zoo import ModelSpec

task = Regression()
MEAN, SCALE = np.array([100.0, -3.0]), np.array([20.0, 0.5])


def sample(n: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    outputs = rng.normal(size=(n, 2))
    return outputs, (outputs + 0.5 * rng.normal(size=(n, 2))) * SCALE + MEAN


def test_metrics_are_those_of_scikit_learn_in_the_targets_units() -> None:
    outputs, truth = sample()
    said = outputs * SCALE + MEAN
    stats = task.stats(outputs, truth, MEAN, SCALE)
    columns = [(truth[:, i], said[:, i]) for i in range(2)]
    assert stats.value("r2") == pytest.approx(np.mean([sk.r2_score(*c) for c in columns]))
    assert stats.value("mae") == pytest.approx(np.mean([sk.mean_absolute_error(*c) for c in columns]))
    assert stats.value("rmse") == pytest.approx(np.mean([sk.root_mean_squared_error(*c) for c in columns]))
    assert stats.value("spearman") == pytest.approx(np.mean([spearmanr(*c).statistic for c in columns]))
    assert {name: METRICS[name].sign for name in METRICS} == {"r2": 1, "mae": -1, "rmse": -1, "spearman": 1}
    assert METRICS["mae"].unit == "target"


def test_missing_values_count_nowhere_and_a_resample_is_what_its_items_say() -> None:
    outputs, truth = sample()
    truth[::3, 1] = np.nan
    stats = task.stats(outputs, truth, MEAN, SCALE)
    known = ~np.isnan(truth[:, 1])
    said = outputs * SCALE + MEAN
    second = sk.r2_score(truth[known, 1], said[known, 1])
    assert stats.value("r2") == pytest.approx((sk.r2_score(truth[:, 0], said[:, 0]) + second) / 2)
    items = np.random.default_rng(1).integers(120, size=120)
    assert stats[items].values(METRICS) == task.stats(outputs[items], truth[items], MEAN, SCALE).values(METRICS)


def test_conformal_intervals_cover_nine_of_ten_new_items() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        residuals = np.abs(rng.standard_t(3, size=61))
        covered.append(residuals[-1] <= conformal_half(residuals[:-1]))
    assert 0.86 < np.mean(covered) < 0.94
    assert conformal_half(np.ones(8)) == float("inf")  # too few to promise anything


def test_what_validation_chose_is_applied_to_test() -> None:
    outputs, truth = sample(300)
    context = task.calibrate(task.stats(outputs[:150], truth[:150], MEAN, SCALE))
    assert context["mean"] == MEAN.tolist()
    later = task.stats(outputs[150:], truth[150:], MEAN, SCALE, context["interval"])
    assert 0.8 < later.coverage() < 1
    rows = task.report(later, ("price", "ph")).to_dict()["tables"]["values"]
    assert [row["value"] for row in rows] == ["price", "ph"]
    assert np.mean([row["coverage"] for row in rows]) == pytest.approx(later.coverage(), abs=1e-4)
    (first, *_) = task.predictions(outputs[:1], ("price", "ph"), context)
    assert first["price"] == pytest.approx(outputs[0, 0] * 20 + 100)
    assert first["ph_high"] - first["ph_low"] == pytest.approx(2 * context["interval"][1])


def test_wrong_shapes() -> None:
    with pytest.raises(TargetError, match=r"one shape \(N, T\). Got \(5, 2\) and \(5, 1\)"):
        task.stats(np.zeros((5, 2)), np.zeros((5, 1)), MEAN, SCALE)


TINY = [ModelSpec(name="tiny", source="timm:test_resnet", weights="none")]


def test_from_arrays_to_a_model_that_predicts_in_the_targets_units(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    brightness = rng.uniform(0, 200, 80)
    images = (brightness[:, None, None, None] + rng.integers(0, 55, (80, 24, 24, 3))).astype(np.uint8)
    ranking = selector.rank(
        (images, 1000 + 7 * brightness), zoo=TINY, confirm=True, strategies=["frozen", "full"], max_steps=4, top_k=1,
        store=tmp_path / "store", out=tmp_path / "run", cost="off", history=False, device="cpu", task="regression",
    )  # fmt: skip
    assert (ranking.target["task"], ranking.target["class_noun"]) == ("regression", "values")
    assert "loo-ridge" in ranking.best.scores
    frozen = next(m for m in ranking.best.measurements if m.strategy == "frozen")
    assert frozen.metric == "r2"
    assert frozen.val_value > 0.9
    assert 0 < frozen.val["mae"] < 150  # in the target's units, whose deviation is 400
    model = selector.load_model(tmp_path / "run" / "best")
    found = model.predict(list(images[:5]))
    assert found.values == pytest.approx(1000 + 7 * brightness[:5], abs=400)
    assert found.to_csv().splitlines()[0] == "item,value,value_low,value_high,error"
    again = selector.confirm(tmp_path / "run", target=(images, 1000 + 7 * brightness), store=tmp_path / "store",
                             max_steps=4, top_k=1, history=False)  # fmt: skip
    assert again.best.measurements[0].val == ranking.best.measurements[0].val  # from the journal
