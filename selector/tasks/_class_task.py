"""What tasks with one class a row share: the probabilities of their outputs, their temperature, their baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from selector.core.contracts import LabelKind, Target
from selector.core.stats import softmax
from selector.core.task import Stats
from selector.tasks._classes import check_classes
from selector.tasks._linear import LinearTask, temperature_of


class ClassTask(LinearTask):
    """See ``core.task.Task``; what validation chooses is a temperature."""

    label_kind = LabelKind.CLASSES
    tie_breaker = "log_loss"

    def check(self, target: Target) -> None:
        """Also: at least two classes in train."""
        super().check(target)
        check_classes(target)

    def calibrate(self, stats: Stats) -> dict[str, Any]:
        """The temperature that minimises the log-loss."""
        return {"temperature": float(stats.summary["temperature"])}

    def trivial(self, target: Target, items: np.ndarray) -> Stats:
        """Always the most frequent class of train + val; its log-loss is that of their class shares."""
        known = self.labels(target.labels_of(target.indices("train", "val")))
        shares = np.bincount(known, minlength=self.num_outputs(target)) / len(known)
        outputs = np.log(np.maximum(np.tile(shares, (len(target.rows_of(items)), 1)), 1e-15))
        return self.of(target.class_names).judged(outputs, target, items)  # type: ignore[attr-defined,no-any-return]

    def predictions(self, outputs: Any, class_names: Sequence[str], context: Mapping[str, Any]) -> list[dict[str, Any]]:
        """An entry a row: ``label``, its calibrated ``probability``, and ``probabilities`` (C,) of all classes."""
        probabilities = softmax(np.asarray(outputs), temperature_of(context))
        return [
            {"label": class_names[int(i)], "probability": float(row[i]), "probabilities": row}
            for i, row in zip(probabilities.argmax(axis=1), probabilities, strict=True)
        ]

    def activation(self, outputs: Any, context: Mapping[str, Any]) -> tuple[str, Any] | None:
        """Calibrated probabilities."""
        return "probabilities", (outputs / temperature_of(context)).softmax(dim=-1)
