"""Folders that are written in another way, and limits that a configuration states."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from selector.core.contracts import Words
from selector.core.errors import SourceError
from selector.modalities.text import TextTokenizer
from selector.sources import registry
from selector.zoo import ModelSpec
from tests.support.text_models import (
    DECODER,
    FAMILIES,
    SMALL,
    per_layer,
    sentence_model,
    text_model,
    tokens,
    wordpiece,
)
from tests.support.text_models import load_text as load


def features(encoder: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = encoder.encode(tokens(encoder))
    return found


@pytest.mark.parametrize("parts", [1, 3])
def test_weights_in_a_pickle_are_read_as_tensors(tmp_path, parts):
    folder = text_model(tmp_path / "safe")
    expected = load(folder)
    pickled = shutil.copytree(folder, tmp_path / "pickled")
    state = load_file(pickled / "model.safetensors")
    (pickled / "model.safetensors").unlink()
    names = (
        [f"pytorch_model-{i + 1:05}-of-{parts:05}.bin" for i in range(parts)] if parts > 1 else ["pytorch_model.bin"]
    )
    for i, name in enumerate(names):
        torch.save(dict(list(state.items())[i::parts]), pickled / name)
    if parts > 1:
        where = {key: names[i % parts] for i, key in enumerate(state)}
        (pickled / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    encoder = load(pickled)
    torch.testing.assert_close(features(encoder), features(expected), rtol=0, atol=0)
    assert encoder.identity["weights"] != expected.identity["weights"]  # another content


class Code:
    """What a pickle can hold beside tensors: something that runs when it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


def test_code_in_a_pickle_does_not_run(tmp_path):
    folder = text_model(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save({"embeddings": torch.zeros(2), "more": Code(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(SourceError, match=r"pytorch_model.bin is not plain tensors, and running code .* is refused"):
        load(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("said", "pooling"),
    [
        ({"pooling_mode": "lasttoken"}, "last"),  # as sentence-transformers writes since 5.2
        ({"pooling_mode": ["weightedmean"]}, "weighted"),
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}, "last"),
        ({"pooling_mode_weightedmean_tokens": True}, "weighted"),
        ({"pooling_mode_cls_token": True}, "cls"),
    ],
)
def test_poolings_of_sentence_folders(tmp_path, said, pooling):
    folder = sentence_model(tmp_path / "sentences")
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"embedding_dimension": 32, **said}))
    path = load(folder).path
    assert (path.layer, path.pooling, path.specials) == ("last", pooling, True)


@pytest.mark.parametrize("said", [{"pooling_mode": ["mean", "max"]}, {"pooling_mode_mean_sqrt_len_tokens": True}])
def test_a_pooling_that_is_not_known_is_told(tmp_path, said, caplog):
    folder = sentence_model(tmp_path / "sentences")
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(said))
    with caplog.at_level(logging.WARNING):
        path = load(folder).path
    assert (path.layer, path.pooling, path.specials) == ("mean", "mean", False)
    assert "which is not read; its features are those of a plain encoder" in caplog.text


def test_the_last_layer_of_a_sentence_folder_is_its_own_reading(tmp_path):
    folder = sentence_model(tmp_path / "sentences")
    assert load(folder, layer="last").path == load(folder).path
    assert load(folder, layer="2").path.specials is False


def test_a_sentence_folder_that_lower_cases_its_texts(tmp_path):
    folder = sentence_model(tmp_path / "sentences")
    data = json.loads((folder / "tokenizer.json").read_text())
    data["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(data))

    def same() -> bool:
        upper, lower = TextTokenizer(load(folder).preprocess)(["A Great FILM", "a great film"])
        return [list(row) for row in upper.ids] == [list(row) for row in lower.ids]

    assert not same()
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 32, "do_lower_case": True}))
    assert same()


