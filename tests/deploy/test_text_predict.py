"""Saved text models that predict: what stands for a text, a pair or a sentence, and how they go through the network."""

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import selector
from selector.cli import app
from selector.core.errors import BadImagesError, ConfigError
from selector.core.preprocess import TextPreprocess
from selector.deploy import SavedModel, export_onnx, load_model, save_model
from selector.deploy.serializers import text as text_form
from selector.modalities.text import TextTokenizer, Tokens
from selector.results import Measurement
from selector.zoo import ModelSpec
from tests.support.cards import run_cards
from tests.support.saved_texts import trained_text
from tests.support.text_models import text_model

PAIRS = {"single": False, "pairs": True}
Make = Callable[..., SavedModel]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_model(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture
def make(backbone: Path, tmp_path: Path) -> Make:
    """A saved model with a random head: of single texts, of pairs, of words, or one whose record does not say."""

    def made(kind: str, **changes: Any) -> SavedModel:
        trained = trained_text(backbone, words=kind == "words", changes=changes)
        target = {"name": "x", **({"pairs": PAIRS[kind]} if kind in PAIRS else {})}
        rates = (0.0029999999999999996, None)
        figures = [Measurement(s, "score", {"score": -1e-9}, learning_rate=r) for s, r in zip(("full", "lora"), rates, strict=True)]  # fmt: skip
        return load_model(save_model(tmp_path / kind, trained, target, figures, {}))

    return made


def test_a_model_of_single_texts_takes_no_pairs(make):
    model = make("single")
    assert [row.item for row in model.predict(("sun", "rain"))] == ["sun", "rain"]
    with pytest.raises(ConfigError, match=r"sun \| rain: found a pair of texts; the model reads single texts"):
        model.predict(["goal", ("sun", "rain")])


def test_a_model_of_pairs_takes_no_single_texts(make, tmp_path):
    model = make("pairs")
    assert [row.item for row in model.predict(("sun", "rain"))] == ["sun | rain"]
    assert len(model.predict([("sun", "rain"), ["goal", "team"]])) == 2
    (tmp_path / "texts.txt").write_text("sun\n")
    for given, name in ((["sun", "rain"], "sun"), (str(tmp_path / "texts.txt"), r"texts\.txt:1"), ("goal", "goal")):
        with pytest.raises(ConfigError, match=rf"{name}: found a single text; the model reads pairs\. Give \(first"):
            model.predict(given)


def test_a_model_whose_record_does_not_say_takes_either(make):
    model = make("unknown")
    assert "pairs" not in model.config
    assert [row.item for row in model.predict(("sun", "rain"))] == ["sun | rain"]
    assert [row.item for row in model.predict(["sun", "rain"])] == ["sun", "rain"]
    with pytest.raises(ConfigError, match="some of the items are texts and some are pairs"):
        model.predict(["goal"] * 40 + [("sun", "rain")])


@pytest.mark.parametrize("kind", ["single", "words"])
def test_a_path_without_a_file_is_no_text(make, kind, tmp_path):
    model = make(kind)
    spaced = f"{tmp_path}{os.sep}no such.txt"
    for given in ("nosuch.txt", "nosuch.jsonl", "nosuch.CSV", "nosuch.conll", "data/nosuch.md", spaced, Path("nosuch")):
        with pytest.raises(
            ConfigError, match=r"does not exist; predict reads \.txt files \(one text per line\), \.jsonl"
        ):
            model.predict([given])
    (tmp_path / "texts.conll").write_text("sun O\n")
    with pytest.raises(ConfigError, match=r"texts\.conll is a file of another kind; predict reads"):
        model.predict(str(tmp_path / "texts.conll"))
    with pytest.raises(ConfigError, match=r"is a folder; predict reads"):
        model.predict([f"{tmp_path}{os.sep}"])


def test_texts_that_name_files_stay_texts(make, tmp_path):
    texts = [
        "look into notes.txt", "https://example.com/notes.txt", "and/or", "3/4.5", "3.5", "the end.\nnotes.txt", "data",
        "x" * 300 + ".txt file", "/", "one/two is a rate in notes.csv", "/ is the root.really",
    ]  # fmt: skip
    assert [row.error for row in make("single").predict(texts)] == [None] * len(texts)
    file = tmp_path / "names.txt"
    file.write_text("nosuch.txt\n")
    assert len(make("words").predict(file)) == 1


@pytest.mark.parametrize("kind", ["single", "words"])
def test_only_line_feeds_end_a_line(make, kind, tmp_path):
    model = make(kind)
    lines = ["sun\u2028rain\x0bgoal", "team\x85win\x0cmatch", "", "it\ris"]
    file = tmp_path / "texts.TXT"
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\n")
    found = model.predict(str(file))
    shown = [" ".join(line.split()) for line in lines] if kind == "words" else lines
    assert [row.item for row in found] == [
        shown[0],
        shown[1],
        f"{file}:3",
        shown[3],
    ]  # an empty text has its place only
    assert [bool(row.error) for row in found] == [False, False, True, False]
    expected = model.predict([lines[0], lines[1], lines[3]]).probabilities
    np.testing.assert_allclose(found.probabilities[~np.isnan(found.probabilities).any(1)], expected, rtol=1e-5)
    if kind == "words":
        assert found[0].words[0] == "sun"


def test_json_lines_hold_texts_or_pairs(make, tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text('\ufeff"sun"\n\n{"text": "rain"}\n', encoding="utf-8")
    found = make("single").predict(file)
    assert [row.item for row in found] == ["sun", "rain"]
    np.testing.assert_allclose(found.probabilities, make("single").predict(["sun", "rain"]).probabilities, rtol=1e-5)
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('["sun", "rain"]\n{"text": ["goal", "team"]}\n')
    found = make("pairs").predict(str(pairs))
    expected = make("pairs").predict([("sun", "rain"), ("goal", "team")])
    np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-5)
    for line, message in (("[1, 2]", "expected a text in quotes"), ("sun", "not JSON"), ("", "is empty; expected")):
        pairs.write_text(line)
        with pytest.raises(ConfigError, match=message):
            make("pairs").predict(pairs)


@pytest.mark.parametrize("kind", ["single", "words"])
def test_what_cannot_be_read_is_named(make, kind, tmp_path):
    model = make(kind)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(ConfigError, match=r"empty\.txt is empty; expected one text per line"):
        model.predict(tmp_path / "empty.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.txt cannot be read as UTF-8 text"):
        model.predict(tmp_path / "latin.txt")
    for given in (None, 5, b"sun"):
        with pytest.raises(ConfigError, match=rf"expected texts, .*Got {type(given).__name__}"):
            model.predict(given)
    with pytest.raises(ConfigError, match="to predict; give texts"):
        model.predict([])


def test_texts_without_content_are_named_by_their_place(make):
    found = make("single").predict(["sun", "", " \t"])
    assert [str(row) for row in found.errors] == ["text 1: is empty", "text 2: is only whitespace"]
    with pytest.raises(BadImagesError, match=r"1 of 2 text\(s\) cannot be read: text 1 is empty"):
        make("single").predict(["sun", ""], on_invalid="raise")
    assert [row.item for row in make("pairs").predict([("sun", ""), ("", "")])] == ["sun | ", "text 1"]
    assert [str(row) for row in make("words").predict(["sun", [], " "]).errors] == [
        "sentence 1: has no words",
        "sentence 2: has no words",
    ]


@pytest.mark.parametrize("kind", ["single", "words"])
def test_the_tokenizer_is_read_once_and_a_batch_is_bounded_by_its_tokens(make, kind, monkeypatch):
    model = make(kind, long_texts="window", max_length=32)
    built: list[TextTokenizer] = []
    sizes: list[tuple[int, int]] = []

    def build(preprocess: Any) -> TextTokenizer:
        built.append(TextTokenizer(preprocess))
        return built[-1]

    monkeypatch.setattr(text_form, "TextTokenizer", build)
    model.module.register_forward_pre_hook(lambda _, given: sizes.append((len(given[0]), given[0].ids.numel())))
    texts = ["sun and rain " * 900, *["goal", "the team", "money in the bank"] * 20, "", *["rain " * 300] * 9]
    found = model.predict(texts, batch_size=16)
    assert len(built) == 1
    assert max(count for count, _ in sizes) <= 16
    assert all(count == 1 or tokens <= 2048 for count, tokens in sizes)
    assert [bool(row.error) for row in found] == [not text for text in texts]
    rows = {text: model.predict(text).probabilities for text in set(texts)}
    expected = np.concatenate([rows[text] for text in texts])
    np.testing.assert_allclose(found.probabilities, expected, rtol=1e-3, atol=1e-5)
    assert len(built) == 1


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".parquet", ".jsonl"])
def test_a_column_of_a_table_is_read(make, ending, tmp_path):
    import pandas as pd

    file = tmp_path / f"in{ending}"
    table = pd.DataFrame({"id": [7, 8], "said": ["the sun, and rain", "goal"], "answer": ["yes", "no"]})
    if ending == ".parquet":
        table.to_parquet(file)
    elif ending == ".jsonl":
        table.to_json(file, orient="records", lines=True)
    else:
        table.to_csv(file, index=False, sep="\t" if ending == ".tsv" else ",")
    model = make("single")
    found = model.predict(file, text_column="said")
    assert [row.item for row in found] == ["the sun, and rain", "goal"]
    np.testing.assert_array_equal(found.probabilities, model.predict(["the sun, and rain", "goal"]).probabilities)
    pairs = make("pairs").predict(file, text_column=("said", "answer"))
    assert [row.item for row in pairs] == ["the sun, and rain | yes", "goal | no"]
    with pytest.raises(ConfigError, match=r"text_column=\['spoken'\]: 'spoken' is missing.*Columns: id, said, answer"):
        model.predict(file, text_column="spoken")
    with pytest.raises(ConfigError, match=r"'answer'\]: expected one column of texts, or the two of pairs; name"):
        model.predict(file, text_column=("id", "said", "answer"))
    with pytest.raises(ConfigError, match=r"\['said', 'answer'\]: expected one column of texts; name"):
        make("words").predict(file, text_column=("said", "answer"))
    if ending != ".jsonl":
        with pytest.raises(ConfigError, match=r"which column holds the texts\? name it with text_column"):
            model.predict(file)


