"""What a network is fed with, whatever the modality: prepared batches, and the last step onto the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from selector import modalities
from selector.core.preprocess import AnyPreprocess

if TYPE_CHECKING:
    import torch

    from selector.modalities.tokens import Tokens


Batch: TypeAlias = "NDArray[np.uint8] | Tokens"
"""Prepared items on the CPU: uint8 pixels (B, H, W, 3), or tokens of B texts. It has a length and slices."""

NetworkInput: TypeAlias = "torch.Tensor | Tokens"
"""A batch as ``Encoder.encode`` takes it."""

Keys: TypeAlias = Callable[[NDArray[np.int64]], list[str]]
"""Positions of items -> what addresses their rows in the store (``Target.row_hashes``)."""

Cut: TypeAlias = Callable[[NDArray[np.int64], int], list[NDArray[np.int64]]]
"""Positions and a number of items -> the positions of each batch, in the order in which they are run."""


class Batches(Protocol):
    """The prepared items of a target, read by position."""

    def batch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The items at ``indices``, in that order."""
        ...


def in_order(indices: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Batches of ``size`` as they come; the last one may be smaller."""
    return [indices[begin : begin + size] for begin in range(0, len(indices), size)]


def rows_of(batch: Batch) -> int:
    """Rows of features that a batch gives: one an item, or one a word."""
    return modalities.of_batch(batch).rows_of(batch)


def ready(
    batch: Batch | torch.Tensor,
    preprocess: AnyPreprocess,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> NetworkInput:
    """The batch as ``Encoder.encode`` takes it, on a device.

    Args:
        batch: pixels (an array or a tensor) or tokens.
        dtype: of normalized images; tokens are whole numbers.
    """
    found: NetworkInput = modalities.of(preprocess).ready(batch, preprocess, device, dtype)
    return found
