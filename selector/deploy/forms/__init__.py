"""How a saved model keeps, collects, reads and describes the items of a modality: one file a modality."""

from __future__ import annotations

from selector.core.registry import Registry
from selector.deploy.forms._form import Form

registry: Registry[Form] = Registry("selector.deploy.forms", "modality of saved models")
form = registry.instance
"""Class decorator: ``@form("name")`` files one instance of the class."""


def of(preprocess: object) -> Form:
    """The form of what is prepared so, or of a modality's name."""
    return registry.get(str(getattr(preprocess, "modality", preprocess)))
