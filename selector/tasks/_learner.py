"""A network with one linear head as a ``Learner``; imports torch, so tasks import it when they train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from selector.core.errors import TrainingError
from selector.core.task import Criterion


class HeadLearner(nn.Module):
    """See ``core.task.Learner``: an encoder with its new head, one row per item or word.

    Args:
        network: what ``Encoder.with_head`` returned; its last layer is linear and reached by ``get_classifier()``.
        criterion: the loss.
        of_words: an annotation holds the labels of several rows (words), which follow each other.
    """

    def __init__(self, network: nn.Module, criterion: Criterion, *, of_words: bool = False) -> None:
        super().__init__()
        self._of_words = of_words
        self.network = network
        self._criterion = criterion
        self.new = (f"network.{head_name(network)}",)

    def loss(self, batch: object, annotations: Sequence[object], unlabeled: object = None) -> torch.Tensor:
        """The criterion over all rows of the batch, in single precision whatever the network runs in."""
        outputs = self.network(batch)
        labels = torch.from_numpy(self._labels(annotations)).to(outputs.device)
        with torch.autocast(outputs.device.type, enabled=False):
            return self._criterion(outputs.float(), labels)

    def weight(self, annotations: Sequence[object]) -> float:
        """Rows."""
        return float(len(self._labels(annotations)))

    def predict(self, batch: object) -> np.ndarray:
        """Outputs (R, K) float32."""
        outputs: np.ndarray = self.network(batch).float().cpu().numpy()
        return outputs

    def rows(self, batch: object, places: Sequence[np.ndarray | None]) -> torch.Tensor:
        """What the head reads: every row of the batch, so places are not needed."""
        caught: list[torch.Tensor] = []
        handle = head_layer(self.network).register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
        try:
            self.network(batch)
        finally:
            handle.remove()
        return caught[-1].float()

    def start_from(self, weight: np.ndarray, bias: np.ndarray) -> None:
        """Copy a linear probe (K, D), (K,) into the network."""
        head = head_layer(self.network)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(np.asarray(weight, dtype=np.float32)))
            head.bias.copy_(torch.from_numpy(np.asarray(bias, dtype=np.float32)))

    def _labels(self, annotations: Sequence[Any]) -> np.ndarray:
        return np.concatenate(annotations) if self._of_words else np.asarray(annotations)


def head_name(module: nn.Module) -> str:
    """Dotted name of the last linear layer, as ``get_classifier()`` gives it."""
    head = cast(Any, module).get_classifier()
    for name, child in module.named_modules():
        if child is head:
            return str(name)
    raise TrainingError("get_classifier() returns a layer that is not part of the network; its source must fix that.")


def head_layer(module: nn.Module) -> nn.Linear:
    """The last linear layer.

    Raises:
        TrainingError: it is something else.
    """
    head = cast(Any, module).get_classifier()
    if not isinstance(head, nn.Linear):
        raise TrainingError(f"the head must be one linear layer. Got {type(head).__name__}.")
    return head