@pytest.mark.parametrize("kind", ["single", "words"])
def test_open_files_hold_a_text_a_line(make, kind):
    model = make(kind)
    lines = ["notes.txt and more", "rain in /tmp"]  # what is read there is never taken for a path
    found = model.predict(io.StringIO("\n".join(lines) + "\n"))
    assert [row.item for row in found] == lines
    np.testing.assert_array_equal(found.probabilities, model.predict(lines).probabilities)
    with pytest.raises(ConfigError, match="is empty; expected one text per line"):
        model.predict([io.StringIO("")])


def test_the_command_reads_stdin_and_tables_and_writes_files(make, tmp_path):
    model = make("single")
    text = "rain, sun and a long story " * 5
    runner = CliRunner()
    told = runner.invoke(app, ["predict", str(model.path), "-", "--csv"], input=f"{text}\ngoal\n")
    assert told.exit_code == 0, told.output
    rows = list(csv.DictReader(io.StringIO(told.stdout)))
    assert [row["item"] for row in rows] == [text, "goal"]  # whole, and no row for "-"
    file = tmp_path / "in.csv"
    file.write_text(f'said,id\n"{text}",1\ngoal,2\n')
    for out in (tmp_path / "out.csv", tmp_path / "out.jsonl"):
        told = runner.invoke(app, ["predict", str(model.path), str(file), "--text-column", "said", "--out", str(out)])
        assert told.exit_code == 0, told.output
        assert not told.stdout
        assert f"2 predictions: {out}" in told.stderr
    assert next(csv.DictReader((tmp_path / "out.csv").open()))["item"] == text
    assert [json.loads(line)["item"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [text, "goal"]
    told = runner.invoke(app, ["predict", str(model.path), "x", "--out", str(tmp_path / "out.xlsx")])
    assert told.exit_code == 2
    assert "or a file that ends with .csv, .jsonl, .json" in " ".join(told.stderr.split())


def as_transformers(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def test_transformers_loads_the_folder(make):
    model = make("single")
    assert "library_name: transformers" in (model.path / "README.md").read_text()
    backbone, tokenizer = as_transformers(model.path)
    given = tokenizer(["sun and rain", "goal"], padding=True, return_tensors="pt")
    with torch.no_grad():
        found = backbone(**given).last_hidden_state
        expected = model.module.backbone(**given).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_weights_that_were_saved_under_other_names_are_read(make):
    from safetensors.torch import load_file, save_file

    model = make("single")
    expected = model.predict(["sun", "goal"]).probabilities
    weights = model.path / "model.safetensors"
    old = {k if k.startswith("selector_head.") else f"backbone.{k}": v for k, v in load_file(weights).items()}
    save_file(old, weights)
    np.testing.assert_array_equal(load_model(model.path).predict(["sun", "goal"]).probabilities, expected)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_the_lines_of_the_card_need_no_selector(family, tmp_path):
    folder = text_model(tmp_path / family, family)
    texts = ["sun and rain " * 9, "goal", "the team in the bank"]
    cards = []
    for layer, pooling in (("mean", "mean"), ("last", "weighted")):
        trained = trained_text(folder, changes={"max_length": 16}, layer=layer, pooling=pooling)
        model = load_model(save_model(tmp_path / f"{layer}-{pooling}", trained, {"name": "x"}, [], {}))
        tokens = Tokens.of(TextTokenizer(model.preprocess)(texts), model.preprocess.pad_id)
        export_onnx(model, model.path / "model.onnx")
        expected = tmp_path / f"{layer}-{pooling}.npy"
        with torch.no_grad():
            np.save(expected, model.module(tokens).numpy())
        check = f"""
        import numpy as np
        found = model({texts!r})[0]
        np.testing.assert_allclose(found, np.load({str(expected)!r}), rtol=1e-4, atol=1e-5)
        """
        cards.append((model.path, check))
    run_cards(*cards)


def test_the_card_speaks_of_texts(make):
    card = (make("single").path / "README.md").read_text()
    assert "| strategy | val | test | steps | rate | time | trained parameters | note |\n" + "|---" * 8 + "|\n" in card
    assert "| full | 0.0000 | – | 0 | 0.003 | 0 s | 0 | ok |\n| lora | 0.0000 | – | 0 | – |" in card
    assert "| input | texts, tokenized by tokenizer.json; longer than 64 tokens: cut off |" in card
    tags = (make("words").path / "README.md").read_text()
    assert "longer than 64 tokens: read in overlapping windows |" in tags
    pairs = (make("pairs").path / "README.md").read_text()
    assert "| input | pairs of texts, tokenized" in pairs
    assert '.predict([("a text", "another")])' in pairs
    assert json.loads((make("pairs").path / "config.json").read_text())["pairs"] is True


@pytest.mark.parametrize("kind", PAIRS)
def test_a_confirmed_model_knows_what_it_was_trained_on(backbone, tmp_path, kind):
    rng = np.random.default_rng(0)
    words = {"money": ["bank", "loan"], "sport": ["goal", "team"]}
    labels = [("money", "sport")[i % 2] for i in range(60)]
    texts: list[Any] = [f"{rng.choice(words[label])} {rng.choice(words[label])} {i}" for i, label in enumerate(labels)]
    if kind == "pairs":
        texts = [(text, f"{text} of the city") for text in texts]
    selector.rank(
        (texts, labels), zoo=[{"source": f"transformers:{backbone}"}], store=tmp_path / "store", out=tmp_path / "run",
        confirm=True, top_k=1, max_steps=2, strategies=("frozen",), history=False,
    )  # fmt: skip
    model = load_model(tmp_path / "run")
    assert model.pairs is (kind == "pairs")
    assert len(model.predict(("bank loan", "goal team"))) == (1 if kind == "pairs" else 2)


def test_a_prompt_that_is_called_prefix_is_read():
    """Saved models and zoo entries from before 0.2.0."""
    preprocess = TextPreprocess("{}", 8, prompt="query: ")
    older = {"prefix" if name == "prompt" else name: value for name, value in preprocess.to_dict().items()}
    assert "prompt" not in older
    read = text_form.TextSerializer().checked(older, Path("config.json"))
    assert TextPreprocess.from_dict(read, "{}") == preprocess
    spec = ModelSpec.model_validate({"source": "transformers:org/x", "text": {"prefix": "query: "}})
    assert spec.text is not None
    assert spec.text.changes() == {"prompt": "query: "}
