"""Networks that find boxes: maps of an encoder, a feature pyramid, torchvision's heads; imports torch, so tasks import it
late."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD, SSDHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from selector.tasks.detection.box_predictions import TrueBoxes

WIDTH = 128  # channels of the pyramid: half of torchvision's, for images of a third of its side
HIDDEN = 512  # of the two layers behind RoI-Align
FINEST = {"fasterrcnn": 4, "retinanet": 8, "fcos": 8, "ssd": 8}
"""Stride of the finest map that a head reads; the dense heads of one stage pay for every cell of it."""
BACKGROUND_FIRST = ("fasterrcnn", "ssd")  # heads whose class 0 is background
LEAST_SCORE = 0.01
MOST_BOXES = 100  # an image, as COCO's protocol counts
_POOLED = 7
HEAD_PARTS = ("backbone.pyramid", "rpn", "roi_heads", "head")


class Canvas(nn.Module):
    """In the place of torchvision's transform: images come resized and normalized already, and all alike."""

    def forward(
        self, images: torch.Tensor | Sequence[torch.Tensor], targets: object = None
    ) -> tuple[ImageList, object]:
        """Images (B, C, H, W) as torchvision's detectors hand them on."""
        batch = images if isinstance(images, torch.Tensor) else torch.stack(list(images))
        size = (int(batch.shape[2]), int(batch.shape[3]))
        return ImageList(batch, [size] * len(batch)), targets

    def postprocess(self, result: object, image_shapes: object, original_image_sizes: object) -> object:
        """Boxes stay in pixels of the canvas."""
        return result


class Pyramid(nn.Module):
    """Maps of an encoder -> maps of ``WIDTH`` channels, by name, the finest first.

    Networks of several strides have a feature pyramid (Lin et al., arXiv:1612.03144). Networks of one stride, such as
    vision transformers, get three from their last map, twice as fine, as it is, and half as fine (Li et al.,
    arXiv:2203.16527, with two steps less).

    Args:
        finest: stride from which on maps are read.
        extra: what adds coarser levels.
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], finest: int, extra: ExtraFPNBlock | None
    ) -> None:
        super().__init__()
        self.single = len(set(strides)) < 2
        if self.single:
            self.used = [len(strides) - 1]
            last = channels[-1]
            self.finer: nn.Module | None = nn.ConvTranspose2d(last, last, 2, 2)
            widths = [last] * 3
        else:
            self.used = [i for i, stride in enumerate(strides) if stride >= finest] or [len(strides) - 1]
            self.finer = None
            widths = [channels[i] for i in self.used]
        self.levels = len(widths)
        self.fpn = FeaturePyramidNetwork(widths, WIDTH, extra)

    def forward(self, maps: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """``0``, ``1``, ... and what ``extra`` adds."""
        found = [maps[i] for i in self.used]
        if self.finer is not None:
            found = [self.finer(found[0]), found[0], functional.max_pool2d(found[0], 2, ceil_mode=True)]
        return cast("dict[str, torch.Tensor]", self.fpn(OrderedDict((str(i), each) for i, each in enumerate(found))))


class Backbone(nn.Module):
    """Images -> maps of the pyramid. The encoder runs as the caller says, all behind it in single precision: RoI-Align
    and the suppression of doubles have no other on a processor."""

    def __init__(self, encoder: nn.Module, pyramid: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.pyramid = pyramid
        self.out_channels = WIDTH
        self.mixed: torch.dtype | None = None

    def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """By name, the finest first."""
        with torch.autocast(batch.device.type, self.mixed or torch.bfloat16, enabled=self.mixed is not None):
            maps = self.encoder(batch)
        return cast("dict[str, torch.Tensor]", self.pyramid([each.float() for each in maps]))


class DetectionNetwork(nn.Module):
    """Normalized images (B, 3, H, W) -> boxes of each: a list of ``boxes`` (n, 4) in pixels of the canvas, ``labels``
    (n,) 0..C-1 and ``scores`` (n,), the most confident first.

    Args:
        detector: one of torchvision's, with ``Canvas`` as its transform and a ``Backbone``.
        shift: how much its labels are above the classes: 1 where class 0 is background.
        new: parts of it that move in every strategy.
    """

    def __init__(self, detector: nn.Module, shift: int, new: tuple[str, ...] = HEAD_PARTS) -> None:
        super().__init__()
        self.detector = detector
        self.shift = shift
        self.new = new

    def forward(self, batch: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        """In eval mode."""
        with self._single(batch):
            found = self.detector(batch)
        return [
            {"boxes": one["boxes"][keep], "labels": one["labels"][keep] - self.shift, "scores": one["scores"][keep]}
            for one in found
            for keep in (one["labels"] >= self.shift,)
        ]

    def losses(self, batch: torch.Tensor, targets: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """In train mode; targets hold ``boxes`` in pixels of the canvas and ``labels`` 0..C-1."""
        moved = [{**one, "labels": one["labels"] + self.shift} for one in targets]
        with self._single(batch):
            return cast("dict[str, torch.Tensor]", self.detector(batch, moved))

    @contextmanager
    def _single(self, batch: torch.Tensor) -> Iterator[None]:
        kind = batch.device.type
        backbone = cast(Backbone, self.detector.backbone)  # of a whole detector another one, all in single precision
        backbone.mixed = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        with torch.autocast(kind, enabled=False):
            yield
        backbone.mixed = None


class OnePicture(nn.Module):
    """A detection network as an ONNX file holds it: one image (1, C, H, W) -> ``boxes`` (n, 4) in shares of the canvas,
    ``labels`` (n,) and ``scores`` (n,), the most confident first. No conversions to Python: it is traced."""

    names = ("boxes", "labels", "scores")

    def __init__(self, network: DetectionNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See the class."""
        (found,) = self.network(images)
        height, width = images.shape[2], images.shape[3]
        scale = torch.tensor([width, height, width, height], dtype=torch.float32)
        return found["boxes"] / scale, found["labels"], found["scores"]


