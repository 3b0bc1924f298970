"""What is being learned. One module a task, found by name on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from selector.core.contracts import Annotations, LabelKind, Target
from selector.core.errors import ConfigError, TargetError
from selector.core.registry import Registry
from selector.core.stats import LEGACY, Metric
from selector.core.table import Table
from selector.core.task import Task

if TYPE_CHECKING:
    from selector.tasks._linear import LinearTask as LinearTask

__all__ = ["LinearTask", "metric_named", "read_table", "registry", "task", "task_for", "task_names", "task_of"]

registry: Registry[Task] = Registry("selector.tasks", "task", folders=True)
task = registry.instance
"""Class decorator: ``@task("name")`` files one instance of the class."""

_OF_ITEMS = {LabelKind.CLASSES: "classification", LabelKind.MULTILABEL: "multilabel", LabelKind.REAL: "regression"}


def task_of(target: Target) -> Task:
    """The task that read a target; of one that was made by hand the task of such labels.

    Raises:
        ConfigError: there is none for such labels yet.
    """
    name = target.task or (_OF_ITEMS[target.label_kind] if target.row_starts is None else "tagging")
    return registry.get(name).of(target.class_names)


def task_for(target: Target) -> Task | None:
    """Likewise; None where nothing trains on such labels yet."""
    try:
        return task_of(target)
    except ConfigError:
        return None


def metric_named(name: str) -> Metric:
    """The declaration of a metric, of whichever task declares it; for runs and histories, which keep names.

    A name that no task declares any more is taken for a share of which more is better, unless the first edition
    knew it as a loss or an error.
    """
    for found in registry.names():
        declared = registry.get(found).metrics
        if name in declared:
            return declared[name]
    return Metric(sign=LEGACY.get(name, 1), unit="nats" if name == "log_loss" else "share")


def __getattr__(name: str) -> object:
    if name == "LinearTask":  # it brings the solver along, which a listing of tasks does not need
        from selector.tasks._linear import LinearTask

        return LinearTask
    raise AttributeError(f"module 'selector.tasks' has no attribute '{name}'")


_ORDER = ("tagging", "multilabel", "regression", "classification", "segmentation", "detection")
"""Labels before masks and boxes; several labels and numbers before classes, which take any column of labels."""


def task_names() -> list[str]:
    """Every task, in the order in which they are asked to read a table: those of plugins first."""
    return [*(name for name in registry.names() if name not in _ORDER), *_ORDER]


def read_table(table: Table, task: str | None) -> tuple[str, Annotations]:
    """The name of the task and what it reads.

    Args:
        task: the one that is asked for; inferred from the table when not given.

    Raises:
        ConfigError: an unknown task, or one for another kind of annotation.
        TargetError: no task takes the table, or the annotation is not as the task needs it.
    """
    if task is not None:
        reading: Any = registry.get(task)
        role = getattr(reading, "role", None)  # without it the task decides by accepts alone
        if role not in table.roles and (why := reading.accepts(table)) is not None:
            raise ConfigError(f"{table.where}: task '{task}' was asked for, but {why}.")
        return task, reading.read(table)
    reasons = []
    for name in task_names():
        reading = registry.get(name)
        if not getattr(reading, "reads_tables", True):
            continue
        why = reading.accepts(table)
        if why is None:
            return name, reading.read(table)
        reasons.append(f"{name}: {why}")
    raise TargetError(f"{table.where}: no task reads these data ({'; '.join(reasons)}).")
