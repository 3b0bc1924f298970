"""Real values: metrics against scikit-learn, intervals that cover, units, masks, the whole way to predictions."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn import metrics as sk

import selector
from selector.core.errors import ConfigError, TargetError
from selector.tasks import registry
from selector.tasks.regression import METRICS, Regression, conformal_half
from selector.zoo import ModelSpec

task = Regression()
MEAN, SCALE = np.array([100.0, -3.0]), np.array([20.0, 0.5])


def sample(n: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    outputs = rng.normal(size=(n, 2))
    return outputs, (outputs + 0.5 * rng.normal(size=(n, 2))) * SCALE + MEAN


def test_metrics_are_those_of_scikit_learn_in_the_targets_units():
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


def test_missing_values_count_nowhere_and_a_resample_is_what_its_items_say():
    outputs, truth = sample()
    truth[::3, 1] = np.nan
    stats = task.stats(outputs, truth, MEAN, SCALE)
    known = ~np.isnan(truth[:, 1])
    said = outputs * SCALE + MEAN
    second = sk.r2_score(truth[known, 1], said[known, 1])
    assert stats.value("r2") == pytest.approx((sk.r2_score(truth[:, 0], said[:, 0]) + second) / 2)
    items = np.random.default_rng(1).integers(120, size=120)
    assert stats[items].values(METRICS) == task.stats(outputs[items], truth[items], MEAN, SCALE).values(METRICS)


def test_conformal_intervals_cover_nine_of_ten_new_items():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        residuals = np.abs(rng.standard_t(3, size=61))
        covered.append(residuals[-1] <= conformal_half(residuals[:-1]))
    assert 0.86 < np.mean(covered) < 0.94
    assert conformal_half(np.ones(8)) == float("inf")  # too few to promise anything


def test_what_validation_chose_is_applied_to_test():
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


def test_wrong_shapes():
    with pytest.raises(TargetError, match=r"one shape \(N, T\). Got \(5, 2\) and \(5, 1\)"):
        task.stats(np.zeros((5, 2)), np.zeros((5, 1)), MEAN, SCALE)


def test_several_values_an_item_from_arrays_to_a_model_that_predicts(tmp_path):
    rng = np.random.default_rng(0)
    red, blue = rng.uniform(0, 200, (2, 80))
    images = np.stack([red, 0 * red, blue], axis=-1)[:, None, None] + rng.integers(0, 55, (80, 24, 24, 3))
    values = np.stack([1000 + 7 * red, -blue], axis=1)
    values[3, 1] = np.nan
    ranking = selector.rank(
        (images.astype(np.uint8), values), zoo=[ModelSpec(name="tiny", source="timm:test_resnet", weights="none")], proxies=["loo-ridge"], confirm=True, strategies=["frozen", "full"],
        max_steps=4, refit=False, store=tmp_path / "store", out=tmp_path / "run", measure_cost="never", history=False, device="cpu",
        precision="float32", backend="eager",  # as the saved model predicts, whatever else this machine is quicker at
    )  # fmt: skip
    assert (ranking.target["task"], ranking.target["class_noun"]) == ("regression", "values")
    measured = {m.strategy: m for m in ranking.best.measurements}
    assert set(measured) == {"frozen", "full"}
    assert measured["frozen"].test["r2"] > 0.8
    model = selector.load_model(tmp_path / "run")
    found = model.predict(list(images.astype(np.uint8)))
    header = "item,value_0,value_0_low,value_0_high,value_1,value_1_low,value_1_high,error"
    assert found.to_csv().splitlines()[0] == header
    handed = measured[model.config["strategy"]]
    target = ranking.loaded_target
    assert target is not None
    test = target.indices("test")
    said = np.array([[row[f"value_{i}"] for i in range(2)] for row in found.values])[test]
    known = ~np.isnan(values[test])
    columns = [(values[test][known[:, i], i], said[known[:, i], i]) for i in range(2)]
    assert handed.test["r2"] == pytest.approx(np.mean([sk.r2_score(*c) for c in columns]), abs=1e-3)
    assert handed.test["mae"] == pytest.approx(np.mean([sk.mean_absolute_error(*c) for c in columns]), rel=1e-2)


def test_hubers_loss_is_the_reference_of_torch():
    values = np.array([[1.0], [2.0], [3.0], [np.nan], [90.0]])
    target: Any = SimpleNamespace(indices=lambda *_: np.arange(5), labels_of=lambda indices: values[indices])
    robust = task.configured(loss="huber")
    assert (task.address, robust.address) == ("regression", "regression huber")
    mean, scale = np.nanmean(values), np.nanstd(values)
    outputs = torch.tensor([[0.3], [-2.0], [0.1], [5.0], [-3.0]], requires_grad=True)
    known = [0, 1, 2, 4]
    wanted = torch.tensor((values[known] - mean) / scale, dtype=torch.float32)
    for own, reference in ((task, torch.nn.MSELoss()), (robust, lambda o, w: 2 * torch.nn.HuberLoss()(o, w))):
        assert own.criterion(target)(outputs, torch.tensor(values)).item() == pytest.approx(
            reference(outputs[known], wanted).item(), rel=1e-6
        )
    with pytest.raises(ConfigError, match=r"unknown loss 'hubert'; did you mean 'huber'\?"):
        task.configured(loss="hubert")
    with pytest.raises(ConfigError, match="the task 'classification' has no choice of loss"):
        registry.get("classification").configured(loss="huber")


@pytest.mark.parametrize(("kind", "strategy"), [("multilabel", "partial"), ("regression", "lora")])
def test_other_strategies_train_and_are_saved(tmp_path, kind, strategy):
    if strategy == "lora":
        pytest.importorskip("peft")
    rng = np.random.default_rng(0)
    shown = rng.random((80, 3)) < 0.5
    images = (shown[:, None, None] * 200 + rng.integers(0, 55, (80, 24, 24, 3))).astype(np.uint8)
    labels = shown.astype(int) if kind == "multilabel" else shown.astype(float) @ [10.0, 20.0, 40.0]
    ranking = selector.rank(
        (images, labels), zoo=[ModelSpec(name="tiny", source="timm:test_vit", weights="none")], confirm=True,
        strategies=[strategy], max_steps=4, top_k=1, store=tmp_path / "store", out=tmp_path / "run", measure_cost="never",
        history=False, device="cpu", task=kind, proxies=["knn"], loss="huber" if kind == "regression" else None,
    )  # fmt: skip
    measured = {m.strategy: m for m in ranking.best.measurements}
    assert (set(measured), measured[strategy].status) == ({"frozen", strategy}, "ok")
    assert measured[strategy].trained_parameters > 0
    assert measured[strategy].val_value > 0.5  # of any use: chance is 0 for r2 and about half for map
    found = selector.load_model(tmp_path / "run" / "best").predict(list(images[:3]))
    assert [row.error for row in found] == [None] * 3
    if kind == "regression":
        assert (measured["frozen"].metric, measured["frozen"].val_value > 0.9) == ("r2", True)
        assert found.values == pytest.approx(labels[:3], abs=40)  # in the target's own units
        assert found.to_csv().splitlines()[0] == "item,value,value_low,value_high,error"
