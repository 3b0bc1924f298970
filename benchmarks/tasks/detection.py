"""Ground truth of detection: one light FCOS for every encoder, with the encoder frozen and trained as a whole."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOS, FCOSHead
from torchvision.ops import FeaturePyramidNetwork, box_iou

from benchmarks.suite.image_sets import decode
from benchmarks.suite.training import CLIP, schedule
from benchmarks.tasks import maps, pasted_sets, vector_sets
from benchmarks.tasks.cells import Cell, Outcome
from benchmarks.tasks.maps import MapNetwork

SIDE, LONGEST = 192, 256  # short and longest side that networks read
LEVELS = (8, 16, 32)  # strides of the pyramid
WIDTH = 64  # channels of pyramid and head
STEPS, BATCH = 64, 8
HEAD_RATE = 2e-3  # AdamW; pyramid and head start from nothing
RATES = {False: 3e-4, True: 3e-5}  # of the encoder, by whether it is a transformer
ENCODERS = (
    "mnv1_025", "mlc_resnet8", "cifar_resnet20", "mnv1_100", "efflite0", "mnv2_coral", "mn_edgetpu075", "opennsfw",
    "untrained_resnet18", "efflite2", "face_dlib", "mnv2_coral_birds", "efflite1", "mnv2_coral_insects", "imgfocus_vits14",
)  # fmt: skip
OBJECTS = "coco128_objects"  # coco128 with every box of one class
SETS = ("bccd", "coco128", OBJECTS, pasted_sets.FLOWERS)
LONGER = {OBJECTS: 256, pasted_sets.FLOWERS: 128}  # steps where ``STEPS`` leave a detector that finds nothing


def cells(name: str, seed: int = 0) -> list[Cell]:
    """Frozen and full of every encoder."""
    return [Cell("detection", name, e, "fcos", s, seed) for e in ENCODERS for s in ("frozen", "full")]


@dataclass(frozen=True)
class BoxSet:
    """``images`` uint8 (3, H, W); ``boxes`` float32 (n, 4), corners in pixels; ``labels`` int64 (n,), from 0."""

    images: list[torch.Tensor]
    boxes: list[torch.Tensor]
    labels: list[torch.Tensor]
    splits: np.ndarray
    classes: tuple[str, ...]

    def rows(self, split: str) -> np.ndarray:
        return np.flatnonzero(self.splits == split)


@lru_cache(maxsize=1)
def load_set(name: str, assets: Path) -> BoxSet:
    """bccd with its three classes; coco128 with the twelve supercategories, since most of its 80 classes have fewer
    than five boxes in 128 photographs; ``coco128_objects`` with one class for all of its boxes; and flowers on textures,
    which are made here."""
    if name == pasted_sets.FLOWERS:
        return BoxSet(*pasted_sets.flowers_on_textures(assets))
    folder = assets / "data" / name.removesuffix("_objects")
    facts = vector_sets.info(folder / "train.parquet")
    names = tuple(facts["classes"])
    place = list(range(len(names)))
    if name == "coco128":
        names = tuple(facts["supercategories"])
        place = supercategories()
    elif name == OBJECTS:
        names, place = ("object",), [0] * len(names)
    parts = vector_sets.tables(folder)
    images, boxes, labels = [], [], []
    for row in (row for part in parts for row in part):
        image = torch.from_numpy(np.array(decode(row["image"]["bytes"]))).permute(2, 0, 1)
        found = torch.tensor(row["objects"]["bbox"], dtype=torch.float32).reshape(-1, 4)
        found, kept = corners(found, image.shape[2], image.shape[1])
        kinds = torch.tensor([place[c] for c in row["objects"]["category"]], dtype=torch.int64)
        images.append(image)
        boxes.append(found)
        labels.append(kinds[kept])
    return BoxSet(images, boxes, labels, vector_sets.split(len(parts[0]), len(parts[1])), names)


def supercategories() -> list[int]:
    """Place of the supercategory of each of COCO's 80 classes, in COCO's order of both."""
    sizes = (1, 8, 5, 10, 5, 10, 7, 10, 6, 6, 5, 7)  # person, vehicle, outdoor, animal, ... indoor
    return [i for i, size in enumerate(sizes) for _ in range(size)]


def corners(boxes: torch.Tensor, width: int, height: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, 4) x, y, w, h -> corners inside the image, and which boxes (n,) are left with at least a pixel a side."""
    found = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)
    limits = torch.tensor([width, height, width, height], dtype=found.dtype)
    found = torch.minimum(found.clamp(min=0), limits)
    kept = (found[:, 2] - found[:, 0] >= 1) & (found[:, 3] - found[:, 1] >= 1)
    return found[kept], kept


