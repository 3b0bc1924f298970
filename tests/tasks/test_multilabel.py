"""Several labels an item: metrics against scikit-learn, thresholds against a grid, masks, the whole way to predictions."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

import selector
from selector.core.errors import TargetError
from selector.core.task import NotFinite
from selector.tasks.multilabel import METRICS, Multilabel, best_threshold, positive_weights
from selector.zoo import ModelSpec

task = Multilabel()
NAMES = ("cat", "dog", "bird", "fish")


def sample(n: int = 200, unknown: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 4)) < [0.5, 0.3, 0.1, 0.05]).astype(np.float32)
    outputs = rng.normal(size=(n, 4)) + 2 * labels - 1
    labels[rng.random((n, 4)) < unknown] = np.nan
    return np.round(outputs, 1).astype(np.float32), labels  # rounded: ties


@pytest.mark.parametrize("unknown", [0.0, 0.3])
def test_metrics_are_those_of_scikit_learn_over_known_entries(unknown):
    outputs, labels = sample(unknown=unknown)
    stats = task.stats(outputs, labels)
    probability = 1 / (1 + np.exp(-outputs.astype(float)))
    by_label = [(labels[:, i][~np.isnan(labels[:, i])], probability[:, i][~np.isnan(labels[:, i])]) for i in range(4)]
    assert stats.value("map") == pytest.approx(np.mean([sk.average_precision_score(y, p) for y, p in by_label]))
    assert stats.value("auroc") == pytest.approx(np.mean([sk.roc_auc_score(y, p) for y, p in by_label]))
    assert stats.value("macro_f1") == pytest.approx(np.mean([sk.f1_score(y, p >= 0.5) for y, p in by_label]))
    flat = [np.concatenate(part) for part in zip(*by_label, strict=True)]
    assert stats.value("micro_f1") == pytest.approx(sk.f1_score(flat[0], flat[1] >= 0.5))
    assert stats.value("log_loss") == pytest.approx(sk.log_loss(flat[0], flat[1]), abs=1e-6)
    assert {m: METRICS[m].sign for m in METRICS} == {"map": 1, "micro_f1": 1, "macro_f1": 1, "auroc": 1, "log_loss": -1}


def test_a_label_without_positives_counts_in_no_mean():
    outputs, labels = sample()
    labels[:, 3] = 0
    assert task.stats(outputs, labels).value("map") == task.stats(outputs[:, :3], labels[:, :3]).value("map")


def test_a_resample_has_the_metrics_of_its_items():
    outputs, labels = sample()
    items = np.random.default_rng(1).integers(200, size=200)
    drawn, made = task.stats(outputs, labels)[items], task.stats(outputs[items], labels[items])
    assert drawn.values(METRICS) == made.values(METRICS)


def test_thresholds_have_the_best_f1_and_few_positives_leave_them_alone():
    rng = np.random.default_rng(0)
    for _ in range(5):
        truth, probability = rng.random(40) < 0.3, rng.random(40)
        chosen = sk.f1_score(truth, probability >= best_threshold(truth, probability))
        assert chosen == pytest.approx(max(sk.f1_score(truth, probability >= t) for t in [0.0, *probability]))
    assert best_threshold(np.array([True, True, False]), np.array([0.9, 0.1, 0.5])) == 0.5


def test_the_loss_masks_unknown_entries_and_weighs_positives():
    outputs, labels = sample(40, unknown=0.2)
    weight = torch.from_numpy(positive_weights(labels))
    assert float(weight.max()) <= 10

    class Known(Multilabel):
        def labels(self, annotations: np.ndarray) -> np.ndarray:
            return labels

    class Fake:
        def labels_of(self, indices: np.ndarray) -> np.ndarray:
            return labels

        def indices(self, *splits: str) -> np.ndarray:
            return np.arange(40)

    loss = Known().criterion(Fake())(torch.from_numpy(outputs), torch.from_numpy(labels))  # type: ignore[arg-type]
    known = ~np.isnan(labels)
    by_hand = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(outputs), torch.from_numpy(np.nan_to_num(labels)), pos_weight=weight, reduction="none"
    )[torch.from_numpy(known)].mean()
    assert float(loss) == pytest.approx(float(by_hand))


def test_wrong_shapes_and_outputs_that_are_no_numbers():
    outputs, labels = sample(5)
    with pytest.raises(TargetError, match=r"one shape \(N, L\). Got \(5, 4\) and \(5, 3\)"):
        task.stats(outputs, labels[:, :3])
    outputs[2] = np.nan
    with pytest.raises(NotFinite, match=r"1 row\(s\) are not"):
        task.stats(outputs, labels)


def test_the_report_names_labels_confusions_and_the_most_confident_errors():
    outputs, labels = sample()
    section = task.report(task.stats(outputs, labels, [0.4, 0.5, 0.6, 0.7]), NAMES).to_dict()
    rows = section["tables"]["labels"]
    assert [row["label"] for row in rows] == list(NAMES)
    assert [row["threshold"] for row in rows] == [0.4, 0.5, 0.6, 0.7]
    assert rows[0]["items"] == int((labels[:, 0] == 1).sum())
    first = section["samples"][0]
    assert first["note"].split(": ")[0] in ("missed", "false")
    assert len(section["samples"]) == 12


TINY = [ModelSpec(name="tiny", source="timm:test_resnet", weights="none")]


def test_from_arrays_to_a_model_that_predicts(tmp_path):
    rng = np.random.default_rng(0)
    colors = rng.random((60, 3)) < 0.5
    colors[~colors.any(axis=1), 0] = True
    images = (colors[:, None, None] * 200 + rng.integers(0, 55, (60, 24, 24, 3))).astype(np.uint8)
    labels = colors.astype(float)
    labels[3, 1] = np.nan
    ranking = selector.rank(
        (images, labels), zoo=TINY, proxies=["knn", "logme", "probe"], confirm=True, strategies=["frozen", "full"],
        max_steps=4, refit=False, top_k=1, store=tmp_path / "store", out=tmp_path / "run", measure_cost="never", history=False, device="cpu",
    )  # fmt: skip
    assert ranking.target["task"] == "multilabel"
    measured = {m.strategy: m for m in ranking.best.measurements}
    assert (set(measured), measured["frozen"].metric) == ({"frozen", "full"}, "map")
    assert measured["frozen"].val_value > 0.8  # the colors of an image are in any features
    target = ranking.loaded_target
    assert target is not None
    val = target.indices("val")
    model = selector.load_model(tmp_path / "run")
    chosen = [
        [int(name in row.values["labels"]) for name in target.class_names] for row in model.predict(list(images[val]))
    ]
    f1 = sk.f1_score(labels[val], chosen, average="macro")  # at the thresholds that the model is used with
    assert measured[model.config["strategy"]].val["macro_f1"] == pytest.approx(f1, abs=1e-6)
    assert len(model.context["thresholds"]) == 3
    found = model.predict(list(images[:4]))
    assert found.probabilities.shape == (4, 3)
    row = found[0].to_dict()
    thresholds = dict(zip(model.class_names, model.context["thresholds"], strict=True))
    assert row["labels"] == [n for n, p in row["probabilities"].items() if p >= thresholds[n]]
    assert found.to_csv().splitlines()[0] == "item,labels,probabilities.0,probabilities.1,probabilities.2,error"
