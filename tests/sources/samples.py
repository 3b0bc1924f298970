"""Models of every source that need no download, for tests that hold for all of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from selector.core.contracts import Encoder
from selector.sources import registry
from selector.zoo import ModelSpec


def spec(source: str, **more: Any) -> ModelSpec:
    """A model with a random start, unless ``weights`` says otherwise."""
    return ModelSpec.model_validate({"source": source, "weights": "none", **more})


def load(model: ModelSpec) -> Any:
    """The encoder of a spec."""
    encoder: Encoder = registry.get(model.source_name).load(model)
    return encoder


def images(encoder: Encoder, count: int = 3, seed: int = 1) -> torch.Tensor:
    """Normalized noise at the encoder's input size."""
    return torch.randn((count, *encoder.preprocess.input_size), generator=torch.Generator().manual_seed(seed))


def head_of(encoder: Any, batch: Any, outputs: int = 4, **tolerance: float) -> Any:
    """A head on an encoder: linear on its features, built again from its recipe, with the blocks under their own names."""
    headed = encoder.with_head(outputs)
    head = headed.get_classifier()
    assert isinstance(head, nn.Linear)
    assert head.weight.shape == (outputs, encoder.num_features)
    recipe = json.loads(json.dumps(encoder.recipe(outputs)))
    again: Any = registry.get(recipe["source"]).build(recipe)
    again.load_state_dict(headed.state_dict())
    with torch.no_grad():
        logits = headed(batch)
        torch.testing.assert_close(logits, head(encoder.encode(batch)), **tolerance)
        torch.testing.assert_close(again(batch), logits)
    names = dict(headed.named_modules())
    assert all(name in names for name in encoder.blocks)
    return headed


def check_rows(encoder: Any, whole: Any, alone: Sequence[Any]) -> torch.Tensor:
    """Features of a batch are those of its items alone, and differ."""
    with torch.no_grad():
        together: torch.Tensor = encoder.encode(whole)
        torch.testing.assert_close(together, torch.cat([encoder.encode(one) for one in alone]), rtol=1e-4, atol=1e-5)
    assert torch.isfinite(together).all()
    assert (together[0] - together[2]).abs().max() > 1e-3 * together.abs().max()
    return together


def save_onnx(
    path: Path,
    nodes: Sequence[Any],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, Sequence[int | str] | None],
    weights: Mapping[str, np.ndarray],
    *,
    integers: bool = False,
) -> None:
    """Write a network of a few nodes.

    Args:
        inputs, outputs: shapes by name.
        integers: the inputs are token ids.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kind = TensorProto.INT64 if integers else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))


def onnx_file(
    path: Path, batch: int | str = "batch", channels_last: bool = False, tokens: bool = False
) -> dict[str, np.ndarray]:
    """Write a network of one convolution; outputs ``map`` and ``pooled``. Returns its weights."""
    from onnx import helper

    rng = np.random.default_rng(0)
    weights = {
        "weight": rng.normal(size=(5, 3, 3, 3)).astype(np.float32),
        "bias": rng.normal(size=5).astype(np.float32),
    }
    nodes, image = [], "image"
    if channels_last:
        nodes.append(helper.make_node("Transpose", ["image"], ["chw"], perm=[0, 3, 1, 2]))
        image = "chw"
    nodes += [
        helper.make_node("Conv", [image, "weight", "bias"], ["conv"], strides=[2, 2]),
        helper.make_node("Relu", ["conv"], ["map"]),
        helper.make_node("ReduceMean", ["map"], ["pooled"], axes=[2, 3], keepdims=0),
    ]
    shape = [batch, 16, 16, 3] if channels_last else [batch, 3, 16, 16]
    outputs: dict[str, Any] = {"map": [batch, 5, 7, 7], "pooled": [batch, 5]}
    more = {}
    if tokens:
        more = {"shape": np.array([0, 5, 49], np.int64)}
        nodes += [
            helper.make_node("Reshape", ["map", "shape"], ["flat"]),
            helper.make_node("Transpose", ["flat"], ["tokens"], perm=[0, 2, 1]),
        ]
        outputs = {"tokens": [batch, 49, 5], **outputs}
    save_onnx(path, nodes, {"image": shape}, outputs, {**weights, **more})
    return weights


class Tokens(nn.Module):
    """Gives tokens (B, 1 + 4, 6), the first of which is a class token, and no timm interface."""

    num_prefix_tokens = 1
    preprocess = {"input_size": [3, 8, 8], "mean": [0.0] * 3, "std": [1.0] * 3}  # noqa: RUF012

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.embed(x).flatten(2).transpose(1, 2)
        return torch.cat([self.token.expand(len(x), -1, -1), patches], 1)


def tokens(width: int = 6) -> nn.Module:
    return Tokens(width)


def not_a_module() -> str:
    return "text"
