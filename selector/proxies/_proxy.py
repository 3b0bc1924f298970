"""The registered object: a scoring function with what is known about it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from selector.core.contracts import LabelKind, Score
from selector.core.errors import ConfigError
from selector.core.registry import Registry
from selector.features import FeatureSet

NAMES_OF_CLASSES = frozenset({"row order", "class renaming", "absent classes"})
INVARIANCES = NAMES_OF_CLASSES | {"column permutation", "rotation", "zero padding", "scale", "offset"}
"""What a proxy may declare; the conformance test holds it to 1e-9."""

Blocks = Literal["auto", "recompute", "halfway", "own"]
Function = Callable[..., "Score | float"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Card:
    """What is known of a scoring function.

    Attributes:
        name: in the registry.
        summary: one line: what it measures.
        good: what a good value is, for a person.
        source: publication.
        cost: in N rows, D features, C classes.
        label_kinds: the label kinds that it accepts.
        needs_source_logits: whether the encoder must have its source head.
        needs_unlabeled: whether it compares the labeled rows with those of a domain without labels.
        bounds: (lowest, highest) possible value.
        invariances: transformations of the rows that leave the value as it is (``INVARIANCES``).
        seeded: whether the value depends on the seed (folds, subsamples, starting points).
        formula: in words and symbols.
        deviations: from the public code, and why.
        domain: where it is valid, and where it is known to fail.
        answers: question -> answer, for ``selector proxies NAME``.
        blocks: where an interval's leave-one-block-out values come from: ``auto`` (the contributions
            of rows where the score has them, else computed again), ``recompute`` (always computed
            again: contributions miss that fewer rows also teach less), ``halfway`` (the mean of the two,
            where simulation finds contributions too narrow and fresh fits too wide), ``own`` (the function takes
            ``blocks=True`` and gives them itself: ``with_blocks``).
        version: raised whenever values change; part of the key of stored scores.
    """

    name: str = field(kw_only=False)
    summary: str
    label_kinds: Collection[LabelKind | str] = (LabelKind.CLASSES,)
    good: str = "Higher is better."
    source: str = ""
    cost: str = ""
    needs_source_logits: bool = False
    needs_unlabeled: bool = False
    bounds: tuple[float, float] = (-math.inf, math.inf)
    invariances: Collection[str] = ("row order",)
    seeded: bool = False
    formula: str = ""
    deviations: str = ""
    domain: str = ""
    answers: Mapping[str, str] = field(default_factory=dict)
    blocks: Blocks = "auto"
    version: int = 1

    def __post_init__(self) -> None:
        unknown = set(self.invariances) - INVARIANCES
        if unknown:
            raise ConfigError(
                f"proxy '{self.name}': unknown invariance '{sorted(unknown)[0]}'. Known: {', '.join(sorted(INVARIANCES))}."
            )
        object.__setattr__(self, "label_kinds", frozenset(LabelKind(kind) for kind in self.label_kinds))
        object.__setattr__(self, "invariances", frozenset(self.invariances))


@dataclass(frozen=True, eq=False, kw_only=True)
class Proxy(Card):
    """A scoring function and its card.

    Attributes:
        function: ``(FeatureSet, **params) -> Score | float``; called for several parts of a feature set at a
            time, each in a thread of its own, so it keeps no state between calls.
    """

    function: Function

    def __post_init__(self) -> None:
        super().__post_init__()
        # the registry tells definitions apart by these
        object.__setattr__(self, "__module__", self.function.__module__)
        object.__setattr__(self, "__qualname__", self.function.__qualname__)

    def __call__(self, features: FeatureSet, **params: object) -> Score | float:
        return self.function(features, **params)

    @property
    def explanation(self) -> str:
        """A page for a person: what it is, its range, what good means, its limits."""
        low, high = (("unbounded" if math.isinf(b) else f"{b:g}") for b in self.bounds)
        parts = [
            f"{self.name}: {self.summary}",
            f"Range: {'unbounded' if low == high == 'unbounded' else f'lowest {low}, highest {high}'}; higher is better. {self.good}",
            f"Labels: {', '.join(sorted(self.label_kinds))}."
            + (" Needs the logits of the encoder's source head." if self.needs_source_logits else "")
            + (" Needs rows of a target without labels." if self.needs_unlabeled else ""),
        ]
        if cost := " ".join(
            (f"Cost: {self.cost}." if self.cost else "", "Depends on the seed." if self.seeded else "")
        ).strip():
            parts.append(cost)
        for title, text in (
            ("Formula", self.formula),
            ("Valid", self.domain),
            ("Differs from public code", self.deviations),
        ):
            if text:
                parts.append(f"{title}: {text}")
        if self.invariances:
            parts.append(f"Unchanged by: {', '.join(sorted(self.invariances))}.")
        parts += [f"{question} {answer}" for question, answer in {**_COMMON_ANSWERS, **self.answers}.items()]
        if self.source:
            parts.append(f"Source: {self.source}.")
        return "\n\n".join(parts)


_COMMON_ANSWERS = {
    "Which split?": "Training and validation rows of the target. The test split is for the final metric only; a score that "
    "has seen it makes the metric too optimistic."
}

registry: Registry[Proxy] = Registry(
    "selector.proxies",
    "proxy",
    families={
        "class_geometry": ("fisher", "gbc", "nearest-class-mean", "silhouette", "transrate"),
        "domain_measures": ("a-distance", "coral-distance", "label-shift", "mmd", "pas", "target-accuracy"),
        "source_classes": ("energy", "leep", "nce", "nleep"),
    },
)


class proxy(Card):
    """Decorator that makes a function ``(FeatureSet, **params) -> Score | float`` a named proxy.

    Example:
        >>> from selector.proxies import proxy, registry
        >>> @proxy("row-count", summary="The number of rows.")
        ... def row_count(features):
        ...     return float(len(features))
        >>> registry.get("row-count").summary
        'The number of rows.'
        >>> _ = registry._objects.pop("row-count")

    Raises:
        ConfigError: the name is taken, or an invariance is not one of ``INVARIANCES``.
    """

    def __call__(self, function: Function) -> Proxy:
        return registry.register(self.name)(Proxy(**vars(self), function=function))


def with_blocks(score: Score, left_out: Callable[[], np.ndarray | None]) -> Score:
    """A score with its values without each block, and the time that these took."""
    started = time.perf_counter()
    return replace(score, blocks=left_out(), interval_seconds=time.perf_counter() - started)
