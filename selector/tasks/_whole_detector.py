"""Whole pretrained detectors of torchvision, as they go on: backbone, neck and heads are kept, class layers are new.

Imports torch, so tasks import it late.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.ssd import SSD

from selector.tasks._detector import LEAST_SCORE, MOST_BOXES, Canvas, DetectionNetwork

PRIOR = 0.01  # probability of a class where nothing is known yet, as torchvision's one-stage heads begin
NECK_AND_HEADS = ("backbone.fpn", "backbone.extra", "rpn", "roi_heads", "head")


def is_whole(module: nn.Module | None) -> bool:
    """Whether a network is a detector, and not only a backbone."""
    return isinstance(module, FasterRCNN | FCOS | RetinaNet | SSD)


def whole_network(detector: Any, classes: int) -> DetectionNetwork:
    """The detector, in place, for other classes.

    Class layers start anew; those that move a box, of which Faster R-CNN has one a class, start as the mean of the
    pretrained ones.

    Args:
        classes: C, without background.
    """
    two_stages = isinstance(detector, FasterRCNN)
    settings = detector.roi_heads if two_stages else detector
    settings.score_thresh, settings.detections_per_img = LEAST_SCORE, MOST_BOXES
    if two_stages:
        detector.roi_heads.box_predictor = _predictor(detector.roi_heads.box_predictor, classes + 1)
    elif isinstance(detector, SSD):
        head = detector.head.classification_head
        head.module_list = nn.ModuleList(
            _last_renewed(part, head.num_columns, classes + 1) for part in head.module_list
        )
        head.num_columns = classes + 1
    else:
        head = detector.head.classification_head
        head.cls_logits = _renewed(head.cls_logits, head.num_classes, classes)
        nn.init.constant_(head.cls_logits.bias, -math.log((1 - PRIOR) / PRIOR))
        head.num_classes = classes
    detector.transform = Canvas()
    shift = int(two_stages or isinstance(detector, SSD))
    return DetectionNetwork(detector, shift, NECK_AND_HEADS)


def _predictor(old: Any, outputs: int) -> FastRCNNPredictor:
    new = FastRCNNPredictor(old.cls_score.in_features, outputs)
    with torch.no_grad():
        weight = old.bbox_pred.weight.reshape(-1, 4, old.bbox_pred.in_features)[1:].mean(0)  # without background
        bias = old.bbox_pred.bias.reshape(-1, 4)[1:].mean(0)
        new.bbox_pred.weight.copy_(weight.repeat(outputs, 1))
        new.bbox_pred.bias.copy_(bias.repeat(outputs))
    return new


def _last_renewed(part: Any, before: int, outputs: int) -> nn.Module:
    if isinstance(part, nn.Conv2d):
        return _renewed(part, before, outputs)
    return nn.Sequential(*part[:-1], _renewed(part[-1], before, outputs))


def _renewed(old: nn.Conv2d, before: int, outputs: int) -> nn.Conv2d:
    """A convolution for ``outputs`` classes an anchor in the place of one for ``before``."""
    size, padding = old.kernel_size, old.padding
    new = nn.Conv2d(old.in_channels, old.out_channels // before * outputs, size, padding=padding)  # type: ignore[arg-type]
    nn.init.normal_(new.weight, std=0.01)
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    return new
