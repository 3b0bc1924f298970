"""What is being learned. One module a task, found by name on first use."""

from __future__ import annotations

from typing import cast

from selector.core.contracts import LabelKind, Target, Task
from selector.core.errors import ConfigError
from selector.core.registry import Registry

registry: Registry[Task] = Registry("selector.tasks", "task")
task = registry.instance
"""Class decorator: ``@task("name")`` files one instance of the class."""

_OF_ITEMS = {LabelKind.CLASSES: "classification", LabelKind.MULTILABEL: "multilabel", LabelKind.REAL: "regression"}


def task_of(target: Target) -> Task:
    """The task of a target, told from what its labels are of: whole items, or words.

    Raises:
        ConfigError: there is none for such labels yet.
    """
    found = registry.get(_OF_ITEMS[target.label_kind] if target.row_starts is None else "tagging")
    bind = getattr(found, "of", None)  # a task that depends on the labels' names is made for the target
    return found if bind is None else cast(Task, bind(target))


def task_for(target: Target) -> Task | None:
    """Likewise; None where nothing trains on such labels yet."""
    try:
        return task_of(target)
    except ConfigError:
        return None
