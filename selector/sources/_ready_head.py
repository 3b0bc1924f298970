"""The network of ready features: a linear layer; imports torch."""

from __future__ import annotations

from torch import Tensor, nn


class ReadyHead(nn.Module):
    """(B, D) -> (B, K)."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(features, outputs)

    def forward(self, batch: Tensor) -> Tensor:
        """Outputs (B, K)."""
        outputs: Tensor = self.head(batch)
        return outputs

    def get_classifier(self) -> nn.Linear:
        """The layer."""
        return self.head
