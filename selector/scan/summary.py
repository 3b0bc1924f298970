"""The order of the table, and the target in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from selector import modalities
from selector.core.contracts import UNLABELED, Target
from selector.results import ModelResult
from selector.tasks import task_for


def ordered(models: Sequence[ModelResult], first: str | None = None) -> tuple[ModelResult, ...]:
    """Measured models by what was measured, then those with a pilot run by both, then finished ones by transferability, those
    that a pilot run could not train behind them, then pruned, excluded, failed.

    ``first`` names the model that comes first among those that measured the same: the one that was handed over.
    """

    def key(model: ModelResult) -> tuple[float, ...]:
        measured = model.best_measurement()
        transferability = -np.inf if model.transferability is None else model.transferability
        group = {"failed": 4.0, "excluded": 3.0, "pruned": 2.0, "ok": 1.0 if measured is None else 0.0}[model.status]
        # pruned models of different N are ordered by how far they came, never by score across N
        merit = -measured.merit if measured else 0.0
        pilot = np.inf if model.pilot is None or model.pilot.combined is None else -float(model.pilot.combined)
        untrainable = model.pilot is not None and model.pilot.untrainable
        rows = -model.rows if group == 2.0 else 0.0
        return (group, merit, model.name != first, rows, untrainable, pilot, -transferability)

    in_order = sorted(models, key=key)
    return tuple(replace(m, rank=None if m.status in ("failed", "excluded") else i + 1) for i, m in enumerate(in_order))


def summarize(target: Target) -> dict[str, Any]:
    """The target as plain JSON: what the run records and the report shows."""
    counts = {name: int(n) for name, n in zip(target.class_names, target.class_counts(), strict=False)}
    return {
        "name": target.name,
        "fingerprint": target.fingerprint,
        "identity": target.identity,
        "modality": str(target.modality),
        "label_kind": str(target.label_kind),
        "items": len(target),
        **({"words": len(target.labels)} if target.of_words else {}),
        **modalities.of(target).facts(target.items),
        "task": target.task,
        "classes": len(target.class_names),
        "class_noun": "classes" if (task := task_for(target)) is None else task.class_noun,
        "class_names": list(target.class_names),
        "class_counts": counts,
        "splits": target.counts(),
        **({UNLABELED: len(found)} if len(found := target.indices(UNLABELED)) else {}),
        "split_origin": target.split_origin,
        "origin": target.origin,
    }
