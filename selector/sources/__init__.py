"""Where models come from. One module a source, found by name on first use."""

from __future__ import annotations

from selector.core.contracts import Source
from selector.core.registry import Registry
from selector.sources._hub import noting_fetches

__all__ = ["noting_fetches", "registry", "source"]

registry: Registry[Source] = Registry("selector.sources", "source")
source = registry.instance
"""Class decorator: ``@source("name")`` files one instance of the class."""
