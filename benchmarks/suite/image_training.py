"""An image encoder on a set of images: its pixels, its optimizer, its augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.suite.encoders import Encoder
from benchmarks.suite.image_sets import ImageSet
from benchmarks.suite.training import Head

CNN_RATES = (0.0003, 0.003, 0.03)  # SGD, momentum 0.9
TRANSFORMER_RATES = (6e-6, 3e-5, 1.5e-4)  # AdamW
TRIES_EVERY_RATE = frozenset({"usps_cnn", "mnist_cnn", "mlc_resnet8", "cifar_resnet20", "svhn_cnn", "mnv1_025"})

# bfloat16 autocast is used for training where it was measured faster on the machine of the results
# (median of forward and backward on 32 images); features and every evaluation are float32.
IN_BFLOAT16 = frozenset(
    {"opennsfw", "face_dlib", "imgfocus_vits14", "untrained_resnet18", "cifar_resnet56", "svhn_cnn"}
)


@dataclass(frozen=True)
class ImageLearner:
    """See ``training.Learner``."""

    encoder: Encoder
    images: ImageSet
    features_precision: str = "float32"

    @property
    def module(self) -> nn.Module:
        return self.encoder.module

    @property
    def size(self) -> int:
        return self.encoder.size

    @property
    def rates(self) -> tuple[float, float, float]:
        return TRANSFORMER_RATES if self.encoder.is_transformer else CNN_RATES

    @property
    def tries_every_rate(self) -> bool:
        return self.encoder.name in TRIES_EVERY_RATE

    @property
    def precision(self) -> str:
        layout = "" if self.encoder.is_transformer else "+channels_last"
        return ("bfloat16" if self.encoder.name in IN_BFLOAT16 else "float32") + layout

    @property
    def _layout(self) -> torch.memory_format:
        """channels_last was at least as fast for every CNN measured."""
        return torch.contiguous_format if self.encoder.is_transformer else torch.channels_last

    @property
    def _pixels(self) -> torch.Tensor:
        return self.images.pixels(self.encoder.size, self.encoder.card["interpolation"])

    def features(self) -> tuple[np.ndarray, np.ndarray | None]:
        return self.encoder.features(self._pixels)

    def set_head(self, head: Head) -> None:
        self.encoder.set_head(head.weight, head.bias)

    def train_mode(self) -> None:
        """BatchNorm stays in eval mode: batches are small, and several encoders carry folded statistics
        that train mode would destroy."""
        self.module.to(memory_format=self._layout).train()  # type: ignore[call-overload]
        for module in self.module.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()

    def optimizer(self, parameters: Sequence[nn.Parameter], rate: float) -> torch.optim.Optimizer:
        if self.encoder.is_transformer:
            return torch.optim.AdamW(parameters, rate, weight_decay=0.05)
        return torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=1e-4)

    def backward(self, rows: np.ndarray, rng: torch.Generator) -> float:
        pixels = augment(self._pixels[torch.from_numpy(rows)], self.images.mirrored, rng)
        inputs = self.encoder.normalize(pixels).contiguous(memory_format=self._layout)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.encoder.name in IN_BFLOAT16):
            logits = self.module(inputs)
        loss = F.cross_entropy(logits.float(), torch.from_numpy(self.images.labels[rows]).long())
        loss.backward()
        return float(loss.detach())

    def forward(self, rows: np.ndarray) -> torch.Tensor:
        inputs = self.encoder.normalize(self._pixels[torch.from_numpy(rows)])
        return self.module(inputs.contiguous(memory_format=self._layout))  # type: ignore[no-any-return]

    @torch.no_grad()
    def logits(self, rows: np.ndarray) -> torch.Tensor:
        self.module.eval()
        pixels = self._pixels[torch.from_numpy(rows)]
        parts = [
            self.module(self.encoder.normalize(chunk).contiguous(memory_format=self._layout)).float()
            for chunk in pixels.split(64)
        ]
        return torch.cat(parts)


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
