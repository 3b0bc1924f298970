"""Which models a run looks at: selection from the zoo, each once a layer and pooling, and whether they can be used here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from selector import modalities, sources
from selector.core.contracts import Target, noun_of
from selector.core.errors import MALFORMED, ConfigError, ZooError, did_you_mean
from selector.core.units import words
from selector.run.job import Failure
from selector.scan.candidate import Candidate
from selector.zoo import ModelSpec, Pooling, TextSettings, Zoo, check_trusted, load_zoo, select
from selector.zoo.spec import at_place, network_of
from selector.zoo.timm_facts import with_facts


def choose_models(
    zoo: str | os.PathLike[str] | Zoo | Sequence[object] | Mapping[str, object] | None,
    models: str | Sequence[Any] | None = None,
    tags: str | Sequence[str] | None = None,
    *,
    trust_zoo: bool = False,
    modality: str | None = None,
) -> tuple[list[ModelSpec], bool]:
    """The frozen specs (wildcards expanded by their sources) and whether ``python:`` may run code.

    Args:
        modality: of the target; models that read something else are left out. None takes all.
    Raises:
        ZooError: nothing matches, or a wildcard names no model.
    """
    loaded = load_zoo(zoo, trust=trust_zoo)
    specs: list[ModelSpec] = []
    selected = select(loaded, models, tags, beyond=zoo is None)
    by_modality: dict[str, list[ModelSpec]] = {}
    for spec in selected:
        by_modality.setdefault(spec.reads, []).append(spec)
    readers = by_modality.get(modality, []) if modality else selected
    if modality and not readers:
        raise ZooError(
            f"none of the {len(selected)} selected model(s) reads {noun_of(modality)}s, and the target holds {noun_of(modality)}s; "
            f"select others ('selector zoo list' shows them)."
        )
    for spec in readers:
        if not spec.is_wildcard:
            specs.append(spec)
            continue
        listed = {s.source for s in readers if s.weights is None}
        ids = sources.registry.get(spec.source_name).expand(spec.model_id)
        if not ids:
            raise ZooError(f"the wildcard '{spec.source}' matches no model of {spec.source_name}; loosen it.")
        specs += [
            spec.model_copy(update={"source": f"{spec.source_name}:{i}", "name": f"{spec.source_name}:{i}"})
            for i in ids
            if f"{spec.source_name}:{i}" not in listed  # by hand, under whatever name
        ]
    unique = {spec.name: spec for spec in reversed(specs)}  # a name listed by hand wins over a wildcard's
    chosen = [with_facts(_with_license(spec)) for spec in specs if unique.get(spec.name) is spec]
    return chosen, loaded.trusted or trust_zoo


def _with_license(spec: ModelSpec) -> ModelSpec:
    """The license that the source states, where the zoo states none."""
    ask = getattr(sources.registry.get(spec.source_name), "license", None)
    stated = ask(spec) if spec.license is None and ask is not None else None
    return spec if stated is None else spec.model_copy(update={"license": stated})


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
        changes: dict[str, object] = {}
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

        of_maps: variants are those of a row reader (``extract.row_readers``), which names them.

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


@dataclass(frozen=True)
class Usable:
    """One model: ``reason`` says what is missing and what to do about it."""

    name: str
    source: str
    usable: bool
    reason: str = ""


def check_zoo(
    zoo: str | os.PathLike[str] | Zoo | None = None,
    *,
    models: str | Sequence[str] | None = None,
    tags: str | Sequence[str] | None = None,
    trust_zoo: bool = False,
) -> list[Usable]:
    """Expand the zoo and look for the weights of each of its models.

    Raises:
        ZooError: the file is wrong or nothing matches.
    """
    specs, trusted = choose_models(zoo, models, tags, trust_zoo=trust_zoo)
    found = []
    for spec in specs:
        try:
            check_trusted(spec, trusted)
            sources.registry.get(spec.source_name).identify(spec)
        except MALFORMED as error:
            found.append(Usable(spec.name, spec.source, False, Failure.of(error).reason))
        else:
            found.append(Usable(spec.name, spec.source, True))
    return found
