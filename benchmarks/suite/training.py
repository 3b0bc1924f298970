"""One cell of a matrix: the linear-probe initialization on frozen features, then full fine-tuning from it."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import nn

from benchmarks.suite.sets import LabeledSet

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C; smaller is a stronger penalty
BATCH = 32
CLIP = 1.0


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


class Learner(Protocol):
    """An encoder on the items of one set; rows are positions in that set.

    Attributes:
        size: pixels a side, or tokens at most.
        rates: low, middle, high.
        tries_every_rate: whether all three are tried.
        precision, features_precision: of training and evaluation, and of the frozen features, as recorded in the table.
    """

    size: int
    rates: tuple[float, float, float]
    tries_every_rate: bool
    precision: str
    features_precision: str

    @property
    def module(self) -> nn.Module:
        """What is trained, head included."""
        ...

    def features(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Frozen features (N, D) in float32, and the logits of the source task (N, C_s) where there are any."""
        ...

    def set_head(self, head: Head) -> None:
        """Put a linear layer with these values on the features."""
        ...

    def train_mode(self) -> None: ...

    def optimizer(self, parameters: Sequence[nn.Parameter], rate: float) -> torch.optim.Optimizer: ...

    def backward(self, rows: np.ndarray, rng: torch.Generator) -> float:
        """Mean loss of a batch, its gradients added to the parameters; ``rng`` is for augmentation."""
        ...

    def forward(self, rows: np.ndarray) -> torch.Tensor:
        """(rows, C) with gradients, without augmentation, in the mode that the module is in."""
        ...

    def logits(self, rows: np.ndarray) -> torch.Tensor:
        """(rows, C) in float32, in eval mode and without gradients."""
        ...


def solve_head(features: np.ndarray, labels: np.ndarray, train: np.ndarray, val: np.ndarray, classes: int) -> Head:
    """L2 logistic regression on standardized features, the strength with the lowest validation
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


def frozen(head: Head, features: np.ndarray, data: LabeledSet) -> Result:
    """The linear probe itself: nothing else moves."""
    val, test = data.rows("val"), data.rows("test")
    return Result(
        *figures(head.logits(features[val]), data.labels[val]), *figures(head.logits(features[test]), data.labels[test])
    )


def full(learner: Learner, data: LabeledSet, head: Head, *, steps: int, seed: int, rate: float | None = None) -> Result:
    """All weights, from the linear-probe initialization; the best of a few rates, each trained to the end.

    Learners that try every rate do. The others take the middle one, and the lower one as well when
    the middle one ends below the frozen head on the validation split. The highest validation
    accuracy wins, log-loss breaks ties; the test split is read for the winner. With ``rate`` given
    nothing else is tried.
    """
    learner.set_head(head)
    start = copy.deepcopy(learner.module.state_dict())

    def measure(split: str) -> tuple[float, float]:
        rows = data.rows(split)
        return figures(learner.logits(rows), data.labels[rows])

    def attempt(candidate: float) -> Result:
        learner.module.load_state_dict(start)
        finite = fit(learner, data.rows("train"), candidate, steps, seed)
        val, test = measure("val"), measure("test")
        return Result(*val, *test, not finite or _diverged(*val, data), steps, candidate)

    low, middle, high = learner.rates
    if rate is not None:
        return replace(attempt(rate), tried="reused")
    before = measure("val")[0]
    waiting = [middle, low, high] if learner.tries_every_rate else [middle]
    tried: list[Result] = []
    while waiting:
        candidate = waiting.pop(0)
        tried.append(attempt(candidate))
        if candidate == middle and not waiting and not tried[0].val_accuracy >= before:
            waiting.append(low)
    names = ";".join(f"{r.rate:g}@{steps}:{r.val_accuracy:.4f}/{r.val_log_loss:.4f}" for r in tried)
    return replace(max(tried, key=_merit), tried=names)


def _merit(result: Result) -> tuple[bool, float, float]:
    if math.isnan(result.val_accuracy):
        return False, -math.inf, -math.inf
    return not result.diverged, result.val_accuracy, -result.val_log_loss


def fit(learner: Learner, train: np.ndarray, rate: float, steps: int, seed: int) -> bool:
    """Train in place on the rows ``train``; False when the loss stopped being finite."""
    rows = torch.from_numpy(train)
    torch.manual_seed(seed)  # dropout
    rng = torch.Generator().manual_seed(seed)
    learner.train_mode()
    parameters = [p for p in learner.module.parameters() if p.requires_grad]
    optimizer = learner.optimizer(parameters, rate)
    order = torch.empty(0, dtype=torch.long)
    for step in range(steps):
        if len(order) < BATCH:
            order = torch.cat([order, rows[torch.randperm(len(rows), generator=rng)]])
        batch, order = order[:BATCH], order[BATCH:]
        for group in optimizer.param_groups:
            group["lr"] = rate * schedule(step, steps)
        optimizer.zero_grad()
        if not math.isfinite(learner.backward(batch.numpy(), rng)):
            return False
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
    return True


def schedule(step: int, steps: int) -> float:
    """Factor on the rate: linear warm-up over the first tenth, then a cosine to zero."""
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def _diverged(val_accuracy: float, val_log_loss: float, data: LabeledSet) -> bool:
    """Not finite, or no better than always answering the largest class and surer than a uniform guess."""
    largest = np.bincount(data.labels[data.rows("val")]).max() / len(data.rows("val"))
    if math.isnan(val_accuracy) or math.isnan(val_log_loss):
        return True
    return val_accuracy <= largest and val_log_loss > math.log(data.classes)
