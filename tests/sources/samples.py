"""Models of every source that need no download, for tests that hold for all of them."""

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


def onnx_file(
    path: Path, batch: int | str = "batch", channels_last: bool = False, tokens: bool = False
) -> dict[str, np.ndarray]:
    """Write a network of one convolution; outputs ``map`` and ``pooled``. Returns its weights."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(5, 3, 3, 3)).astype(np.float32), rng.normal(size=5).astype(np.float32)
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
    outputs = [helper.make_tensor_value_info("map", TensorProto.FLOAT, [batch, 5, 7, 7])]
    outputs.append(helper.make_tensor_value_info("pooled", TensorProto.FLOAT, [batch, 5]))
    if tokens:
        shape_of = numpy_helper.from_array(np.array([0, 5, 49], np.int64), "shape")
        nodes += [
            helper.make_node("Reshape", ["map", "shape"], ["flat"]),
            helper.make_node("Transpose", ["flat"], ["tokens"], perm=[0, 2, 1]),
        ]
        outputs.insert(0, helper.make_tensor_value_info("tokens", TensorProto.FLOAT, [batch, 49, 5]))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        outputs,
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")]
        + ([shape_of] if tokens else []),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return {"weight": weight, "bias": bias}


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
