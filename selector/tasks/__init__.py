"""What is being learned. One module a task, found by name on first use."""

from __future__ import annotations

from selector.contracts import Task
from selector.registry import Registry

registry: Registry[Task] = Registry("selector.tasks", "task")
task = registry.instance
"""Class decorator: ``@task("name")`` files one instance of the class."""
