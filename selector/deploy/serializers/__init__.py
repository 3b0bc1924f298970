"""How a saved model keeps, collects, reads and describes the items of a modality: one file a modality."""

from __future__ import annotations

from selector.core.registry import Registry
from selector.deploy.serializers._serializer import AnySerializer

registry: Registry[AnySerializer] = Registry("selector.deploy.serializers", "modality of saved models")
serializer = registry.instance
"""Class decorator: ``@serializer("name")`` files one instance of the class."""


def of(preprocess: object) -> AnySerializer:
    """The serializer of what is prepared so, or of a modality's name."""
    return registry.get(str(getattr(preprocess, "modality", preprocess)))
