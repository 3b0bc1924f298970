"""Entries of a zoo chosen by name and tag."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any

from selector.core.errors import ZooError, did_you_mean
from selector.core.units import words
from selector.zoo.own import as_spec
from selector.zoo.spec import SOURCES, ModelSpec, Zoo


def select(
    zoo: Zoo,
    models: str | Sequence[Any] | None = None,
    tags: str | Sequence[str] | None = None,
    *,
    beyond: bool = False,
) -> list[ModelSpec]:
    """Entries chosen by glob on their names and by tag (any of them).

    A glob is on names, with or without the source before them: ``resnet*`` finds an entry that is named
    ``timm:resnet50.a1_in1k`` after its source. ``source:model`` in full that no entry is becomes an entry of
    its own; a control (random weights) is never found by its source, whose weights it has not.

    Args:
        models: one glob or several; a comma separates globs in a string. None takes all. A ``ModelSpec`` or a
            torch module among them is an entry of its own.
        tags: likewise.
        beyond: whether a wildcard with its source (``timm:*``) also stands for what the source lists and the zoo
            does not: where no zoo was named.

    Raises:
        ZooError: a glob or tag that matches nothing; nothing left.
    """
    chosen = list(zoo.models)
    for pattern in words(tags):
        known = sorted({tag for model in zoo.models for tag in model.tags})
        if pattern not in known:
            raise ZooError(
                f"unknown tag '{pattern}'{did_you_mean(pattern, known) or '.'} Tags of this zoo: {', '.join(known) or 'none'}."
            )
    if tags:
        chosen = [model for model in chosen if set(model.tags) & set(words(tags))]
    if models:
        picked: list[ModelSpec] = []
        own = [as_spec(model) for model in words(models) if not isinstance(model, str)]
        picked += own
        for pattern in (word for word in words(models) if isinstance(word, str)):
            hits = [m for m in zoo.models if _is_called(m, pattern)]
            if _looks_like_reference(pattern) and (not hits or (beyond and any(char in pattern for char in "*?["))):
                hits = [*hits, ModelSpec.model_validate(pattern)]  # what the zoo does not list
            if not hits:
                raise ZooError(
                    f"no model of the zoo matches '{pattern}'{did_you_mean(pattern, zoo.names()) or '.'} 'selector zoo list' shows them."
                )
            picked += [m for m in hits if m not in picked]
        chosen = [m for m in picked if not tags or m in chosen or m in own]
    if not chosen:
        raise ZooError("no model is left after selecting by name and tag; loosen --models or --tags.")
    return chosen


def _is_called(spec: ModelSpec, pattern: str) -> bool:
    """Whether a glob is on a model's name, or on its source where it has the source's weights."""
    names = [spec.name]
    if spec.weights != "none":
        names.append(spec.source)
        if spec.name == spec.source:
            names.append(spec.model_id)
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)


def _looks_like_reference(pattern: str) -> bool:
    source, separator, model = pattern.partition(":")
    # python: entries run code, so they are never made from a command-line word
    return bool(separator and model) and source in SOURCES and source != "python"
