"""Feature maps of the suite's encoders, fine to coarse, from one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import architectures
from benchmarks.suite import encoders
from benchmarks.suite.encoders import Encoder

MOST = 4  # maps an encoder gives, the deepest ones
TRANSFORMER_BLOCKS = (2, 5, 8, 11)
SMALL_INPUT = 64  # networks made for at most this many pixels read the image at half its side
Stage = Callable[[torch.Tensor], torch.Tensor]


class MapNetwork(nn.Module):
    """Pixels in 0..1 (B, 3, H, W) -> maps, fine to coarse, at most ``MOST``.

    A convolutional network gives the last map of each of its resolutions (before a wide last 1 x 1 convolution
    where it has one); a plain transformer four of its blocks at the one resolution it has.

    Attributes:
        channels: of each map.
        strides: input pixels a cell of each map, as measured on an image of 192 x 256.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.name, self.transformer = encoder.name, encoder.is_transformer
        self.body = encoder.module
        if hasattr(self.body, "reset_classifier"):
            self.body.reset_classifier(0)
        self.half = encoder.card["input_size"][1] <= SMALL_INPUT
        for key in ("mean", "std"):
            self.register_buffer(key, torch.tensor(encoder.card[key]).view(1, 3, 1, 1), persistent=False)
        self.mean: torch.Tensor
        self.std: torch.Tensor
        with torch.no_grad():
            found = self.eval()(torch.zeros(1, 3, 192, 256))
        self.channels = [m.shape[1] for m in found]
        self.strides = [192 / m.shape[2] for m in found]

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        x = (pixels - self.mean) / self.std
        if self.half:
            x = F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True)
        if self.transformer:
            patch = 14
            size = [max(1, round(side / patch)) * patch for side in x.shape[-2:]]
            x = F.interpolate(x, size=size, mode="bilinear", antialias=True)
            return list(self.body.forward_intermediates(x, indices=TRANSFORMER_BLOCKS, intermediates_only=True))  # type: ignore[operator]
        if hasattr(self.body, "forward_intermediates"):
            return list(self.body.forward_intermediates(x, intermediates_only=True))[-MOST:]  # type: ignore[operator]
        return last_of_each_size(stages(self.body), x)[-MOST:]

    def train(self, mode: bool = True) -> MapNetwork:
        """BatchNorm stays in eval mode, as in the suite: several encoders carry folded statistics."""
        super().train(mode)
        for module in self.body.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self


def last_of_each_size(steps: Sequence[Stage], x: torch.Tensor) -> list[torch.Tensor]:
    """Run the steps one after the other; of all outputs of one height, the last."""
    found: dict[int, torch.Tensor] = {}
    for step in steps:
        x = step(x)
        found[x.shape[-2]] = x
    return list(found.values())


def stages(body: nn.Module) -> list[Stage]:
    """The steps of a network of ``benchmarks.architectures``, each with its activation."""
    if isinstance(body, architectures.MobileNetV1):
        blocks = list(body.blocks)
        first: list[Stage] = [lambda x: F.relu6(body.stem(x))]
        return first + [lambda x, b=b: F.relu6(b["pw"](F.relu6(b["dw"](x)))) for b in blocks]  # type: ignore[misc]
    if isinstance(body, architectures.MobileNetEdgeTPU075):
        return [lambda x: body.stem_project(F.relu(body.stem(x))), *body.blocks]
    if isinstance(body, architectures.CifarResNet):
        return [lambda x: F.relu(body.bn1(body.conv1(x))), body.layer1, body.layer2, body.layer3]
    if isinstance(body, architectures.ResNet8):
        return [lambda x: F.relu(body.stem(x)), body.stack1, body.stack2, body.stack3]
    if isinstance(body, architectures.Tiniest):
        return [lambda x: body.stage1(body.norm1(body.conv1(x))), lambda x: body.stage2(body.norm2(body.down(x)))]
    if isinstance(body, architectures.OpenNSFW):

        def stem(x: torch.Tensor) -> torch.Tensor:
            x = F.relu(body.conv1(x.flip(1) * 255.0 - body.mean_bgr))
            return F.max_pool2d(architectures.pad_same(x, 3, 2), 3, 2)

        return [stem, *body.stages]
    if isinstance(body, architectures.DlibFaceResNet29):
        return [lambda x: F.max_pool2d(F.relu(body.stem(x)), 3, 2), *body.blocks]
    raise TypeError(f"no maps are known for {type(body).__name__}")


def load(name: str, assets: Path) -> MapNetwork:
    """A pretrained encoder of the suite by its name."""
    models = assets / "models"
    return MapNetwork(encoders.load(name, encoders.cards(models)[name], models))
