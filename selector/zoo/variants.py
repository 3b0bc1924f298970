"""Feature variants of a spec: the same network, read at another layer or with another pooling."""

from __future__ import annotations

import json
from typing import TypeAlias

from selector.zoo import ModelSpec

Place: TypeAlias = "tuple[str | None, str | None]"
"""(layer, pooling) of a spec; None is the model's own."""


def network_of(spec: ModelSpec) -> str:
    """What a spec says of the network and its input, apart from where its features are read."""
    settings = {k: v for k, v in spec.feature_settings().items() if k not in ("layer", "pooling")}
    return json.dumps(settings, sort_keys=True)


def place_of(spec: ModelSpec) -> Place:
    """Where its features are read."""
    return spec.layer, spec.pooling


def at_place(spec: ModelSpec, layer: str | None, pooling: str | None) -> ModelSpec:
    """The same network read elsewhere."""
    return spec.model_copy(update={"layer": layer, "pooling": pooling})
