"""The torch module that every source of texts builds: read at one place or several, with or without a head.

Features are pooled inside the forward pass, layer by layer, so that the states of all layers need not be in
memory together.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from selector.modalities.text import Tokens
from selector.sources._text_path import LAST, MEAN, TextPath


class TextModule(nn.Module):
    """States of the layers of ``backbone``, pooled.

    Args:
        path: where the features of the head are read; without outputs nothing is kept of it.
        num_features, num_outputs: of the head; no outputs, no head.

    Attributes:
        blocks: names of its layers within ``backbone``, in order; empty where one block is run several times.
        depth: layers that can be read.
        at_once: tokens of windows in one forward pass, on the processor and elsewhere.
    """

    blocks: tuple[str, ...] = ()
    depth: int
    at_once = (8192, 131_072)

    def __init__(
        self, backbone: nn.Module, path: TextPath | None = None, num_features: int = 0, num_outputs: int = 0
    ) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self.path = path or TextPath()
        self.selector_head = nn.Linear(num_features, num_outputs) if num_outputs else None

    def forward(self, tokens: Tokens) -> Tensor:
        """Outputs (B, K) of the head."""
        return cast(Tensor, self.get_classifier()(self.read(tokens, [self.path])[0]))

    def get_classifier(self) -> nn.Linear:
        """The head."""
        assert self.selector_head is not None
        return self.selector_head

    def read(self, tokens: Tokens, paths: Sequence[TextPath]) -> list[Tensor]:
        """Features (B, D) of each path from one forward pass.

        Texts of many windows go through in several, unless gradients are wanted: a book must not
        need the memory of all of its windows at once.
        """
        windows = tokens.windows and tokens.words is None and not torch.is_grad_enabled()
        if windows and tokens.ids.numel() > (budget := self.at_once[tokens.device.type != "cpu"]):
            parts = [self._read(part, paths) for part in tokens.rows(max(1, budget // tokens.ids.shape[1]))]
            return [tokens.per_text(torch.cat(rows)) for rows in zip(*parts, strict=True)]
        return self._read(tokens, paths)

    def _read(self, tokens: Tokens, paths: Sequence[TextPath]) -> list[Tensor]:
        ways = list(dict.fromkeys(replace(path, layer=LAST) for path in paths))
        layers = self.layers(tokens, ways, {path.layer for path in paths})
        found = []
        for path in paths:
            way = [pooled[ways.index(replace(path, layer=LAST))] for pooled in layers]
            if path.layer == MEAN:
                found.append(self.mixed(way))
            else:
                found.append(way[-1] if path.layer == LAST else way[int(path.layer) - 1])
        return found

    def mixed(self, layers: Sequence[Tensor]) -> Tensor:
        """(B, D) of each layer to (B, D)."""
        return torch.stack(list(layers)).mean(0)

    @abstractmethod
    def layers(self, tokens: Tokens, ways: Sequence[TextPath], wanted: set[str]) -> list[list[Tensor]]:
        """For every layer, the first one first, its states (R, T, D) pooled in each way.

        Args:
            wanted: names of the layers that are read: those behind the last of them may be left out, and where it is
                ``last`` alone those before it too.
        """


class Embedder(TextModule):
    """A factory's module, called with (ids, mask), both int64 (R, T): states (R, T, D), or a list of them, one a layer."""

    def layers(self, tokens: Tokens, ways: Sequence[TextPath], wanted: set[str]) -> list[list[Tensor]]:
        """See ``TextModule``."""
        return [[way.pool(states, tokens) for way in ways] for states in self.states(tokens)]

    def states(self, tokens: Tokens) -> list[Tensor]:
        """(R, T, D) of each layer."""
        states = self.backbone(tokens.ids, tokens.mask)
        return list(states) if isinstance(states, list | tuple) else [states]
