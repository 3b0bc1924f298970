"""Several feature variants of one network (layers, poolings) as one encoder: one forward pass gives them all."""

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

    from selector.extract.inputs import NetworkInput

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
    """Variants of one network side by side; a variant is split off with ``parts``.

    Args:
        variants: at least one; all of the same network (``Encoder.variant``).
    """

    def __init__(self, variants: Sequence[Encoder]) -> None:
        # addresses compiled networks: a graph with other outputs is another one
        identity = {"together": [variant.identity for variant in variants]}
        super().__init__(variants[0], identity, sum(variant.num_features for variant in variants))
        self.outputs = tuple(variants)

    def encode(self, batch: NetworkInput) -> torch.Tensor:
        """Features (B, sum of D), the variants side by side."""
        import torch

        return torch.cat(self._base.encode_variants(batch, self.outputs), 1)


def parts(encoder: Encoder, rows: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Features (B, sum of D) of an encoder cut into those of each variant; one part where there are no variants."""
    if not encoder.outputs:
        return [rows]
    ends = np.cumsum([variant.num_features for variant in encoder.outputs])
    return np.split(rows, ends[:-1], axis=1)


def agree(together: Together) -> bool:
    """Whether one pass gives what each variant gives alone, on test items.

    It does not for networks that change a layer's output in place afterwards.
    """
    import torch

    batch = together.probe()
    with torch.inference_mode():
        whole = together.encode(batch).numpy()
        for variant, part in zip(together.outputs, parts(together, whole), strict=True):
            alone = variant.encode(batch).numpy()
            if not np.allclose(part, alone, rtol=1e-4, atol=1e-5 * float(np.abs(alone).max())):
                logger.info(
                    "%s: its variants differ when read in one pass; they are extracted separately", variant.name
                )
                return False
    return True
