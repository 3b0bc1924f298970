"""The ``transformers:`` source on tiny models of every family, against transformers itself."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from selector.core.errors import SourceError, WeightsMissing, ZooError
from selector.modalities.text import TextTokenizer, Tokens
from selector.sources import registry
from selector.zoo import ModelSpec, load_zoo
from tests.sources.samples import check_rows, head_of
from tests.support.text_models import DECODERS, FAMILIES, TEXTS, per_layer, sentence_model, text_model, tokens
from tests.support.text_models import load_text as load


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {family: text_model(root / family, family) for family in FAMILIES}


@pytest.fixture
def bert(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A folder of its own, to be changed."""
    return Path(shutil.copytree(folders["bert"], tmp_path / "model"))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_is_what_transformers_gives(folders, family):
    from transformers import AutoModel, T5EncoderModel

    encoder = load(folders[family])
    reference = (
        (T5EncoderModel if family == "t5" else AutoModel).from_pretrained(folders[family], dtype=torch.float32).eval()
    )
    batch = tokens(encoder)
    with torch.no_grad():
        layers = per_layer(encoder, batch)
        hidden = reference(batch.ids, attention_mask=batch.mask, output_hidden_states=True).hidden_states[1:]
        features = encoder.encode(batch)
    assert len(layers) == 3
    assert encoder.path.pooling == ("weighted" if family in DECODERS else "mean")
    own = batch.content.double()
    weights = own * own.cumsum(1) if family in DECODERS else own
    for mine, states in zip(layers, hidden, strict=True):
        expected = (states.double() * weights[:, :, None]).sum(1) / weights.sum(1)[:, None]
        torch.testing.assert_close(mine.double(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features, torch.stack(layers).mean(0))
    assert features.shape == (len(TEXTS), encoder.num_features) == (4, 32)
    assert encoder.module.backbone.dtype == torch.float32


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_does_not_depend_on_its_batch(folders, family):
    encoder = load(folders[family])
    batch = tokens(encoder)
    check_rows(encoder, batch, [tokens(encoder, [text]) for text in TEXTS])
    check_rows(encoder, batch, [batch[i : i + 1] for i in range(4)])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_is_linear_on_the_features_and_a_recipe_builds_it_again(folders, family):
    encoder = load(folders[family])
    batch = tokens(encoder)
    headed = head_of(encoder, batch)
    assert len(encoder.blocks) == (0 if family == "albert" else 3)
    headed(batch).sum().backward()
    assert headed.backbone.get_input_embeddings().weight.grad.abs().sum() > 0
    head = sum(p.numel() for p in headed.get_classifier().parameters())
    assert encoder.num_parameters == sum(p.numel() for p in headed.parameters()) - head


@pytest.mark.parametrize("pooling", ["mean", "cls", "last", "weighted", "max"])
def test_poolings(folders, pooling):
    encoder = load(folders["bert"], pooling=pooling, layer="last")
    batch = tokens(encoder)
    with torch.no_grad():
        states = encoder.module.backbone(batch.ids, attention_mask=batch.mask).last_hidden_state
        found = encoder.encode(batch)
    for i, row in enumerate(states):
        length = int(batch.mask[i].sum())
        own = row[1 : length - 1]  # without [CLS] and [SEP]
        place = torch.arange(2, length)[:, None]  # [CLS] does not count in the mean, so positions may start anywhere
        place = place - 1
        expected = {
            "mean": own.mean(0),
            "cls": row[0],
            "last": row[length - 1],
            "weighted": (own * place).sum(0) / place.sum(),
            "max": own.amax(0),
        }[pooling]
        torch.testing.assert_close(found[i], expected, rtol=1e-5, atol=1e-6)


def test_a_sentence_folder_is_read_as_it_was_trained(tmp_path):
    folder = sentence_model(tmp_path / "sentences")
    encoder = load(folder)
    assert (encoder.path.layer, encoder.path.pooling, encoder.path.specials) == ("last", "cls", True)
    assert encoder.preprocess.max_length == 32
    batch = tokens(encoder)
    with torch.no_grad():
        states = encoder.module.backbone(batch.ids, attention_mask=batch.mask).last_hidden_state
        torch.testing.assert_close(encoder.encode(batch), states[:, 0])
    over_all = load(folder, layer="mean", pooling="mean")
    assert (over_all.path.layer, over_all.path.specials) == ("mean", False)


def test_prefix_length_and_windows(folders):
    plain = load(folders["bert"])
    prefixed = load(folders["bert"], text={"prompt": "query: "})
    with torch.no_grad():
        expected = plain.encode(tokens(plain, [f"query: {text}" for text in TEXTS]))
        torch.testing.assert_close(prefixed.encode(tokens(prefixed)), expected)
    long = " ".join(["the quick brown fox"] * 10)
    short = load(folders["bert"], text={"max_length": 12})
    [cut] = TextTokenizer(short.preprocess)([long])
    assert [len(row) for row in cut.ids] == [12]
    assert cut.cut == 40 - 10
    windows = load(folders["bert"], text={"max_length": 12, "long_texts": "window"})
    [parts] = TextTokenizer(windows.preprocess)([long])
    assert parts.cut == 0
    assert len(parts.ids) > 4
    with torch.no_grad():
        batch = tokens(windows, ["a film", long, "a"])
        assert len(batch) == 3
        rows = windows.encode(batch)
        each = [Tokens.of([type(parts)((i,), (f,))], 0) for i, f in zip(parts.ids, parts.flags, strict=True)]
        torch.testing.assert_close(rows[1], torch.cat([windows.encode(e) for e in each]).mean(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(rows[2:], windows.encode(tokens(windows, ["a"])), rtol=1e-4, atol=1e-5)


def test_pairs_carry_token_types(folders):
    encoder = load(folders["bert"])
    batch = tokens(encoder, [("how is the film", "good"), ("a", "bad plot")])
    assert batch.types[0].tolist() == [0] * 6 + [1] * 2
    with torch.no_grad():
        states = encoder.module.backbone(batch.ids, attention_mask=batch.mask, token_type_ids=batch.types)
        layer = load(folders["bert"], layer="last").encode(batch)
    torch.testing.assert_close(layer[0], states.last_hidden_state[0][[1, 2, 3, 4, 6]].mean(0))


def test_a_reading_is_what_loading_it_gives(folders):
    encoder = load(folders["gpt2"])
    spec = {"source": f"transformers:{folders['gpt2']}", "layer": "2", "pooling": "last"}
    reading = encoder.variant(ModelSpec.model_validate(spec))
    loaded = load(folders["gpt2"], layer="2", pooling="last")
    assert reading.identity == loaded.identity
    batch = encoder.probe()
    with torch.no_grad():
        mean, second = encoder.encode_variants(batch, [encoder, reading])
        torch.testing.assert_close(mean, encoder.encode(batch))
        torch.testing.assert_close(second, loaded.encode(batch))


def test_identities_follow_what_decides_the_features(folders, bert):
    base = {"source": f"transformers:{bert}"}

    def identity(**more: Any) -> str:
        return json.dumps(
            registry.get("transformers").identify(ModelSpec.model_validate({**base, **more})), sort_keys=True
        )

    first = identity()
    seen = {
        first,
        identity(pooling="cls"),
        identity(layer="2"),
        identity(text={"max_length": 16}),
        identity(text={"prompt": "query: "}),
        identity(text={"long_texts": "window"}),
        identity(kwargs={"num_hidden_layers": 2}),
    }
    assert len(seen) == 7
    assert identity(name="other", tags=["x"]) == first
    moved = registry.get("transformers").identify(ModelSpec(source=f"transformers:{folders['bert']}"))
    assert json.dumps(moved, sort_keys=True) == first  # content, not place
    text = (bert / "tokenizer.json").read_text()
    (bert / "tokenizer.json").write_text(text.replace('"film"', '"movie"'))
    assert identity() not in seen
    assert {"transformers", "tokenizers", "torch"} == json.loads(first)["versions"].keys()


def test_fewer_layers_of_the_same_weights(folders):
    whole, cut = load(folders["bert"]), load(folders["bert"], kwargs={"num_hidden_layers": 2})
    with torch.no_grad():
        for mine, all_of_it in zip(per_layer(cut, tokens(cut)), per_layer(whole, tokens(whole)), strict=False):
            torch.testing.assert_close(mine, all_of_it)
    assert len(cut.blocks) == 2
    assert cut.num_parameters < whole.num_parameters


def test_an_untrained_control_needs_no_files_but_a_tokenizer(folders):
    entry = {
        **{"source": "transformers:control", "weights": "none"},
        "kwargs": {"model_type": "bert", "vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 2},
        "text": {"tokenizer": {"file": "tokenizer.json", "base": str(folders["bert"])}, "max_length": 64},
    }
    entry["kwargs"] |= {"num_attention_heads": 2, "intermediate_size": 32}
    first, second = (registry.get("transformers").load(ModelSpec.model_validate(entry)) for _ in range(2))
    with torch.no_grad():
        torch.testing.assert_close(first.encode(tokens(first)), second.encode(tokens(second)), rtol=0, atol=0)
    assert first.identity["weights"] == "random:0"


def test_the_hub_cache_is_read_without_a_network(folders, tmp_path, monkeypatch):
    cache = tmp_path / "models--org--tiny"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folders["bert"], cache / "snapshots" / ("0" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    encoder = load("org/tiny")
    assert encoder.num_features == 32
    assert encoder.identity == load(folders["bert"]).identity
    with pytest.raises(WeightsMissing, match=r"org/other is not on this machine and fetching is off; run once without"):
        load("org/other")


def unlink_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def name_parts_elsewhere(folder: Path) -> None:
    unlink_weights(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../x.safetensors"}}))


def halve(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def say(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (shutil.rmtree, WeightsMissing, r"there is no folder .*model; give one with config.json"),
        (lambda f: shutil.rmtree(f) or f.mkdir(), SourceError, r"folder .*model has no config.json; expected a model in the Hugging Face"),
        (lambda f: shutil.rmtree(f) or text_model(f, tokenizer=False), SourceError, r"model has no tokenizer \(one of tokenizer.json, vocab.txt"),
        (halve, SourceError, r"the weights in .*model are damaged \(.*\); fetch them again"),
        (unlink_weights, WeightsMissing, r"model has no model.safetensors, and no pytorch_model.bin either"),
        (name_parts_elsewhere, SourceError, r"names files outside its folder; they are not read"),
        (lambda f: say(f, num_hidden_layers=5), SourceError, r"do not fit their config.json: \d+ missing or of another shape, such as enc"),
        (lambda f: (f / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}'), SourceError, r"model: the type 'own' is not read"),
        (lambda f: (f / "tokenizer.json").write_text("{"), SourceError, r"the tokenizer in .*model cannot be used"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_model_is_its_own_error(bert, change, error, message):
    change(bert)
    with pytest.raises(error, match=message):
        load(bert)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": "4"}, r"there is no layer '4'; expected 'mean', 'last' or a number in 1\.\.3"),
        ({"pooling": "avg"}, r"pooling 'avg' is for images; texts take cls, last, max, mean, weighted"),
        ({"text": {"max_length": 600}}, r"text.max_length 600 is more than the 512 tokens that the network has posit"),
        ({"kwargs": {"trust_remote_code": True}}, r"kwargs.trust_remote_code is not passed on"),
    ],
)
def test_settings_that_do_not_fit(folders, settings, message):
    with pytest.raises(SourceError, match=message):
        load(folders["bert"], **settings)


def test_settings_of_other_models(folders):
    long = load(folders["roberta"], text={"max_length": 128})
    assert long.preprocess.max_length == 128  # 130 positions, 2 not for text
    with pytest.raises(SourceError, match="pooling 'mean' is for texts; images take avg, max or cls"):
        registry.get("timm").load(ModelSpec(source="timm:test_resnet", weights="none", pooling="mean"))


def test_a_tokenizer_that_belongs_to_another_network(bert):
    data = json.loads((bert / "tokenizer.json").read_text())
    data["model"]["vocab"]["beyond"] = 1000
    (bert / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(SourceError, match=r"its tokenizer has the token 1000, but the network knows 300"):
        load(bert)


def test_the_zoo_says_what_a_model_reads(tmp_path):
    file = tmp_path / "zoo.yaml"
    file.write_text("models:\n - transformers: org/x\n - timm: resnet18\n - {onnx: a.onnx, modality: text}\n")
    assert [str(m.reads) for m in load_zoo(file).models] == ["text", "image", "text"]
    file.write_text("models:\n - {transformers: org/x, preprocess: {crop_pct: 0.9}}\n")
    with pytest.raises(
        ZooError, match=r"zoo.yaml:2 models\[0\].*'preprocess' is for images, and this model reads texts"
    ):
        load_zoo(file)
    file.write_text("models:\n - {timm: resnet18, text: {prompt: a}}\n")
    with pytest.raises(ZooError, match=r"'text' is for models that read texts; say 'modality: text' if this one does"):
        load_zoo(file)
    file.write_text("models:\n - {transformers: org/x, text: {max_lenght: 9}}\n")
    with pytest.raises(
        ZooError, match=r"models\[0\].text.max_lenght: unknown key 'max_lenght'; did you mean 'max_length'"
    ):
        load_zoo(file)


def test_extraction_holds_the_weights_once_and_leaves_the_encoder_as_it_is(folders):
    from selector.extract.backends.eager import EagerBackend

    encoder = load(folders["bert"])
    before = {name: (value.data_ptr(), value.clone()) for name, value in encoder.module.state_dict().items()}
    for precision, shared in (("float32", set(before)), ("bfloat16", {TABLE})):
        backend = EagerBackend(encoder, "cpu", precision, 4)
        assert backend.encoder.module is not encoder.module
        ours = dict(backend.encoder.module.named_parameters())
        ours.setdefault(TABLE, backend.encoder.module.backbone.get_input_embeddings().weight)
        assert {name for name, value in ours.items() if value.data_ptr() == before[name][0]} == shared
        assert not any(value.requires_grad for value in ours.values())
    assert all(p.requires_grad for p in encoder.module.parameters())
    for name, value in encoder.module.state_dict().items():
        assert value.data_ptr() == before[name][0]
        assert torch.equal(value, before[name][1])


TABLE = "backbone.embeddings.word_embeddings.weight"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shared_embedding_gives_the_features_of_a_rounded_one(folders, family):
    from selector.extract.backends.eager import EagerBackend

    encoder = load(folders[family])
    batch = tokens(encoder)
    backend = EagerBackend(encoder, "cpu", "bfloat16", 4)
    ours = backend.encoder.module.backbone.get_input_embeddings().weight
    theirs = encoder.module.backbone.get_input_embeddings().weight
    found = backend.start(batch)()
    assert (ours.data_ptr() == theirs.data_ptr()) is (family != "gemma")  # gemma scales in its table's precision
    encoder.module.to(torch.bfloat16)
    with torch.inference_mode():
        assert np.array_equal(found, encoder.encode(batch).float().numpy())


@pytest.mark.parametrize(
    "change",
    [
        {"attn_implementation": "org/kernels"},
        {"_attn_implementation": "org/kernels"},
        {"text_config": {"_attn_implementation": "x/y"}},
        {"_attn_implementation": {"": "org/kernels"}},
        {"_attn_implementation": {"encoder": {"": "org/kernels@main:flash"}}},
        {"_attn_implementation": ["org/kernels"]},
        {"parts": [{"_attn_implementation": "org/kernels"}]},
        {"_attn_implementation": "flash_attention_2"},
        {"attn_implementation": "kernels"},
    ],
)
def test_kernels_of_a_repository_are_not_fetched(change):
    recipe = {"config": {"model_type": "bert", **change}}
    with pytest.raises(SourceError, match="which is code from elsewhere and is not run"):
        registry.get("transformers").build({**recipe, "token_types": False, "path": {}, "features": 2, "outputs": 2})


FOREIGN: dict[str, dict[str, Any]] = {
    "pickle": {"model_type": "timm_wrapper", "architecture": "resnet10t", "model_args": {"checkpoint_path": "x.pth"}},
    "hub by timm": {"model_type": "timm_wrapper", "architecture": "hf-hub:evil/x"},
    "backbone": {"model_type": "timm_backbone", "backbone": "hf-hub:evil/x"},
    "nested": {"model_type": "bert", "backbone_config": {"model_type": "timm_backbone", "backbone": "resnet10t"}},
    "in a list": {"model_type": "bert", "parts": [{"model_type": "timm_wrapper"}]},
    "two towers": {"model_type": "vision-encoder-decoder", "encoder": {"model_type": "bert"}, "decoder": {}},
    "kernels": {"model_type": "mra"},
    "no type": {"hidden_size": 32},
    "a type that is no text": {"model_type": ["bert"]},
    "repository": {"model_type": "bert", "hidden_act": "org/act"},
    "address": {"model_type": "bert", "position_embedding_type": "https://example.org/x"},
    "file": {"model_type": "bert", "hidden_act": "weights.pth"},
    "file in a list": {"model_type": "deberta-v2", "pos_att_type": ["p2c", "../x.bin"]},
    "key": {"model_type": "bert", "extra": {"org/name": 1}},
    "quantized": {"model_type": "bert", "quantization_config": {"quant_method": "awq"}},
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("road", ["zoo", "folder", "saved"])
def test_only_networks_of_the_list_are_built(bert, monkeypatch, kind, road):
    def reached(*_: Any, **__: Any) -> Any:
        raise AssertionError("a network from elsewhere was asked for")

    monkeypatch.setattr("timm.create_model", reached)
    monkeypatch.setattr("socket.socket.connect", reached)
    config = FOREIGN[kind]
    if road == "saved":
        recipe = {"config": config, "token_types": False, "path": {}, "features": 2, "outputs": 2}
        with pytest.raises(SourceError, match=r"not read|name no file|no model_type"):
            registry.get("transformers").build(recipe)
        return
    spec = {"source": "transformers:x", "weights": "none", "kwargs": config}
    if road == "folder":
        (bert / "config.json").write_text(json.dumps(config))
        spec = {"source": f"transformers:{bert}"}
    with pytest.raises(SourceError):
        registry.get("transformers").load(ModelSpec.model_validate(spec))


def test_an_adapter_beside_the_weights_leads_nowhere(folders, bert):
    (bert / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(bert.parent / "evil")}))
    batch = tokens(load(folders["bert"]))
    assert torch.equal(load(bert).encode(batch), load(folders["bert"]).encode(batch))


def test_a_tokenizer_reads_the_files_of_its_own_folder_only(folders, bert, tmp_path):
    (tmp_path / "stolen.json").write_text("{}")
    settings = json.loads((bert / "tokenizer_config.json").read_text())
    stolen = {"tokenizer_file": str(tmp_path / "stolen.json"), "auto_map": {"AutoTokenizer": ["own.T", None]}}
    (bert / "tokenizer_config.json").write_text(json.dumps({**settings, **stolen}))
    assert load(bert).preprocess.tokenizer == load(folders["bert"]).preprocess.tokenizer


def test_notes_for_people_in_a_configuration_do_no_harm(folders, bert):
    notes = {
        "_name_or_path": "org/base",
        "id2label": {"0": "a/b.c"},
        "dataset": "org/data",
        "torch_dtype": "torch.half",
    }
    say(bert, **notes)
    batch = tokens(load(folders["bert"]))
    assert torch.equal(load(bert).encode(batch), load(folders["bert"]).encode(batch))
