"""TensorBoard, through torch's writer: ``tensorboard --logdir tensorboard``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selector.core.units import printable
from selector.loggers._logger import registry


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

    def figure(self, name: str, figure: Any) -> None:
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
