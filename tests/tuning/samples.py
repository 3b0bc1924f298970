"""A small target and small real networks for tests of the fine-tuning stage and of saved models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from selector.core.contracts import Encoder, LabelKind, Target
from selector.core.preprocess import Preprocess
from selector.sources import registry as sources
from selector.tuning import TuningCandidate
from selector.zoo import ModelSpec

CLASSES = ("red", "green", "blue")


def small_target(train: int = 64, val: int = 32, test: int = 32, noise: int = 160, seed: int = 0) -> Target:
    """Images of 32 x 32 with a faint square in the color of their class."""
    n = train + val + test
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    images = rng.integers(0, noise, (n, 32, 32, 3)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[8:24, 8:24, label] += 40
    return Target(
        name="squares",
        modality="image",
        label_kind=LabelKind.CLASSES,
        items=list(images),
        names=[f"{i}.png" for i in range(n)],
        labels=labels,
        class_names=CLASSES,
        splits=np.array(["train"] * train + ["val"] * val + ["test"] * test),
        split_origin="given",
        hashes=tuple(f"{i:032x}" for i in range(n)),
        fingerprint=f"squares-{n}-{noise}-{seed}",
    )


class PixelsOf:
    """Decoded images of a target, resized; counts which items were read."""

    def __init__(self, target: Target, preprocess: Preprocess, read: set[int] | None = None) -> None:
        self.images = np.stack([np.asarray(item) for item in target.items])  # type: ignore[call-overload]
        self.size = preprocess.input_size[1:]
        self.read = read if read is not None else set()

    def batch(self, indices: np.ndarray) -> np.ndarray:
        self.read.update(np.asarray(indices).tolist())
        images = torch.from_numpy(self.images[indices]).permute(0, 3, 1, 2)
        resized = torch.nn.functional.interpolate(images, self.size)
        return np.ascontiguousarray(resized.permute(0, 2, 3, 1).numpy())


def pixels_for(target: Target, read: set[int] | None = None) -> Callable[[Preprocess], PixelsOf]:
    return lambda preprocess: PixelsOf(target, preprocess, read)


def spec_of(model: str, **changes: Any) -> ModelSpec:
    return ModelSpec.model_validate({"source": model, "weights": "none", "name": model.rpartition(":")[2], **changes})


SVHN = spec_of("python:selector.networks:svhn_cnn", preprocess={"input_size": [3, 32, 32]})
MNIST = spec_of("python:selector.networks:mnist_cnn", preprocess={"input_size": [3, 28, 28]})
VIT = spec_of("timm:test_vit", kwargs={"img_size": 64}, preprocess={"input_size": [3, 64, 64]})


def load(spec: ModelSpec) -> Encoder:
    return sources.get(spec.source_name).load(spec)


def candidate(spec: ModelSpec, load: Callable[[ModelSpec], Encoder] = load, **facts: Any) -> TuningCandidate:
    return TuningCandidate(spec.name, load=lambda: load(spec), identity=spec.feature_settings(), **facts)
