"""MLflow: a run in the experiment ``selector``, at the tracking URI of the environment or the one that is given."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selector.loggers._logger import registry

EXPERIMENT = "selector"
_BATCH, _SECONDS = 500, 5.0  # metrics sent at once, and how long they wait: a request a step would slow a training down
_PARAMS, _LONGEST = 100, 500  # a batch, and characters of one


@registry.register("mlflow")
class MLflow:
    """A run of an MLflow server or store; the place is a tracking URI."""

    def __init__(self, name: str, place: str) -> None:
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(tracking_uri=place or None)
        found = self.client.get_experiment_by_name(EXPERIMENT)
        experiment = found.experiment_id if found else self.client.create_experiment(EXPERIMENT, _beside(place))
        self.run_id: str = self.client.create_run(experiment, run_name=name).info.run_id
        self._waiting: list[Any] = []
        self._sent = time.monotonic()

    def params(self, values: Mapping[str, str | int | float | bool]) -> None:
        """See ``ExperimentLog``."""
        from mlflow.entities import Param

        found = [Param(name.replace(" ", "_"), str(value)[:_LONGEST]) for name, value in values.items()]
        for begin in range(0, len(found), _PARAMS):
            self.client.log_batch(self.run_id, params=found[begin : begin + _PARAMS])

    def metric(self, name: str, value: float, step: int) -> None:
        """See ``ExperimentLog``; sent in batches."""
        from mlflow.entities import Metric

        self._waiting.append(Metric(name, value, int(time.time() * 1000), step))
        if len(self._waiting) >= _BATCH or time.monotonic() - self._sent > _SECONDS:
            self._send()

    def figure(self, name: str, figure: Any) -> None:
        """See ``ExperimentLog``."""
        self.client.log_figure(self.run_id, figure, f"figures/{name}.png")

    def artifact(self, path: Path) -> None:
        """See ``ExperimentLog``."""
        self.client.log_artifact(self.run_id, str(path))

    def close(self) -> None:
        """See ``ExperimentLog``."""
        self._send()
        self.client.set_terminated(self.run_id)

    def _send(self) -> None:
        waiting, self._waiting, self._sent = self._waiting, [], time.monotonic()
        if waiting:
            self.client.log_batch(self.run_id, metrics=waiting)


def _beside(place: str) -> str | None:
    """Where files of a local database go: beside it, and not into the folder that one happens to be in."""
    scheme, _, path = place.partition(":///")
    return (Path(path).absolute().parent / "mlartifacts").as_uri() if scheme == "sqlite" else None
