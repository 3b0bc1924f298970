"""What a saved model says of items: labels, calibrated probabilities, and why some have none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Prediction:
    """One image or text: its label and calibrated probability, the leading classes, or why there are none."""

    image: str
    label: str | None = None
    probability: float | None = None
    top: tuple[tuple[str, float], ...] = ()
    error: str | None = None

    def __str__(self) -> str:
        if self.error:
            return f"{self.image}: {self.error}"
        return f"{self.image}: {self.label} ({self.probability:.2f})"


class Predictions(Sequence[Prediction]):
    """Predictions in the order of the images.

    Attributes:
        class_names: C, in label order.
        probabilities: float (N, C), calibrated; NaN for an image that could not be read.
    """

    def __init__(self, rows: Sequence[Prediction], probabilities: np.ndarray, class_names: Sequence[str]) -> None:
        self._rows = list(rows)
        self.probabilities = probabilities
        self.class_names = tuple(class_names)

    def __repr__(self) -> str:
        failed = f", {len(self.errors)} not read" if self.errors else ""
        return f"Predictions({len(self)} items, {len(self.class_names)} classes{failed})"

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._rows[index]

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self._rows)

    @property
    def labels(self) -> list[str | None]:
        """One class name an image; None for one that could not be read."""
        return [row.label for row in self._rows]

    @property
    def errors(self) -> list[Prediction]:
        """The images that could not be read."""
        return [row for row in self._rows if row.error is not None]

    def to_dicts(self) -> list[dict[str, Any]]:
        """Plain JSON types."""
        return [{**asdict(row), "top": [{"label": n, "probability": p} for n, p in row.top]} for row in self._rows]

    def to_dataframe(self) -> pandas.DataFrame:
        """Columns image, label, probability, error, then label_2, probability_2, ... of the leading classes."""
        import pandas as pd

        rows = []
        for row in self._rows:
            cells: dict[str, Any] = {"image": row.image, "label": row.label, "probability": row.probability}
            for place, (name, probability) in enumerate(row.top[1:], start=2):
                cells |= {f"label_{place}": name, f"probability_{place}": probability}
            rows.append(cells | {"error": row.error})
        return pd.DataFrame(rows)

    def to_csv(self) -> str:
        """``to_dataframe`` as CSV text."""
        return self.to_dataframe().to_csv(index=False)

    def table(self, top: int) -> tuple[list[str], list[list[str]]]:
        """Headers and cells, of the ``top`` leading classes, for a terminal."""
        places = min(top, len(self.class_names))
        rows = []
        for row in self._rows:
            cells = [row.image, *([f"{name} {100 * share:.0f} %" for name, share in row.top] or [row.error or ""])]
            rows.append([*cells, *[""] * (places + 1 - len(cells))])
        return ["item", "predicted", *["then"] * (places - 1)], rows

    def __str__(self) -> str:
        return "\n".join(str(row) for row in self._rows)
