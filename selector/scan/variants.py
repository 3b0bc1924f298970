"""Readings: the layers and poolings at which a model's features are taken, each a row of the table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from selector import modalities
from selector.core.contracts import Target
from selector.core.errors import ConfigError, did_you_mean
from selector.core.units import words
from selector.scan.candidate import Candidate
from selector.zoo import ModelSpec, Pooling, TextSettings
from selector.zoo.variants import at_place, network_of

LAST = "last"
"""The last layer; of images the one whose features a model's own head reads, which is what it is read at anyway."""

OWN = "own"
"""The layer or the pooling that a model is read at when nothing is said."""


@dataclass(frozen=True)
class SameNetwork:
    """Candidates that read one network: one forward pass serves them all."""

    members: tuple[Candidate, ...]

    @property
    def name(self) -> str:
        """Of the first member; for messages."""
        return self.members[0].spec.name


def reading_rows_of(specs: Sequence[ModelSpec], target: Target) -> list[ModelSpec]:
    """The specs as they read what a row of the target is: a whole item, or each word of it.

    A pooling that the zoo names is over whole texts and says nothing about words; ``first`` is over
    words and says nothing about whole texts.
    """
    words: Literal[True] | None = True if target.of_words else None
    found = []
    for spec in specs:
        changes: dict[str, Any] = {}
        if (spec.text.words if spec.text else None) != words:
            changes["text"] = (spec.text or TextSettings()).model_copy(update={"words": words})
        if (spec.pooling == "first") != bool(words):
            changes["pooling"] = None
        found.append(spec.model_copy(update=changes))
    return found


def expand(
    specs: Sequence[ModelSpec],
    layers: str | Sequence[str] | None,
    pooling: str | Sequence[str] | None,
    *,
    of_maps: bool = False,
) -> list[ModelSpec]:
    """Each model once a layer and pooling, named ``model@layer/pooling``; the model's own keeps its name.

    Args:
        specs: frozen entries of a zoo. One that names a layer or a pooling keeps it, beside the others.
        layers: ``own``, ``last`` and dotted names of submodules, of texts ``mean`` and numbers; a comma separates
            them in a string.
        pooling: ``own``, ``avg``, ``max``, ``cls``; likewise. None for each model's own.

        of_maps: variants are those of a row reader (``extract/readers``), which names them.

    Raises:
        ConfigError: an unknown pooling.
    """
    places = _words(layers) or [OWN]
    kinds = _words(pooling) or [OWN]
    known = (OWN, *get_args(Pooling))
    for kind in kinds:
        if kind not in known:
            raise ConfigError(f"unknown pooling '{kind}'{did_you_mean(kind, known) or '.'} Known: {', '.join(known)}.")
    if layers is None and pooling is None:
        return list(specs)
    readings: dict[str, ModelSpec] = {}
    for spec in specs:
        last = modalities.of(spec.reads).own_is_last and not of_maps
        for layer in places:
            own = layer == OWN or (last and layer == LAST)
            shown = LAST if own and last else layer
            for kind in kinds:
                named = spec.model_copy(update={"name": _name(spec.name, shown, kind, own=own)})
                reading = at_place(named, spec.layer if own else layer, spec.pooling if kind == OWN else kind)
                readings.setdefault(reading.name, reading)
    return list(readings.values())


def by_network(candidates: Iterable[Candidate]) -> list[SameNetwork]:
    """Candidates of the same network together, in order of first appearance."""
    groups: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(network_of(candidate.spec), []).append(candidate)
    return [SameNetwork(tuple(members)) for members in groups.values()]


def _name(model: str, layer: str, pooling: str, *, own: bool) -> str:
    if own and pooling == OWN:
        return model
    return f"{model}@{layer}" if pooling == OWN else f"{model}@{layer}/{pooling}"


def _words(value: str | Sequence[str] | None) -> list[str]:
    return list(dict.fromkeys(words(value)))
