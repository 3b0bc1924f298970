"""The contract of a backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from selector.extract.inputs import Batch


class Backend(Protocol):
    """A network made ready on a device.

    Attributes:
        batch_size: images of a call; a caller pads the last batch, so that every call has the same
            shape. Eager torch takes other sizes too.
        mixed: products are in ``precision``; weights, sums and norms stay in float32.
    """

    name: str
    precision: str
    batch_size: int
    mixed: bool

    def start(self, batch: Batch) -> Callable[[], NDArray[np.float32]]:
        """Begin the features of uint8 (B, H, W, 3), B the batch size, or of tokens; the result waits for (B, D)."""
        ...

    def resized(self, batch_size: int) -> Backend | None:
        """The same for another batch size; None where it has to be opened anew."""
        ...

    def in_precision(self, precision: str) -> Backend | None:
        """The same in another precision; None where it has to be opened anew."""
        ...


@contextmanager
def unrounded(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Products of float32 on a GPU are not rounded, whatever the program set: the rows of a CPU lie in the same entry.

    torch rounds convolutions unless it is told not to, and products of matrices once a program asks for it
    (``set_float32_matmul_precision``). torch from 2.9 on has a second set of switches, and raises where both disagree.
    """
    if device.type != "cuda" or dtype != torch.float32:
        yield
        return
    cudnn: Any = torch.backends.cudnn  # what torch's own annotations leave out
    newer = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn) if hasattr(torch.backends, "fp32_precision") else ()
    kept = [switch.fp32_precision for switch in newer]
    matmul, convolution = _older(kept)
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32 = False
    for switch in newer:  # "none", which the older ones leave, asks a switch for everything
        switch.fp32_precision = "ieee"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        cudnn.allow_tf32 = convolution
        for switch, value in zip(newer, kept, strict=True):
            switch.fp32_precision = value


def _older(newer: list[str]) -> tuple[str, bool]:
    """(precision of products of matrices, whether convolutions may be rounded) as the older switches have it; as the
    newer ones say where they disagree and torch refuses to tell."""
    try:
        matmul = torch.get_float32_matmul_precision()
    except RuntimeError:
        matmul = "high" if newer[0] == "tf32" else "highest"
    try:
        return matmul, torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return matmul, newer[1] == "tf32"
