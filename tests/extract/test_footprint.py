"""The memory of a network, told from shapes, against tensors that are really there."""

import pytest
import torch
from torch import nn

import selector
from selector import sources
from selector.core.errors import SourceError
from selector.extract.cost import ITEMS, LiveBytes, footprint
from selector.sources._sketch import Sketch
from selector.zoo import ModelSpec

BERT = {
    "model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "vocab_size": 100,
}  # fmt: skip
SPECS = [
    ModelSpec(source="timm:test_resnet", weights="none"),
    ModelSpec(source="timm:test_vit", weights="none", preprocess={"input_size": (3, 96, 96)}),
    ModelSpec(source="torchvision:squeezenet1_1", weights="none", preprocess={"input_size": (3, 64, 64)}),
    ModelSpec(source="transformers:bert", weights="none", kwargs=BERT),
]


def sketch_of(spec: ModelSpec) -> Sketch:
    return sources.registry.get(spec.source_name).sketch(spec)  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.source)
def test_shapes_tell_what_real_tensors_take(spec):
    sketch = sketch_of(spec)
    assert all(p.is_meta for p in sketch.module.parameters())  # no weight was made
    found = footprint(sketch)
    torch.manual_seed(0)
    real = sketch.module.to_empty(device="cpu").train()
    for child in real.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.eval()
    for tensor in (*real.parameters(), *real.buffers()):
        if tensor.is_floating_point():
            nn.init.normal_(tensor, std=0.01)
        else:
            tensor.zero_()
    live = LiveBytes((*real.parameters(), *real.buffers()))
    batch = sketch.items(ITEMS)
    with live:
        out = sketch.call(real, batch)
        out.float().sum().backward()
    assert found.step * ITEMS == pytest.approx(live.peak, rel=0.02)
    assert found.weights == sum(t.numel() * t.element_size() for t in (*real.parameters(), *real.buffers()))
    plain = LiveBytes((*real.parameters(), *real.buffers()))
    real.eval()
    with torch.no_grad(), plain:
        sketch.call(real, batch)
    assert found.item * ITEMS == pytest.approx(plain.peak, rel=0.02)
    assert found.item < found.step


def test_a_linear_layer_takes_what_its_shapes_say():
    sketch = Sketch(nn.Linear(1000, 500), lambda n: torch.empty((n, 1000)), lambda module, x: module(x), (1, 1000))
    found = footprint(sketch)
    assert found.weights == 4 * (1000 * 500 + 500)
    assert found.item == 4 * 500  # what comes out; the batch was there before


def test_mixed_precision_halves_activations():
    layers = nn.Sequential(*(nn.Linear(512, 512) for _ in range(8)))
    sketch = Sketch(layers, lambda n: torch.empty((100 * n, 512)), lambda module, x: module(x), (1, 512))
    assert footprint(sketch, bf16=True).step < 0.75 * footprint(sketch).step


def test_a_module_in_memory_stays_as_it_is():
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    module.train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    found = footprint(sketch_of(selector.Model(module)))
    assert found.weights == sum(t.numel() * t.element_size() for t in before.values())
    assert all(child.training for child in module.modules())
    assert all(p.requires_grad and p.grad is None for p in module.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_a_network_that_looks_at_values_is_refused():
    class Looks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(SourceError, match="cannot be inferred from its shapes"):
        footprint(Sketch(Looks(), lambda n: torch.empty((n, 3)), lambda module, x: module(x), (1, 3)))


def test_a_sketch_fetches_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    found = footprint(sketch_of(ModelSpec(source="timm:resnet18.a1_in1k")))
    assert found.weights == pytest.approx(4 * 11.7e6, rel=0.01)
    assert not list(tmp_path.rglob("*.safetensors"))
