"""Ground truth of vector targets: a solved linear head on frozen features, then full fine-tuning from it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from benchmarks.suite import encoders, text_encoders, training
from benchmarks.suite.image_training import ImageLearner, augment
from benchmarks.suite.text_training import PIECE, TextLearner
from benchmarks.suite.training import Head
from benchmarks.tasks import vector_sets
from benchmarks.tasks.cells import Cell, Outcome
from benchmarks.tasks.vector_sets import MULTILABEL, VectorImages, VectorTexts

STEPS = {"houses": 60, "bccd_cells": 120, "coco128_super": 80, "atis_slots": 60}
REGRESSION_RATES = (
    0.003,
    0.01,
    0.03,
)  # of CNNs, SGD: at the suite's 0.003 counting cells was hardly learned in 150 steps
PENALTIES = tuple(10.0**k for k in range(-4, 5))  # of ridge, times the number of rows
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C
IMAGE_ENCODERS = tuple(n for n in encoders.CHEAP_FIRST if n not in ("usps_cnn", "mnist_cnn"))  # made for 16 and 28 px
TEXT_ENCODERS = tuple(text_encoders.DEPTHS)
IN_BFLOAT16 = frozenset(
    {
        "opennsfw",
        "face_dlib",
        "imgfocus_vits14",
        "untrained_resnet18",
        "cifar_resnet20",
        "cifar_resnet56",
        "mnv2_coral",
        "mnv2_coral_birds",
        "mnv2_coral_insects",
    }
)
"""Trained under bfloat16 autocast: measured faster on the machine of the results. Evaluation is float32."""


def cells(name: str, seed: int = 0) -> list[Cell]:
    """Frozen and full of every encoder, cheap encoders first."""
    if name == "atis_slots":
        task, names = MULTILABEL, TEXT_ENCODERS
    else:
        task, names = (MULTILABEL if name == "coco128_super" else vector_sets.REGRESSION), IMAGE_ENCODERS
    strategies = ("frozen", "full") if seed == 0 else ("full",)  # the linear probe has no seed
    return [Cell(task, name, encoder, "linear", strategy, seed) for encoder in names for strategy in strategies]


# ---------------------------------------------------------------------------- figures


def losses(kind: str, outputs: np.ndarray, truth: np.ndarray) -> float:
    """Mean binary cross-entropy of logits, or mean squared error of standardized values."""
    if kind == MULTILABEL:
        return float(
            F.binary_cross_entropy_with_logits(torch.from_numpy(outputs).double(), torch.from_numpy(truth).double())
        )
    return float(np.mean((outputs - truth) ** 2, dtype=np.float64))


def measured(kind: str, outputs: np.ndarray, truth: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    """Average precision of each label that has a positive and a negative, or R² of each value.

    R² is one minus squared error over squared distance from the mean of these very items.
    """
    found = {}
    for i, name in enumerate(names):
        y, x = truth[:, i], outputs[:, i]
        if kind != MULTILABEL:
            found[name] = float(1 - np.sum((y - x) ** 2) / np.sum((y - y.mean()) ** 2))
        elif 0 < y.sum() < len(y):
            found[name] = float(average_precision_score(y, x))
    return found


# ---------------------------------------------------------------------------- the linear-probe initialization


def solve(kind: str, x: np.ndarray, y: np.ndarray, train: np.ndarray, val: np.ndarray) -> Head:
    """Ridge, or a logistic regression a label, on standardized features; strength by validation loss; on raw features."""
    mean, std = x[train].mean(axis=0, dtype=np.float64), x[train].std(axis=0, dtype=np.float64)
    scale = 1 / np.where(std > 1e-6, std, np.inf)
    rows = (x - mean) * scale
    solver = _logistic if kind == MULTILABEL else _ridge
    best: tuple[float, Head] | None = None
    for strength in STRENGTHS if kind == MULTILABEL else PENALTIES:
        weight, bias = solver(rows[train], y[train], strength)
        raw = weight * scale
        head = Head(raw.astype(np.float32), (bias - raw @ mean).astype(np.float32))
        loss = losses(kind, head.logits(x[val]).numpy(), y[val])
        if best is None or loss < best[0]:
            best = loss, head
    assert best is not None
    return best[1]


def _ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Weight (T, D) and bias (T,); solved over rows, which are fewer than features."""
    level = y.mean(axis=0, dtype=np.float64)
    dual = np.linalg.solve(x @ x.T + penalty * len(x) * np.eye(len(x)), y - level)
    return dual.T @ x, level


def _logistic(x: np.ndarray, y: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """One against the rest; a label that is constant in these rows gets its smoothed log-odds as bias."""
    weight, bias = np.zeros((y.shape[1], x.shape[1])), np.zeros(y.shape[1])
    for i, column in enumerate(y.T):
        if 0 < column.sum() < len(column):
            model = LogisticRegression(C=strength, max_iter=500).fit(x, column > 0)
            weight[i], bias[i] = model.coef_[0], model.intercept_[0]
        else:
            share = (column.sum() + 0.5) / (len(column) + 1)
            bias[i] = math.log(share / (1 - share))
    return weight, bias


# ---------------------------------------------------------------------------- learners


@dataclass(frozen=True)
class VectorImageLearner(ImageLearner):
    """As the suite's, with the loss of a vector; ``scaled`` is what the network learns (N, outputs)."""

    scaled: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    @property
    def rates(self) -> tuple[float, float, float]:
        regression = self.images.kind != MULTILABEL  # type: ignore[attr-defined]
        return REGRESSION_RATES if regression and not self.encoder.is_transformer else super().rates

    @property
    def precision(self) -> str:
        layout = "" if self.encoder.is_transformer else "+channels_last"
        return ("bfloat16" if self.encoder.name in IN_BFLOAT16 else "float32") + layout

    def backward(self, rows: np.ndarray, rng: torch.Generator) -> float:
        pixels = augment(self._pixels[torch.from_numpy(rows)], self.images.mirrored, rng)
        inputs = self.encoder.normalize(pixels).contiguous(memory_format=self._layout)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.encoder.name in IN_BFLOAT16):
            outputs = self.module(inputs)
        loss = _loss(self.images.kind, outputs.float(), torch.from_numpy(self.scaled[rows]))  # type: ignore[attr-defined]
        loss.backward()
        return float(loss.detach())


