"""Build a network that somebody else describes within the size of the weights that come with it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from selector.core.errors import SourceError, first_line
from selector.core.input_files import check_unpacked

_OWN = 4  # times the weights: the network, and what is computed for its start; anything beside it is checked
_TENSORS, _MORE_TENSORS = 100, 10_000  # made for each tensor of the weights, and beside them


class Bounded(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, no more tensors are made than a network with these weights needs.

    Each operation is asked for the size of its result before it runs, so that a recipe with a hundred million outputs
    takes no memory. The limit of what is made beside the weights, such as masks and tables of positions, is that of all
    files (``check_unpacked``).

    Args:
        weights: the safetensors file that the network's weights come from.
        where: what describes the network, for the message.
    Raises:
        SourceError: the network is larger than its weights, or the file cannot be read.
    """

    def __init__(self, weights: Path, where: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        try:
            with safe_open(weights, "pt") as file:
                self._tensors = len(file.keys())
            self._size = weights.stat().st_size
        except (OSError, SafetensorError) as error:
            raise SourceError(
                f"weights {weights} cannot be loaded ({first_line(error)}); save the model again with 'selector confirm'."
            ) from None
        self._where = where
        self._made = self._count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not func._schema.is_mutable and not func.is_view:
            self._made += _result_bytes(func, args, kwargs)
            self._count += 1
            self._check()
        return func(*args, **kwargs)

    def _check(self) -> None:
        told = f"{self._where} describes a network that is larger than its weights"
        if self._count > _TENSORS * self._tensors + _MORE_TENSORS:
            raise SourceError(f"{told} (more than {self._count - 1:,} tensors for {self._tensors:,}).")
        try:
            check_unpacked(self._made - _OWN * self._size, self._size)
        except ValueError as error:
            raise SourceError(f"{told}: {error}.") from None


def _result_bytes(func: Any, args: Any, kwargs: Any) -> int:
    """Bytes of what an operation makes, without making it."""
    if args and isinstance(args[0], list | tuple) and all(isinstance(length, int) for length in args[0]):
        kind = kwargs.get("dtype") or torch.float32
        return int(math.prod(args[0]) * kind.itemsize)
    try:
        asked = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, {**kwargs, "generator": None}))
        named = {key: value for key, value in asked[1].items() if key in kwargs}
        if "device" in named or not any(isinstance(value, Tensor) for value in args):
            named["device"] = torch.device("meta")
        made = func(*asked[0], **named)
    except (NotImplementedError, RuntimeError, TypeError):
        return 0  # its result depends on values: no larger than what it reads
    return made.untyped_storage().nbytes() if isinstance(made, Tensor) else 0
