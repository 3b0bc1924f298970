"""Torch as it is: inference mode and channels last.

On a GPU, and for texts, weights and activations are in one precision. Images on a CPU run bfloat16
as mixed precision: products in bfloat16, weights, sums along residual paths and norms in float32. That
costs no time beside convolutions, and transformers keep the neighbors that they lose in pure bfloat16
(a ViT-S: 0.984 instead of 0.961 unchanged). Batches of short texts would pay for the rounding of the
weights on every call. Batch norms are folded into the convolutions before them (``folding``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from selector import modalities
from selector.core.contracts import Encoder
from selector.core.errors import SourceError
from selector.extract.backends.folding import folded, shared_copy
from selector.extract.inputs import Batch


class RoundedEmbedding(nn.Module):
    """``nn.Embedding`` whose rows are cast when they are looked up.

    Its table is a buffer, so that it counts as memory, but is not cast with the others; and what a network
    asks its first parameter for (its ``dtype``) is answered by one that is.
    """

    weight: Tensor

    def __init__(self, table: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("weight", table, persistent=False)
        self._dtype = dtype

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RoundedEmbedding:
        """Keep the table as it is."""
        return self

    def forward(self, ids: Tensor) -> Tensor:
        """Rows (..., D) of the ids (...)."""
        return functional.embedding(ids, self.weight).to(self._dtype)


def share_embedding(module: nn.Module, dtype: torch.dtype) -> None:
    """Replace the embedding of tokens in a network that is about to be cast to ``dtype``, in place.

    Only a plain ``nn.Embedding`` of another precision: one that scales or clips its rows does that in
    the precision of its table.
    """
    for network in module.modules():
        get: Any = getattr(network, "get_input_embeddings", None)
        try:
            table = get() if get is not None else None
        except NotImplementedError:  # it reads images
            continue
        if type(table) is not nn.Embedding or table.max_norm is not None or table.weight.dtype == dtype:
            continue
        for parent in network.modules():
            for name, child in list(parent.named_children()):
                if child is table:
                    setattr(parent, name, RoundedEmbedding(table.weight.detach(), dtype))
        return


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class EagerBackend:
    """A copy of the network on the device; the encoder that was handed in stays as it is."""

    name = "eager"
    mixes = True

    def __init__(self, encoder: Encoder, device: str, precision: str, batch_size: int) -> None:
        self.precision = precision
        self.batch_size = batch_size
        self.device = torch.device(device)
        fixed = modalities.of(encoder).fixed_shape
        self.mixed = self.mixes and fixed and self.device.type == "cpu" and precision == "bfloat16"
        self.dtype = torch.float32 if self.mixed else DTYPES[precision]
        self.encoder = placed(encoder, self.device, self.dtype)

    def start(self, batch: Batch) -> Callable[[], NDArray[np.float32]]:
        """Features (B, D); on a GPU the work is queued and the result waits for it."""
        with torch.inference_mode(), unrounded(self.device, self.dtype):
            items = modalities.of(self.encoder)
            moved = items.ready(items.staged(batch, self.device), self.encoder.preprocess, self.device, self.dtype)
            features = self.forward(moved)
        return lambda: _to_numpy(features)

    def resized(self, batch_size: int) -> EagerBackend | None:
        """The same network: eager torch takes any size."""
        same = copy.copy(self)
        same.batch_size = batch_size
        return same

    def forward(self, batch: Any) -> torch.Tensor:
        """Features of a normalized batch; what other torch backends replace."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            return self.encoder.encode(batch)

    def in_precision(self, precision: str) -> EagerBackend | None:
        """The weights are copied anew from the encoder: nothing is rounded twice."""
        return None


def _to_numpy(features: torch.Tensor) -> NDArray[np.float32]:
    if features.is_complex():
        raise SourceError("the model returns complex features, whose imaginary part would be lost.")
    array: NDArray[np.float32] = features.float().cpu().numpy()
    return array


def placed(encoder: Encoder, device: torch.device, dtype: torch.dtype) -> Encoder:
    """A shallow copy of the encoder around a copy of its network, on the device, ready for inference.

    A weight that is already there in the precision wanted is not in memory twice: the copy's has its storage.
    """
    assert encoder.module is not None
    moved = copy.copy(encoder)
    module = shared_copy(folded(encoder))
    if device.type == "cpu":
        share_embedding(module, dtype)
    module = module.to(device=device, dtype=dtype)
    moved.module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def has_bfloat16(device: str) -> bool:
    """Whether the hardware multiplies in bfloat16; emulation is slower than float32."""
    kind = torch.device(device).type
    if kind == "cuda":
        with torch.cuda.device(torch.device(device)):  # it asks of the current one
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return kind == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


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
