"""Deep CORAL: covariances of both domains' features are brought together while the network learns."""

from __future__ import annotations

import torch
from torch import nn

from selector.tuning.strategies import strategy
from selector.tuning.strategies._alignment import AlignmentStrategy


@strategy("deep-coral")
class DeepCoral(AlignmentStrategy):
    """Sun & Saenko, ECCV 2016 workshops, arXiv:1607.01719."""

    name = "deep-coral"

    def alignment(self, features: int, classes: int) -> nn.Module:
        """See ``AlignmentStrategy``."""
        return CovarianceDistance()


class CovarianceDistance(nn.Module):
    """‖C_s − C_t‖²_F / (4D²) of the features."""

    def forward(
        self, rows: torch.Tensor, logits: torch.Tensor, other: torch.Tensor, other_logits: torch.Tensor, progress: float
    ) -> torch.Tensor:
        """See ``AlignmentStrategy``."""
        distance = torch.cov(rows.T) - torch.cov(other.T)
        return (distance**2).sum() / (4 * rows.shape[1] ** 2)
