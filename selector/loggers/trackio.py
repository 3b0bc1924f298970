"""Trackio: a local dashboard with the interface of Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selector.loggers._logger import registry


@registry.register("trackio")
class Trackio:
    """A run of a project; the place is the project, ``selector`` when not given."""

    def __init__(self, name: str, place: str) -> None:
        import trackio

        self._library = trackio
        self._library = trackio
        self._name, self._project = name, place or "selector"
        self.run: Any = None

    def params(self, values: Mapping[str, str | int | float | bool]) -> None:
        """See ``ExperimentLog``; kept as texts, since a run takes its settings when it begins."""
        self.metric_of({f"parameters/{name}": str(value) for name, value in values.items()})

    def metric(self, name: str, value: float, step: int) -> None:
        """See ``ExperimentLog``."""
        self.metric_of({name: value, f"{name} (step)": step})

    def metric_of(self, values: Mapping[str, Any]) -> None:
        """Log several values at once."""
        if self.run is None:
            self.run = self._library.init(project=self._project, name=self._name)
        self.run.log(dict(values))

    def figure(self, name: str, figure: Any) -> None:
        """Not kept: the report holds it."""

    def artifact(self, path: Path) -> None:
        """Where the file lies."""
        self.metric_of({f"artifacts/{path.name}": str(path)})

    def close(self) -> None:
        """See ``ExperimentLog``."""
        if self.run is not None:
            self.run.finish()
