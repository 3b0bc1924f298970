"""One cell of the matrix: the solved head on frozen features, then full fine-tuning from it."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import nn

from benchmarks.suite.encoders import Encoder
from benchmarks.suite.image_sets import ImageSet

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C; smaller is a stronger penalty
CNN_RATES = (0.0003, 0.003, 0.03)  # SGD, momentum 0.9
TRANSFORMER_RATES = (6e-6, 3e-5, 1.5e-4)  # AdamW
TRIES_EVERY_RATE = frozenset({"usps_cnn", "mnist_cnn", "mlc_resnet8", "cifar_resnet20", "svhn_cnn", "mnv1_025"})
BATCH = 32
CLIP = 1.0

# bfloat16 autocast is used for training where it was measured faster on the machine of the results
# (median of forward and backward on 32 images); features and every evaluation are float32.
IN_BFLOAT16 = frozenset(
    {"opennsfw", "face_dlib", "imgfocus_vits14", "untrained_resnet18", "cifar_resnet56", "svhn_cnn"}
)


@dataclass(frozen=True)
class Result:
    """What training or solving gave; ``tried`` lists rate@steps:accuracy/log-loss of the trials on val."""

    val_accuracy: float
    val_log_loss: float
    test_accuracy: float
    test_log_loss: float
    diverged: bool = False
    steps: int = 0
    rate: float | None = None
    tried: str = ""


@dataclass(frozen=True)
class Head:
    """A linear layer on raw features: weight (C, D), bias (C,)."""

    weight: np.ndarray
    bias: np.ndarray

    def logits(self, features: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(features @ self.weight.T + self.bias)


def solve_head(features: np.ndarray, labels: np.ndarray, train: np.ndarray, val: np.ndarray, classes: int) -> Head:
    """L2 logistic regression on standardised features, the strength with the lowest validation
    log-loss, folded back so that it applies to raw features."""
    mean, std = features[train].mean(axis=0, dtype=np.float64), features[train].std(axis=0, dtype=np.float64)
    scale = 1 / np.where(std > 1e-6, std, np.inf)  # a constant feature says nothing: weight 0
    rows = (features - mean) * scale
    best: tuple[float, Head] | None = None
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=1000).fit(rows[train], labels[train])
        weight, bias = model.coef_, model.intercept_
        if classes == 2:  # scikit-learn keeps one row; softmax needs two
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        raw = weight * scale
        head = Head(raw.astype(np.float32), (bias - raw @ mean).astype(np.float32))
        loss = figures(head.logits(features[val]), labels[val])[1]
        if best is None or loss < best[0]:
            best = loss, head
    assert best is not None
    return best[1]


def figures(logits: torch.Tensor, labels: np.ndarray) -> tuple[float, float]:
    """Accuracy and mean log-loss; NaN when a logit is not finite."""
    if not torch.isfinite(logits).all():
        return math.nan, math.nan
    truth = torch.from_numpy(labels).long()
    return float((logits.argmax(1) == truth).double().mean()), float(F.cross_entropy(logits.double(), truth))


def frozen(head: Head, features: np.ndarray, labels: np.ndarray, val: np.ndarray, test: np.ndarray) -> Result:
    """The solved head itself: nothing else moves."""
    return Result(
        *figures(head.logits(features[val]), labels[val]), *figures(head.logits(features[test]), labels[test])
    )


def full(encoder: Encoder, images: ImageSet, head: Head, *, steps: int, seed: int, rate: float | None = None) -> Result:
    """All weights, from the solved head; the best of a few rates, each trained to the end.

    Small encoders try every rate. The others take the middle one, and the lower one as well when
    the middle one ends below the frozen head on the validation split. The highest validation
    accuracy wins, log-loss breaks ties; the test split is read for the winner. With ``rate`` given
    nothing else is tried.
    """
    encoder.set_head(head.weight, head.bias)
    start = copy.deepcopy(encoder.module.state_dict())
    before = evaluate(encoder, images, "val")[0]
    low, middle, high = TRANSFORMER_RATES if encoder.is_transformer else CNN_RATES
    waiting = [rate] if rate else [middle, low, high] if encoder.name in TRIES_EVERY_RATE else [middle]
    tried: list[Result] = []
    while waiting:
        candidate = waiting.pop(0)
        encoder.module.load_state_dict(start)
        finite = fit(encoder, images, candidate, steps, seed)
        val, test = evaluate(encoder, images, "val"), evaluate(encoder, images, "test")
        tried.append(Result(*val, *test, not finite or _diverged(*val, images), steps, candidate))
        if rate is None and candidate == middle and not waiting and not val[0] >= before:
            waiting.append(low)
    names = ";".join(f"{r.rate:g}@{steps}:{r.val_accuracy:.4f}/{r.val_log_loss:.4f}" for r in tried)
    return replace(max(tried, key=_merit), tried="reused" if rate else names)


def _merit(result: Result) -> tuple[bool, float, float]:
    if math.isnan(result.val_accuracy):
        return False, -math.inf, -math.inf
    return not result.diverged, result.val_accuracy, -result.val_log_loss


def fit(encoder: Encoder, images: ImageSet, rate: float, steps: int, seed: int) -> bool:
    """Train in place on the train split; False when the loss stopped being finite.

    BatchNorm stays in eval mode: batches are small, and several encoders carry folded statistics
    that train mode would destroy.
    """
    model, rows = encoder.module, torch.from_numpy(images.rows("train"))
    pixels = images.pixels(encoder.size, encoder.card["interpolation"])
    labels = torch.from_numpy(images.labels).long()
    torch.manual_seed(seed)  # dropout
    rng = torch.Generator().manual_seed(seed)
    layout = memory_format(encoder)
    model.to(memory_format=layout).train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    parameters = [p for p in model.parameters() if p.requires_grad]
    if encoder.is_transformer:
        optimiser: torch.optim.Optimizer = torch.optim.AdamW(parameters, rate, weight_decay=0.05)
    else:
        optimiser = torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=1e-4)
    order = torch.empty(0, dtype=torch.long)
    for step in range(steps):
        if len(order) < BATCH:
            order = torch.cat([order, rows[torch.randperm(len(rows), generator=rng)]])
        batch, order = order[:BATCH], order[BATCH:]
        inputs = encoder.normalise(augment(pixels[batch], images.mirrored, rng)).contiguous(memory_format=layout)
        with torch.autocast("cpu", torch.bfloat16, enabled=encoder.name in IN_BFLOAT16):
            logits = model(inputs)
        loss = F.cross_entropy(logits.float(), labels[batch])
        if not torch.isfinite(loss):
            return False
        for group in optimiser.param_groups:
            group["lr"] = rate * schedule(step, steps)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimiser.step()
    return True


def schedule(step: int, steps: int) -> float:
    """Factor on the rate: linear warm-up over the first tenth, then a cosine to zero."""
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def augment(pixels: torch.Tensor, mirrored: bool, rng: torch.Generator) -> torch.Tensor:
    """Each image shifted by up to 1/16 of its side (edges repeated) and, where that keeps its
    class, mirrored with probability one half. uint8 (B, 3, S, S) in and out."""
    count, _, size, _ = pixels.shape
    reach = max(1, size // 16)
    shifts = torch.randint(-reach, reach + 1, (2, count, 1), generator=rng)
    y, x = (torch.arange(size) + shifts).clamp(0, size - 1)
    if mirrored:
        flip = torch.rand(count, 1, generator=rng) < 0.5
        x = torch.where(flip, x.flip(1), x)
    image = torch.arange(count)[:, None, None]
    return pixels.permute(0, 2, 3, 1)[image, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)


@torch.no_grad()
def evaluate(encoder: Encoder, images: ImageSet, split: str) -> tuple[float, float]:
    """Accuracy and log-loss on a split, in float32."""
    encoder.module.eval()
    rows = images.rows(split)
    pixels = images.pixels(encoder.size, encoder.card["interpolation"])[torch.from_numpy(rows)]
    layout = memory_format(encoder)
    logits = [
        encoder.module(encoder.normalise(chunk).contiguous(memory_format=layout)).float() for chunk in pixels.split(64)
    ]
    return figures(torch.cat(logits), images.labels[rows])


def memory_format(encoder: Encoder) -> torch.memory_format:
    """channels_last was at least as fast for every CNN measured."""
    return torch.contiguous_format if encoder.is_transformer else torch.channels_last


def precision(encoder: Encoder, strategy: str) -> str:
    """As recorded in the table."""
    layout = "" if encoder.is_transformer else "+channels_last"
    if strategy == "frozen":
        return "float32"
    return ("bfloat16" if encoder.name in IN_BFLOAT16 else "float32") + layout


def _diverged(val_accuracy: float, val_log_loss: float, images: ImageSet) -> bool:
    """Not finite, or no better than always answering the largest class and surer than a uniform guess."""
    largest = np.bincount(images.labels[images.rows("val")]).max() / len(images.rows("val"))
    if math.isnan(val_accuracy) or math.isnan(val_log_loss):
        return True
    return val_accuracy <= largest and val_log_loss > math.log(images.classes)