@pytest.mark.parametrize("name", ["spm.model", "sentencepiece.bpe.model"])
def test_a_folder_with_sentencepiece_alone_has_a_tokenizer(tmp_path, name):
    folder = text_model(tmp_path / "model", "deberta", tokenizer=False)
    (folder / name).write_bytes(b"not a sentencepiece model")
    with pytest.raises(SourceError, match=r"the tokenizer in .*model cannot be used|finds no words in its files"):
        load(folder)
    spec = ModelSpec(source=f"transformers:{folder}")
    first = json.dumps(registry.get("transformers").identify(spec), sort_keys=True)
    (folder / name).write_bytes(b"another one")
    assert json.dumps(registry.get("transformers").identify(spec), sort_keys=True) != first


def test_a_tokenizer_that_was_made_from_nothing_is_refused(tmp_path):
    folder = text_model(tmp_path / "model", tokenizer=False)
    (folder / "spm.model").write_bytes(b"of another family")
    with pytest.raises(
        SourceError, match=r"BertTokenizer, which transformers takes for .*model, finds no words in its"
    ):
        load(folder)


def test_positions_that_are_computed_have_the_limit_that_the_configuration_states(tmp_path):
    folder = text_model(tmp_path / "llama", "llama", max_position_embeddings=48)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": 10**30}))
    encoder = load(folder)
    assert encoder.preprocess.max_length == 48
    with pytest.raises(SourceError, match=r"text.max_length 49 is more than the 48 tokens that the network has pos"):
        load(folder, text={"max_length": 49})
    assert DECODER["max_position_embeddings"] == 128  # what the file would say otherwise


@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_are_cut_where_the_tokenizer_says(tmp_path, side):
    from transformers import AutoTokenizer

    folder = text_model(tmp_path / "llama", "llama")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "truncation_side": side}))
    encoder = load(folder)
    long = " ".join(f"word{i}" for i in range(60))
    tokenize = TextTokenizer(encoder.preprocess)
    reference = AutoTokenizer.from_pretrained(folder)
    (single,), (pair,) = tokenize([long]), tokenize([(long, "an end")])
    assert single.ids[0].tolist() == reference(long, truncation=True, max_length=64)["input_ids"]
    assert pair.ids[0].tolist() == reference(long, "an end", truncation=True, max_length=64)["input_ids"]
    assert single.cut == len(reference(long)["input_ids"]) - 64
    (whole,) = TextTokenizer(replace(encoder.preprocess, long_texts="window"))([long])
    assert sum(len(row) for row in whole.ids) >= len(reference(long)["input_ids"])
    ends = load(folder, text={"truncation_side": "right"}).preprocess
    assert (ends.to_dict() == encoder.preprocess.to_dict()) is (side == "right")


def test_a_setting_that_the_configuration_does_not_have_is_an_error(tmp_path):
    folder = text_model(tmp_path / "bert")
    with pytest.raises(
        SourceError, match=r"config.json of a bert has no setting 'num_hiden_layers' \(kwargs of the zoo"
    ):
        load(folder, kwargs={"num_hiden_layers": 2})