NEAR = 1e-3  # of the image's sides and of a score
_TIED = 1e-5  # scores that are no further apart may change places
MOST_UNLIKE = 0.02  # of the boxes: of two of equal score that overlap, rounding decides which one is kept


def unlike(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> str:
    """How boxes, labels and scores (see ``OnePicture``) differ from those that are wanted; "" where they are the same.

    Order is free, since near scores change places. Where all places are taken, the last ones may go to others.
    """
    least = float(wanted[2].min()) + _TIED if len(wanted[2]) == MOST_BOXES else -1.0
    missing = 0
    for box, label, score in zip(*wanted, strict=True):
        near = (np.abs(found[0] - box).max(axis=1) <= NEAR) & (np.abs(found[2] - score) <= NEAR)
        missing += score > least and not (near & (found[1] == label)).any()
    if missing > MOST_UNLIKE * len(wanted[2]) or abs(len(found[2]) - len(wanted[2])) > MOST_UNLIKE * len(wanted[2]):
        return f"of {len(wanted[2])} boxes {missing} are not among the {len(found[2])} of the file"
    return ""


def network_of(head: str, encoder: nn.Module, classes: int) -> DetectionNetwork:
    """A fresh detector on the maps of an encoder; ``head`` is one of ``Detection.decoders``.

    Args:
        encoder: what ``Encoder.map_module`` gives.
        classes: C, without background.
    """
    maps = cast(Any, encoder)
    extra = LastLevelMaxPool() if head in ("fasterrcnn", "ssd") else LastLevelP6P7(WIDTH, WIDTH)
    pyramid = Pyramid(maps.channels, maps.strides, FINEST[head], extra)
    backbone = Backbone(encoder, pyramid)
    detector = _BUILDERS[head](backbone, pyramid, _strides(maps.strides, pyramid), classes)
    detector.transform = Canvas()
    return DetectionNetwork(detector, int(head in BACKGROUND_FIRST))


def _strides(strides: Sequence[int], pyramid: Pyramid) -> list[int]:
    """Pixels a cell of each level of the pyramid itself."""
    if pyramid.single:
        return [max(1, strides[-1] // 2), strides[-1], 2 * strides[-1]]
    return [strides[i] for i in pyramid.used]


def _fasterrcnn(backbone: Backbone, pyramid: Pyramid, strides: list[int], classes: int) -> object:
    levels = [*strides, 2 * strides[-1]]
    anchors = AnchorGenerator(tuple((4 * s, 8 * s) for s in levels), ((0.5, 1.0, 2.0),) * len(levels))
    names = [str(i) for i in range(pyramid.levels)]
    return FasterRCNN(
        backbone,
        rpn_anchor_generator=anchors,
        box_roi_pool=MultiScaleRoIAlign(names, _POOLED, 2),
        box_head=TwoMLPHead(WIDTH * _POOLED**2, HIDDEN),
        box_predictor=FastRCNNPredictor(HIDDEN, classes + 1),
        rpn_pre_nms_top_n_train=1000,
        rpn_pre_nms_top_n_test=500,
        rpn_post_nms_top_n_train=500,
        rpn_post_nms_top_n_test=300,
        box_batch_size_per_image=128,
        box_score_thresh=LEAST_SCORE,
        box_detections_per_img=MOST_BOXES,
    )


def _retinanet(backbone: Backbone, pyramid: Pyramid, strides: list[int], classes: int) -> object:
    levels = [*strides, 2 * strides[-1], 4 * strides[-1]]
    sizes = tuple(tuple(round(3 * s * 2 ** (k / 3)) for k in range(3)) for s in levels)
    return RetinaNet(
        backbone,
        classes,
        anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
        score_thresh=LEAST_SCORE,
        detections_per_img=MOST_BOXES,
    )


def _fcos(backbone: Backbone, pyramid: Pyramid, strides: list[int], classes: int) -> object:
    # one anchor a cell, of 8 strides: torchvision's own, whose range of sizes a level FCOS takes from it
    levels = [*strides, 2 * strides[-1], 4 * strides[-1]]
    anchors = AnchorGenerator(tuple((4 * s,) for s in levels), ((1.0,),) * len(levels))
    return FCOS(backbone, classes, anchor_generator=anchors, score_thresh=LEAST_SCORE, detections_per_img=MOST_BOXES)


def _ssd(backbone: Backbone, pyramid: Pyramid, strides: list[int], classes: int) -> object:
    count = pyramid.levels + 1
    anchors = DefaultBoxGenerator([[2, 3]] * count, min_ratio=10, max_ratio=90)
    widths = [WIDTH] * count
    return SSD(
        backbone,
        anchors,
        (1, 1),  # read by the transform only, which is replaced
        classes + 1,
        head=SSDHead(widths, anchors.num_anchors_per_location(), classes + 1),
        score_thresh=LEAST_SCORE,
        detections_per_img=MOST_BOXES,
    )


_BUILDERS: Mapping[str, Callable[[Backbone, Pyramid, list[int], int], Any]] = {
    "fasterrcnn": _fasterrcnn,
    "retinanet": _retinanet,
    "fcos": _fcos,
    "ssd": _ssd,
}


class DetectionLearner(nn.Module):
    """See ``core.task.Learner``: the sum of the losses that the detector names."""

    def __init__(self, network: DetectionNetwork) -> None:
        super().__init__()
        self.network = network
        self.new: tuple[str, ...] = tuple(f"network.detector.{part}" for part in network.new)

    def loss(self, batch: torch.Tensor, annotations: Sequence[TrueBoxes], unlabeled: object = None) -> torch.Tensor:
        """Mean over images; those without boxes teach what is background."""
        targets = [_target(known, batch) for known in annotations]
        losses = self.network.losses(batch, targets)
        return torch.stack([value.float() for value in losses.values()]).sum()

    def weight(self, annotations: Sequence[object]) -> float:
        """Pictures."""
        return float(len(annotations))

    def predict(self, batch: torch.Tensor) -> list[dict[str, np.ndarray]]:
        """See ``shares``."""
        return shares(self.network(batch), (batch.shape[2], batch.shape[3]))

    def rows(self, batch: object, places: Sequence[np.ndarray | None]) -> torch.Tensor | None:
        """None: no linear layer starts a detector."""
        return None


def shares(found: Sequence[Mapping[str, torch.Tensor]], size: tuple[int, int]) -> list[dict[str, np.ndarray]]:
    """Boxes of each image as numpy, ``boxes`` float32 (n, 4) in shares of the canvas (height, width), 0..1."""
    scale = np.array([size[1], size[0], size[1], size[0]], np.float32)
    return [
        {
            "boxes": (one["boxes"].float().cpu().numpy() / scale).astype(np.float32),
            "labels": one["labels"].cpu().numpy().astype(np.int64),
            "scores": one["scores"].float().cpu().numpy(),
        }
        for one in found
    ]


def _target(known: TrueBoxes, batch: torch.Tensor) -> dict[str, torch.Tensor]:
    boxes = known["boxes"]
    height, width = boxes.canvas_size
    scale = torch.tensor([batch.shape[3] / width, batch.shape[2] / height] * 2)
    plain = boxes.as_subclass(torch.Tensor).float() * scale
    return {
        "boxes": plain.to(batch.device),
        "labels": torch.from_numpy(np.asarray(known["labels"], np.int64)).to(batch.device),
    }


PRIOR = 0.01  # probability of a class where nothing is known yet, as torchvision's one-stage heads begin
NECK_AND_HEADS = ("backbone.fpn", "backbone.extra", "rpn", "roi_heads", "head")


def is_whole(module: nn.Module | None) -> bool:
    """Whether a network is a detector, and not only a backbone: torchvision's, or one that a source dressed like them."""
    return isinstance(module, FasterRCNN | FCOS | RetinaNet | SSD) or hasattr(module, "with_classes")


def whole_network(detector: Any, classes: int) -> DetectionNetwork:
    """The detector, in place, for other classes.

    Class layers start anew; those that move a box, of which Faster R-CNN has one a class, start as the mean of the
    pretrained ones.

    Args:
        classes: C, without background.
    """
    if hasattr(detector, "with_classes"):
        return DetectionNetwork(detector.with_classes(classes), 0, detector.neck_and_heads)
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
