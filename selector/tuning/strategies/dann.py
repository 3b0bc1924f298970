"""DANN: features that a domain classifier cannot tell apart, by gradient reversal."""

from __future__ import annotations

import torch
from torch import nn

from selector.tuning.strategies import strategy
from selector.tuning.strategies._alignment import AlignmentStrategy, DomainAdversary


@strategy("dann")
class Dann(AlignmentStrategy):
    """Ganin et al., JMLR 2016, arXiv:1505.07818."""

    name = "dann"

    def alignment(self, features: int, classes: int) -> nn.Module:
        """See ``AlignmentStrategy``."""
        return OnFeatures(features)


class OnFeatures(nn.Module):
    """The adversary on the features."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.adversary = DomainAdversary(features)

    def forward(
        self, rows: torch.Tensor, logits: torch.Tensor, other: torch.Tensor, other_logits: torch.Tensor, progress: float
    ) -> torch.Tensor:
        """See ``AlignmentStrategy``."""
        found: torch.Tensor = self.adversary(rows, other, progress)
        return found