def other_family(folder: Path, shape: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a family that the other tests have no network of, with a tokenizer."""
    monkeypatch.setitem(FAMILIES, "other", shape)
    text_model(folder, "other", tokenizer=False)
    wordpiece().save(str(folder / "tokenizer.json"))
    special = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    return folder


UNUSUAL = {
    # blocks give a list where others give a tuple
    "gpt1": {"model_type": "openai-gpt", "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128},
    # inner layers are longer than the batch
    "longformer": {"model_type": "longformer", **SMALL, "attention_window": 8},
}


@pytest.mark.parametrize("family", UNUSUAL)
def test_layers_of_networks_that_give_them_otherwise(family, tmp_path, monkeypatch):
    from transformers import AutoModel

    folder = other_family(tmp_path / family, {**UNUSUAL[family], "pad_token_id": 0}, monkeypatch)
    encoder = load(folder, pooling="mean")
    batch = tokens(encoder)
    layers = per_layer(encoder, batch, pooling="mean")
    reference = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        mean = encoder.encode(batch)
        hidden = reference(batch.ids, attention_mask=batch.mask, output_hidden_states=True).hidden_states[1:]
    own = batch.content.float()[:, :, None]
    for mine, states in zip(layers, hidden, strict=True):
        expected = (states[:, : own.shape[1]] * own).sum(1) / own.sum(1)
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mean, torch.stack(layers).mean(0))


def test_layers_that_stand_the_other_way_round_are_refused_in_words(tmp_path, monkeypatch):
    shape = {"model_type": "xlnet", "d_model": 32, "n_layer": 3, "n_head": 4, "d_inner": 64}
    folder = other_family(tmp_path / "xlnet", shape, monkeypatch)
    with pytest.raises(SourceError, match=r"the layers of a xlnet give \(\d+, 2, 32\) for \(2, \d+\) tokens; expected"):
        load(folder)


def test_texts_of_many_windows_go_through_in_pieces(tmp_path, monkeypatch):
    encoder = load(text_model(tmp_path / "bert"), text={"max_length": 12, "long_texts": "window"})
    texts = [" ".join(["the quick brown fox"] * 10), "a film", " ".join(["storm and rain in the city"] * 9)]
    batch = tokens(encoder, texts)
    assert batch.windows
    seen: list[int] = []
    encoder.module.backbone.register_forward_pre_hook(
        lambda _m, args, kwargs: seen.append((args or tuple(kwargs.values()))[0].numel()), with_kwargs=True
    )
    with torch.no_grad():
        whole = encoder.encode(batch)
        monkeypatch.setattr(encoder.module, "at_once", (50, 50))
        sliced = encoder.encode(batch)
    assert seen[0] == batch.ids.numel() > 50
    assert len(seen) > 3
    assert max(seen[1:]) <= 50
    torch.testing.assert_close(sliced, whole, rtol=1e-4, atol=1e-5)
    del seen[:]
    encoder.module.train(mode=False)
    encoder.encode(batch).sum().backward()  # with gradients nothing is cut: all windows share one pass
    assert len(seen) == 1


def test_the_embedding_counts_as_memory_in_bfloat16(tmp_path):
    from selector.extract.backends.eager import EagerBackend
    from selector.extract.cost import _counted

    encoder = load(shutil.copytree(text_model(tmp_path / "bert"), tmp_path / "copy"))
    embedding = encoder.module.backbone.get_input_embeddings().weight
    batch = tokens(encoder, ["a film"])
    memory = {}
    for precision in ("float32", "bfloat16"):
        backend = EagerBackend(encoder, "cpu", precision, 4)
        buffers = {id(t): t for t in (*backend.encoder.module.parameters(), *backend.encoder.module.buffers())}
        assert any(t.data_ptr() == embedding.data_ptr() for t in buffers.values())
        memory[precision] = _counted(backend, "cpu", batch)[1]
    table = embedding.numel() * 4
    assert memory["bfloat16"] > table + (memory["float32"] - table) // 4
    assert "weight" not in str([k for k in backend.encoder.module.state_dict() if "word_embeddings" in k])


def test_costs_are_those_of_a_usual_text_whatever_the_target(tmp_path):
    from selector.extract.cost import measure_cost
    from selector.extract.encode import open_runner

    folder = text_model(tmp_path / "bert")
    found = []
    for spec in ({}, {"layer": "1"}, {"text": {"words": True}}):
        encoder = load(folder, **spec)
        given = [Words(["a", "film"])] if encoder.preprocess.words else ["a film"]
        batch = tokens(encoder, given)
        runner = open_runner(encoder, device="cpu", precision="float32", backend="eager", sample=batch, rows_expected=1)
        found.append(measure_cost(encoder, runner, batch, seconds=0.2))
    length, width, inner = 64, 32, 64  # the network reads no more than 64 of the 128
    layer = length * (4 * width * width + 2 * width * inner) + 2 * length * length * width
    pooling = length * width
    for cost in (found[0], found[2]):
        assert 3 * layer <= cost.flops <= 3 * layer + 4 * pooling
    assert {cost.batch_size for cost in found} <= {1, 8, 32}
    assert all(cost.image_seconds <= cost.latency for cost in found)
