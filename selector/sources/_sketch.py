"""A network without its weights, from which its memory can be told before anything is fetched.

A source that can build one has ``sketch(spec) -> Sketch``. The module is on torch's meta device: tensors have shapes and no
content, so that a network of any size is built within a second and a megabyte.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from selector.core.costs import TEXT_TOKENS
from selector.sources._bounded import TENSORS_OF_SETTINGS, Bounded
from selector.sources._maps import run


@dataclass(frozen=True)
class Sketch:
    """What ``extract.footprint`` looks at.

    Attributes:
        module: the network, on any device.
        items: a number of items -> a batch as the network takes it, without content.
        call: (module, batch) -> features or outputs.
        extent: (height, width) in pixels, of texts (tokens, 1).
    """

    module: nn.Module
    items: Callable[[int], Any]
    call: Callable[[Any, Any], Any]
    extent: tuple[int, int]


@contextmanager
def on_meta(name: str) -> Iterator[None]:
    """What is built takes no memory for tensors, and is not built without end."""
    with torch.device("meta"), Bounded(f"{name}: its configuration", math.inf, TENSORS_OF_SETTINGS):
        yield


def image_sketch(build: Callable[[], tuple[Any, ...]], name: str) -> Sketch:
    """That of a network that reads images.

    Args:
        build: gives the module first and how it reads images last.
        name: the model, for messages.
    """
    with on_meta(name):
        module, *_, preprocess = build()
    return Sketch(
        module,
        lambda count: torch.empty((count, *preprocess.input_size)),
        lambda network, batch: run(network, batch, whole=False),
        preprocess.extent,
    )


def text_sketch(module: Any) -> Sketch:
    """That of a ``Transformer`` on the meta device: texts of ``TEXT_TOKENS`` tokens."""

    def states(network: Any, ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = network.backbone(input_ids=ids).last_hidden_state
        return found

    return Sketch(module, lambda count: torch.ones((count, TEXT_TOKENS), dtype=torch.int64), states, (TEXT_TOKENS, 1))
