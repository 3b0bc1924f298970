"""Metrics against scikit-learn and torchmetrics, calibration against a fine grid."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from selector.core.contracts import LabelKind, Target
from selector.core.errors import ConfigError, TargetError
from selector.core.stats import best_temperature, softmax
from selector.core.task import NotFinite
from selector.tasks import _classes, registry
from selector.tasks._classes import auroc, calibration_error, class_weights
from selector.tasks.classification import METRICS, Classification

task = Classification()


def sample(n: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    logits = rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels]
    return logits.astype(np.float32), labels


def metrics_of(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    return task.stats(logits, labels).values(task.metrics)


def target(labels: np.ndarray, classes: int) -> Target:
    names = [str(i) for i in range(len(labels))]
    classes_of = tuple(f"c{i}" for i in range(classes))
    splits = np.array(["train"] * len(labels))
    items = [b""] * len(labels)
    return Target("t", "image", LabelKind.CLASSES, items, names, labels, classes_of, splits, "given", tuple(names), "f")


@pytest.mark.parametrize(("n", "classes", "seed"), [(200, 2, 0), (300, 5, 1), (60, 7, 2), (1000, 30, 3)])
def test_metrics_equal_scikit_learn(n: int, classes: int, seed: int) -> None:
    logits, labels = sample(n, classes, seed)
    found = metrics_of(logits, labels)
    probabilities = torch.softmax(torch.from_numpy(logits).double(), dim=1).numpy()
    guess = logits.argmax(axis=1)
    assert set(found) == set(METRICS)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(labels, guess))
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, guess))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(labels, guess, average="macro"))
    assert found["log_loss"] == pytest.approx(sk.log_loss(labels, probabilities, labels=range(classes)))
    one_hot = np.eye(classes)[labels]
    present = one_hot.sum(axis=0) > 0
    expected = np.mean([sk.roc_auc_score(one_hot[:, c], probabilities[:, c]) for c in np.flatnonzero(present)])
    assert found["auroc"] == pytest.approx(expected)


def test_calibration_error_equals_torchmetrics() -> None:
    logits, labels = sample(500, 4)
    probabilities = softmax(logits)
    expected = reference.multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(labels), num_classes=4, n_bins=15, norm="l1"
    )
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    assert calibration_error(confidence, correct) == pytest.approx(float(expected), abs=1e-6)


def test_auroc_counts_ties_half_and_equals_torchmetrics() -> None:
    logits, labels = sample(200, 3)
    rounded = np.round(softmax(logits), 1)
    expected = reference.multiclass_auroc(torch.from_numpy(rounded), torch.from_numpy(labels), num_classes=3)
    assert auroc(rounded, labels) == pytest.approx(float(expected), abs=1e-6)


def test_a_class_absent_from_the_split_leaves_the_others_alone() -> None:
    logits, labels = sample(200, 3)
    wider = np.concatenate([logits, np.full((200, 1), -50.0, dtype=np.float32)], axis=1)
    assert metrics_of(wider, labels) == pytest.approx(metrics_of(logits, labels), abs=1e-9)


def test_an_undefined_metric_is_left_out() -> None:
    logits, _ = sample(20, 3)
    found = metrics_of(logits, np.zeros(20, dtype=int))
    assert "auroc" not in found
    assert found["balanced_accuracy"] == found["accuracy"]


@settings(max_examples=30)
@given(st.floats(0.2, 5.0), st.integers(0, 50))
def test_the_temperature_undoes_a_scale(scale: float, seed: int) -> None:
    """Labels drawn from softmax(z): the temperature of scale·z is scale times that of z."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(400, 3)) * 2
    labels = np.array([rng.choice(3, p=row) for row in softmax(z)])
    plain = best_temperature(z, labels)
    assert best_temperature(scale * z, labels) == pytest.approx(scale * plain, rel=1e-3)


def test_the_temperature_has_the_least_log_loss_of_a_fine_grid() -> None:
    logits, labels = sample(300, 4)
    grid = np.geomspace(0.3, 3, 200)
    losses = [sk.log_loss(labels, softmax(logits, t)) for t in grid]
    assert best_temperature(logits, labels) == pytest.approx(grid[int(np.argmin(losses))], rel=1.2e-2)


