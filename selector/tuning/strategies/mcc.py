"""MCC: predictions on the target that confuse few pairs of classes."""

from __future__ import annotations

import torch
from torch import nn

from selector.tuning.strategies import strategy
from selector.tuning.strategies._alignment import AlignmentStrategy, certainty

TEMPERATURE = 2.5


@strategy("mcc")
class Mcc(AlignmentStrategy):
    """Jin et al., ECCV 2020, arXiv:1912.03699."""

    name = "mcc"

    def alignment(self, features: int, classes: int) -> nn.Module:
        """See ``AlignmentStrategy``."""
        return ClassConfusion()


class ClassConfusion(nn.Module):
    """Share of the class correlation of the target's predictions that lies off the diagonal; certain items count more."""

    def forward(
        self, rows: torch.Tensor, logits: torch.Tensor, other: torch.Tensor, other_logits: torch.Tensor, progress: float
    ) -> torch.Tensor:
        """See ``AlignmentStrategy``."""
        said = (other_logits / TEMPERATURE).softmax(dim=1)
        correlation = (said * certainty(said)[:, None]).T @ said
        correlation = correlation / correlation.sum(dim=1, keepdim=True)
        return (correlation.sum() - correlation.trace()) / said.shape[1]
