"""Feature maps of every source: where they are, what they are of, and that they can be trained."""

import json
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from selector.core.errors import SourceError
from selector.sources import registry
from tests.sources.samples import images, load, onnx_file, save_onnx, spec

SMALL = {"input_size": [3, 64, 64]}
PYRAMIDS = {
    "timm:test_resnet": {},
    "timm:test_mambaout": {},
    "torchvision:resnet18": {"preprocess": SMALL},
    "torchvision:densenet121": {"preprocess": SMALL},
}


def noise(count: int, height: int, width: int) -> torch.Tensor:
    return torch.randn((count, 3, height, width), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def loaded() -> dict[str, Any]:
    return {}


def once(loaded: dict[str, Any], name: str, **more: Any) -> Any:
    if name not in loaded:
        loaded[name] = load(spec(name, **more))
    return loaded[name]


@pytest.mark.parametrize("name", PYRAMIDS)
def test_a_pyramid_has_the_last_map_of_each_stage(name, loaded):
    encoder = once(loaded, name, **PYRAMIDS[name])
    assert encoder.strides == (4, 8, 16, 32)
    canvas = encoder.on_canvas((96, 160))
    with torch.no_grad():
        features, maps = canvas.encode_maps(noise(2, 96, 160))
        assert [(s, tuple(m.shape[2:])) for s, m in maps] == [(s, (96 // s, 160 // s)) for s in (4, 8, 16, 32)]
        torch.testing.assert_close(features, canvas.encode(noise(2, 96, 160)))
        for (_, a), (_, b) in zip(maps, canvas.maps(noise(2, 96, 160)), strict=True):
            torch.testing.assert_close(a, b)
    assert (canvas.preprocess.crop_mode, canvas.preprocess.input_size) == ("squash", (3, 96, 160))


def test_maps_of_torchvision_are_the_outputs_of_its_stages(loaded):
    net, batch = (resnet := once(loaded, "torchvision:resnet18", preprocess=SMALL)).module, noise(1, 64, 64)
    dense = once(loaded, "torchvision:densenet121", preprocess=SMALL)
    with torch.no_grad():
        x = net.maxpool(net.relu(net.bn1(net.conv1(batch))))
        for layer, (_, found) in zip((net.layer1, net.layer2, net.layer3, net.layer4), resnet.maps(batch), strict=True):
            x = layer(x)
            torch.testing.assert_close(found, x)
        parts = dense.module.features
        x = parts.denseblock1(parts.pool0(parts.relu0(parts.norm0(parts.conv0(batch)))))
        torch.testing.assert_close(dense.maps(batch)[0][1], x)  # all layers of the block, not its last one alone
        torch.testing.assert_close(dense.maps(batch)[-1][1], parts(batch).relu())  # in place, by the network itself


@pytest.mark.parametrize("name", ["timm:test_vit", "timm:test_vit3", "timm:test_vit_relpos"])
def test_a_plain_transformer_has_depths_at_the_stride_of_its_patches(name, loaded):
    if not timm.is_model(name.removeprefix("timm:")):
        pytest.skip(f"this timm has no {name}")
    encoder = once(loaded, name)
    assert encoder.strides == (16, 16, 16, 16)
    batch = images(encoder, 2)
    with torch.no_grad():
        last = encoder.module.forward_features(batch)[:, encoder.module.num_prefix_tokens :]
        found = encoder.maps(batch)[-1][1]
        # cell (2, 5) of 10 x 10 is token 25: rows of the image, without class and register tokens
        torch.testing.assert_close(found[:, :, 2, 5], last[:, 25])
        assert encoder.on_canvas((96, 128)).maps(noise(1, 96, 128))[0][1].shape[2:] == (6, 8)


def test_tokens_are_read_by_hooks_where_a_network_has_no_interface_for_them():
    encoder = load(spec("torchvision:vit_b_32", kwargs={"image_size": 64}, preprocess=SMALL))
    assert encoder.strides == (32, 32, 32, 32)
    batch, kept = noise(2, 64, 64), []
    handle = encoder.module.encoder.register_forward_hook(lambda _m, _i, out: kept.append(out))
    with torch.no_grad():
        found = encoder.maps(batch)[-1][1]
    handle.remove()
    torch.testing.assert_close(found[:, :, 1, 0], kept[0][:, 1 + 2])
    with pytest.raises(SourceError, match=r"no maps at 64x96 .*square images only.*leave it at its native 64x64"):
        encoder.on_canvas((64, 96))


class Stairs(nn.Module):
    """Three convolutions of stride 2 as plain children: a factory that knows no interface."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(i, o, 3, 2, 1) for i, o in ((3, 4), (4, 6), (6, 8)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.b(self.a(x).relu()).relu()).mean((2, 3))


def stairs() -> nn.Module:
    torch.manual_seed(0)
    return Stairs()


def test_a_factory_is_read_by_hooks_on_its_submodules():
    encoder = load(spec("python:tests.sources.test_maps:stairs", preprocess=SMALL))
    assert encoder.strides == (4, 8)
    net, batch = encoder.module, noise(2, 32, 64)
    with torch.no_grad():
        b = net.b(net.a(batch).relu())
        for (_, found), expected in zip(encoder.on_canvas((32, 64)).maps(batch), (b, net.c(b.relu())), strict=True):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:test_vit3", "torchvision:resnet18"])
def test_maps_can_be_trained_and_built_again(name, loaded):
    encoder = once(loaded, name, **PYRAMIDS.get(name, {}))
    size, batch = (96, 128), noise(2, 96, 128)
    module = encoder.map_module(size)
    with torch.no_grad():
        expected = [found for _, found in encoder.on_canvas(size).maps(batch)]
    found = module(batch)
    assert (module.strides, module.channels) == (encoder.strides, tuple(m.shape[1] for m in expected))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    sum(one.square().mean() for one in found).backward()
    for block in encoder.blocks:
        assert any(
            p.grad is not None and p.grad.abs().sum() > 0 for p in module.get_submodule(f"network.{block}").parameters()
        )
    recipe = json.loads(json.dumps(encoder.map_recipe(size)))
    again = registry.get(recipe["source"]).build(recipe)
    again.load_state_dict(module.state_dict())
    with torch.no_grad():
        for a, b in zip(again(batch), module.eval()(batch), strict=True):
            torch.testing.assert_close(a, b)


def test_sizes_that_do_not_fit_are_refused_with_the_nearest_that_do(loaded):
    encoder = once(loaded, "timm:test_resnet")
    with pytest.raises(SourceError, match=r"100x130 pixels \(height x width\) are no multiple.*32; use 96x128"):
        encoder.on_canvas((100, 130))
    blind = load(spec("python:tests.support.networks:blind", preprocess=SMALL))
    with pytest.raises(SourceError, match=r"python:tests.support.networks:blind: the network gives no feature maps"):
        blind.maps(noise(1, 64, 64))


def test_maps_of_an_onnx_file(tmp_path):
    from onnx import helper

    rng = np.random.default_rng(0)
    shapes = {"w1": (4, 3, 3, 3), "w2": (6, 4, 3, 3)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    attributes = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["fine"], **attributes),
        helper.make_node("Conv", ["fine", "w2"], ["coarse"], **attributes),
        helper.make_node("ReduceMean", ["coarse"], ["pooled"], axes=[2, 3], keepdims=0),
    ]
    outputs = dict.fromkeys(("pooled", "coarse", "fine"))
    save_onnx(tmp_path / "p.onnx", nodes, {"image": ["b", 3, "h", "w"]}, outputs, weights)
    encoder = load(spec("onnx:p.onnx", weights=None, base=str(tmp_path), preprocess=SMALL))
    assert encoder.strides == (2, 4)
    batch = noise(2, 32, 64)
    features, maps = encoder.on_canvas((32, 64)).encode_maps(batch)
    fine = nn.functional.conv2d(batch, torch.from_numpy(weights["w1"]), stride=2, padding=1)
    coarse = nn.functional.conv2d(fine, torch.from_numpy(weights["w2"]), stride=2, padding=1)
    for (_, found), expected in zip(maps, (fine, coarse), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features, coarse.mean((2, 3)), rtol=1e-4, atol=1e-4)
    with pytest.raises(SourceError, match="cannot be fine-tuned"):
        encoder.map_module()


def test_an_onnx_file_without_maps_or_of_a_fixed_size_says_so(tmp_path):
    onnx_file(tmp_path / "fixed.onnx")
    encoder = load(spec("onnx:fixed.onnx", weights=None, base=str(tmp_path)))
    with pytest.raises(SourceError, match="export it with a free height and width"):
        encoder.on_canvas((32, 32))
