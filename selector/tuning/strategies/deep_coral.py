"""Deep CORAL: covariances of both domains' features are brought together while the network learns."""

from __future__ import annotations

import torch
from torch import nn

from selector.tuning.strategies import strategy
from selector.tuning.strategies._alignment import AlignmentStrategy

WEIGHT = 0.1
"""Of the alignment beside the classes: both losses are then about equal towards the end, as the paper sets it."""


@strategy("deep-coral")
class DeepCoral(AlignmentStrategy):
    """Sun & Saenko, ECCV 2016 workshops, arXiv:1607.01719, relative to the size of both covariances."""

    name = "deep-coral"
    version = 2  # 1 depended on the fourth power of the features' scale

    def alignment(self, features: int, classes: int) -> nn.Module:
        """See ``AlignmentStrategy``."""
        return CovarianceDistance()


class CovarianceDistance(nn.Module):
    """‖C_s − C_t‖²_F / (‖C_s‖²_F + ‖C_t‖²_F) of the features, times ``WEIGHT``: shrinking the features does not lower it.

    The paper divides by 4D² and multiplies by a weight that its authors set: of features as networks of different
    scales give them that is nothing for one (1e-5 of the classes' loss) and ruin for another.
    """

    def forward(
        self, rows: torch.Tensor, logits: torch.Tensor, other: torch.Tensor, other_logits: torch.Tensor, progress: float
    ) -> torch.Tensor:
        """See ``AlignmentStrategy``."""
        own, aim = torch.cov(rows.T), torch.cov(other.T)
        size = (own**2).sum() + (aim**2).sum()
        return WEIGHT * ((own - aim) ** 2).sum() / size.clamp(min=1e-30)
