"""Which models a run looks at: selection from the zoo, wildcards expanded and frozen."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from selector import sources
from selector.core.errors import ZooError
from selector.core.label_kinds import noun_of
from selector.zoo import ModelSpec, Zoo, load_zoo, select
from selector.zoo.timm_facts import with_facts


def choose_models(
    zoo: str | os.PathLike[str] | Zoo | Sequence[Any] | Mapping[str, Any] | None,
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
