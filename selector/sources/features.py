"""Ready features: no network but the head that is fitted on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from selector.core.contracts import Encoder
from selector.core.errors import SourceError
from selector.core.preprocess import RowsPreprocess
from selector.sources import source

if TYPE_CHECKING:
    import torch
    from torch import nn

    from selector.zoo import ModelSpec


@source("features")
class FeaturesSource:
    """The ``features:`` source: arrays of a target of ready features, by name."""

    def expand(self, pattern: str) -> list[str]:
        """The array itself."""
        return [pattern]

    def identify(self, spec: ModelSpec) -> dict[str, object]:
        """See ``contracts.Source``; what decides them is in the target."""
        return {"source": "features", "model": spec.model_id}

    def load(self, spec: ModelSpec) -> Encoder:
        """Always an error: no network makes them here."""
        raise SourceError(
            f"{spec.name}: features: names an array of a target of ready features, which no network reads; give a model."
        )

    def build(self, recipe: Mapping[str, Any]) -> nn.Module:
        """See ``contracts.Source``."""
        from selector.sources._features import ReadyHead

        return ReadyHead(int(recipe["features"]), int(recipe["outputs"]))


class ReadyEncoder(Encoder):
    """What stands in the place of a network for features that are there: they pass as they are.

    Args:
        spec: of the array.
        width: D.
    """

    def __init__(self, spec: ModelSpec, width: int) -> None:
        from torch import nn

        self.name = spec.name
        self.module = nn.Identity()
        self.preprocess = RowsPreprocess(width, spec.model_id)
        self.identity = {"source": "features", "model": spec.model_id, "width": width}
        self.num_features = width
        self.num_parameters = 0

    def encode(self, batch: Any) -> torch.Tensor:
        """The batch (B, D)."""
        found: torch.Tensor = batch
        return found

    def with_head(self, num_outputs: int, input_size: tuple[int, int] | None = None) -> nn.Module:
        """One linear layer (B, D) -> (B, num_outputs)."""
        from selector.sources._features import ReadyHead

        return ReadyHead(self.num_features, num_outputs)

    def recipe(self, num_outputs: int, input_size: tuple[int, int] | None = None) -> dict[str, object]:
        """See ``contracts.Encoder``."""
        return {
            "source": "features",
            "model": self.name,
            "kwargs": {},
            "head": "linear",
            "features": self.num_features,
            "outputs": num_outputs,
        }
