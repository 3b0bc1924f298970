"""Networks that pad as TensorFlow's 'SAME' does, exported for images of any size.

How much such a layer pads is a formula of the size of what comes in, which torch's exporter would trace through all layers
before it. ONNX's own operators pad so by themselves (``auto_pad``): while a network is exported, its layers are these.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def why_not(module: nn.Module) -> str:
    """Why such a network cannot be exported for any size; nothing where it can."""
    for name, layer in module.named_modules():
        if not _pads(layer):
            continue
        if type(layer).__name__ not in _FORWARDS:
            return f"{name} is a {type(layer).__name__}, whose padding ONNX has no operator for"
        if any(step != 1 for step in _pair(getattr(layer, "dilation", 1))):
            return f"{name} is dilated, and onnxruntime does not pad by the size then"
    return ""


def pads_by_size(module: nn.Module, size: tuple[int, ...]) -> str:
    """Why a network whose own code pads by the size of what comes in cannot be exported for any size: torch's exporter
    follows the formula through all layers and does not end. Nothing where what is padded is the same at another size.

    Args:
        size: of an image, (C, H, W).
    """
    import torch

    channels, height, width = size
    with torch.inference_mode():
        own = _paddings(module, torch.zeros((1, channels, height, width)))
        try:
            other = _paddings(module, torch.zeros((1, channels, height + 17, width + 13)))
        except (AssertionError, RuntimeError, ValueError):  # it takes some sizes, and not this one
            return ""
    return "" if own == other else "its code pads by the size of the images"


def _paddings(module: nn.Module, pictures: Tensor) -> list[list[int]]:
    """What ``torch.nn.functional.pad`` adds in a forward pass, outside of layers that ONNX has operators for."""
    from torch.nn import functional
    from torch.overrides import TorchFunctionMode

    found: list[list[int]] = []
    inside: list[nn.Module] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is functional.pad and not inside:
                found.append([int(side) for side in (args[1] if len(args) > 1 else kwargs["pad"])])
            return function(*args, **(kwargs or {}))

    hooks = []
    for layer in filter(_pads, module.modules()):
        hooks.append(layer.register_forward_pre_hook(lambda one, _: inside.append(one)))
        hooks.append(layer.register_forward_hook(lambda *_: inside.clear()))
    try:
        with Watch():
            module(pictures)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@contextlib.contextmanager
def padding_in_the_graph(module: nn.Module) -> Iterator[None]:
    """Inside, layers that pad by the size are ONNX's operators: the network can be exported, not run."""
    layers = [layer for layer in module.modules() if _pads(layer)]
    for layer in layers:
        layer.forward = MethodType(_FORWARDS[type(layer).__name__], layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _pads(layer: nn.Module) -> bool:
    return type(layer).__name__.endswith("2dSame")


def _convolution(layer: Any, x: Tensor) -> Tensor:
    given = [x, layer.weight] + ([] if layer.bias is None else [layer.bias])
    return _operator("Conv", given, layer, layer.out_channels, {"group": layer.groups})


def _maximum(layer: Any, x: Tensor) -> Tensor:
    return _operator("MaxPool", [x], layer, x.shape[1], {})


def _operator(name: str, given: list[Tensor], layer: Any, channels: int, attributes: dict[str, Any]) -> Tensor:
    import torch

    down, across = _pair(layer.stride)
    x = given[0]
    made: Tensor = torch.onnx.ops.symbolic(
        name,
        given,
        {"auto_pad": "SAME_UPPER", "kernel_shape": _pair(layer.kernel_size), "strides": [down, across], **attributes},
        dtype=x.dtype,
        shape=(x.shape[0], channels, (x.shape[2] + down - 1) // down, (x.shape[3] + across - 1) // across),
    )
    return made


_FORWARDS = {"Conv2dSame": _convolution, "MaxPool2dSame": _maximum}


def _pair(value: Any) -> list[int]:
    return [int(one) for one in value] if isinstance(value, tuple | list) else [int(value)] * 2
