"""Averages of the weights over the steps of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

DECAY = 0.999  # of the exponential average, at most
LAST = 0.25  # share of the steps that the plain average is over


class WeightAverage:
    """What a training ends with in place of its last weights.

    Args:
        kind: ``none``; ``ema``, an exponential average whose memory grows with the steps, as short trainings need it
            (decay (1 + t) / (10 + t), at most ``DECAY``); ``last``, the mean over the last quarter of the steps.
        parameters: those that are trained.
        steps: that are planned. A training that is cut short before its last quarter ends with its last weights.
    """

    def __init__(self, kind: Literal["none", "ema", "last"], parameters: Sequence[nn.Parameter], steps: int) -> None:
        self._kind = kind
        self._parameters = [] if kind == "none" else list(parameters)
        self._first = 0 if kind == "ema" else int((1 - LAST) * steps)
        self._taken = 0
        self._mean: list[torch.Tensor] = []

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights after a step in."""
        if not self._parameters or step < self._first:
            return
        current: Any = [parameter.detach() for parameter in self._parameters]
        mean: Any = self._mean
        if not self._taken:
            self._mean = [value.clone() for value in current]
        elif self._kind == "ema":
            decay = min(DECAY, (1 + step) / (10 + step))
            get_ema_multi_avg_fn(decay)(mean, current, self._taken)  # type: ignore[no-untyped-call]
        else:
            get_swa_multi_avg_fn()(mean, current, torch.tensor(self._taken))  # type: ignore[no-untyped-call]
        self._taken += 1

    @torch.no_grad()
    def apply(self) -> None:
        """Put the average in place of the weights, where there is one."""
        if self._mean:
            for parameter, mean in zip(self._parameters, self._mean, strict=True):
                parameter.copy_(mean)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"taken": self._taken, "mean": self._mean}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint."""
        self._taken = int(state.get("taken", 0))
        self._mean = [mean.to(at.device) for mean, at in zip(state.get("mean", []), self._parameters, strict=False)]
