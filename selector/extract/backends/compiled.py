"""``torch.compile`` with frozen weights: fused kernels, where a compiler is found."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from selector.core.atomic import cache_folder
from selector.core.contracts import Encoder
from selector.core.errors import SourceError
from selector.extract.backends.eager import EagerBackend
from selector.extract.inputs import Batch, ready

logger = logging.getLogger(__name__)

# what the compiler's stages raise on a network that they cannot take
_REFUSALS = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    NotImplementedError,
    AssertionError,
    OSError,
    KeyError,
)


def why_not(device: str) -> str:
    """Why compiled networks cannot run here; empty when they can."""
    if device == "cpu":
        names = (os.environ.get("CXX", ""), "g++", "clang++", "c++")
        return "" if any(name and shutil.which(name) for name in names) else "no C++ compiler is found"
    if device.startswith("cuda"):
        return "" if importlib.util.find_spec("triton") else "triton is not installed"
    return f"torch does not compile for {device}"


class CompiledBackend(EagerBackend):
    """Compiled for one batch shape; compilation happens when it is opened.

    Raises:
        SourceError: the network cannot be compiled.
    """

    name = "compile"
    mixes = False  # kernels are fused in one precision

    def __init__(self, encoder: Encoder, device: str, precision: str, batch_size: int, cache: Path | None) -> None:
        super().__init__(encoder, device, precision, batch_size)
        if cache is not None:
            # the compiler runs what it finds in its cache: that is a folder of this user, not one of a store that others
            # write to, or that a run.json names
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
        self._compiled = torch.compile(Features(self.encoder), dynamic=False, options={"freezing": True})
        _, height, width = encoder.image_preprocess.input_size
        try:
            self.start(np.zeros((batch_size, height, width, 3), np.uint8))()
        except _REFUSALS as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise SourceError(f"{encoder.name} cannot be compiled by torch: {reason}") from error

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Features of a normalized batch."""
        features: torch.Tensor = self._compiled(batch)
        return features

    def resized(self, batch_size: int) -> None:
        """Another shape is compiled anew."""
        return


class Features(nn.Module):
    """The encoder as a module, so that its weights are seen as parameters and frozen."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.network = encoder.module
        self._encode = encoder.encode

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Features (B, D)."""
        return self._encode(batch)


class FrozenBackend:
    """Features through ``Encoder.encode`` on the CPU."""

    name = "eager"
    precision = "float32"
    mixed = False

    def __init__(self, encoder: Encoder, batch_size: int) -> None:
        self.batch_size = batch_size
        self._encoder = encoder

    def start(self, batch: Batch) -> Callable[[], NDArray[np.float32]]:
        """Features (B, D)."""
        with torch.inference_mode():
            prepared = ready(batch, self._encoder.preprocess)
            prepared = prepared.contiguous() if isinstance(prepared, torch.Tensor) else prepared
            features: NDArray[np.float32] = self._encoder.encode(prepared).float().numpy()
        return lambda: features

    def resized(self, batch_size: int) -> FrozenBackend:
        """Any batch size will do."""
        return FrozenBackend(self._encoder, batch_size)

    def in_precision(self, precision: str) -> FrozenBackend:
        """There is one precision only."""
        return self
