"""Saved text networks as ONNX files: the same probabilities through onnxruntime, at any batch size and length."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from typer.testing import CliRunner

from selector.cli import app
from selector.core.errors import ConfigError, SelectorError
from selector.deploy import SavedModel, export_onnx, load_model, save_model
from selector.deploy import export as export_module
from selector.modalities.text import TextTokenizer, Tokens
from tests.support.saved_texts import CLASSES, trained_text
from tests.support.text_models import text_model

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "use-the-saved-model.md"
TEXTS = ["the sun is warm", "a", "which team is good at the ball ? the match and the goal and the win"]


def saved(folder: Path, family: str, *, words: bool = False, **changes: Any) -> Path:
    """A text network with a random head, saved in ``folder/best``."""
    made = trained_text(text_model(folder / family, family), words=words, changes=changes)
    made = replace(made, name=family, context={"temperature": 2.0})
    return save_model(folder / "best", made, {"name": "words"}, [], {})


def as_users_do(path: Path, session: Any, texts: list[Any]) -> dict[str, np.ndarray]:
    """Inputs made with nothing but the two files."""
    preprocess = json.loads(session.get_modelmeta().custom_metadata_map["preprocess"])
    tokenizer = Tokenizer.from_file(str(path.with_name("tokenizer.json")))
    tokenizer.enable_truncation(preprocess["max_length"])
    tokenizer.enable_padding(pad_id=preprocess["pad_id"])
    found = tokenizer.encode_batch([preprocess["prompt"] + t if isinstance(t, str) else t for t in texts])
    columns = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    return {name: np.array([getattr(row, column) for row in found], np.int64) for name, column in columns.items()}


@pytest.mark.parametrize(
    ("family", "names", "changes"),
    [
        ("bert", ["input_ids", "attention_mask", "token_type_ids"], {}),
        ("gpt2", ["input_ids", "attention_mask"], {"prompt": "the weather is "}),
    ],
)
def test_the_onnx_file_and_the_example_of_the_page_say_the_same(family, names, changes, tmp_path, monkeypatch):
    best = saved(tmp_path, family, **changes)
    path = export_onnx(best, tmp_path / "out" / "model.onnx")
    assert sorted(p.name for p in path.parent.iterdir()) == ["model.onnx", "tokenizer.json"]
    if family == "bert":
        again = CliRunner().invoke(app, ["export", str(best), "--onnx", str(path)])
        assert again.exit_code == 0, again.output
        assert again.stdout == f"{path}\n"
        assert f"written beside it: {path.with_name('tokenizer.json')}" in again.stderr
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == names
    model = load_model(best)
    pairs: list[Any] = [(text, "it is cold") for text in TEXTS]
    for texts in (TEXTS, TEXTS[:1], pairs if family == "bert" else TEXTS[1:]):
        given = as_users_do(path, session, texts)
        _, probabilities = session.run(None, {name: given[name] for name in names})
        np.testing.assert_allclose(probabilities, model.predict(texts).probabilities, atol=1e-5)
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["class_names"]) == list(CLASSES)
    assert set(facts) == {"name", "task", "class_names", "class_values", "preprocess", "context"}
    told = {"max_length", "prompt", "pad_id", "long_texts", "token_types", "tokenizer"}
    assert (set(json.loads(facts["preprocess"])), json.loads(facts["preprocess"])["max_length"]) == (told, 64)
    example = re.search(
        r"<!-- not run: this run holds an image model -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S
    )
    assert example
    monkeypatch.chdir(path.parent)
    found: dict[str, Any] = {}
    exec(example[1], found)
    expected = model.predict(["a new text", "another one"])
    np.testing.assert_allclose(found["probabilities"], expected.probabilities, atol=1e-5)
    assert found["labels"] == [CLASSES[i] for i in expected.probabilities.argmax(1)]
    if family == "gpt2":
        other = tmp_path / "out" / "tokenizer.json"
        other.write_text("{}")
        monkeypatch.setattr(export_module, "_export", lambda *_: pytest.fail("it was exported"))
        with pytest.raises(
            ConfigError, match=r"tokenizer\.json is the tokenizer of another model; write second\.onnx to"
        ):
            export_onnx(best, tmp_path / "out" / "second.onnx")
        assert other.read_text() == "{}"
        assert not other.with_name("second.onnx").exists()


def test_logits_of_windows_are_averaged(tmp_path):
    best = saved(tmp_path, "bert", long_texts="window", max_length=8)
    path = export_onnx(best, tmp_path / "model.onnx")
    model: SavedModel = load_model(best)
    rows = TextTokenizer(model.preprocess)([TEXTS[2]])  # type: ignore[arg-type]
    tokens = Tokens.of(rows, 0)
    assert len(tokens.ids) > 1
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = {"input_ids": tokens.ids, "attention_mask": tokens.mask, "token_type_ids": tokens.types}
    (logits,) = session.run(["logits"], {name: value.numpy() for name, value in given.items()})
    with torch.inference_mode():
        np.testing.assert_allclose(logits.mean(0), model.module(tokens)[0], atol=1e-5)


@pytest.mark.parametrize(("family", "pooling"), [("bert", "first"), ("gpt2", "mean")])
def test_tokens_tag_the_words_as_predict_does(family, pooling, tmp_path):
    best = saved(tmp_path, family, words=True)
    path = export_onnx(best, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["word_pooling"] == pooling
    assert json.loads(facts["preprocess"])["words"] is True
    sentences = [["how", "is", "the", "unheardof", "weather"], ["goal"], ["money", "at", "the", "bank"]]
    tokenizer = Tokenizer.from_file(str(path.with_name("tokenizer.json")))
    tokenizer.enable_padding(pad_id=json.loads(facts["preprocess"])["pad_id"])
    rows = tokenizer.encode_batch([" ".join(words) for words in sentences])
    columns = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    given = {i.name: np.array([getattr(row, columns[i.name]) for row in rows], np.int64) for i in session.get_inputs()}
    logits, shares = session.run(["logits", "probabilities"], given)
    assert logits.shape == (*given["input_ids"].shape, 3)
    np.testing.assert_allclose(shares.sum(-1), 1, atol=1e-5)
    found = []
    for row, words, tokens in zip(rows, sentences, logits, strict=True):
        begin = 0
        for word in words:
            end = begin + len(word)
            own = [i for i, (a, b) in enumerate(row.offsets) if a < end and b > max(a, begin)]
            found.append(tokens[own[0]] if pooling == "first" else tokens[own].mean(0))
            begin = end + 1
    expected = load_model(best).predict(sentences).probabilities
    odds = np.exp(np.array(found) / 2.0)  # the temperature
    np.testing.assert_allclose(odds / odds.sum(1, keepdims=True), expected, atol=1e-5)


def test_tokens_that_do_not_tell_their_word_are_not_exported(tmp_path):
    model = load_model(saved(tmp_path, "bert", words=True))

    class Twice(torch.nn.Module):  # a head that is not linear
        def __init__(self, head: Any) -> None:
            super().__init__()
            self.head = head

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return self.head(rows) * rows.abs().max() if rows.ndim == 3 else self.head(rows)  # type: ignore[no-any-return]

    model.module.selector_head = Twice(model.module.selector_head)
    with pytest.raises(SelectorError, match=r"the logits of bert for a word are not those of its tokens \(difference"):
        export_onnx(model, tmp_path / "out" / "model.onnx")
    assert list((tmp_path / "out").iterdir()) == []


def test_two_labels_a_row_from_a_table_to_onnx_on_the_command_line(tmp_path):
    """As a new user: ``selector scan`` of a CSV, ``predict`` to CSV, ``export``, onnxruntime."""
    rng = np.random.default_rng(0)
    words = {"rain": "rain storm wet cloud", "wind": "wind gust blow sail"}
    lines = ["text,label"]
    for number in range(90):
        shown = [name for name in words if rng.random() < 0.5] or ["rain"]
        said = [str(rng.choice(words[name].split())) for name in shown]
        lines.append(f"{' '.join([*said, 'on day', str(number)])},{'|'.join(shown)}")
    table = tmp_path / "reports.csv"
    table.write_text("\n".join(lines))
    zoo = tmp_path / "zoo.yaml"
    zoo.write_text(
        json.dumps({"models": [{"name": "tiny", "source": f"transformers:{text_model(tmp_path / 'b', 'bert')}"}]})
    )

    def selector(*given: Any) -> str:
        done = CliRunner().invoke(app, [str(word) for word in given])
        assert done.exit_code == 0, done.output
        return done.stdout

    scan = selector(
        "scan", table, "--zoo", zoo, "--separator", "|", "--store", tmp_path / "store", "--out", tmp_path / "run",
        "--strategies", "frozen,full", "--max-steps", 6, "--no-history", "--measure-cost", "never", "--json",
    )  # fmt: skip
    (model,) = json.loads(scan)["models"]
    assert {m["strategy"]: m["status"] for m in model["measurements"]} == {"frozen": "ok", "full": "ok"}
    assert json.loads(scan)["target"]["task"] == "multilabel"
    (tmp_path / "in.txt").write_text("storm and gust\nwet cloud\nsail\n")
    rows = selector("predict", tmp_path / "run", tmp_path / "in.txt", "--csv").splitlines()
    assert rows[0] == "item,labels,probabilities.rain,probabilities.wind,error"
    best = load_model(tmp_path / "run")
    path = Path(selector("export", tmp_path / "run", "--onnx", tmp_path / "m.onnx").strip())
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    texts = ["storm and gust", "wet cloud", "sail"]
    given = as_users_do(path, session, texts)
    logits, probabilities = session.run(None, {i.name: given[i.name] for i in session.get_inputs()})
    np.testing.assert_allclose(probabilities, best.predict(texts).probabilities, atol=1e-5)
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-logits)), atol=1e-5)  # sigmoids: both may hold
    thresholds = json.loads((best.path / "config.json").read_text())["context"]["thresholds"]
    chosen = [[n for n, p, t in zip(best.class_names, row, thresholds, strict=True) if p >= t] for row in probabilities]
    assert [row.split(",")[1].split("|") if row.split(",")[1] else [] for row in rows[1:]] == chosen
