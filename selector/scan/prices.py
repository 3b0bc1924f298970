"""What networks will take, before they run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from selector import modalities
from selector.core.contracts import Target
from selector.zoo import ModelSpec
from selector.zoo.timm_facts import timm_facts

_SPEED = 2e10  # multiply-adds a second until a network has run here


def prices(
    specs: Sequence[ModelSpec], target: Target, estimate: Callable[[ModelSpec, int], float | None]
) -> dict[str, float]:
    """Seconds an item of each network by name: as it ran here before (``estimate``), else by its multiply-adds and what
    others took; one of which nothing is known costs the median of the others."""
    measured: dict[str, float] = {}
    operations: dict[str, float] = {}
    for spec in specs:
        if (seconds := estimate(spec, 1)) is not None:
            measured[spec.name] = seconds
        if (found := _operations(spec, target)) is not None:
            operations[spec.name] = found
    both = sorted(measured[name] / operations[name] for name in measured.keys() & operations.keys())
    speed = both[len(both) // 2] if both else 1 / _SPEED
    found_prices = {**{name: found * speed for name, found in operations.items()}, **measured}
    known = sorted(found_prices.values())
    median = known[len(known) // 2] if known else 1.0
    return {spec.name: found_prices.get(spec.name, median) for spec in specs}


def _operations(spec: ModelSpec, target: Target) -> float | None:
    size = spec.preprocess.input_size
    if (known := timm_facts(spec)) is not None and known.operations:
        return known.operations * (1.0 if size is None else size[1] * size[2] / known.img_size**2)
    if not spec.params:
        return None
    found = modalities.of(target).operations(spec.params, size)
    return None if found is None else math.sqrt(max(found[0], 1.0) * max(found[1], 1.0))
