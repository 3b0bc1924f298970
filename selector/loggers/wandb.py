"""Weights & Biases; its own variables (``WANDB_MODE=offline``, ``WANDB_DIR``) say where it writes."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selector.loggers._logger import registry


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

    def figure(self, name: str, figure: Any) -> None:
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
