"""What an item is, one file a modality: how it is checked, prepared once, batched, augmented, shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selector.core.errors import did_you_mean
from selector.core.registry import Registry

if TYPE_CHECKING:  # names and checks of them serve files that are read without numpy
    from selector.core.modality import AnyModality

registry: Registry[AnyModality] = Registry("selector.modalities", "modality")
modality = registry.instance
"""Class decorator: ``@modality("name")`` files one instance of the class."""


def of(kind: object) -> AnyModality:
    """The modality of a name, of a target, of an encoder or of its preprocessing."""
    return registry.get(str(getattr(kind, "modality", kind)))


def check(name: str) -> str:
    """The name.

    Raises:
        ValueError: of no modality.
    """
    if name not in registry:
        known = registry.names()
        raise ValueError(f"unknown modality '{name}'{did_you_mean(name, known) or '.'} Known: {', '.join(known)}")
    return name


def of_batch(batch: object) -> AnyModality:
    """The modality of a prepared batch.

    Raises:
        TypeError: of none.
    """
    for name in registry.names():
        if registry.get(name).owns(batch):
            return registry.get(name)
    raise TypeError(f"a batch is pixels or tokens; got {type(batch).__name__}.")
