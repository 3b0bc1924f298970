"""Ready features: scored, a head fitted on them, saved, and used on features, for every task that has a linear head."""

import json
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk
from typer.testing import CliRunner

import selector
from selector.cli import app
from selector.core.errors import OptionError, SourceError, TargetError
from selector.deploy import export_onnx
from selector.results import BEST
from selector.sources import registry as sources
from selector.zoo import ModelSpec
from tests.support.cards import run_card

N = 160


def arrays() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Two arrays, of which one shows what the labels are made of."""
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((N, 4))
    seen = np.hstack([hidden, rng.standard_normal((N, 4))]) @ rng.standard_normal((8, 12))
    return {"seen": seen, "noise": rng.standard_normal((N, 7))}, hidden


def labels_of(kind: str, hidden: np.ndarray) -> np.ndarray:
    noise = 0.2 * np.random.default_rng(1).standard_normal(hidden.shape)
    if kind == "multilabel":
        return (hidden[:, :3] + noise[:, :3] > 0.2).astype(int)
    values = 100 * (hidden + noise) + 5
    return {"values": values[:, :2], "value": values[:, 0], "classes": (hidden[:, 0] > 0).astype(int)}[kind]


def judged(kind: str, found: Any, truth: np.ndarray) -> tuple[str, float]:
    """The deciding metric of predictions by scikit-learn."""
    if kind == "multilabel":
        return "map", float(sk.average_precision_score(truth, found.probabilities, average="macro"))
    if kind == "classes":
        return "accuracy", float(np.mean([int(name) == label for name, label in zip(found.labels, truth, strict=True)]))
    if kind == "value":
        return "r2", float(sk.r2_score(truth, found.values))
    return "r2", float(sk.r2_score(truth, [[row["value_0"], row["value_1"]] for row in found.values]))


@pytest.mark.parametrize("kind", ["multilabel", "values", "value", "classes"])
def test_from_arrays_to_a_saved_head_whose_test_metric_is_that_of_its_predictions(tmp_path, kind):
    features, hidden = arrays()
    truth = labels_of(kind, hidden)
    ranking = selector.rank_features(
        features, truth, confirm=True, out=tmp_path / "run", store=tmp_path / "store", intervals=False
    )
    target = ranking.loaded_target
    assert target is not None
    assert ranking.best.name == "seen"
    assert ranking.best.rows == len(target.indices("train", "val"))  # scores never see the test split
    assert {m.strategy for m in ranking.best.measurements} == {"frozen"}
    assert not [text for text in ranking.warnings if "cannot be trained" in text]
    model = selector.load_model(tmp_path / "run")
    test = target.indices("test")
    metric, value = judged(kind, model.predict(features["seen"][test]), truth[test])
    assert ranking.best.measurements[0].metric == metric
    assert ranking.best.measurements[0].test[metric] == pytest.approx(value, abs=1e-5)
    assert value > 0.8
    card = (tmp_path / "run" / BEST / "README.md").read_text(encoding="utf-8")
    assert "| input | rows of 12 ready features, seen |" in card
    assert "0 values" not in card
    given = {"target": (features, truth), "store": tmp_path / "store", "out": tmp_path / "again"}
    again = selector.confirm(tmp_path / "run", **given)
    assert again.best.measurements[0].test == ranking.best.measurements[0].test


def test_the_card_loads_the_head_without_this_package_and_onnx_says_the_same(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    features, hidden = arrays()
    selector.rank_features(
        features, labels_of("multilabel", hidden), confirm=True, out=tmp_path / "run", store=tmp_path, proxies="knn"
    )
    model = selector.load_model(tmp_path / "run")
    file = export_onnx(model, tmp_path / "head.onnx")
    rows = features["seen"].astype(np.float32)
    given = onnxruntime.InferenceSession(str(file)).run(["probabilities"], {"features": rows})[0]
    np.testing.assert_allclose(given, model.predict(rows).probabilities, atol=1e-5)
    folder = tmp_path / "run" / BEST
    np.savez(folder / "check.npz", rows=rows, outputs=model.logits(rows))
    run_card(
        folder,
        """
        import numpy as np
        check = np.load('check.npz')
        outputs = model(torch.from_numpy(check['rows'])).detach().numpy()
        np.testing.assert_allclose(outputs, check['outputs'], atol=1e-5)
    """,
    )


def test_scores_that_saw_the_test_split_do_not_choose(tmp_path):
    features, hidden = arrays()
    ranking = selector.rank_features(features, labels_of("classes", hidden), proxies="knn")
    assert ranking.best.rows == N
    with pytest.raises(OptionError, match=r"top_k: the scores of this ranking saw the test split, so they must not"):
        selector.confirm(ranking, top_k=1, store=tmp_path, out=tmp_path / "run")
    confirmed = selector.confirm(ranking, store=tmp_path, out=tmp_path / "run")
    assert {m.name for m in confirmed if m.measurements} == {"seen", "noise"}
    with pytest.raises(OptionError, match="metric must be one of accuracy"):
        selector.rank_features(features, labels_of("classes", hidden), confirm=True, metric="r2")


def cli(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_a_file_of_features_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    features, hidden = arrays()
    np.savez("made.npz", labels=labels_of("values", hidden), **features)
    result = cli("scan", "made.npz", "--out", "run", "--store", "store", "--proxies", "loo-ridge", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["models"][0]["name"] == "seen"
    assert "selector predict run FEATURES.npy" in result.stderr
    rows = features["seen"][:3].copy()
    rows[1, 0] = np.nan
    np.save("rows.npy", rows)
    result = cli("predict", "run", "rows.npy", "--csv")
    lines = result.stdout.splitlines()
    assert lines[0] == "item,value_0,value_0_low,value_0_high,value_1,value_1_low,value_1_high,error"
    assert lines[2].startswith("rows.npy: row 1,")
    assert lines[2].endswith(",holds NaN or inf")
    assert result.exit_code == 3
    assert cli("predict", "run", "made.npz", "--csv").stdout.count("\n") == N + 1  # by the array's name
    assert cli("confirm", "run", "--store", "store").exit_code == 0  # from the file once more
    np.save("wide.npy", features["noise"])
    np.savez("other.npz", noise=features["noise"])
    for given, message in {
        "wide.npy": "wide.npy: rows have 7 features, and the model reads 12; give those of the encoder",
        "other.npz": "other.npz: there is no array 'seen', which the model reads, among noise",
        "none.npy": "none.npy: cannot be read (No such file or directory)",
    }.items():
        result = cli("predict", "run", given)
        assert result.exit_code == 2, result.output
        assert message in result.stderr


def test_files_and_mappings_that_hold_no_features(tmp_path):
    features, hidden = arrays()
    labels = labels_of("classes", hidden)
    np.savez(tmp_path / "plain.npz", **features)
    with pytest.raises(TargetError, match=r"plain\.npz: there is no array 'labels' of labels among seen, noise"):
        selector.load_target(tmp_path / "plain.npz")
    bad = {**features, "noise": features["noise"].copy()}
    bad["noise"][4, 2] = np.inf
    with pytest.raises(
        TargetError, match=r"features: 'noise': features hold NaN or inf in 1 of 160 rows \(first: row 4\)"
    ):
        selector.rank_features(bad, labels)
    with pytest.raises(TargetError, match="features: the mapping is empty"):
        selector.load_target(({}, labels))
    parts = {"train": (features, labels), "test": ({"seen": features["seen"]}, labels)}
    with pytest.raises(TargetError, match="features of the splits differ in width"):
        selector.load_target(parts)
    with pytest.raises(SourceError, match="clip: features: names an array of a target of ready features"):
        sources.get("features").load(ModelSpec(name="clip", source="features:clip"))
