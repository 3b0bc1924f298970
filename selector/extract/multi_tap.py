"""Several readings of one network (layers, poolings) as one encoder: one forward pass gives them all."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from selector.core.contracts import Encoder

if TYPE_CHECKING:
    import torch
    from torch import nn

logger = logging.getLogger(__name__)


class Around(Encoder):
    """An encoder with other outputs; a backend moves the network of the one inside."""

    def __init__(self, base: Encoder, identity: dict[str, Any], num_features: int) -> None:
        self._base = base
        self.name, self.preprocess = base.name, base.preprocess
        self.identity = identity
        self.num_features, self.num_parameters = num_features, base.num_parameters
        self.blocks = base.blocks

    @property
    def module(self) -> nn.Module | None:
        """The network; a moved copy is put in its place."""
        return self._base.module

    @module.setter
    def module(self, module: nn.Module | None) -> None:
        self._base = copy.copy(self._base)
        self._base.module = module

    def probe(self) -> Any:
        """See ``contracts.Encoder``."""
        return self._base.probe()


class Together(Around):
    """Readings of one network side by side; a reading is split off with ``parts``.

    Args:
        readings: at least one; all of the same network (``Encoder.reading``).
    """

    def __init__(self, readings: Sequence[Encoder]) -> None:
        # addresses compiled networks: a graph with other outputs is another one
        identity = {"together": [reading.identity for reading in readings]}
        super().__init__(readings[0], identity, sum(reading.num_features for reading in readings))
        self.outputs = tuple(readings)

    def encode(self, batch: Any) -> torch.Tensor:
        """Features (B, sum of D), the readings side by side."""
        import torch

        return torch.cat(self._base.encode_variants(batch, self.outputs), 1)


def parts(encoder: Encoder, rows: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Features (B, sum of D) of an encoder cut into those of each reading; one part where there are no readings."""
    if not encoder.outputs:
        return [rows]
    ends = np.cumsum([reading.num_features for reading in encoder.outputs])
    return np.split(rows, ends[:-1], axis=1)


def agree(together: Together) -> bool:
    """Whether one pass gives what each reading gives alone, on test items.

    It does not for networks that change a layer's output in place afterwards.
    """
    import torch

    batch = together.probe()
    with torch.inference_mode():
        whole = together.encode(batch).numpy()
        for reading, part in zip(together.outputs, parts(together, whole), strict=True):
            alone = reading.encode(batch).numpy()
            if not np.allclose(part, alone, rtol=1e-4, atol=1e-5 * float(np.abs(alone).max())):
                logger.info("%s: its readings are not the same in one pass; they are extracted apart", reading.name)
                return False
    return True
