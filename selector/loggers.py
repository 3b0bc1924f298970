"""Experiment loggers: TensorBoard, MLflow, Weights & Biases, Trackio; their packages are imported where one is opened.

A logger is an object with the methods of ``ExperimentLog``. ``log=`` takes names, such objects, or both.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from selector.core.registry import Registry
from selector.core.units import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@runtime_checkable
class ExperimentLog(Protocol):
    """What a run is reported to, while it runs and at its end."""

    def params(self, values: Mapping[str, str | int | float | bool]) -> None:
        """Settings of the run, by name."""

    def metric(self, name: str, value: float, step: int) -> None:
        """A finite value at a step."""

    def figure(self, name: str, figure: Figure) -> None:
        """A matplotlib figure."""

    def artifact(self, path: Path) -> None:
        """A file of the run."""

    def close(self) -> None:
        """Nothing follows."""


registry: Registry[Callable[[str, str], ExperimentLog]] = Registry("selector.loggers", "logger")
"""(name of the run, place or nothing) -> a logger."""


@registry.register("tensorboard")
class TensorBoard:
    """Event files in ``PLACE/NAME-TIME``; the place is the folder ``tensorboard`` when not given."""

    def __init__(self, name: str, place: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        plain = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
        self.folder = Path(place or "tensorboard") / f"{plain}-{time.strftime('%Y%m%d-%H%M%S')}"
        self._writer: Any = SummaryWriter(str(self.folder))

    def params(self, values: Mapping[str, str | int | float | bool]) -> None:
        """See ``ExperimentLog``."""
        rows = "\n".join(f"| {name} | {printable(str(value))} |" for name, value in values.items())
        self._writer.add_text("parameters", f"| name | value |\n|---|---|\n{rows}")

    def metric(self, name: str, value: float, step: int) -> None:
        """See ``ExperimentLog``."""
        self._writer.add_scalar(name, value, step)

    def figure(self, name: str, figure: Figure) -> None:
        """See ``ExperimentLog``."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        FigureCanvasAgg(figure)
        self._writer.add_figure(name, figure, close=False)

    def artifact(self, path: Path) -> None:
        """TensorBoard keeps no files: the table is shown as text, of others their place."""
        text = path.read_text(encoding="utf-8") if path.suffix == ".csv" else ""
        self._writer.add_text(f"artifacts/{path.name}", f"```\n{text}\n```" if text else str(path))

    def close(self) -> None:
        """See ``ExperimentLog``."""
        self._writer.close()


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

    def figure(self, name: str, figure: Figure) -> None:
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


@registry.register("wandb")
class WeightsAndBiases:
    """A run of a project; the place is the project, ``selector`` when not given."""

    def __init__(self, name: str, place: str) -> None:
        import wandb

        self._library = wandb
        self.run: Any = wandb.init(project=place or "selector", name=name)

    def params(self, values: Mapping[str, str | int | float | bool]) -> None:
        """See ``ExperimentLog``."""
        self.run.config.update(dict(values))

    def metric(self, name: str, value: float, step: int) -> None:
        """See ``ExperimentLog``; a metric has steps of its own."""
        self.run.log({name: value, f"{name} (step)": step})

    def figure(self, name: str, figure: Figure) -> None:
        """See ``ExperimentLog``."""
        from PIL import Image

        drawn = io.BytesIO()
        figure.savefig(drawn, format="png")  # the library itself would want pyplot
        self.run.log({f"figures/{name}": self._library.Image(Image.open(drawn))})

    def artifact(self, path: Path) -> None:
        """See ``ExperimentLog``."""
        made = self._library.Artifact(path.stem.replace(" ", "_"), type="result")
        made.add_file(str(path))
        self.run.log_artifact(made)

    def close(self) -> None:
        """See ``ExperimentLog``."""
        self.run.finish()


@registry.register("trackio")
class Trackio(WeightsAndBiases):
    """A run of a project, by the same methods; the place is the project, ``selector`` when not given."""

    def __init__(self, name: str, place: str) -> None:
        import trackio

        self.run = trackio.init(project=place or "selector", name=name, embed=False)

    def params(self, values: Mapping[str, str | int | float | bool]) -> None:
        """See ``ExperimentLog``; kept as texts, since a run takes its settings when it begins."""
        self.run.log({f"parameters/{name}": str(value) for name, value in values.items()})

    def figure(self, name: str, figure: Figure) -> None:
        """Not kept: the report holds it."""

    def artifact(self, path: Path) -> None:
        """Where the file lies."""
        self.run.log({f"artifacts/{path.name}": str(path)})
