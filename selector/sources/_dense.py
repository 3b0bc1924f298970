"""torchvision's detectors and segmenters as encoders: maps of a neck, a decoder without its last layer; imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.ssd import SSD
from torchvision.models.segmentation.lraspp import LRASPPHead
from torchvision.ops.misc import FrozenBatchNorm2d

from selector.sources._features import Necked, mixed

_COARSER = {"pool", "p6", "p7"}  # levels that a neck adds behind its last map
_OF_SSD = 2  # its first maps; the others are a few cells
_NO_EPSILON = ("fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn")  # torchvision reads their weights so


class _DetectorNeck(Necked):
    backbone: nn.Module

    def neck_maps(self, batch: Tensor) -> list[Tensor]:
        found: Mapping[str, Tensor] = self.backbone(batch)
        maps = [each for name, each in found.items() if name not in _COARSER]
        return maps[:_OF_SSD] if isinstance(self, SSD) else maps


def with_neck(module: nn.Module, name: str) -> nn.Module:
    """The detector, in place, with the interface of ``Necked``, and with the normalization that its weights are for:
    torchvision fixes that of a pretrained backbone, but for its second versions and for SSD."""
    if not isinstance(module, SSD) and not name.endswith("_v2"):
        _freeze_norms(cast(Any, module).backbone.body, 0.0 if name in _NO_EPSILON else 1e-5)
    return mixed(module, _DetectorNeck)


def _freeze_norms(module: nn.Module, epsilon: float) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            fixed = FrozenBatchNorm2d(child.num_features, epsilon)
            with torch.no_grad():
                fixed.weight.copy_(child.weight)
                fixed.bias.copy_(child.bias)
            setattr(module, name, fixed)
        else:
            _freeze_norms(child, epsilon)


def class_layers(module: object) -> tuple[str, ...]:
    """Dotted names of the layers whose width is that of the classes."""
    if isinstance(module, GeneralizedRCNN):
        return "roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred"
    if not isinstance(module, SSD):
        return ("head.classification_head.cls_logits",)
    parts = module.head.classification_head.module_list
    last = [
        "" if isinstance(part, nn.Conv2d) else f".{len(part) - 1}" for part in parts
    ]  # SSDlite: behind a depthwise one
    return tuple(f"head.classification_head.module_list.{i}{place}" for i, place in enumerate(last))


def blocks(module: Any) -> list[str]:
    """Dotted names of the blocks of the backbone, without the neck."""
    if isinstance(module, SSD):
        parts = module.backbone.features
        several = isinstance(parts, nn.ModuleList)
        return [f"backbone.features.{i}" for i in range(len(parts))] if several else ["backbone.features"]
    body = module.backbone.body.named_children()
    return [f"backbone.body.{name}" for name, child in body if len(list(child.children())) > 0]


class _Headless(nn.Module):
    backbone: nn.Module
    classifier: nn.Module

    def forward_features(self, batch: Tensor) -> Tensor:
        """What the decoder gives (B, C, h, w), at a stride of its own."""
        maps: Mapping[str, object] = self.backbone(batch)
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
    return mixed(module, _Headless)


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
