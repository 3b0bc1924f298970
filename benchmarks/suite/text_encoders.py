"""The text encoders of the suite: what pip packages bring, fewer layers of it, and an untrained control.

The network that a package brings as an ONNX file is read as such for features, and rebuilt in torch
to be trained.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from selector import sources
from selector.core.contracts import Encoder
from selector.sources._text_path import TextPath
from selector.sources._transformer import Transformer, create_backbone
from selector.zoo import ModelSpec, TextSettings, load_zoo

MAX_LENGTH = 128  # tokens, for features and for training
UNTRAINED = "minilm-untrained"
TRUNCATED = {"sre-minilm-l6-3-layers": ("sre-minilm-l6", 3, 17_241_984)}  # not in the zoo: network, layers, parameters
DEPTHS = {
    "minilm-l6": 6,
    "minilm-l6-3-layers": 3,
    "paraphrase-minilm-l3-onnx": 3,
    UNTRAINED: 6,
    "sre-minilm-l6": 6,
    "sre-minilm-l6-3-layers": 3,
}
"""Layers by encoder, in the order in which they are run."""

PARAPHRASE_L3: dict[str, Any] = {
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}  # fmt: skip
"""The configuration that the ONNX file does not hold."""


def specs() -> dict[str, ModelSpec]:
    """Every encoder of the suite as an entry of a zoo, read at ``MAX_LENGTH``."""
    zoo = {spec.name: spec for spec in load_zoo().models}
    for name, (whole, layers, parameters) in TRUNCATED.items():
        zoo[name] = zoo[whole].model_copy(
            update={"name": name, "kwargs": {"num_hidden_layers": layers}, "params": parameters}
        )
    found = {}
    for name in DEPTHS:
        settings = (zoo[name].text or TextSettings()).model_copy(update={"max_length": MAX_LENGTH})
        found[name] = zoo[name].model_copy(update={"text": settings})
    return found


def load(spec: ModelSpec) -> Encoder:
    """The encoder, as a scan would read it."""
    encoder: Encoder = sources.registry.get(spec.source_name).load(spec)
    return encoder


def with_head(encoder: Encoder, spec: ModelSpec, classes: int) -> Transformer:
    """What is trained: the network with a linear layer on the features of the encoder.

    Raises:
        ValueError: the network rebuilt from an ONNX file gives other features than the file.
    """
    if encoder.module is not None:
        return encoder.with_head(classes)  # type: ignore[return-value]
    return _rebuilt(encoder, spec, classes)


def _rebuilt(encoder: Encoder, spec: ModelSpec, classes: int) -> Transformer:
    import onnx
    from onnx import numpy_helper

    assert not isinstance(spec.weights, str)
    assert spec.weights is not None
    graph = onnx.load(spec.weights.path()).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    prefix = "model.0.auto_model."
    state = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    for node in graph.node:  # x·W + b: the exporter keeps the name of b alone
        bias = next((name for name in node.input if name.startswith(prefix)), None)
        factor = next((products[name] for name in node.input if name in products), None)
        if node.op_type == "Add" and bias is not None and factor in values:
            state[bias.removeprefix(prefix).removesuffix("bias") + "weight"] = values[factor].T
    backbone = create_backbone(PARAPHRASE_L3)
    backbone.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()}, strict=True)
    path = TextPath("last", "mean", specials=True)
    module = Transformer(backbone, False, path, encoder.num_features, classes).eval()
    with torch.no_grad():
        ours, file = module.read(encoder.probe(), [path])[0], encoder.encode(encoder.probe())
    if not torch.allclose(ours, file, atol=1e-4):
        raise ValueError(f"{spec.name}: the rebuilt network differs from the ONNX file by {(ours - file).abs().max()}")
    return module
