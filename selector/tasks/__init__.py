"""What is being learned. One module a task, found by name on first use."""

from __future__ import annotations

from collections.abc import Callable

from selector.contracts import Task
from selector.registry import Registry

registry: Registry[Task] = Registry("selector.tasks", "task")


def task(name: str) -> Callable[[type], type]:
    """Class decorator: files one instance of the class under ``name``."""

    def decorate(cls: type) -> type:
        registry.register(name)(cls())
        return cls

    return decorate
