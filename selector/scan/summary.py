"""The order of the table, what a reader should know before trusting it, and the target in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from selector.contracts import LabelKind, Target
from selector.results import ModelResult
from selector.scan.candidate import Candidate
from selector.scan.readings import network_of


def ordered(models: Sequence[ModelResult]) -> tuple[ModelResult, ...]:
    """Measured models by what was measured, then finished ones by evidence, then stopped, excluded, failed."""

    def key(model: ModelResult) -> tuple[float, ...]:
        measured = model.best_measurement()
        evidence = -np.inf if model.evidence is None else model.evidence
        group = {"failed": 4.0, "excluded": 3.0, "stopped": 2.0, "ok": 1.0 if measured is None else 0.0}[model.status]
        # stopped models of different N are ordered by how far they came, never by score across N
        return (group, -measured.val_value if measured else 0.0, -model.rows if group == 2.0 else 0.0, -evidence)

    in_order = sorted(models, key=key)
    return tuple(replace(m, rank=None if m.status in ("failed", "excluded") else i + 1) for i, m in enumerate(in_order))


def caveats(candidates: Sequence[Candidate]) -> Iterator[str]:
    """Sentences that a reader of the table should see first."""
    good = [c for c in candidates if c.evidence is not None and c.running]
    tied = [c.spec.name for c in good if c.evidence and c.evidence.tied]
    if len(tied) > 1:
        yield f"{len(tied)} models cannot be told apart on these rows: {', '.join(tied[:6])}{' ...' if len(tied) > 6 else ''}."
    networks = {network_of(c.spec) for c in good}
    if len(networks) < len(good):
        yield (
            f"{len(good)} rows are readings of {len(networks)} model(s): the highest of several readings was chosen "
            "on these rows, so its evidence is a little optimistic. A model is fine-tuned once, as its leading reading: "
            "the network up to that layer, with its pooling."
        )
    if good and max(c.evidence.value for c in good if c.evidence) < 0.05:
        yield "no model does clearly better than chance: the labels may be wrong, or nothing in this zoo fits the target."
    if excluded := [c for c in candidates if c.excluded]:
        yield f"{len(excluded)} model(s) are excluded by the limits and not ranked; their rows say why."
    if failed := [c.spec.name for c in candidates if c.failure]:
        yield f"{len(failed)} model(s) failed and are not ranked: {', '.join(failed[:6])}{' ...' if len(failed) > 6 else ''}."


def summarise(target: Target) -> dict[str, Any]:
    """The target as plain JSON: what the run records and the report shows."""
    counts = {}
    if target.label_kind is LabelKind.CLASSES:
        per_class = np.bincount(target.labels.astype(int), minlength=len(target.class_names))
        counts = {name: int(n) for name, n in zip(target.class_names, per_class, strict=True)}
    return {
        "name": target.name,
        "fingerprint": target.fingerprint,
        "modality": str(target.modality),
        "label_kind": str(target.label_kind),
        "items": len(target),
        "classes": len(target.class_names),
        "class_names": list(target.class_names),
        "class_counts": counts,
        "splits": target.counts(),
        "split_origin": target.split_origin,
        "origin": target.origin,
    }
