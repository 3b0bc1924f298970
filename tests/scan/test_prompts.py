"""Prompts of instruction-tuned encoders and the encoders of T5, from a scan to a saved model that predicts."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import selector
from selector.core.errors import SourceError, ZooError
from selector.deploy.export import export_onnx
from selector.modalities.text import TextTokenizer, Tokens
from selector.report.view import table_view
from selector.sources import registry
from selector.zoo import ModelSpec
from tests.scan.test_text_scan import sentences
from tests.support.text_models import ENCODERS_OF_TWO, sentence_model, text_model

PROMPTS = {"classification": "what is the text : ", "query": "query : "}


def prompted(folder: Path, default: str | None = "query", **pooling: Any) -> Path:
    """A sentence-transformers folder with prompts."""
    sentence_model(folder, "pooling_mode_mean_tokens")
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": PROMPTS, "default_prompt_name": default})
    )
    if pooling:
        settings = {"pooling_mode_mean_tokens": True, **pooling}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    return folder


def load(folder: Path, **text: Any) -> Any:
    spec = {"source": f"transformers:{folder}", **({"text": text} if text else {})}
    return registry.get("transformers").load(ModelSpec(**spec))


def rows(encoder: Any, texts: list[str]) -> torch.Tensor:
    tokens = Tokens.of(TextTokenizer(encoder.preprocess)(texts), encoder.preprocess.pad_id)
    with torch.no_grad():
        found: torch.Tensor = encoder.encode(tokens)
    return found


def test_the_default_prompt_of_the_folder_is_read(tmp_path: Path) -> None:
    folder = prompted(tmp_path / "model")
    assert load(folder).preprocess.prompt == "query : "
    assert load(folder, prompt_name="classification").preprocess.prompt == "what is the text : "
    assert load(folder, prompt="").preprocess.prompt == ""
    assert load(prompted(tmp_path / "none", None)).preprocess.prompt == ""
    texts = ["a great film", "the sun"]
    torch.testing.assert_close(
        rows(load(folder), texts), rows(load(folder, prompt=""), [f"query : {text}" for text in texts])
    )


def test_the_prompt_is_part_of_the_identity_of_features(tmp_path: Path) -> None:
    folder = prompted(tmp_path / "model")

    def identity(**text: Any) -> str:
        spec = {"source": f"transformers:{folder}", **({"text": text} if text else {})}
        return json.dumps(registry.get("transformers").identify(ModelSpec.model_validate(spec)), sort_keys=True)

    seen = {identity(), identity(prompt=""), identity(prompt_name="classification"), identity(prompt="a : ")}
    assert len(seen) == 4
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": PROMPTS, "default_prompt_name": "classification"})
    )
    assert identity() not in seen


def test_tokens_of_a_prompt_may_count_in_no_pooling(tmp_path: Path) -> None:
    encoder = load(prompted(tmp_path / "model", include_prompt=False))
    text = "a great film"
    tokens = Tokens.of(TextTokenizer(encoder.preprocess)([text]), 0)
    with torch.no_grad():
        states = encoder.module.backbone(tokens.ids, attention_mask=tokens.mask).last_hidden_state[0]
    # [CLS] query : a great film [SEP]: sentence-transformers takes what is behind [CLS] and the prompt, [SEP] included
    assert len(states) == 7
    torch.testing.assert_close(rows(encoder, [text])[0], states[3:].mean(0))
    longer = "a good plot is a great film"
    torch.testing.assert_close(rows(encoder, [text, longer])[0], rows(encoder, [text])[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ({"prompt_name": "qery"}, "text.prompt_name is 'qery', and no prompt is called so; known are 'classification'"),
        ({"prompt": "a", "prompt_name": "query"}, "give one of them"),
    ],
)
def test_wrong_prompts_are_refused(tmp_path: Path, text: dict[str, str], match: str) -> None:
    folder = prompted(tmp_path / "model")
    with pytest.raises((SourceError, ZooError), match=match):
        load(folder, **text)


def test_other_sources_have_no_named_prompts() -> None:
    with pytest.raises(ZooError, match=r"models of onnx list none; give the text itself as 'text.prompt'"):
        ModelSpec(**{"source": "onnx:model.onnx", "modality": "text", "text": {"prompt_name": "query"}})


@pytest.mark.parametrize("family", ENCODERS_OF_TWO)
def test_encoders_of_the_t5_family_are_read(tmp_path: Path, family: str) -> None:
    import transformers

    from selector.sources._transformer import ENCODER_CLASSES

    folder = text_model(tmp_path / family, family)
    assert any(name.startswith("decoder.") for name in load_file(folder / "model.safetensors"))
    encoder = load(folder)
    assert type(encoder.module.backbone).__name__ == ENCODER_CLASSES[family]
    tokens = Tokens.of(TextTokenizer(encoder.preprocess)(["a great film", "the sun"]), 0)
    reference = getattr(transformers, ENCODER_CLASSES[family]).from_pretrained(folder).eval()
    with torch.no_grad():
        expected = reference(tokens.ids, attention_mask=tokens.mask, output_hidden_states=True).hidden_states
        layers = encoder.module.read(tokens, [encoder.path])[0]
    own = tokens.content[:, :, None].float()
    means = [(states[:, : own.shape[1]] * own).sum(1) / own.sum(1) for states in expected[1:]]
    torch.testing.assert_close(layers, torch.stack(means).mean(0), rtol=1e-4, atol=1e-5)
    assert not any("decoder" in name for name, _ in encoder.module.backbone.named_parameters())


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> selector.Ranking:
    """A model with a prompt, one whose prompt was switched off, and the encoder of a T5 that reads twelve tokens."""
    root = tmp_path_factory.mktemp("prompts")
    folder = prompted(root / "model")
    zoo = [
        {"name": "prompted", "source": f"transformers:{folder}"},
        {"name": "plain", "source": f"transformers:{folder}", "text": {"prompt": ""}},
        {"name": "t5", "source": f"transformers:{text_model(root / 't5', 't5')}", "text": {"max_length": 12}},
    ]
    return selector.rank(
        sentences(), zoo=zoo, store=root / "store", out=root / "run", confirm=True, top_k=3, max_steps=10,
        strategies=("frozen", "full"),
    )  # fmt: skip


def test_the_table_shows_prompts_and_texts_that_were_cut(scanned: selector.Ranking) -> None:
    assert not scanned.failures
    assert {model.name: model.prompt for model in scanned} == {"prompted": "query : ", "plain": "", "t5": ""}
    view = table_view(scanned)
    at = {column.key: place for place, column in enumerate(view.columns)}
    shown = {row.cells[at["model"]].text: row.cells for row in view.rows}
    assert shown["prompted"][at["prompt"]].text == "query :"
    assert (shown["prompted"][at["prompt"]].title, shown["plain"][at["prompt"]].text) == ("'query : '", "–")
    frame = scanned.to_dataframe().set_index("model")
    assert frame.loc["prompted", "prompt"] == "query : "
    cut = scanned["t5"].texts_cut
    tokenizer = TextTokenizer(load(Path(scanned["t5"].spec["source"].partition(":")[2])).preprocess)
    assert scanned.loaded_target is not None
    lengths = [len(row.ids[0]) for row in tokenizer(list(scanned.loaded_target.items))]
    assert cut == sum(length > 12 for length in lengths) > 0
    assert shown["t5"][at["texts_cut"]].text == str(cut)
    assert any(f"t5: {cut} of 120 texts have more than 12 tokens" in note for note in scanned.warnings)
    loaded = selector.load_ranking(scanned.path)
    assert (loaded["prompted"].prompt, loaded["t5"].texts_cut) == ("query : ", cut)


@pytest.mark.parametrize("name", ["prompted", "t5"])
def test_a_saved_model_predicts_with_its_prompt(scanned: selector.Ranking, tmp_path: Path, name: str) -> None:
    model = scanned[name]
    ranking = selector.rank(
        sentences(), zoo=[{"name": name, **model.spec}], store=scanned.settings["store"], out=tmp_path, confirm=True,
        max_steps=10, strategies=("full",),
    )  # fmt: skip
    assert ranking[name].cached
    saved = selector.load_model(tmp_path)
    assert saved.preprocess.prompt == model.prompt
    texts = ["sun and rain", "the goal of the team"]
    by_hand = copy.copy(saved)
    by_hand.preprocess = replace(saved.preprocess, prompt="")
    expected = by_hand.predict([model.prompt + text for text in texts]).probabilities
    np.testing.assert_allclose(saved.predict(texts).probabilities, expected, atol=1e-6)
    if model.prompt:
        assert np.abs(by_hand.predict(texts).probabilities - expected).max() > 1e-6


def test_an_onnx_file_leaves_the_prompt_out_of_the_mean(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    folder = prompted(tmp_path / "model", include_prompt=False)
    selector.rank(
        sentences(), zoo=[{"source": f"transformers:{folder}"}], store=tmp_path / "store", out=tmp_path / "run",
        confirm=True, max_steps=5, strategies=("full",),
    )  # fmt: skip
    saved = selector.load_model(tmp_path / "run")
    assert not saved.preprocess.include_prompt
    export_onnx(tmp_path / "run", tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    text = "sun and rain"
    tokens = Tokens.of(TextTokenizer(saved.preprocess)([text]), saved.preprocess.pad_id)
    columns = {"input_ids": tokens.ids, "attention_mask": tokens.mask, "token_type_ids": tokens.types}
    _, found = session.run(None, {i.name: columns[i.name].numpy() for i in session.get_inputs()})
    np.testing.assert_allclose(found, saved.predict([text]).probabilities, atol=1e-5)
