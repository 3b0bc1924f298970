"""Which task reads a table: the one that was asked for, or the first that takes it.

The tasks that come with the package are asked in a fixed order, so that none has to know what the others take:
labels before masks and boxes, several labels and numbers before classes, which take any column of labels. Tasks of
plugins are asked first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from selector.core.contracts import Annotations
from selector.core.errors import ConfigError, TargetError, did_you_mean
from selector.core.task import Table
from selector.tasks import registry
from selector.tasks._read_classification import ClassificationReading
from selector.tasks._read_detection import DetectionReading
from selector.tasks._read_multilabel import MultilabelReading
from selector.tasks._read_regression import RegressionReading
from selector.tasks._read_segmentation import SegmentationReading
from selector.tasks._read_tagging import TaggingReading


class Reading(Protocol):
    """The part of a task that ``read_table`` needs."""

    def accepts(self, table: Table) -> str | None: ...

    def read(self, table: Table) -> Annotations: ...


_ORDER: dict[str, Reading] = {
    "tagging": TaggingReading(),
    "multilabel": MultilabelReading(),
    "regression": RegressionReading(),
    "classification": ClassificationReading(),
    "segmentation": SegmentationReading(),
    "detection": DetectionReading(),
}


def task_names() -> list[str]:
    """Every task that reads tables, those of the package in the order in which they are asked."""
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
        if task not in _ORDER and task not in registry:
            known = sorted({*_ORDER, *registry.names()})
            raise ConfigError(f"unknown task '{task}'{did_you_mean(task, known) or '.'} Known: {', '.join(known)}.")
        reading = _reading(task)
        role = getattr(reading, "role", None)  # without it the task decides by accepts alone
        if role not in table.roles and (why := reading.accepts(table)) is not None:
            raise ConfigError(f"{table.where}: task '{task}' was asked for, but {why}.")
        return task, reading.read(table)
    reasons = []
    for name, reading in _readings():
        why = reading.accepts(table)
        if why is None:
            return name, reading.read(table)
        reasons.append(f"{name}: {why}")
    raise TargetError(f"{table.where}: no task reads these data ({'; '.join(reasons)}).")


def _reading(name: str) -> Any:
    return _ORDER[name] if name in _ORDER else registry.get(name)


def _readings() -> Iterator[tuple[str, Any]]:
    found = ((name, _reading(name)) for name in task_names())
    yield from ((name, reading) for name, reading in found if getattr(reading, "reads_tables", True))
