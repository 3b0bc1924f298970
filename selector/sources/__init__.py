"""Where models come from. One module a source, found by name on first use."""

from __future__ import annotations

from collections.abc import Callable

from selector.contracts import Source
from selector.registry import Registry

registry: Registry[Source] = Registry("selector.sources", "source")


def source(name: str) -> Callable[[type], type]:
    """Class decorator: files one instance of the class under ``name``."""

    def decorate(cls: type) -> type:
        registry.register(name)(cls())
        return cls

    return decorate
