"""The small digit networks of the shipped zoo, whose weights come in the pip package ``ccexam``.

They have no paper: their layout was read from that package's MIT-licensed code and written anew.
Each follows the part of timm's interface that sources use: ``forward_features``,
``forward_head(pre_logits=)``, ``get_classifier`` and ``reset_classifier``. Layers are created in
the order of the weight files, whose keys are matched by position.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["DigitCNN", "SvhnCNN", "mnist_cnn", "svhn_cnn", "usps_cnn"]


class _Classifier(nn.Module):
    """Convolutions, then ``fc`` (the features), then ``head``."""

    fc: nn.Linear
    drop: nn.Dropout
    head: nn.Linear | nn.Identity

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.num_classes = num_classes

    def get_classifier(self) -> nn.Module:
        """The head: linear on the features, or an identity when there is none."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """A new head for ``num_classes`` outputs; 0 removes it."""
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """Spatial features (B, C, h, w)."""
        raise NotImplementedError

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits, or the hidden units before the head (B, D) with ``pre_logits``."""
        hidden = F.relu(self.fc(self.drop(features.flatten(1))))
        return hidden if pre_logits else self.head(self.drop(hidden))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        return self.forward_head(self.forward_features(x))


class DigitCNN(_Classifier):
    """Two 3x3 convolutions (32, 64) with 2x2 max pooling, 128 hidden units; RGB is averaged to gray.

    Args:
        size: side of the square input; it is fixed.
        norm: batch normalization after each convolution.
        dropout: before and after the hidden units, in training.
        num_classes: width of the head, 0 for none.
    """

    def __init__(self, size: int, norm: bool, dropout: float = 0.0, num_classes: int = 10) -> None:
        super().__init__(128, num_classes)
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(32) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(64) if norm else nn.Identity()
        self.fc = nn.Linear(64 * (size // 4) ** 2, 128)
        self.drop = nn.Dropout(dropout)
        self.reset_classifier(num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Spatial features (B, 64, size / 4, size / 4)."""
        gray = x.mean(1, keepdim=True) if x.shape[1] == 3 else x
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(gray))), 2)
        return F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)


class _Stage(nn.Module):
    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)


class SvhnCNN(_Classifier):
    """Three stages of two 3x3 convolutions (32, 64, 128), 256 hidden units; 32x32 RGB, fixed."""

    def __init__(self, dropout: float = 0.3, num_classes: int = 10) -> None:
        super().__init__(256, num_classes)
        self.stages = nn.Sequential(_Stage(3, 32), _Stage(32, 64), _Stage(64, 128))
        self.fc = nn.Linear(128 * 4 * 4, 256)
        self.drop = nn.Dropout(dropout)
        self.reset_classifier(num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Spatial features (B, 128, 4, 4)."""
        features: torch.Tensor = self.stages(x)
        return features


def mnist_cnn(num_classes: int = 10) -> DigitCNN:
    """28x28; weights ``weights/mnist.pth``."""
    return DigitCNN(28, norm=False, num_classes=num_classes)


def usps_cnn(num_classes: int = 10) -> DigitCNN:
    """16x16; weights ``weights/usps.pth``."""
    return DigitCNN(16, norm=True, dropout=0.3, num_classes=num_classes)


def svhn_cnn(num_classes: int = 10) -> SvhnCNN:
    """32x32; weights ``weights/svhn.pth``."""
    return SvhnCNN(num_classes=num_classes)
