"""What holds for every source."""

import copy
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from selector.core.errors import SourceError, ZooError
from selector.sources import registry
from selector.zoo import ModelSpec
from tests.sources.samples import check_rows, head_of, images, load, onnx_file, spec
from tests.support.text_models import text_model

SMALL = {"input_size": [3, 64, 64]}
TORCH = {
    "residual": spec("timm:test_resnet"),
    "inverted bottlenecks": spec("timm:test_efficientnet"),
    "map first, then a wider head": spec("timm:test_mambaout"),
    "transformer": spec("timm:test_vit"),
    "transformer of a fixed size": spec("timm:test_vit3"),
    "two heads in one": spec("timm:deit_tiny_distilled_patch16_224", kwargs={"img_size": 64}),
    "an inner layer": spec("timm:test_vit", layer="blocks.1", pooling="max"),
    "torchvision, a linear head": spec("torchvision:mnasnet0_5", preprocess=SMALL),
    "torchvision, no linear head": spec("torchvision:squeezenet1_1", preprocess=SMALL),
    "a factory with timm's interface": spec(
        "python:selector.networks:usps_cnn", preprocess={"input_size": [3, 16, 16], "mean": [0.5] * 3, "std": [0.5] * 3}
    ),
    "a factory with none": spec("python:tests.sources.samples:tokens"),
}


@pytest.fixture(params=TORCH)
def encoder(request: pytest.FixtureRequest, loaded: dict[str, Any]) -> Any:
    if request.param not in loaded:
        loaded[request.param] = load(TORCH[request.param])
    return loaded[request.param]


@pytest.fixture(scope="module")
def loaded() -> dict[str, Any]:
    return {}


@pytest.fixture
def headed(request: pytest.FixtureRequest, encoder: Any, loaded: dict[str, Any]) -> Any:
    """The encoder with a head of four outputs: a copy, free to be changed."""
    name = f"head on {request.node.callspec.params['encoder']}"
    if name not in loaded:
        loaded[name] = head_of(encoder, images(encoder), rtol=1e-3, atol=1e-4)
    return copy.deepcopy(loaded[name])


def test_width_is_read_from_a_real_pass_and_rows_do_not_depend_on_their_batch(encoder: Any) -> None:
    batch = images(encoder)
    assert check_rows(encoder, batch, batch.split(1)).shape == (3, encoder.num_features)


def test_blocks_are_submodules_in_forward_order(encoder: Any) -> None:
    assert len(encoder.blocks) == len(set(encoder.blocks)) > 0
    called: list[str] = []
    handles = []
    for name in encoder.blocks:
        handles.append(
            encoder.module.get_submodule(name).register_forward_hook(lambda *_, name=name: called.append(name))
        )
    with torch.no_grad():
        encoder.encode(images(encoder, 1))
    for handle in handles:
        handle.remove()
    assert tuple(dict.fromkeys(called)) == encoder.blocks


def test_a_head_trains_its_copy_and_leaves_the_encoder_alone(encoder: Any, headed: Any) -> None:
    batch = images(encoder, 2)
    with torch.no_grad():
        before = encoder.encode(batch)
    nn.functional.cross_entropy(headed(batch), torch.tensor([0, 2])).backward()
    first = headed.get_submodule(encoder.blocks[0])
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in first.parameters())
    with torch.no_grad():
        for parameter in headed.parameters():
            parameter.add_(1.0)
        torch.testing.assert_close(encoder.encode(batch), before)


def test_parameters_are_counted_without_the_head(encoder: Any, headed: Any) -> None:
    head = sum(p.numel() for p in headed.get_classifier().parameters())
    assert encoder.num_parameters == sum(p.numel() for p in headed.parameters()) - head


def test_a_random_start_has_no_source_head(encoder: Any) -> None:
    assert encoder.source_head is None


@pytest.mark.parametrize(
    "source", ["timm:test_vit", "torchvision:squeezenet1_1", "python:tests.sources.samples:tokens"]
)
def test_a_random_start_is_always_the_same_and_draws_nothing_from_the_caller(source: str) -> None:
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first = load(spec(source))
    first.with_head(2)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]
    torch.manual_seed(8)
    second = load(spec(source))
    for key, value in first.module.state_dict().items():
        torch.testing.assert_close(second.module.state_dict()[key], value, rtol=0, atol=0)


def test_identities_are_plain_and_follow_what_decides_the_features(tmp_path: Path) -> None:
    base = {"source": "timm:test_vit", "weights": "none"}
    changes: list[dict[str, Any]] = [
        {},
        {"pooling": "avg"},
        {"layer": "blocks.1"},
        {"kwargs": {"img_size": 96}},
        {"preprocess": {"crop_pct": 0.5}},
        {"source": "timm:test_vit2"},
    ]
    identify = registry.get("timm").identify
    seen = [json.dumps(identify(ModelSpec.model_validate({**base, **change})), sort_keys=True) for change in changes]
    assert len(set(seen)) == len(seen)
    facts = {"name": "other", "tags": ["x"], "license": "mit", "params": 3, "upstream_accuracy": 1.0}
    assert json.dumps(identify(ModelSpec.model_validate({**base, **facts})), sort_keys=True) == seen[0]
    assert json.loads(seen[0])["versions"].keys() == {"timm", "torch"}


def test_identifying_imports_no_torch(tmp_path: Path, known_names: None) -> None:
    onnx_file(tmp_path / "n.onnx")
    files = {"onnx": tmp_path / "n.onnx", "transformers": text_model(tmp_path / "bert")}
    specs = [model.model_dump(mode="json") for model in TORCH.values()]
    specs += [{"source": f"{source}:{path}"} for source, path in files.items()]
    weights = {"package": "ccexam", "file": "weights/usps.pth"}
    code = f"""
import sys
from selector import sources, zoo
for frozen in {specs!r}:
    spec = zoo.ModelSpec.model_validate(frozen)
    sources.registry.get(spec.source_name).identify(spec)
spec = zoo.ModelSpec.model_validate({{"source": "timm:test_vit", "weights": {weights!r}}})
assert sources.registry.get("timm").identify(spec)["weights"].startswith("xxh128:")
sources.registry.get("timm").expand("resnet18*")
libraries = {{"torch", "timm", "torchvision", "transformers", "tokenizers", "onnxruntime"}}
assert not libraries & set(sys.modules), sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize(
    ("source", "pattern", "said"),
    [
        ("timm", "hf-hub:org/*", "a wildcard cannot list the hub; name the repository in full"),
        ("transformers", "org/*", "name the model in full; a wildcard cannot list the hub"),
        ("elmo", "*", "name the model in full; a wildcard cannot list the hub"),
        ("onnx", "*.onnx", "name the file in full"),
    ],
)
def test_what_no_wildcard_lists(source: str, pattern: str, said: str) -> None:
    with pytest.raises(ZooError, match=said):
        registry.get(source).expand(pattern)


def test_a_layer_that_is_not_there_and_a_pooling_that_does_not_fit() -> None:
    with pytest.raises(SourceError, match=r"the network has no layer 'layer1\.9'; did you mean 'layer1\.0'"):
        load(spec("timm:test_resnet", layer="layer1.9"))
    with pytest.raises(SourceError, match="pooling 'cls' needs a class token, which this network does not have"):
        load(spec("timm:test_resnet", layer="layer1", pooling="cls"))
    with pytest.raises(SourceError, match=r"pooling 'max' needs a map or tokens, but classifier gives \(1, 1280\)"):
        load(spec("torchvision:mnasnet0_5", layer="classifier", pooling="max", preprocess=SMALL))
