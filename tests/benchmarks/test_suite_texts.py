"""The suite of texts: what is trained is the network that is scored, and its commands run from texts to the table."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from benchmarks.suite import agreement_table, ground_truth, score_cells, table, text_encoders, text_sets
from benchmarks.suite.text_suite import SUITE
from benchmarks.suite.text_training import PIECE, TextLearner
from benchmarks.suite.training import Head
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


@pytest.fixture
def spec(tmp_path):
    folder = text_model(tmp_path / "tiny", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return ModelSpec(name="tiny", source=f"transformers:{folder}", params=1000)


@pytest.fixture
def learner(assets, spec):
    return TextLearner(spec, text_sets.load("trec", assets / "text", 120, 60))


def test_splits_are_fixed_stratified_and_limited(assets):
    data = text_sets.load("trec", assets / "text", 120, 30)
    assert {split: len(data.rows(split)) for split in ("train", "val", "test")} == {"train": 96, "val": 24, "test": 30}
    assert all(np.bincount(data.labels[data.rows(split)]).tolist() == [len(data.rows(split)) // 3] * 3
               for split in ("train", "val", "test"))  # fmt: skip
    again = text_sets.load("trec", assets / "text", 120, 30)
    assert again.texts == data.texts
    own = texts(60, 1)["text"]
    assert {data.texts[i] for i in data.rows("test")} <= set(own)
    assert all(WORDS[label] in text for text, label in zip(data.texts, data.labels, strict=True))


def test_fewer_words_and_pieces_of_like_length_change_neither_outputs_nor_gradients(learner, spec, assets):
    data = text_sets.load("trec", assets / "text", 120, 60)
    rng = np.random.default_rng(0)
    head = Head(rng.standard_normal((3, 32)).astype(np.float32), rng.standard_normal(3).astype(np.float32))
    learner.set_head(head)
    plain = text_encoders.load(spec).with_head(3)
    with torch.no_grad():
        plain.get_classifier().weight.copy_(torch.from_numpy(head.weight))
        plain.get_classifier().bias.copy_(torch.from_numpy(head.bias))
    rows = data.rows("train")[: 2 * PIECE + 3]
    whole = learner._tokens.batch(rows)
    assert len(learner.module.backbone.get_input_embeddings().weight) < 300
    torch.testing.assert_close(learner.module(learner._batch(rows)), plain(whole))
    assert learner.logits(rows).numpy() == pytest.approx(plain(whole).detach().numpy(), abs=0.1)  # bfloat16

    expected = F.cross_entropy(plain(whole), torch.from_numpy(data.labels[rows]).long())
    expected.backward()
    learner.train_mode()
    assert learner.backward(rows, torch.Generator()) == pytest.approx(expected.item(), abs=0.02)
    ours, theirs = learner.module.get_classifier().weight.grad, plain.get_classifier().weight.grad
    assert F.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.999
    vectors = plain.backbone.get_input_embeddings().weight.grad
    used = (learner._places >= 0).nonzero()[:, 0]
    found = learner.module.backbone.get_input_embeddings().weight.grad[learner._places[used]]
    assert F.cosine_similarity(found.flatten(), vectors[used].flatten(), dim=0) > 0.99
    assert vectors.abs().sum() == pytest.approx(vectors[used].abs().sum())


def test_features_are_what_the_head_reads(learner, assets):
    data = text_sets.load("trec", assets / "text", 120, 60)
    features, source_logits = learner.features()
    assert source_logits is None
    head = Head(np.eye(3, 32, dtype=np.float32), np.zeros(3, np.float32))
    learner.set_head(head)
    every = np.arange(len(data.texts))
    assert learner.logits(every).numpy() == pytest.approx(head.logits(features).numpy(), abs=0.05)


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """Four tiny networks in place of what pip packages bring."""
    folders = {f"tiny{i}": text_model(tmp_path / f"tiny{i}", seed=i, num_hidden_layers=1 + i % 2) for i in range(4)}
    made = {
        n: ModelSpec(name=n, source=f"transformers:{f}", params=1000 + i) for i, (n, f) in enumerate(folders.items())
    }
    monkeypatch.setattr(text_encoders, "specs", lambda: made)
    monkeypatch.setattr(text_encoders, "DEPTHS", {name: 1 + i % 2 for i, name in enumerate(made)})
    return made


def run(main, *arguments):
    assert main(["--suite", "texts", "--quick", *arguments]) == 0


def test_from_texts_to_the_table_of_agreement(assets, zoo):
    run(ground_truth.main, "--sets", "trec", "sst2")
    path = SUITE.table("ground_truth", quick=True)
    rows = table.read(path)
    assert {(row["status"], row["reason"]) for row in rows.values()} == {("ok", "")}
    assert len(rows) == 2 * (4 * 2 + ground_truth.CONFIRMED)
    frozen, full = rows["trec", "tiny0", "frozen", 0], rows["trec", "tiny0", "full", 0]
    assert (frozen["n_train"], frozen["n_test"], full["steps"]) == ("120", "60", "4")
    assert full["transformers"]
    assert float(frozen["test_accuracy"]) > 0.6  # of three classes
    before = path.read_bytes()
    run(ground_truth.main, "--sets", "trec", "sst2")
    assert path.read_bytes() == before

    run(score_cells.main, "--sets", "trec", "sst2", "--scores", "knn", "logme", "lda", "gbc", "leep")
    scored = score_cells.read(SUITE.table("scores", quick=True))
    assert scored.values["knn"]["trec"].keys() == zoo.keys()
    assert scored.rows == {"trec": 150, "sst2": 150}  # train and val
    run(agreement_table.main)
    with path.with_name("text_agreement_full.csv").open() as file:
        found = {(row["scope"], row["score"]): row for row in csv.DictReader(file)}
    names = {
        "log parameters",
        "depth",
        "mean rank elsewhere",
        "knn",
        "logme",
        "lda",
        "gbc",
        "normalized_score",
        "transferability",
        "random order",
        "noise ceiling",
    }
    assert {score for scope, score in found if scope == "all"} == names
    assert float(found["all", "knn"]["seconds"]) > 0
    assert found["all", "depth"]["encoders"] == "4.0000"


def test_a_quick_run_leaves_the_tables_and_the_features_of_the_suite_alone(assets, zoo):
    before = SUITE.table("ground_truth").stat().st_mtime_ns if SUITE.table("ground_truth").exists() else None
    run(ground_truth.main, "--sets", "trec", "--encoders", "tiny0")
    after = SUITE.table("ground_truth").stat().st_mtime_ns if SUITE.table("ground_truth").exists() else None
    assert after == before
    assert not (assets / "cache" / "selector-suite").exists()


def test_an_unknown_set_is_named(assets, zoo, capsys):
    with pytest.raises(SystemExit):
        ground_truth.main(["--suite", "texts", "--sets", "digits"])
    assert "--sets: unknown ['digits']; known are trec, banking77" in capsys.readouterr().err


# ---------------------------------------------------------------------------- the network of an ONNX file


@pytest.fixture
def paraphrase():
    pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
    found = text_encoders.specs()["paraphrase-minilm-l3-onnx"]
    try:
        found.weights.path()
    except Exception:  # noqa: BLE001
        pytest.skip("the extra 'demo-text' is not installed")
    return found


def test_the_network_rebuilt_from_an_onnx_file_gives_its_features(paraphrase, assets):
    data = text_sets.load("trec", assets / "text", 30, 15)
    learner = TextLearner(paraphrase, data)
    features, _ = learner.features()
    learner.set_head(Head(np.eye(3, 384, dtype=np.float32), np.zeros(3, np.float32)))
    every = np.arange(len(data.texts))
    with torch.no_grad():
        assert learner.module(learner._batch(every)).numpy() == pytest.approx(features[:, :3], abs=1e-4)


def test_a_network_rebuilt_otherwise_is_refused(paraphrase, monkeypatch):
    monkeypatch.setattr(text_encoders, "PARAPHRASE_L3", {**text_encoders.PARAPHRASE_L3, "num_attention_heads": 6})
    encoder = text_encoders.load(paraphrase)
    with pytest.raises(
        ValueError, match="paraphrase-minilm-l3-onnx: the rebuilt network differs from the ONNX file by"
    ):
        text_encoders.with_head(encoder, paraphrase, 3)


def test_the_two_packages_hold_different_networks():
    first, second = (text_encoders.specs()[name] for name in ("minilm-l6", "sre-minilm-l6"))
    for spec in (first, second):
        pytest.importorskip(spec.weights.package, reason="the extra 'demo-text' is not installed")
    ours, theirs = load_file(first.weights.path()), load_file(second.weights.path())
    shared = [name for name in ours if name in theirs and ours[name].is_floating_point()]
    assert len(shared) > 100
    assert not any(torch.equal(ours[name], theirs[name]) for name in shared if "pooler" not in name)


def test_every_encoder_of_the_suite_is_known_with_its_size(assets):
    facts = SUITE.encoders(Path())
    assert (
        facts["sre-minilm-l6-3-layers"].model.parameters == facts["minilm-l6-3-layers"].model.parameters == 17_241_984
    )
    assert {name: known.depth for name, known in facts.items()} == text_encoders.DEPTHS
    assert all(spec.text.max_length == text_encoders.MAX_LENGTH for spec in text_encoders.specs().values())
    assert facts[text_encoders.UNTRAINED].model.pretraining_images == 0
