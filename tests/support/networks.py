"""Networks for tests of the ``python:`` source: one that sees, one that is blind, some that fail."""

import ctypes
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Orientation(nn.Module):
    """Gradient energy in x, in y and along the diagonals: tells stripes of different angle apart."""

    def __init__(self) -> None:
        super().__init__()
        kernels = torch.tensor([[[0, 0], [-1, 1]], [[0, -1], [0, 1]], [[-1, 0], [0, 1]], [[0, -1], [1, 0]]])
        self.conv = nn.Conv2d(1, 4, 2, bias=False)
        self.conv.weight.data = kernels[:, None].float()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        smooth = nn.functional.avg_pool2d(x.mean(1, keepdim=True), 3, 1)
        return self.conv(smooth).square().mean((2, 3))


class Blind(nn.Module):
    """Features that depend on the image but say nothing about its stripes: a hash-like noise."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        corners = x[:, :, :2, :2].flatten(1)
        return self.weight * torch.sin(1e3 * corners)


class EndsWhenTrained(Blind):
    """Gives features, and ends the process at the first step of a training."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            os._exit(0)
        return super().forward(x)


class EndsWhenSaved(Orientation):
    """Ends the process when it is saved."""

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        if any(frame.name == "save_model" for frame in traceback.extract_stack()):
            os._exit(0)
        return super().state_dict(*args, **kwargs)


class Slow(Blind):
    """Takes a while for every batch, however fast the machine."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.5)
        return super().forward(x)


class GivesNaN(Blind):
    """A network whose features are not finite, as a broken checkpoint gives them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * float("nan")


class OverflowsInside(nn.Module):
    """An inner layer that is not finite on some images, under an output that is."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 4, 3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.inner(torch.where(x.mean((1, 2, 3), keepdim=True) > 0.17, torch.inf, x))
        return torch.nan_to_num(inner, posinf=1.0, neginf=-1.0).mean((2, 3))


def overflows_inside() -> nn.Module:
    torch.manual_seed(0)
    return OverflowsInside()


orientation, blind, slow, gives_nan = Orientation, Blind, Slow, GivesNaN
"""Factories are functions in most zoos: these have names like one."""


def explodes() -> nn.Module:
    raise RuntimeError("the factory exploded")


class Drops(Blind):
    """Gives two rows too few for every batch of more than four."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = super().forward(x)
        return features[:-2] if len(x) > 4 else features


class Widens(Blind):
    """Gives more features the larger the batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = super().forward(x)
        return features if len(x) <= 4 else torch.cat([features, features], 1)


class Noisy(Blind):
    """Dropout that is never off."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(super().forward(x), 0.5, training=True)


class Exits(Blind):
    """Calls sys.exit in its forward pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sys.exit(0)


class Segfaults(Blind):
    """Reads memory that is not its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ctypes.string_at(0)
        return super().forward(x)


class Hangs(Blind):
    """Never comes back."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if told := os.environ.get("SELECTOR_TEST_HANGS"):
            Path(told).touch()
        while True:
            time.sleep(1)


class Grows(Blind):
    """Takes memory until something ends it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        taken = []
        while True:
            taken.append(torch.ones(25_000_000))
            time.sleep(0.02)


class Prints(Orientation):
    """Prints on stdout, with Python and past it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        print("printed by a network")  # noqa: T201
        os.write(1, b"printed past python\n")
        return super().forward(x)


class Moves(Orientation):
    """Changes the working folder."""

    def __init__(self) -> None:
        super().__init__()
        os.chdir("/")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        os.chdir("/")
        return super().forward(x)


class Forks(Orientation):
    """Forks in its first forward pass; both processes go on."""

    forked = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.forked:
            self.forked = True
            os.fork()
        return super().forward(x)


class ForksAndDies(Orientation):
    """Forks, past Python's own hooks, and kills itself: its copy would go on in its place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if ctypes.CDLL(None).fork() != 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


class Multiplies(Orientation):
    """Forks without end; its copies leave the process group and sleep."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while os.fork() != 0:
            time.sleep(0.002)
        os.setsid()
        time.sleep(600)
        return super().forward(x)


class HangsWithACopy(Hangs):
    """Forks, and neither process comes back."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        os.fork()
        return super().forward(x)
