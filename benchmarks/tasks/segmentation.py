"""Ground truth of segmentation: a linear decoder on all maps, from a solved probe, then trained end to end."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

from benchmarks.suite.training import CLIP, schedule
from benchmarks.tasks import maps
from benchmarks.tasks.cells import Cell, Outcome
from benchmarks.tasks.maps import MapNetwork
from benchmarks.tasks.mask_sets import SIZE, MaskSet, load_set

STEPS, BATCH = 60, 8
RATES = {
    False: 3e-4,
    True: 3e-5,
}  # AdamW, by whether the encoder is a transformer; a third of it as well where the probe is not reached
NEW_LAYERS = 1e-3  # rate of a decoder that starts from nothing
POINTS = 100  # an image, evenly by class: what the probe learns from, and what scores see
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
ENCODERS = (
    "mlc_resnet8", "mnv1_025", "cifar_resnet20", "mnv1_100", "efflite0", "mnv2_coral", "mn_edgetpu075", "opennsfw",
    "efflite2", "untrained_resnet18", "mnv2_coral_birds", "face_dlib", "efflite1", "mnv2_coral_insects", "imgfocus_vits14",
)  # fmt: skip
ALSO_DEEPLAB = ("mnv1_025", "mnv1_100", "efflite0", "opennsfw", "untrained_resnet18")


def cells(name: str, seed: int = 0) -> list[Cell]:
    """Linear decoders of every encoder, then the deeper decoder of a few."""
    strategies = ("frozen", "full") if seed == 0 else ("full",)
    found = [Cell("segmentation", name, e, "linear", s, seed) for e in ENCODERS for s in strategies]
    return found + [Cell("segmentation", name, e, "deeplabv3", "full", seed) for e in ALSO_DEEPLAB]


# ---------------------------------------------------------------------------- figures


def confusion(predicted: torch.Tensor, truth: torch.Tensor, classes: int, ignore: int) -> np.ndarray:
    """(C, C) counts, truth down and prediction across, without ignored pixels."""
    seen = truth != ignore
    pairs = truth[seen].long() * classes + predicted[seen].long()
    return torch.bincount(pairs.flatten(), minlength=classes * classes).reshape(classes, classes).numpy()


def ious(matrix: np.ndarray) -> np.ndarray:
    """Intersection over union of each class; NaN where a class is neither there nor predicted."""
    both = matrix.sum(axis=0) + matrix.sum(axis=1) - np.diag(matrix)
    return np.asarray(np.divide(np.diag(matrix), both, out=np.full(len(matrix), np.nan), where=both > 0))


# ---------------------------------------------------------------------------- points


def draw_points(mask: np.ndarray, count: int, ignore: int, rng: np.random.Generator) -> np.ndarray:
    """(<= count, 2) row and column of pixels, as evenly by class as the mask allows."""
    present = [c for c in np.unique(mask) if c != ignore]
    found = []
    for left, (_, places) in enumerate(sorted(((c, np.argwhere(mask == c)) for c in present), key=lambda p: len(p[1]))):
        share = (count - sum(map(len, found))) // (len(present) - left)
        found.append(places[rng.permutation(len(places))[:share]])
    return np.concatenate(found) if found else np.zeros((0, 2), int)


def read_points(layers: list[torch.Tensor], places: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear values (P, sum of channels) at pixel centers of one image; ``layers`` are (1, C, h, w)."""
    centers = (places.float() + 0.5) / torch.tensor(size) * 2 - 1
    grid = centers.flip(1)[None, None]  # x first
    return torch.cat(
        [F.grid_sample(m, grid, align_corners=False, padding_mode="border")[0, :, 0].T for m in layers], dim=1
    )


@torch.no_grad()
def point_features(
    network: MapNetwork, data: MaskSet, split: str, count: int = POINTS
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[int]]:
    """Features (R, D) of all maps side by side, labels (R,), image of each row (R,), and the channels of each map."""
    network.eval()
    rng = np.random.default_rng(0)
    features, labels, owners = [], [], []
    for i in data.rows(split).tolist():
        mask = data.masks[i].numpy()
        places = draw_points(mask, count, data.ignore, rng)
        layers = network(data.pixels[i : i + 1].float() / 255)
        features.append(read_points(layers, torch.from_numpy(places), mask.shape))
        labels.append(mask[places[:, 0], places[:, 1]])
        owners.append(np.full(len(places), i))
    return torch.cat(features).numpy(), np.concatenate(labels).astype(int), np.concatenate(owners), network.channels


# ---------------------------------------------------------------------------- decoders


