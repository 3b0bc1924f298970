"""From a CoNLL file to a confirmed ranking, a report and a model that tags."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from seqeval.metrics import f1_score

import selector
from selector import sources
from selector.core.contracts import Target
from selector.core.errors import BadImagesError, ConfigError
from selector.core.preprocess import TextPreprocess
from selector.data import load_target
from selector.extract.inputs import ready
from selector.features import FeatureSet
from selector.modalities.tokens.table import open_tokens
from selector.proxies import evaluate
from selector.report.html import render_report
from selector.scan.dataset_view import Rows, stratified
from selector.scan.scoring import feature_set
from selector.scan.selection import reading_rows_of
from selector.store import FeatureStore
from selector.tasks import task_of
from selector.tuning.strategies._loop import Settings, _accumulate, _Read
from selector.zoo import ModelSpec
from tests.support.commands import fails, ok
from tests.support.text_models import WORDS, text_model

PLACES, PEOPLE = ("city", "river", "bank"), ("actor", "team", "fox")


def tagged(count: int = 150, seed: int = 0) -> tuple[list[list[str]], list[list[str]]]:
    """Sentences in which certain words are places and people, some of two words, some in <markup>."""
    rng = np.random.default_rng(seed)
    words, tags = [], []
    for i in range(count):
        own: list[tuple[str, str]] = [(str(w), "O") for w in rng.choice(WORDS[:8], size=int(rng.integers(1, 7)))]
        place = [(str(rng.choice(PLACES)), "B-LOC")] + ([("song", "I-LOC")] if i % 3 == 0 else [])
        person = [(str(rng.choice(PEOPLE)), "B-PER")] if i % 2 else []
        own = [*own[:2], *place, *own[2:], *person, ("<b>", "O"), (str(i), "O")]
        words.append([w for w, _ in own])
        tags.append([t for _, t in own])
    return words, tags


def write_conll(path: Path, words: list[list[str]], tags: list[list[str]]) -> Path:
    blocks = ["\n".join(f"{w} {t}" for w, t in zip(a, b, strict=True)) for a, b in zip(words, tags, strict=True)]
    path.write_text("\n\n".join(blocks), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    root = tmp_path_factory.mktemp("zoo")
    return [
        {"name": "small-bert", "source": f"transformers:{text_model(root / 'bert', 'bert')}", "pooling": "cls"},
        {"name": "small-gpt2", "source": f"transformers:{text_model(root / 'gpt2', 'gpt2')}"},
        {"name": "an-image-model", "source": "timm:test_resnet", "weights": "none"},
    ]


@pytest.fixture(scope="module")
def scanned(zoo: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> tuple[selector.Ranking, Path, Path]:
    root = tmp_path_factory.mktemp("scan")
    file = write_conll(root / "train.conll", *tagged())
    ranking = selector.rank(
        file, zoo=zoo, store=root / "store", out=root / "run", confirm=True, top_k=2, max_steps=12, history=False,
        strategies=("frozen", "partial", "full", "lora"),
    )  # fmt: skip
    return ranking, root / "run", root / "store"


def test_from_a_file_to_a_model(scanned):
    ranking, run, _ = scanned
    assert {m.name for m in ranking} == {"small-bert", "small-gpt2"}
    assert not ranking.failures
    assert ranking.target["items"] == 150
    assert ranking.target["words"] == len(ranking.loaded_target.labels)  # type: ignore[union-attr]
    for model in ranking:
        measured = {m.strategy: m for m in model.measurements}
        assert {"frozen", "partial", "full", "lora"} <= set(measured)
        for m in measured.values():
            assert (m.status in ("ok", "incomplete"), m.metric) == (True, "entity_f1")
            if m.status == "incomplete":  # less than an epoch: no value
                continue
            assert {"entity_f1", "entity_precision", "entity_recall", "token_accuracy", "macro_f1"} <= set(m.val)
    # the words tell the label, so that even a random network's states are enough
    assert ranking["small-bert"].best_measurement().test["entity_f1"] > 0.8  # type: ignore[union-attr]
    assert "token-classification" in (run / "best" / "README.md").read_text()
    saved = selector.load_model(run)
    found = saved.predict(["the city song and the fox", ["it", "is", "<b>"], "  "])
    assert [row.words for row in found] == [("the", "city", "song", "and", "the", "fox"), ("it", "is", "<b>"), ()]
    assert [(e.type, e.text) for e in found[0].entities] == [("LOC", "city song"), ("PER", "fox")]
    assert (str(found[0]), found[2].error) == ("the city/B-LOC song/I-LOC and the fox/B-PER", "has no words")
    assert found.probabilities.shape == (9, 4)
    np.testing.assert_allclose(found.probabilities.sum(1), 1)
    assert found.to_dicts()[0]["entities"][0] == {"type": "LOC", "begin": 1, "end": 3, "text": "city song"}
    assert len(found.to_dataframe()) == 10
    with pytest.raises(BadImagesError, match=r"1 of 1 sentence\(s\) cannot be read: .* has no words"):
        saved.predict("  ", on_invalid="raise")
    with pytest.raises(ConfigError, match=r"expected a text, a list of words or a file\. Got int"):
        saved.predict([3])


def test_a_saved_model_predicts_what_was_measured(scanned):
    ranking, run, _ = scanned
    target = ranking.loaded_target
    assert target is not None
    test = target.indices("test")
    predicted = selector.load_model(run).predict([target.items[i] for i in test], batch_size=7)
    gold = [[target.class_names[k] for k in target.labels_of(np.array([i]))] for i in test]
    config = json.loads((run / "best" / "config.json").read_text())
    figure = next(m for m in ranking[config["name"]].measurements if m.strategy == config["strategy"])
    # measured in bfloat16 where that is faster
    assert f1_score(gold, [list(row.labels) for row in predicted]) == pytest.approx(figure.test["entity_f1"], abs=0.05)


def test_the_command_line_tags(scanned, tmp_path):
    _, run, _ = scanned
    lines = tmp_path / "more.jsonl"
    lines.write_text('["the", "river"]\n{"tokens": ["a", "team", "and", "it"]}\n')
    text = tmp_path / "more.txt"
    text.write_text("the city\n")
    told = json.loads(ok("predict", run, "the bank", lines, text, "--json").stdout)
    words = ["the bank", "the river", "a team and it", "the city"]
    assert [row["words"] for row in told] == [sentence.split() for sentence in words]
    assert told[1]["labels"] == ["O", "B-LOC"]
    shown = ok("predict", run, "the bank").stdout
    assert "the bank/B-LOC" in shown
    assert "LOC: bank" in shown
    lines.write_text('["the", 3]\n')
    assert "more.jsonl:1: expected a list of words" in fails(2, "predict", run, lines)


def test_the_report_shows_types_and_sentences(scanned):
    ranking, run, _ = scanned
    found = next(
        m.extra["error_analysis"] for model in ranking for m in model.measurements if "error_analysis" in m.extra
    )
    assert [line["class"] for line in found["tables"]["classes"]] == ["LOC", "PER"]
    assert all(len(s["words"]) == len(s["label"]) == len(s["predicted"]) for s in found["samples"])
    html = render_report(selector.load_ranking(run))
    assert "Entities of the test split" in html
    assert 'class="sentence"' in html
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert re.search(r'<span class="tagged">\w+ <small>B-(LOC|PER)</small></span>|<mark>', html)
    assert f"selector predict {run}" in html


def test_a_second_scan_and_a_saved_run_read_the_store(scanned, zoo):
    ranking, run, store = scanned
    again = selector.rank(run.parent / "train.conll", zoo=zoo, store=store, history=False)
    assert all(m.cached for m in again)
    for m in again:
        assert {k: v.value for k, v in m.scores.items()} == {k: v.value for k, v in ranking[m.name].scores.items()}
    confirmed = selector.confirm(run, top_k=1, strategies=("frozen",), history=False, out=run.parent / "second")
    assert next(iter(confirmed)).best_measurement().metric == "entity_f1"  # type: ignore[union-attr]


def test_rows_of_words_and_of_texts_are_different_entries(scanned, zoo):
    _, _, store = scanned
    words, _ = tagged()
    before = {e.key for e in FeatureStore(store).list_entries() if e.rows}
    texts = ([" ".join(own) for own in words], ["a" if i % 2 else "b" for i in range(150)])
    ranking = selector.rank(texts, zoo=[{**zoo[1], "name": "m"}], store=store, history=False)
    entries = FeatureStore(store).list_entries()
    assert {e.rows for e in entries if e.key not in before} == {len(ranking.loaded_target.indices("train", "val"))}  # type: ignore[union-attr]


def test_one_pass_for_both_poolings_of_words(zoo, tmp_path):
    ranking = selector.rank(tagged(60), zoo=zoo[:1], pooling="first,mean", store=tmp_path, history=False)
    assert {m.name for m in ranking} == {"small-bert@own/first", "small-bert@own/mean"}
    failed = selector.rank(tagged(60), zoo=zoo[:1], pooling="first,cls", store=tmp_path, history=False).failures
    assert [m.name for m in failed] == ["small-bert@own/cls"]
    assert "pooling 'cls' is over whole texts; words take first or mean" in failed[0].reason


def test_the_target_decides_what_a_row_is():
    entries = [{"pooling": "first", "text": {"words": True, "prompt": "q: "}}, {"pooling": "cls"}, {}]
    specs = [ModelSpec.model_validate({"source": f"transformers:m{i}", **e}) for i, e in enumerate(entries)]
    texts = load_target((["a b", "c d"] * 10 + list("efgh"), [i % 2 for i in range(24)]))
    of_words = reading_rows_of(specs, load_target(tagged(20)))
    assert [(s.pooling, s.text.changes()) for s in of_words if s.text] == [
        ("first", {"prompt": "q: ", "words": True}), (None, {"words": True}), (None, {"words": True}),
    ]  # fmt: skip
    of_texts = reading_rows_of(specs, texts)
    assert [(s.pooling, s.text.changes() if s.text else None) for s in of_texts] == [
        (None, {"prompt": "q: "}), ("cls", None), (None, None),
    ]  # fmt: skip
    assert of_texts[1].feature_settings() == specs[1].feature_settings()  # what was stored of texts stays known


def unusual(count: int = 60) -> tuple[list[list[str]], list[list[str]]]:
    words, tags = tagged(count)
    words[0], tags[0] = ["word"] * 3000, ["O"] * 3000
    words[1], tags[1] = ["مرحبا", "🙂", "a\x00b", "New York"], ["O", "O", "O", "B-LOC"]
    return words, tags


def test_long_and_strange_sentences_lose_no_word(zoo, tmp_path):
    words, tags = unusual()
    ranking = selector.rank((words, tags), zoo=zoo[:2], store=tmp_path, history=False, proxies="logme")
    assert not ranking.failures
    target = ranking.loaded_target
    assert target is not None
    seen = sum(len(words[i]) for i in target.indices("train", "val"))
    assert {m.rows for m in ranking} == {seen}
    assert not any("were cut" in w for w in ranking.warnings)
    words[7][0] = " "
    asked = {"zoo": zoo[:1], "store": tmp_path, "history": False, "proxies": "logme"}
    with pytest.raises(BadImagesError, match=r"row 7 has a word without content \(word 1\)"):
        selector.rank((words, tags), **asked, on_invalid="raise")
    skipped = selector.rank((words, tags), **asked, on_invalid="skip")
    assert skipped.target["items"] == 59


def rows_of(target: Target, share: float = 1.0, most: int = 10_000) -> Rows:
    order = stratified(target, target.indices("train", "val"))
    return Rows(target, np.sort(order[: round(share * len(order))]), most)


def test_no_sentence_is_in_two_folds_and_copies_stay_together(tmp_path):
    words, tags = tagged(80)
    words, tags = [*words, *words[:20]], [*tags, *tags[:20]]
    target = load_target({"train": (words, tags), "val": tagged(20, 1), "test": tagged(20, 2)})
    rows = rows_of(target)
    entry = FeatureStore(tmp_path).entry({"encoder": "a"})
    entry.append(rows.hashes, np.random.default_rng(0).normal(size=(len(rows), 5)))
    features = feature_set(entry, rows)
    assert rows.groups is not None
    per_unit = {unit: set(features.blocks[rows.groups == unit]) for unit in np.unique(rows.groups)}
    assert all(len(blocks) == 1 for blocks in per_unit.values())
    sentences = target.indices("train", "val")
    assert len(per_unit) == len({target.hashes[i] for i in sentences}) < len(sentences)
    # a round is a set of whole sentences, and holds those of the round before
    half, quarter = rows_of(target, 0.5), rows_of(target, 0.25)
    assert set(quarter.hashes) < set(half.hashes) < set(rows.hashes)
    assert len(half) == sum(len(target.items[i]) for i in half.indices)


def test_the_order_of_sentences_changes_no_score():
    words, tags = tagged(80)
    order = np.random.default_rng(1).permutation(80)
    found = []
    for chosen in (np.arange(80), order):
        train = [words[i] for i in chosen], [tags[i] for i in chosen]
        rows = rows_of(load_target({"train": train, "val": tagged(20, 1), "test": tagged(20, 2)}))
        # features that depend on the word alone
        values = np.array([[int(h[k : k + 4], 16) for k in (0, 4, 8)] for h in rows.hashes]) / 2**16
        features = FeatureSet(values + rows.labels[:, None], rows.labels, keys=rows.hashes, groups=rows.groups)
        found.append([evaluate(features, name, intervals=True, seed=0) for name in ("logme", "knn", "probe")])
        assert all(score.low is not None for score in found[-1])
    for one, other in zip(*found, strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-9)
        assert one.low == pytest.approx(other.low, abs=1e-9)


def test_frequent_labels_are_thinned_out_first():
    target = load_target(tagged(150))
    rows = rows_of(target)
    counts = np.bincount(rows.labels)
    outside = target.class_names.index("O")
    others = len(rows) - counts[outside]
    fewer = rows_of(target, most=2 * others + 20)
    kept = np.bincount(fewer.labels)
    assert len(fewer) == 2 * others + 20
    assert all(kept[i] == counts[i] for i in range(4) if i != outside)
    assert set(fewer.hashes) < set(rows.hashes)
    assert fewer.hashes == rows_of(target, most=2 * others + 20).hashes
    few = rows_of(target, most=60)
    assert len(few) == 60
    assert abs(np.bincount(few.labels)[outside] - 30) <= 2
    by_hash = dict(zip(rows.hashes, rows.labels, strict=True))
    assert [by_hash[h] for h in few.hashes] == few.labels.tolist()
    assert few.groups is not None
    assert len(few.groups) == 60


def test_the_loss_is_over_words_however_the_batch_is_cut(tmp_path):
    """One step equals a step by hand on the mean over all words; pieces of a batch count by their words."""
    target = load_target(tagged(12))
    entry = {"name": "m", "source": f"transformers:{text_model(tmp_path)}", "text": {"words": True}}
    encoder = sources.registry.get("transformers").load(ModelSpec.model_validate(entry))
    assert isinstance(encoder.preprocess, TextPreprocess)
    table, _ = open_tokens(target.items, target.hashes, target.names, encoder.preprocess)
    items = np.array([7, 2, 9, 0, 5])
    task: Any = task_of(target)
    annotations = task.annotations(target, items)
    gradients, losses = [], []
    for pieces in (5, 2, 1):
        learner = task.learner(encoder, target)
        module: Any = learner.network
        total = _accumulate(
            learner, _Read(0, table.batch(items), annotations), pieces, lambda batch: ready(batch, encoder.preprocess),
            Settings(1, 5, 0.1, "sgd"),
        )  # fmt: skip
        gradients.append({n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None})
        losses.append(total)
    module = encoder.with_head(len(target.class_names))
    whole = torch.cat([module(table.batch([i])) for i in items])
    truth = torch.tensor(np.concatenate([target.labels_of(np.array([i])) for i in items]))
    expected = torch.nn.functional.cross_entropy(whole, truth)
    expected.backward()
    assert losses == pytest.approx([float(expected.detach())] * 3, rel=1e-5)
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            for found in gradients:
                torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_the_command_line_scans_a_conll_file(tmp_path):
    words, tags = tagged(60)
    file = write_conll(tmp_path / "train.conll", words, [[f"{tag} X" for tag in own] for own in tags])
    zoo = tmp_path / "zoo.yaml"
    zoo.write_text(f"models:\n  - name: tiny\n    transformers: {text_model(tmp_path / 'm')}\n")
    common = ["--zoo", zoo, "--store", tmp_path / "s", "--no-history"]
    scan = ["scan", file, "--label-column", "2", *common]
    told = json.loads(ok(*scan, "--dry-run", "--json").stdout)
    words_to_read = told["models"][0]["missing"]
    assert words_to_read == told["images"] < sum(map(len, words))
    told = json.loads(ok(*scan, "--no-confirm", "--out", tmp_path / "r", "--max-samples", "40", "--json").stdout)
    assert (told["target"]["items"], told["target"]["class_names"]) == (40, ["B-LOC", "B-PER", "I-LOC", "O"])
    again = json.loads(ok(*scan, "--dry-run", "--json").stdout)
    row = again["models"][0]
    assert row["cached"] > 0
    assert row["cached"] + row["missing"] == words_to_read
    assert again["seconds"] is not None
    assert "found one class only ('X'" in fails(2, "scan", file, *common, "--no-confirm")
