"""Networks that a recipe describes are no larger than their weights."""

import json
from pathlib import Path

import psutil
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from selector.core.errors import SourceError
from selector.deploy import load_model
from selector.sources import _bounded, registry
from selector.sources._bounded import bounded_by
from selector.sources._transformer import create_backbone
from tests.deploy.test_deploy import images, saved
from tests.sources.samples import load, spec


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    file = tmp_path / "model.safetensors"
    save_file(nn.Linear(8, 8).state_dict(), file)
    return file


@pytest.mark.parametrize("build", [
    lambda: nn.Linear(8, 10**10),
    lambda: nn.Embedding(10**9, 10**4),
    lambda: torch.arange(10**12),
    lambda: torch.arange(10**6)[:, None] - torch.arange(10**6)[None],
    lambda: torch.ones(10).expand(10**11, 10).clone(),
    lambda: nn.ModuleList(nn.Linear(512, 512) for _ in range(10**6)),
    lambda: nn.ModuleList(nn.Linear(1, 1) for _ in range(10**6)),
])  # fmt: skip
def test_nothing_larger_than_the_weights_is_built(build, weights: Path) -> None:  # type: ignore[no-untyped-def]
    before = psutil.Process().memory_info().rss
    with pytest.raises(SourceError, match="larger than its weights"), bounded_by(weights, "a recipe"):
        build()
    assert psutil.Process().memory_info().rss - before < 10**9


def test_a_network_of_its_weights_starts_as_without_a_bound(weights):
    torch.manual_seed(0)
    free = nn.Linear(8, 8).state_dict()
    torch.manual_seed(0)
    with bounded_by(weights, "a recipe"):
        bound = nn.Linear(8, 8).state_dict()
    assert all(torch.equal(free[name], bound[name]) for name in free)


def test_an_endless_recipe_of_a_saved_model_is_refused(tmp_path):
    folder = saved(tmp_path / "best")
    config = json.loads((folder / "config.json").read_text())
    config["recipe"]["outputs"] = 10**8
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(SourceError, match="larger than its weights"):
        load_model(folder).predict(images(1))


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer", "num_experts", "n_layers"])
def test_a_configuration_with_endless_layers_is_refused(key):
    with pytest.raises(SourceError, match=f"{key} is 1,000,000,000"):
        create_backbone({"model_type": "qwen3", key: 10**9})


def test_a_value_of_the_wrong_type_is_a_source_error():
    """transformers checks types by a class of errors of its own, which is none of Python's."""
    with pytest.raises(SourceError, match="transformers cannot build a network of the type 'qwen3'"):
        create_backbone({"model_type": "qwen3", "hidden_size": "many", "num_hidden_layers": 1})


def test_labels_of_a_configuration_are_not_made():
    network = create_backbone({
        "model_type": "bert", "num_labels": 10**9, "vocab_size": 20, "hidden_size": 8, "num_attention_heads": 1,
        "num_hidden_layers": 1, "intermediate_size": 8,
    })  # fmt: skip
    assert network.config.num_labels == 2  # type: ignore[union-attr]


@pytest.mark.parametrize(("source", "kwargs"), [
    ("timm:vit_tiny_patch16_224", {"embed_dim": 3 * 10**6}),
    ("timm:vit_tiny_patch16_224", {"depth": 10**6}),
    ("timm:vit_tiny_patch16_224", {"depth": 10**6, "embed_dim": 3, "img_size": 16}),
    ("timm:vit_tiny_patch16_224", {"img_size": 10**6}),
    ("timm:resnet18", {"num_classes": 10**8}),
    ("timm:resnet18", {"layers": [10**6, 1, 1, 1]}),
    ("torchvision:resnet18", {"num_classes": 10**8}),
    ("torchvision:vit_b_16", {"image_size": 10**6}),
    ("transformers:bert", {"model_type": "bert", "hidden_size": 12 * 10**5}),
])  # fmt: skip
def test_what_an_entry_asks_for_is_bounded(source, kwargs, monkeypatch):
    monkeypatch.setenv("SELECTOR_MAX_UNPACKED", "300MB")  # the limits as they are take half a minute to reach
    monkeypatch.setattr(_bounded, "TENSORS_OF_SETTINGS", 3000)
    before = psutil.Process().memory_info().rss
    with pytest.raises(SourceError, match="a network that is too large"):
        load(spec(source, kwargs=kwargs))
    assert psutil.Process().memory_info().rss - before < 10**9


def test_an_entry_with_a_file_builds_what_the_file_holds(tmp_path):
    module = timm.create_model("test_resnet")
    save_file(module.state_dict(), tmp_path / "w.safetensors")
    weights = {"file": "w.safetensors", "base": str(tmp_path)}
    load(spec("timm:test_resnet", weights=weights, kwargs={"drop_rate": 0.1}))
    with pytest.raises(SourceError, match="larger than its weights"):
        load(spec("timm:test_resnet", weights=weights, kwargs={"num_classes": 10**7}))


def test_more_is_allowed_by_the_variable(monkeypatch):
    monkeypatch.setenv("SELECTOR_MAX_UNPACKED", "1MB")
    with pytest.raises(SourceError, match="SELECTOR_MAX_UNPACKED=1GB"):
        load(spec("timm:test_resnet", kwargs={"num_classes": 10**4}))
    load(spec("timm:test_resnet"))  # an architecture as it is
    monkeypatch.setenv("SELECTOR_MAX_UNPACKED", "1GB")
    load(spec("timm:test_resnet", kwargs={"num_classes": 10**4}))


def test_outputs_that_a_file_claims_are_bounded(tmp_path):
    state = timm.create_model("test_resnet").state_dict()
    few = len(state["fc.weight"][0])
    state |= {"fc.weight": torch.zeros(1).expand(10**8, few), "fc.bias": torch.zeros(1).expand(10**8)}
    torch.save(state, tmp_path / "w.pth")  # a hundred million outputs in a small file
    weights = {"file": "w.pth", "base": str(tmp_path)}
    with pytest.raises(SourceError, match="larger than its weights"):
        load(spec("timm:test_resnet", weights=weights))


def test_a_configuration_of_the_hub_is_bounded(monkeypatch):
    from selector.sources import timm as source

    monkeypatch.setenv("SELECTOR_MAX_UNPACKED", "300MB")
    monkeypatch.setattr(source, "_network", lambda *_: source.TimmNetwork("test_resnet", {}, {"num_classes": 10**8}))
    with pytest.raises(SourceError, match="num_classes"):
        load(spec("timm:test_resnet"))


@pytest.mark.parametrize(("source", "kwargs"), [
    ("timm:vit_tiny_patch16_224", {"depth": 10**6}),
    ("transformers:bert", {"model_type": "bert", "num_hidden_layers": 9000}),
])  # fmt: skip
def test_a_sketch_of_a_network_without_end_ends(source, kwargs, monkeypatch):
    monkeypatch.setattr("selector.sources._sketch.TENSORS_OF_SETTINGS", 3000)
    entry = spec(source, kwargs=kwargs)
    with pytest.raises(SourceError, match="more than 3,000 tensors"):
        registry.get(entry.source_name).sketch(entry)  # type: ignore[attr-defined]
