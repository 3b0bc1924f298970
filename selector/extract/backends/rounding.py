"""float32 as it is: a GPU rounds its products to TF32 where it is let."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


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
