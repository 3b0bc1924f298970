"""torchvision's segmenters without their last layer: backbone and decoder as one encoder; imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.segmentation.lraspp import LRASPPHead


class _Headless(nn.Module):
    """Mixed into a segmenter's own class, so that its submodules keep their names."""

    backbone: nn.Module
    classifier: nn.Module

    def forward_features(self, batch: Tensor) -> Tensor:
        """What the decoder gives (B, C, h, w), at a stride of its own."""
        maps: Mapping[str, Any] = self.backbone(batch)
        return cast(Tensor, self.classifier(maps.get("out", maps)))


class _SideBySide(LRASPPHead):  # type: ignore[misc]  # torchvision has no types
    """LR-ASPP's head without its two last layers, whose sum is one linear layer on both inputs side by side."""

    def forward(self, input: dict[str, Tensor]) -> Tensor:
        low, high = input["low"], input["high"]
        high = self.cbr(high) * self.scale(high)
        high = functional.interpolate(high, size=low.shape[-2:], mode="bilinear", align_corners=False)
        return torch.cat([low, high], 1)


def headless(module: nn.Module) -> nn.Module:
    """The segmenter, in place, with ``forward_features``."""
    base = type(module)
    module.__class__ = type(base.__name__, (_Headless, base), {"__module__": base.__module__})
    return module


def last_layers(module: Any) -> tuple[str, ...]:
    """Dotted names of the layers that know the classes."""
    if isinstance(module.classifier, LRASPPHead):
        return "classifier.low_classifier", "classifier.high_classifier"
    return (f"classifier.{len(module.classifier) - 1}",)


def without_last_layer(module: Any) -> None:
    """Take the last layer off, in place."""
    for name in last_layers(module):
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, nn.Identity())
    if isinstance(module.classifier, LRASPPHead):
        module.classifier.__class__ = _SideBySide
