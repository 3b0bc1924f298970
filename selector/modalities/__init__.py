"""What an item is, one file a modality: how it is checked, prepared once, batched, augmented, shown."""

from __future__ import annotations

from typing import Any

from selector.core.modality import ModalityHandler
from selector.core.registry import Registry

registry: Registry[ModalityHandler] = Registry("selector.modalities", "modality")
modality = registry.instance
"""Class decorator: ``@modality("name")`` files one instance of the class."""


def of(kind: Any) -> ModalityHandler:
    """The modality of a name, of a target, of an encoder or of its preprocessing."""
    return registry.get(str(getattr(kind, "modality", kind)))


def of_batch(batch: Any) -> ModalityHandler:
    """The modality of a prepared batch.

    Raises:
        TypeError: of none.
    """
    for name in registry.names():
        if registry.get(name).owns(batch):
            return registry.get(name)
    raise TypeError(f"a batch is pixels or tokens; got {type(batch).__name__}.")