def test_rare_classes_weigh_more_and_the_mean_over_rows_is_one() -> None:
    labels = np.repeat([0, 1, 2], [900, 90, 10])
    weights = class_weights(np.bincount(labels, minlength=4))
    assert weights is not None
    assert weights[3] == 0
    assert weights[1] / weights[0] == pytest.approx(10**0.5, rel=1e-5)
    assert weights[labels].mean() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((3, 2)), np.zeros(2, dtype=int), r"expected logits .* Got \(3, 2\) and \(2,\)"),
        (np.zeros((0, 2)), np.zeros(0, dtype=int), "with N > 0"),
        (np.full((3, 2), np.nan), np.zeros(3, dtype=int), r"logits must be finite; 3 row\(s\) are not"),
        (np.zeros((2, 2)), np.array([0, 2]), "labels must be ints in 0..1. Got values from 0 to 2"),
    ],
)
def test_bad_input_is_named(logits: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises((TargetError, NotFinite), match=message):
        metrics_of(logits, labels)


def test_statistics_of_resamples_are_those_of_the_resampled_outputs() -> None:
    logits, labels = sample(150, 4, seed=2)
    stats = task.stats(logits, labels)
    rng = np.random.default_rng(0)
    for _ in range(5):
        items = rng.integers(150, size=150)
        assert stats[items].values(task.metrics) == pytest.approx(metrics_of(logits[items], labels[items]), abs=1e-9)
    for metric in ("accuracy", "log_loss"):
        ratio = stats.ratio(metric)
        assert ratio is not None
        assert ratio[0].sum() / ratio[1].sum() == pytest.approx(stats.value(metric))


def test_the_area_of_very_many_outputs_is_known_of_all_items_only(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = sample(80, 3)
    whole = task.stats(logits, labels).value("auroc")
    monkeypatch.setattr(_classes, "MOST_RANKS", 100)
    stats = task.stats(logits, labels)
    assert "ranks" not in stats.arrays
    assert stats.value("auroc") == pytest.approx(whole)
    assert np.isnan(stats[np.arange(40)].value("auroc"))


def test_the_baseline_is_the_most_frequent_class() -> None:
    labels = np.array([0] * 6 + [1] * 4 + [0, 1, 1, 1])
    data = replace(target(labels, 2), splits=np.array(["train"] * 7 + ["val"] * 3 + ["test"] * 4))
    assert task.baseline(data, "accuracy") == pytest.approx(0.25)
    assert task.baseline(data, "balanced_accuracy") == pytest.approx(0.5)
    assert task.baseline(data, "log_loss") == pytest.approx(-(np.log(0.6) + 3 * np.log(0.4)) / 4)
    assert task.baseline(replace(data, splits=np.array(["train"] * 14)), "accuracy") is None


def reported(logits: np.ndarray, labels: np.ndarray, names: list[str], temperature: float = 1.0) -> dict[str, Any]:
    section = task.report(task.stats(logits, labels, temperature), names).to_dict()
    return {**section["tables"], **section["figures"], "samples": section["samples"]}


def test_the_outcome_equals_scikit_learn_and_orders_its_samples() -> None:
    logits, labels = sample(300, 4, seed=5)
    names = ["a", "b", "c", "d"]
    found = reported(logits, labels, names, temperature=2.0)
    guess, probabilities = logits.argmax(axis=1), softmax(logits, 2.0)
    expected = sk.confusion_matrix(labels, guess, labels=range(4))
    assert found["confusion"] == expected.tolist()
    by_class = sk.precision_recall_fscore_support(labels, guess, labels=range(4))
    for i, name in enumerate(("precision", "recall", "f1", "items")):
        assert [line[name] for line in found["classes"]] == pytest.approx(by_class[i], abs=1e-4)
    assert sum(pair["items"] for pair in found["confused"]) == (guess != labels).sum()
    counts = [pair["items"] for pair in found["confused"]]
    assert counts == sorted(counts, reverse=True)
    for pair in found["confused"]:
        assert expected[names.index(pair["label"]), names.index(pair["predicted"])] == pair["items"]
    rows = [s["row"] for s in found["samples"]]
    wrong = np.flatnonzero(guess != labels)
    assert rows == wrong[np.argsort(-probabilities[wrong].max(axis=1))][:12].tolist()
    first = found["samples"][0]
    assert first["label"] == names[labels[rows[0]]] != first["predicted"] == names[guess[rows[0]]]
    assert first["probability"] == pytest.approx(probabilities[rows[0]].max(), abs=1e-4)
    assert first["of_label"] == pytest.approx(probabilities[rows[0], labels[rows[0]]], abs=1e-4)


def test_without_enough_mistakes_the_least_sure_right_items_follow() -> None:
    logits = np.eye(3)[np.arange(30) % 3] * np.linspace(1, 5, 30)[:, None]
    labels = np.arange(30) % 3
    labels[29] = 0  # the surest item is labeled wrongly
    found = reported(logits, labels, ["a", "b", "c"])
    assert [s["row"] for s in found["samples"]] == [29, *range(11)]
    assert found["samples"][0] | {"probability": 0, "of_label": 0} == {
        "row": 29, "label": "a", "predicted": "c", "probability": 0, "of_label": 0,
    }  # fmt: skip
    assert found["confused"] == [{"label": "a", "predicted": "c", "items": 1}]


def test_the_outcome_of_a_thousand_classes_stays_small() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(3000) % 999  # one class has no images
    logits = rng.normal(size=(3000, 1000)).astype(np.float32) + 3 * np.eye(1000)[labels]
    found = reported(logits, labels, [f"class {i}" for i in range(1000)])
    assert "confusion" not in found
    assert len(found["classes"]) == 200
    f1 = sk.f1_score(labels, logits.argmax(axis=1), average=None, labels=range(999))
    assert [line["f1"] for line in found["classes"]] == pytest.approx(np.sort(f1)[:200], abs=1e-4)
    assert (len(found["confused"]), len(found["samples"])) == (30, 12)
    assert len(json.dumps(found)) < 40_000


def loss_of(labels: np.ndarray, **options: Any) -> tuple[float, torch.Tensor, torch.Tensor]:
    logits, _ = sample(len(labels), 3)
    outputs, known = torch.from_numpy(logits), torch.from_numpy(labels)
    return float(Classification().configured(**options).criterion(target(labels, 3))(outputs, known)), outputs, known


def test_balance_chooses_the_weights_of_the_loss() -> None:
    uneven = np.array([0] * 40 + [1] * 10 + [2] * 5)
    plain, outputs, known = loss_of(uneven, balance="none")
    assert plain == pytest.approx(float(torch.nn.functional.cross_entropy(outputs, known)))
    weights = class_weights(np.bincount(uneven))
    assert weights is not None
    weighted = float(torch.nn.functional.cross_entropy(outputs, known, torch.from_numpy(weights)))
    assert loss_of(uneven)[0] == loss_of(uneven, balance="weights")[0] == pytest.approx(weighted)
    assert loss_of(uneven, balance="sampling")[0] == pytest.approx(plain)  # drawn evenly, so not weighted as well
    nearly = np.array([0] * 20 + [1] * 15 + [2] * 10)
    assert loss_of(nearly)[0] == loss_of(nearly, balance="none")[0] != loss_of(nearly, balance="weights")[0]


def test_smoothing_spreads_a_share_of_each_label() -> None:
    labels = np.array([0, 1, 2] * 5)
    found, outputs, known = loss_of(labels, label_smoothing=0.3)
    wanted = 0.7 * torch.nn.functional.one_hot(known, 3) + 0.1
    assert found == pytest.approx(float(-(wanted * outputs.log_softmax(1)).sum(1).mean()), rel=1e-5)


def test_items_are_drawn_evenly_by_class_where_asked() -> None:
    uneven = target(np.array([0] * 40 + [1] * 10 + [2] * 5), 3)
    items = uneven.indices("train")
    assert task.sampling_weights(uneven, items) is None
    weights = task.configured(balance="sampling").sampling_weights(uneven, items)
    assert weights is not None
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_allclose([weights[uneven.labels == c].sum() for c in range(3)], 1 / 3)


def test_options_of_the_loss_are_in_the_address_and_the_notes() -> None:
    changed = task.configured(balance="none", label_smoothing=0.1)
    assert len({task.address, changed.address, task.configured(balance="sampling").address}) == 3
    assert task.configured(balance="auto", label_smoothing=0.0).address == task.address
    uneven = target(np.array([0] * 40 + [1] * 5), 2)
    assert any("factor of 8: the loss is weighted by class" in note for note in task.notes(uneven))
    assert any("drawn by class" in note for note in task.configured(balance="sampling").notes(uneven))
    assert not any("factor" in note for note in task.configured(balance="none").notes(uneven))


@pytest.mark.parametrize("name", registry.names())
@pytest.mark.parametrize("balance", ["auto", "none", "weights", "sampling"])
def test_a_task_balances_as_it_declares_or_refuses(name: str, balance: str) -> None:
    kind = registry.get(name)
    if balance == "auto" or (kind.balances and balance in ("none", *kind.balances)):
        assert kind.configured(balance=balance).balance == balance
    else:
        with pytest.raises(ConfigError, match=f"the task '{name}' has no balance="):
            kind.configured(balance=balance)


@pytest.mark.parametrize("name", registry.names())
def test_a_task_smooths_labels_or_refuses(name: str) -> None:
    kind = registry.get(name)
    if kind.smooths:
        assert kind.configured(label_smoothing=0.1).address.endswith(" smoothing 0.1")
    else:
        with pytest.raises(ConfigError, match=f"the task '{name}' has no label smoothing"):
            kind.configured(label_smoothing=0.1)
