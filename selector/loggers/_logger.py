"""What an experiment logger is, and where they are found by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from selector.core.registry import Registry


@runtime_checkable
class ExperimentLog(Protocol):
    """What a run is reported to, while it runs and at its end."""

    def params(self, values: Mapping[str, str | int | float | bool]) -> None:
        """Settings of the run, by name."""

    def metric(self, name: str, value: float, step: int) -> None:
        """A finite value at a step."""

    def figure(self, name: str, figure: Any) -> None:
        """A matplotlib figure."""

    def artifact(self, path: Path) -> None:
        """A file of the run."""

    def close(self) -> None:
        """Nothing follows."""


registry: Registry[Callable[[str, str], ExperimentLog]] = Registry("selector.loggers", "logger")
"""(name of the run, place or nothing) -> a logger."""
