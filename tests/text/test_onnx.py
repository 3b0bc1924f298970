"""Saved text networks as ONNX files: the same probabilities through onnxruntime, at any batch size and length."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from selector import sources
from selector.deploy import SavedModel, export_onnx, load_model, save_model
from selector.errors import ConfigError
from selector.texts import Tokeniser, Tokens
from selector.tournament import Trained
from selector.zoo import ModelSpec
from tests.text.models import text_model

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

CLASSES = ("money", "sport", "weather")
TEXTS = ["the sun is warm", "a", "which team is good at the ball ? the match and the goal and the win"]


def saved(folder: Path, family: str, **changes: Any) -> Path:
    """A text network with a random head, saved in ``folder/best``."""
    model = text_model(folder / family, family)
    spec = ModelSpec.model_validate({"source": f"transformers:{model}", "name": family})
    encoder: Any = sources.registry.get("transformers").load(spec)
    module = encoder.with_head(3)
    with torch.no_grad():
        module.get_classifier().weight.normal_(generator=torch.Generator().manual_seed(0))
    preprocess = replace(encoder.preprocess, **changes)
    made = Trained(family, "full", module, "transformers", encoder.recipe(3), preprocess, CLASSES, temperature=2.0)
    return save_model(folder / "best", made, {"name": "words"}, [], {})


def as_users_do(path: Path, session: Any, texts: list[Any]) -> dict[str, np.ndarray]:
    """Inputs made with nothing but the two files."""
    preprocess = json.loads(session.get_modelmeta().custom_metadata_map["preprocess"])
    tokenizer = Tokenizer.from_file(str(path.with_name("tokenizer.json")))
    tokenizer.enable_truncation(preprocess["max_length"])
    tokenizer.enable_padding(pad_id=preprocess["pad_id"])
    found = tokenizer.encode_batch(texts)
    columns = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    return {name: np.array([getattr(row, column) for row in found], np.int64) for name, column in columns.items()}


@pytest.mark.parametrize(
    ("family", "names"),
    [("bert", ["input_ids", "attention_mask", "token_type_ids"]), ("gpt2", ["input_ids", "attention_mask"])],
)
def test_the_onnx_file_says_the_same(family: str, names: list[str], tmp_path: Path) -> None:
    best = saved(tmp_path, family)
    path = export_onnx(best, tmp_path / "out" / "model.onnx")
    assert sorted(p.name for p in path.parent.iterdir()) == ["model.onnx", "tokenizer.json"]
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
    assert json.loads(facts["preprocess"])["max_length"] == 64
    if family == "gpt2":
        other = tmp_path / "out" / "tokenizer.json"
        other.write_text("{}")
        with pytest.raises(
            ConfigError, match=r"tokenizer\.json is the tokenizer of another model; write second\.onnx to"
        ):
            export_onnx(best, tmp_path / "out" / "second.onnx")
        assert other.read_text() == "{}"
        assert not other.with_name("second.onnx").exists()


def test_logits_of_windows_are_averaged(tmp_path: Path) -> None:
    best = saved(tmp_path, "bert", long_texts="window", max_length=8)
    path = export_onnx(best, tmp_path / "model.onnx")
    model: SavedModel = load_model(best)
    rows = Tokeniser(model.preprocess)([TEXTS[2]])  # type: ignore[arg-type]
    tokens = Tokens.of(rows, 0)
    assert len(tokens.ids) > 1
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = {"input_ids": tokens.ids, "attention_mask": tokens.mask, "token_type_ids": tokens.types}
    (logits,) = session.run(["logits"], {name: value.numpy() for name, value in given.items()})
    with torch.inference_mode():
        np.testing.assert_allclose(logits.mean(0), model.module(tokens)[0], atol=1e-5)


def test_networks_that_tag_are_refused(tmp_path: Path) -> None:
    best = saved(tmp_path, "bert", words=True)
    with pytest.raises(ConfigError, match=r"bert tags words, and only networks with one answer a text or image"):
        export_onnx(best, tmp_path / "out" / "model.onnx")
    assert list((tmp_path / "out").iterdir()) == []