# ---------------------------------------------------------------------------- the network


class Pyramid(nn.Module):
    """Maps of any encoder -> ``LEVELS`` of ``WIDTH`` channels.

    A level takes the deepest map that is at least as fine as itself (the deepest of the finest ones where none is),
    brought to its size by averaging or bilinearly.
    """

    def __init__(self, network: MapNetwork, frozen: bool) -> None:
        super().__init__()
        self.network, self.frozen = network, frozen
        self.sources = [choose(network.strides, level) for level in LEVELS]
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(network.channels[i], affine=False, momentum=None) for i in self.sources
        )
        self.fpn = FeaturePyramidNetwork([network.channels[i] for i in self.sources], WIDTH)
        self.out_channels = WIDTH

    def forward(self, pixels: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            layers = self.network(pixels)
        height, width = pixels.shape[-2:]
        sized = OrderedDict()
        for level, source, norm in zip(LEVELS, self.sources, self.norms, strict=True):
            sized[str(level)] = norm(resized(layers[source], (height // level, width // level)))
        found: OrderedDict[str, torch.Tensor] = self.fpn(sized)
        return found

    def train(self, mode: bool = True) -> Pyramid:
        """Statistics of the maps are taken once, before training (``settle``)."""
        super().train(mode)
        for norm in self.norms:
            norm.eval()
        return self


def choose(strides: list[float], level: int) -> int:
    """Position of the map that a level of the pyramid reads."""
    fine = [i for i, s in enumerate(strides) if s <= 1.3 * level]
    return fine[-1] if fine else max(i for i, s in enumerate(strides) if s <= min(strides) * 1.01)


def resized(layer: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """A map brought to a size: averaged where it shrinks, bilinear where it grows."""
    if layer.shape[-2:] == size:
        return layer
    if layer.shape[-2] >= size[0]:
        return F.adaptive_avg_pool2d(layer, size)
    return F.interpolate(layer, size=size, mode="bilinear")


def build(network: MapNetwork, classes: int, frozen: bool) -> FCOS:
    """torchvision's FCOS with two convolutions a branch on a pyramid of three levels."""
    pyramid = Pyramid(network, frozen)
    anchors = AnchorGenerator(sizes=tuple((s,) for s in LEVELS), aspect_ratios=((1.0,),) * len(LEVELS))
    head = FCOSHead(WIDTH, anchors.num_anchors_per_location()[0], classes, num_convs=2)
    return FCOS(
        pyramid, classes, min_size=SIDE, max_size=LONGEST, image_mean=[0.0] * 3, image_std=[1.0] * 3, anchor_generator=anchors,
        head=head, detections_per_img=100, score_thresh=0.05,
    )  # fmt: skip


@torch.no_grad()
def settle(model: FCOS, images: list[torch.Tensor]) -> None:
    """Mean and deviation of every map over some images, so that the pyramid sees the same scale from any encoder."""
    pyramid = model.backbone
    pyramid.eval()
    for norm in pyramid.norms:
        norm.reset_running_stats()
        norm.train()
    batch, _ = model.transform([image.float() / 255 for image in images])
    pyramid(batch.tensors)
    pyramid.eval()


# ---------------------------------------------------------------------------- one encoder


def targets(
    data: BoxSet, rows: np.ndarray, rng: torch.Generator | None
) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Images in 0..1 and what torchvision wants beside them; with ``rng`` mirrored half of the time."""
    images, wanted = [], []
    for i in rows:
        image, boxes = data.images[i].float() / 255, data.boxes[i]
        if rng is not None and float(torch.rand(1, generator=rng)) < 0.5:
            image, boxes = mirrored(image, boxes)
        images.append(image)
        wanted.append({"boxes": boxes, "labels": data.labels[i]})
    return images, wanted


def mirrored(image: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Left and right exchanged."""
    width = image.shape[-1]
    flipped = boxes.clone()
    flipped[:, 0], flipped[:, 2] = width - boxes[:, 2], width - boxes[:, 0]
    return image.flip(-1), flipped


def fit(model: FCOS, data: BoxSet, rate: float, steps: int, seed: int) -> None:
    """Train in place; the encoder at ``rate``, not at all where the pyramid holds it frozen."""
    rng = torch.Generator().manual_seed(seed)
    body = list(model.backbone.network.parameters())
    ids = {id(p) for p in body}
    rest = [p for p in model.parameters() if id(p) not in ids]
    groups = [{"params": rest, "lr": HEAD_RATE, "base": HEAD_RATE}]
    if model.backbone.frozen:
        for p in body:
            p.requires_grad_(False)
    else:
        groups.append({"params": body, "lr": rate, "base": rate})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    train, order = torch.from_numpy(data.rows("train")), torch.empty(0, dtype=torch.long)
    settle(model, targets(data, train[:32].numpy(), None)[0])
    model.train()
    if model.backbone.frozen:
        model.backbone.network.eval()
    for step in range(steps):
        if len(order) < BATCH:
            order = torch.cat([order, train[torch.randperm(len(train), generator=rng)]])
        rows, order = order[:BATCH], order[BATCH:]
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * schedule(step, steps)
        losses = model(*targets(data, rows.numpy(), rng))
        loss = torch.stack(list(losses.values())).sum()
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"loss is {loss.item()} at step {step}")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], CLIP)
        optimizer.step()


@torch.no_grad()
def evaluate(model: FCOS, data: BoxSet, split: str) -> dict[str, float]:
    """mAP at 0.50:0.95, mAP at 0.50, and AP of each class, by torchmetrics with faster-coco-eval."""
    from torchmetrics.detection import MeanAveragePrecision

    model.eval()
    metric = MeanAveragePrecision(backend="faster_coco_eval", class_metrics=True)
    rows = data.rows(split)
    for start in range(0, len(rows), BATCH):
        images, wanted = targets(data, rows[start : start + BATCH], None)
        metric.update(model(images), wanted)
    found = metric.compute()
    by_class = {
        data.classes[int(c)]: float(v)
        for c, v in zip(found["classes"].reshape(-1), found["map_per_class"].reshape(-1), strict=True)
        if v >= 0
    }
    return {"map": float(found["map"]), "map50": float(found["map_50"]), **by_class}


def measure(cell: Cell, assets: Path, steps: int | None = None) -> Outcome:
    """One rate; nothing is chosen by validation."""
    steps = steps or LONGER.get(cell.set, STEPS)
    data = load_set(cell.set, assets)
    torch.manual_seed(cell.seed)
    network = maps.load(cell.encoder, assets)
    torch.manual_seed(cell.seed)  # new layers do not depend on what an encoder's construction drew
    model = build(network, len(data.classes), cell.strategy == "frozen")
    rate = RATES[network.transformer]
    fit(model, data, rate, steps, cell.seed)
    val, test = evaluate(model, data, "val"), evaluate(model, data, "test")
    counts = {f"n_{split}": len(data.rows(split)) for split in ("train", "val", "test")}
    facts: dict[str, Any] = {"size": f"{SIDE}-{LONGEST}", "precision": "float32", "steps": steps, **counts}
    facts["rate"] = f"{HEAD_RATE:g}" if cell.strategy == "frozen" else f"{rate:g}"
    return Outcome("map", val["map"], test["map"], {k: v for k, v in test.items() if k != "map"}, facts)


# ---------------------------------------------------------------------------- rows for scores


def jittered(boxes: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Each box moved by up to a quarter of its sides and scaled by up to e^±0.3."""
    size = boxes[:, 2:] - boxes[:, :2]
    center = (boxes[:, :2] + boxes[:, 2:]) / 2 + (torch.rand(len(boxes), 2, generator=rng) - 0.5) * 0.5 * size
    size = size * torch.exp((torch.rand(len(boxes), 2, generator=rng) - 0.5) * 0.6)
    return torch.cat([center - size / 2, center + size / 2], dim=1)


def offsets(jittered_boxes: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """(n, 4) dx, dy, dw, dh that lead from a jittered box to the true one, relative to the jittered one."""
    size = jittered_boxes[:, 2:] - jittered_boxes[:, :2]
    true = boxes[:, 2:] - boxes[:, :2]
    moved = ((boxes[:, :2] + boxes[:, 2:]) - (jittered_boxes[:, :2] + jittered_boxes[:, 2:])) / 2 / size
    return torch.cat([moved, torch.log(true / size)], dim=1)


def background(boxes: torch.Tensor, count: int, width: int, height: int, rng: torch.Generator) -> torch.Tensor:
    """At most so many boxes of the true boxes' sizes at places where no true box overlaps by 0.3."""
    if len(boxes) == 0:
        return boxes
    tries = 8 * count
    size = (boxes[:, 2:] - boxes[:, :2])[torch.randint(len(boxes), (tries,), generator=rng)]
    room = (torch.tensor([width, height]) - size).clamp(min=0)
    corner = torch.rand(tries, 2, generator=rng) * room
    found = torch.cat([corner, corner + size], dim=1)
    return found[box_iou(found, boxes).amax(dim=1) < 0.3][:count]
