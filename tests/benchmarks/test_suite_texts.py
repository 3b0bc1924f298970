"""The suite of texts: its commands run from texts to the table, and its encoders are what they are said to be."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.suite import agreement_table, score_cells, suites, table, text_suite
from benchmarks.suite.text_suite import SUITE
from selector.zoo import ModelSpec
from tests.support.text_models import text_model

WORDS = ("good film", "bank loan", "cold rain")  # a class each
OTHERS = ("the", "of", "quick", "brown", "fox", "jumps over the lazy dog", "who is it ?", "a")


def texts(count, seed):
    """Texts that a class word gives away, of one to a dozen words."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(WORDS)
    found = [
        " ".join([*rng.choice(OTHERS, rng.integers(1, 5)), WORDS[label], str(i)]) for i, label in enumerate(labels)
    ]
    return {"text": found, "label": labels.tolist()}


@pytest.fixture
def assets(tmp_path, monkeypatch):
    """Two sets where the suite looks for them, and nothing saved yet."""
    for name in ("trec", "sst2"):
        folder = tmp_path / "text" / name
        folder.mkdir(parents=True)
        pq.write_table(pa.table(texts(150, 0)), folder / "train.parquet")
        pq.write_table(pa.table(texts(60, 1)), folder / "test.parquet")
    monkeypatch.setenv("SELECTOR_ASSETS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_splits_are_fixed_stratified_and_limited(assets):
    data = SUITE.load_set("trec", assets, 120, 30)
    assert {split: len(data.rows(split)) for split in ("train", "val", "test")} == {"train": 96, "val": 24, "test": 30}
    assert all(np.bincount(data.labels[data.rows(split)]).tolist() == [len(data.rows(split)) // 3] * 3
               for split in ("train", "val", "test"))  # fmt: skip
    again = SUITE.load_set("trec", assets, 120, 30)
    assert again.texts == data.texts
    own = texts(60, 1)["text"]
    assert {data.texts[i] for i in data.rows("test")} <= set(own)
    assert all(WORDS[label] in text for text, label in zip(data.texts, data.labels, strict=True))


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """Four tiny networks in place of what pip packages bring."""
    folders = {f"tiny{i}": text_model(tmp_path / f"tiny{i}", seed=i, num_hidden_layers=1 + i % 2) for i in range(4)}
    made = {n: ModelSpec(name=n, source=f"transformers:{f}", params=1000 + int(n[-1])) for n, f in folders.items()}
    monkeypatch.setattr(text_suite, "specs", lambda: made)
    monkeypatch.setattr(text_suite, "DEPTHS", {name: 1 + i % 2 for i, name in enumerate(made)})
    return made


def run(main, *arguments):
    assert main(["--suite", "texts", "--quick", *arguments]) == 0


def test_from_texts_to_the_table_of_agreement(assets, zoo):
    path = SUITE.table("ground_truth", quick=True)
    for name in ("trec", "sst2"):
        for i, encoder in enumerate(zoo):
            for strategy, seed in (("frozen", 0), ("full", 0), ("full", 1)):
                row = {
                    "set": name,
                    "encoder": encoder,
                    "strategy": strategy,
                    "seed": seed,
                    "status": "ok",
                    "diverged": 0,
                }
                table.append(path, row | {"test_accuracy": 0.6 + 0.05 * i + 0.01 * seed})
    run(score_cells.main, "--extract", "--sets", "trec", "sst2", "--scores", "knn", "logme", "lda", "gbc", "leep")
    scored = score_cells.read(SUITE.table("scores", quick=True))
    assert scored.values["knn"]["trec"].keys() == zoo.keys()
    assert scored.rows == {"trec": 150, "sst2": 150}  # train and val
    run(agreement_table.main)
    with path.with_name("text_agreement_full.csv").open() as file:
        found = {(row["scope"], row["score"]): row for row in csv.DictReader(file)}
    assert {score for scope, score in found if scope == "all"} == {
        "log parameters", "depth", "mean rank elsewhere", "knn", "logme", "lda", "gbc", "normalized_score",
        "transferability", "random order", "noise ceiling",
    }  # fmt: skip
    assert float(found["all", "knn"]["seconds"]) > 0
    assert found["all", "depth"]["encoders"] == "4.0000"


def test_a_quick_run_leaves_the_features_of_the_suite_alone(assets, zoo):
    run(score_cells.main, "--extract", "--sets", "trec", "--encoders", "tiny0", "--scores", "knn")
    assert (assets / "cache" / "selector-suite-quick" / "trec" / "tiny0.npz").is_file()
    assert not (assets / "cache" / "selector-suite").exists()


def test_features_of_the_test_split_are_not_saved(assets, zoo):
    data = SUITE.load_set("trec", assets, 120, 60)
    found = SUITE.extract("tiny0", data, assets)
    assert (len(found.features), found.source_logits, found.size) == (180, None, text_suite.MAX_LENGTH)
    suites.save_features(assets / "x.npz", data, found)
    with np.load(assets / "x.npz") as saved:
        np.testing.assert_array_equal(saved["features"], found.features[data.rows("train", "val")])
        assert set(saved["splits"]) == {"train", "val"}


def test_an_unknown_set_is_named(assets, zoo, capsys):
    with pytest.raises(SystemExit):
        score_cells.main(["--suite", "texts", "--sets", "digits"])
    assert "--sets: unknown ['digits']; known are trec, banking77" in capsys.readouterr().err


def test_the_two_packages_hold_different_networks():
    first, second = (text_suite.specs()[name] for name in ("minilm-l6", "sre-minilm-l6"))
    for spec in (first, second):
        pytest.importorskip(spec.weights.package, reason="the extra 'demo-text' is not installed")
    ours, theirs = load_file(first.weights.path()), load_file(second.weights.path())
    shared = [name for name in ours if name in theirs and ours[name].is_floating_point()]
    assert len(shared) > 100
    assert not any(torch.equal(ours[name], theirs[name]) for name in shared if "pooler" not in name)


def test_every_encoder_of_the_suite_is_known_with_its_size(assets):
    facts = SUITE.encoders(Path())
    assert {facts[f"{name}-3-layers"].model.parameters for name in ("sre-minilm-l6", "minilm-l6")} == {17_241_984}
    assert {name: known.depth for name, known in facts.items()} == text_suite.DEPTHS
    assert all(spec.text.max_length == text_suite.MAX_LENGTH for spec in text_suite.specs().values())
    assert facts[text_suite.UNTRAINED].model.pretraining_images == 0
