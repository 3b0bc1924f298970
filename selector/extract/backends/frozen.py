"""Networks that are not torch (ONNX): whatever their encoder runs them with, in float32."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from selector.core.contracts import Encoder
from selector.extract.inputs import Batch, ready


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