class Linear(nn.Module):
    """A linear layer on all maps side by side, as one 1 x 1 convolution a map, summed at the finest map's size.

    Channels are scaled by fixed factors first, so that one rate suits encoders whose maps differ in scale.
    """

    def __init__(self, channels: list[int], classes: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Conv2d(c, classes, 1, bias=i == 0) for i, c in enumerate(channels))
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(1, c, 1, 1), requires_grad=False) for c in channels)

    def forward(self, layers: list[torch.Tensor]) -> torch.Tensor:
        size = layers[0].shape[-2:]
        made = [part(layer * scale) for part, scale, layer in zip(self.parts, self.scales, layers, strict=True)]
        total: torch.Tensor = made[0] + sum(F.interpolate(m, size=size, mode="bilinear") for m in made[1:])
        return total

    @torch.no_grad()
    def set(self, probe: Probe) -> None:
        """Start from a probe on the same maps side by side."""
        cuts = np.cumsum([part.in_channels for part in self.parts])[:-1]
        pieces = zip(np.split(probe.weight, cuts, axis=1), np.split(probe.scale, cuts), strict=True)
        for part, factor, (weight, scale) in zip(self.parts, self.scales, pieces, strict=True):
            part.weight.copy_(torch.from_numpy(weight)[:, :, None, None])
            factor.copy_(torch.from_numpy(scale)[None, :, None, None])
        self.parts[0].bias.copy_(torch.from_numpy(probe.bias))


class DeepLab(nn.Module):
    """torchvision's DeepLabV3 head on the map whose stride is nearest to 16; rates of dilation fit maps of 9 x 12."""

    def __init__(self, network: MapNetwork, classes: int) -> None:
        super().__init__()
        self.at = int(np.argmin([abs(math.log2(s / 16)) for s in network.strides]))
        self.head = DeepLabHead(network.channels[self.at], classes, (2, 4, 6))

    def forward(self, layers: list[torch.Tensor]) -> torch.Tensor:
        found: torch.Tensor = self.head(layers[self.at])
        return found