class VectorTextLearner(TextLearner):
    """As the suite's, with the loss of several labels."""

    def backward(self, rows: np.ndarray, rng: torch.Generator) -> float:
        by_length = rows[np.argsort(self._tokens.lengths[rows], kind="stable")]
        total = 0.0
        for start in range(0, len(rows), PIECE):
            piece = by_length[start : start + PIECE]
            with torch.autocast("cpu", torch.bfloat16):
                outputs = self._module(self._batch(piece))
            loss = (
                _loss(MULTILABEL, outputs.float(), torch.from_numpy(self._data.labels[piece])) * len(piece) / len(rows)
            )
            loss.backward()
            total += float(loss.detach())
        return total


def _loss(kind: str, outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return F.binary_cross_entropy_with_logits(outputs, truth) if kind == MULTILABEL else F.mse_loss(outputs, truth)


# ---------------------------------------------------------------------------- one encoder


@lru_cache(maxsize=1)
def load_set(name: str, assets: Path) -> VectorImages | VectorTexts:
    return (
        vector_sets.atis_slots(assets / "text") if name == "atis_slots" else vector_sets.IMAGES[name](assets / "data")
    )


def measure(cell: Cell, assets: Path, steps: int | None = None) -> Outcome:
    """Frozen: the linear probe itself. Full: all weights from there, the middle rate, and the lower one as well when
    the middle one ends above the frozen validation loss; the lower validation loss is taken."""
    steps = steps or STEPS[cell.set]
    data = load_set(cell.set, assets)
    train, val, test = (data.rows(part) for part in ("train", "val", "test"))
    scaled, mean, std = standardized(data, train)
    learner = open_learner(cell.encoder, data, scaled, assets)
    features, _ = learner.features()
    head = solve(data.kind, features, scaled, train, val)
    facts: dict[str, Any] = {"size": learner.size, "n_train": len(train), "n_val": len(val), "n_test": len(test)}

    def outcome(outputs: Mapping[str, np.ndarray], **more: Any) -> Outcome:
        found = {
            p: measured(data.kind, outputs[p] * std + mean, data.labels[data.rows(p)], data.outputs) for p in outputs
        }
        means = {p: float(np.mean(list(values.values()))) for p, values in found.items()}
        metric = "map" if data.kind == MULTILABEL else "r2"
        return Outcome(metric, means["val"], means["test"], found["test"], facts | more)

    if cell.strategy == "frozen":
        outputs = {p: head.logits(features[data.rows(p)]).numpy() for p in ("val", "test")}
        return outcome(outputs, precision=learner.features_precision)
    learner.set_head(head)
    start = copy.deepcopy(learner.module.state_dict())
    before = losses(data.kind, head.logits(features[val]).numpy(), scaled[val])
    low, middle, _ = learner.rates
    best: tuple[float, float, dict[str, np.ndarray]] | None = None
    tried = []
    for rate in (middle, low):
        if best is not None and best[0] <= before:
            break
        learner.module.load_state_dict(start)
        finite = training.fit(learner, train, rate, steps, cell.seed)
        outputs = {p: learner.logits(data.rows(p)).numpy() for p in ("val", "test")}
        loss = losses(data.kind, outputs["val"], scaled[val]) if finite else math.inf
        tried.append(f"{rate:g}@{steps}:{loss:.4f}")
        if math.isfinite(loss) and (best is None or loss < best[0]):
            best = loss, rate, outputs
    if best is None:
        raise FloatingPointError(f"no rate gave a finite loss: {';'.join(tried)}")
    return outcome(best[2], steps=steps, rate=f"{best[1]:g}", rates_tried=";".join(tried), precision=learner.precision)


def standardized(data: VectorImages | VectorTexts, train: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the network learns, and the mean and deviation that lead back; labels stay 0 and 1."""
    if data.kind == MULTILABEL:
        return data.labels, np.zeros(1, np.float32), np.ones(1, np.float32)
    mean, std = data.labels[train].mean(axis=0), data.labels[train].std(axis=0)
    return ((data.labels - mean) / std).astype(np.float32), mean, std


def open_learner(
    name: str, data: VectorImages | VectorTexts, scaled: np.ndarray, assets: Path
) -> VectorImageLearner | VectorTextLearner:
    """The encoder on the items of the set."""
    if isinstance(data, VectorTexts):
        return VectorTextLearner(text_encoders.specs()[name], data)
    models = assets / "models"
    return VectorImageLearner(encoders.load(name, encoders.cards(models)[name], models), data, scaled=scaled)
