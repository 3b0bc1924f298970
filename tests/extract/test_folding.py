"""Batch norms folded into convolutions: the same features, and nothing where that is not so."""

from typing import Any

import pytest
import torch
from torch import nn

from selector import sources
from selector.core.contracts import Encoder
from selector.core.preprocess import Preprocess
from selector.extract.backends.eager import placed
from selector.extract.backends.folding import folded
from selector.zoo import ModelSpec


class Small(Encoder):
    """Any network on images of 16 pixels, and what is read of it."""

    def __init__(self, module: nn.Module, reading: str = "features") -> None:
        self.module = stirred(module)
        self.name = "small"
        self.preprocess = Preprocess(input_size=(3, 16, 16))
        self.identity = {"reading": reading}

    def encode(self, batch: Any) -> torch.Tensor:
        assert self.module is not None
        return self.module(batch).flatten(1)


class Inside(Small):
    """Reads the output of the first convolution, as a reading of a layer does."""

    def encode(self, batch: Any) -> torch.Tensor:
        found: list[torch.Tensor] = []
        hook = self.module.conv.register_forward_hook(lambda *parts: found.append(parts[2]))
        try:
            self.module(batch)
        finally:
            hook.remove()
        return found[0].flatten(1)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.second, self.norm2 = nn.Conv2d(8, 4, 3, groups=2, bias=False), nn.BatchNorm2d(4, affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm2(self.second(self.norm(self.conv(x)).relu()))


class Branched(Plain):
    """The convolution's output is used beside its norm as well."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.conv(x)
        return self.norm2(self.second(self.norm(first).relu() + first))


class Shared(Plain):
    """One norm after two convolutions: it has no single set of weights to go into."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Conv2d(3, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm2(self.second(self.norm(self.conv(x)).relu() + self.norm(self.other(x))))


class Curious(Plain):
    """Looks into its own norm."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.norm.weight.mean()


def stirred(module: nn.Module) -> nn.Module:
    """Norms whose statistics are not those of a fresh network, which do nothing."""
    generator = torch.Generator().manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.copy_(torch.randn(norm.num_features, generator=generator) / 3)
            norm.running_var.copy_(torch.rand(norm.num_features, generator=generator) + 0.5)
    return module.eval()


def norms(module: nn.Module) -> int:
    return sum(isinstance(child, nn.BatchNorm2d) for child in module.modules())


@pytest.mark.parametrize(
    ("name", "left"), [("test_resnet", 0), ("test_efficientnet", 0), ("test_byobnet", 0), ("densenet121", 62)]
)
def test_networks_of_timm_give_the_same_features(name: str, left: int) -> None:
    """Norms before a convolution (DenseNet) stay."""
    encoder = sources.registry.get("timm").load(ModelSpec(name=name, source=f"timm:{name}", weights="none"))
    stirred(encoder.module)
    before = {key: value.clone() for key, value in encoder.module.state_dict().items()}
    quick = placed(encoder, torch.device("cpu"), torch.float32)
    batch = torch.randn(3, *encoder.preprocess.input_size)
    with torch.inference_mode():
        expected, found = encoder.encode(batch), quick.encode(batch)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert norms(encoder.module) > left
    assert norms(quick.module) == left
    assert all(torch.equal(value, before[key]) for key, value in encoder.module.state_dict().items())


def test_every_norm_after_a_convolution_goes_and_is_made_once() -> None:
    encoder = Small(Plain())
    assert norms(folded(encoder)) == 0
    assert folded(encoder) is folded(encoder)


@pytest.mark.parametrize(("network", "left"), [(Branched, 2), (Shared, 1), (Curious, 2)])
def test_a_network_that_folding_would_change_is_left_alone(network: type[nn.Module], left: int) -> None:
    encoder = Small(network())
    quick = folded(encoder)
    batch = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(quick(batch), encoder.module(batch), rtol=1e-4, atol=1e-5)
    assert norms(quick) == left


def test_a_reading_inside_of_what_is_folded_keeps_its_network() -> None:
    whole = Small(Plain())
    inside = Inside(Plain(), "conv")
    inside.module = whole.module
    assert norms(folded(whole)) == 0
    assert folded(inside) is whole.module
