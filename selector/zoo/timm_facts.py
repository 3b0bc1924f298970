"""What timm publishes of its weights, known before anything is fetched.

The table ``timm_facts.csv`` is joined from ``results/`` of huggingface/pytorch-image-models at aa4b5850
(Apache-2.0) by ``benchmarks/timm_facts.py``.
"""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from importlib.resources import files

from selector.zoo.spec import ModelSpec


@dataclass(frozen=True)
class TimmFacts:
    """One model of the table.

    Attributes:
        img_size: side in pixels that the figures hold for.
        imagenet: top-1 in per cent on ImageNet-1k.
        parameters: count, the head of the source task included.
        operations: multiply-adds an image of that size.
    """

    img_size: int
    imagenet: float
    parameters: int
    operations: float | None


def timm_facts(spec: ModelSpec) -> TimmFacts | None:
    """The facts of an entry with timm's own weights; None for others and for names that the table lacks."""
    if spec.source_name != "timm" or spec.weights is not None:
        return None
    return _table().get(spec.model_id)


def with_facts(spec: ModelSpec) -> ModelSpec:
    """An entry with what is published of it, where the zoo itself says nothing."""
    found = timm_facts(spec)
    if found is None:
        return spec
    stated = {"params": found.parameters, "upstream_accuracy": found.imagenet}
    return spec.model_copy(update={name: value for name, value in stated.items() if getattr(spec, name) is None})


@functools.cache
def _table() -> dict[str, TimmFacts]:
    text = (files("selector.zoo") / "timm_facts.csv").read_text(encoding="utf-8")
    return {row["model"]: _facts(row) for row in csv.DictReader(text.splitlines())}


def _facts(row: dict[str, str]) -> TimmFacts:
    return TimmFacts(
        int(row["img_size"]),
        float(row["imagenet_top1"]),
        round(float(row["params_millions"]) * 1e6),
        float(row["gmacs"]) * 1e9 if row["gmacs"] else None,
    )
