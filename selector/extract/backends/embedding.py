"""The table of a text network's token embeddings, looked up in the file's precision and rounded afterwards.

A table is often half of a small network and is only read where a token occurs. Rounding what was
looked up gives the same numbers as looking up in a rounded table, without a second table in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


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
        table = get() if get is not None else None
        if type(table) is not nn.Embedding or table.max_norm is not None or table.weight.dtype == dtype:
            continue
        for parent in network.modules():
            for name, child in list(parent.named_children()):
                if child is table:
                    setattr(parent, name, RoundedEmbedding(table.weight.detach(), dtype))
        return