class Segmenter(nn.Module):
    """Encoder and decoder: pixels in 0..1 -> logits (B, C, h, w), smaller than the image."""

    def __init__(self, encoder: MapNetwork, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.decoder(self.encoder(pixels))
        return found


@dataclass(frozen=True)
class Probe:
    """Logits are (features * scale) @ weight.T + bias: weight (C, D), bias (C,), scale (D,)."""

    weight: np.ndarray
    bias: np.ndarray
    scale: np.ndarray


def solve_probe(network: MapNetwork, data: MaskSet) -> Probe:
    """Logistic regression of points on standardized features; the bias moved from the even shares
    of the points to the true shares of pixels; strength by log-loss on points of the validation images."""
    x, y, _, _ = point_features(network, data, "train")
    xv, yv, _, _ = point_features(network, data, "val")
    classes = len(data.classes)
    mean, std = x.mean(axis=0), x.std(axis=0)
    scale = np.where(std > 1e-6, 1 / np.maximum(std, 1e-6), 0).astype(np.float32)
    train, val = (torch.from_numpy((part - mean) * scale) for part in (x, xv))
    target, target_val = torch.from_numpy(y), torch.from_numpy(yv)
    best: tuple[float, torch.Tensor, torch.Tensor] | None = None
    weight, bias = torch.zeros(classes, x.shape[1]), torch.zeros(classes)
    for penalty in sorted(PENALTIES, reverse=True):  # from the strongest on, each from the one before
        weight, bias = weight.detach().clone().requires_grad_(), bias.detach().clone().requires_grad_()
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=60, line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            optimizer.zero_grad()  # noqa: B023  called inside this very turn of the loop
            loss = F.cross_entropy(train @ weight.T + bias, target) + penalty * weight.square().sum()  # noqa: B023
            loss.backward()
            return loss

        optimizer.step(closure)
        with torch.no_grad():
            loss = float(F.cross_entropy(val @ weight.T + bias, target_val))
        if best is None or loss < best[0]:
            best = loss, weight.detach(), bias.detach()
    assert best is not None
    masks = data.masks[data.rows("train")].numpy()
    pixels = np.bincount(masks[masks != data.ignore], minlength=classes) + 1.0
    points = np.bincount(y, minlength=classes) + 1.0
    prior = np.log(pixels / pixels.sum()) - np.log(points / points.sum())
    weight = best[1].numpy()
    return Probe(weight, (best[2].numpy() - weight @ (mean * scale) + prior).astype(np.float32), scale)


_PROBES: dict[tuple[str, str], Probe] = {}  # of the encoder measured last: its frozen and full cells follow one another


def probe_of(name: str, network: MapNetwork, data: MaskSet) -> Probe:
    """The solved probe of a pretrained encoder."""
    key = (data.name, name)
    if key not in _PROBES:
        _PROBES.clear()
        _PROBES[key] = solve_probe(network, data)
    return _PROBES[key]


# ---------------------------------------------------------------------------- one encoder


@torch.no_grad()
def evaluate(model: Segmenter, data: MaskSet, split: str) -> np.ndarray:
    """Confusion matrix over a split, at the masks' own size."""
    model.eval()
    total = np.zeros((len(data.classes),) * 2, np.int64)
    for rows in data.rows(split).split(BATCH):
        logits = model(data.pixels[rows].float() / 255)
        truth = data.masks[rows]
        predicted = F.interpolate(logits, size=truth.shape[-2:], mode="bilinear").argmax(1)
        total += confusion(predicted, truth, len(data.classes), data.ignore)
    return total


def augment(pixels: torch.Tensor, masks: torch.Tensor, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Mirrored with probability one half, and a crop of three quarters to all of the side, enlarged; both alike."""
    size = masks.shape[-2:]
    share = 0.75 + 0.25 * float(torch.rand(1, generator=rng))
    corner = torch.rand(2, generator=rng) * (1 - share)
    out = []
    for part, exact in ((pixels.float(), False), (masks[:, None].float(), True)):
        high, wide = part.shape[-2:]
        top, left = int(corner[0] * high), int(corner[1] * wide)
        cut = part[..., top : top + round(share * high), left : left + round(share * wide)]
        whole = pixels.shape[-2:] if not exact else size
        out.append(
            F.interpolate(cut, size=whole, mode="nearest-exact")
            if exact
            else F.interpolate(cut, size=whole, mode="bilinear")
        )
    flip = torch.rand(len(pixels), generator=rng) < 0.5
    image, mask = (torch.where(flip[:, None, None, None], part.flip(-1), part) for part in out)
    return image, mask[:, 0].long()


def fit(model: Segmenter, data: MaskSet, rate: float, decoder_rate: float, steps: int, seed: int) -> bool:
    """Train everything in place; False when the loss stopped being finite."""
    rng = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model.train()
    groups = [
        {"params": [p for p in part.parameters() if p.requires_grad], "lr": r, "base": r}
        for part, r in ((model.encoder, rate), (model.decoder, decoder_rate))
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    parameters = [p for p in model.parameters() if p.requires_grad]
    train, order = data.rows("train"), torch.empty(0, dtype=torch.long)
    for step in range(steps):
        if len(order) < BATCH:
            order = torch.cat([order, train[torch.randperm(len(train), generator=rng)]])
        rows, order = order[:BATCH], order[BATCH:]
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * schedule(step, steps)
        pixels, masks = augment(data.pixels[rows], data.masks[rows], rng)
        logits = model((pixels / 255).contiguous(memory_format=torch.channels_last))
        small = masks[:, ::2, ::2]  # half the mask's side: pixels enough, at a quarter of the time
        loss = F.cross_entropy(
            F.interpolate(logits, size=small.shape[-2:], mode="bilinear"), small, ignore_index=data.ignore
        )
        if not math.isfinite(float(loss.detach())):
            return False
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
    return True


def measure(cell: Cell, assets: Path, steps: int | None = None) -> Outcome:
    """Frozen: the solved probe as decoder. Full: everything from there, judged on test; a third of the rate as well
    where validation ends below the probe. deeplabv3: its decoder from nothing."""
    steps = steps or STEPS
    data = load_set(cell.set, assets)
    torch.manual_seed(cell.seed)
    network = maps.load(cell.encoder, assets)
    if not network.transformer:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    classes = len(data.classes)
    linear = cell.head == "linear"
    decoder: nn.Module = Linear(network.channels, classes) if linear else DeepLab(network, classes)
    if isinstance(decoder, Linear):
        decoder.set(probe_of(cell.encoder, network, data))
    model = Segmenter(network, decoder)
    counts = {f"n_{split}": len(data.rows(split)) for split in ("train", "val", "test")}
    facts: dict[str, Any] = {"size": f"{SIZE[0]}x{SIZE[1]}", "precision": "float32", **counts}

    def outcome(val: np.ndarray, **more: Any) -> Outcome:
        test = ious(evaluate(model, data, "test"))
        by_class = {name: float(v) for name, v in zip(data.classes, test, strict=True) if not math.isnan(v)}
        return Outcome("miou", float(np.nanmean(val)), float(np.nanmean(test)), by_class, facts | more)

    before = ious(evaluate(model, data, "val")) if linear else np.zeros(1)
    if cell.strategy == "frozen":
        return outcome(before)
    start = copy.deepcopy(model.state_dict())
    rate = RATES[network.transformer]
    best: tuple[float, np.ndarray, float, dict[str, torch.Tensor]] | None = None
    tried = []
    for candidate in (rate, rate / 3):
        if best is not None and best[0] >= np.nanmean(before):
            break
        model.load_state_dict(start)
        finite = fit(model, data, candidate, candidate if linear else NEW_LAYERS, steps, cell.seed)
        val = ious(evaluate(model, data, "val"))
        value = float(np.nanmean(val)) if finite else -math.inf
        tried.append(f"{candidate:g}@{steps}:{value:.4f}")
        if finite and (best is None or value > best[0]):
            best = value, val, candidate, copy.deepcopy(model.state_dict())
    if best is None:
        raise FloatingPointError(f"no rate gave a finite loss: {';'.join(tried)}")
    model.load_state_dict(best[3])
    return outcome(best[1], steps=steps, rate=f"{best[2]:g}", rates_tried=";".join(tried))
