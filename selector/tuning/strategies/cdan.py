"""CDAN+E: a domain classifier that sees features together with what is predicted from them; sure items count more."""

from __future__ import annotations

import torch
from torch import nn

from selector.tuning.strategies import strategy
from selector.tuning.strategies._alignment import AlignmentStrategy, DomainAdversary, certainty

WIDEST = 4096  # beyond, the outer product is projected at random (as in the paper); 1,024 made a training collapse


@strategy("cdan")
class Cdan(AlignmentStrategy):
    """Long et al., NeurIPS 2018, arXiv:1705.10667, with entropy conditioning."""

    name = "cdan"
    version = 2  # 1 projected to 1,024 columns

    def alignment(self, features: int, classes: int) -> nn.Module:
        """See ``AlignmentStrategy``."""
        return OnJoint(features, classes)


class OnJoint(nn.Module):
    """The adversary on the outer product of features and predicted probabilities."""

    of_features: torch.Tensor
    of_classes: torch.Tensor

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        joint = features * classes
        self.projected = joint > WIDEST
        if self.projected:
            generator = torch.Generator().manual_seed(0)
            self.register_buffer("of_features", torch.randn(features, WIDEST, generator=generator))
            self.register_buffer("of_classes", torch.randn(classes, WIDEST, generator=generator))
        self.adversary = DomainAdversary(min(joint, WIDEST))

    def joint(self, rows: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
        """(B, D·C) of features (B, D) and probabilities (B, C), or (B, WIDEST) projected."""
        if self.projected:
            found: torch.Tensor = (rows @ self.of_features) * (said @ self.of_classes) / WIDEST**0.5
            return found
        return (rows[:, :, None] * said[:, None, :]).flatten(1)

    def forward(
        self, rows: torch.Tensor, logits: torch.Tensor, other: torch.Tensor, other_logits: torch.Tensor, progress: float
    ) -> torch.Tensor:
        """See ``AlignmentStrategy``."""
        said, other_said = (some.softmax(dim=1).detach() for some in (logits, other_logits))
        weights = certainty(said), certainty(other_said)
        found: torch.Tensor = self.adversary(self.joint(rows, said), self.joint(other, other_said), progress, weights)
        return found
