"""Build a network that somebody else describes within the size of the weights that come with it."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from selector.core.errors import SourceError, first_line
from selector.core.input_files import check_status, check_unpacked

_OWN = 4  # times the weights: the network, and what is computed for its start; anything beside it is checked
_TENSORS, _MORE_TENSORS = 100, 10_000  # made for each tensor of the weights, and beside them
TENSORS_OF_SETTINGS = 60_000  # where the weights are not looked into; maxvit_xlarge, the most of timm, makes 26,000


class Bounded(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, no more tensors are made than a network with these weights needs.

    Each operation is asked for the size of its result before it runs, so that a recipe with a hundred million outputs
    takes no memory. The limit of what is made beside the weights, such as masks and tables of positions, is that of all
    files (``check_unpacked``).

    Args:
        where: what describes the network, for the message.
        size: bytes of its weights, infinite where they take no memory; None for a network that starts at random, which may
            take ``unpacked_limit``.
        tensors: how many are made at most.
    Raises:
        SourceError: the network is larger than its weights.
    """

    def __init__(self, where: str, size: float | None, tensors: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._where, self._size, self._tensors = where, size, tensors
        self._made = self._count = 0

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not func._schema.is_mutable and not func.is_view:
            self._made += _result_bytes(func, args, kwargs)
            self._count += 1
            self._check()
        return func(*args, **kwargs)

    def _check(self) -> None:
        told = f"{self._where} describes a network that is {'too large' if self._size is None else 'larger than its weights'}"
        if self._count > self._tensors:
            raise SourceError(f"{told} (more than {self._tensors:,} tensors).")
        try:
            check_unpacked(self._made - _OWN * (self._size or 0), self._size)
        except ValueError as error:
            raise SourceError(f"{told}: {error}.") from None


def bounded_by(weights: Path, where: str) -> Bounded:
    """The bound of a network whose weights lie in a safetensors file.

    Args:
        weights: the file.
        where: what describes the network, for the message.
    Raises:
        SourceError: the file cannot be read.
    """
    try:
        check_status(weights.stat(), weights, sys.maxsize)
        with safe_open(weights, "pt") as file:
            tensors = len(file.keys())
        return Bounded(where, weights.stat().st_size, _TENSORS * tensors + _MORE_TENSORS)
    except (OSError, SafetensorError) as error:
        raise SourceError(
            f"weights {weights} cannot be loaded ({first_line(error)}); save the model again with 'selector confirm'."
        ) from None


def bounded_settings(name: str, settings: Mapping[str, object], *weights: Path) -> AbstractContextManager[object]:
    """The bound of a network that settings of a zoo entry or of a repository change; none for an architecture as it is.

    Args:
        name: the model, for messages.
        settings: what its factory gets.
        weights: its files; none for a random start.
    """
    if not settings:
        return nullcontext()
    size = sum(file.stat().st_size for file in weights) if weights else None
    return Bounded(f"{name}: its configuration ({', '.join(settings)[:80]})", size, TENSORS_OF_SETTINGS)


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
