"""What kind of network it is, and what its device multiplies fast: decides how it is trained."""

from __future__ import annotations

import torch
from torch import nn


def is_modern(module: nn.Module) -> bool:
    """A transformer, or a network built like one (ConvNeXt): layer norm or attention somewhere."""
    kinds = {type(child).__name__ for child in module.modules()}
    return any(word in kind for kind in kinds for word in ("LayerNorm", "RmsNorm", "RMSNorm", "GroupNorm", "Attention"))


def is_classic(module: nn.Module) -> bool:
    """A plain convolutional network (ResNet, VGG, Inception): neither modern nor depthwise (EfficientNet)."""
    convolutions = [child for child in module.modules() if isinstance(child, nn.Conv2d)]
    depthwise = any(c.groups == c.in_channels > 1 for c in convolutions)
    return bool(convolutions) and not depthwise and not is_modern(module)


def is_depthwise(module: nn.Module) -> bool:
    """Whether three tenths of the layers or more are depthwise convolutions (EfficientNet, MobileNet v2, ConvNeXt): their
    backward passes are slow in bfloat16 on a CPU, more than the other layers gain."""
    layers = [child for child in module.modules() if isinstance(child, nn.Conv1d | nn.Conv2d | nn.Linear)]
    depthwise = [c for c in layers if not isinstance(c, nn.Linear) and c.groups == c.in_channels > 1]
    return len(depthwise) >= 0.3 * max(1, len(layers))


def bf16_helps(device: str) -> bool:
    """Whether this device multiplies bfloat16 faster than float32."""
    kind = torch.device(device)
    if kind.type == "cuda":
        return torch.cuda.get_device_capability(kind)[0] >= 8
    flags = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return kind.type == "cpu" and bool(flags() or amx())


def mixed_precision(module: nn.Module | None, device: str) -> bool:
    """Whether a network trains in bfloat16 beside float32: by a rule, not by the clock.

    Precision is part of the address of a training and of its figures, so that two runs of the same seed would differ by how
    busy the machine was. On a CPU depthwise networks train in float32, all others in bfloat16 where the device multiplies in it.
    """
    on_cpu = torch.device(device).type == "cpu"
    return bf16_helps(device) and not (on_cpu and module is not None and is_depthwise(module))
