"""Small pictures, or words, for the samples of an outcome, so that the report needs the data no more."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from selector.contracts import Modality, Target
from selector.images import UnreadableImage, thumbnail
from selector.results import Measurement

log = logging.getLogger(__name__)


def illustrated(measurements: Sequence[Measurement], target: Target) -> tuple[Measurement, ...]:
    """The measurements with a thumbnail for each sample of an outcome, or the words that it is about."""
    if target.modality is not Modality.IMAGE and target.row_starts is None:
        return tuple(measurements)
    return tuple(_illustrated(m, target) if "outcome" in m.extra else m for m in measurements)


def _illustrated(measurement: Measurement, target: Target) -> Measurement:
    outcome = measurement.extra["outcome"]
    samples = [{**s, **_shown(target, s)} for s in outcome.get("samples", ())]
    return replace(measurement, extra={**measurement.extra, "outcome": {**outcome, "samples": samples}})


def _shown(target: Target, sample: Mapping[str, Any]) -> dict[str, Any]:
    if target.row_starts is None:
        return {"thumbnail": _picture(target, sample["index"])}
    begin = int(sample["begin"])
    return {"words": list(target.items[sample["index"]][begin : begin + len(sample["label"])])}


def _picture(target: Target, index: int) -> str:
    try:
        return thumbnail(target.items[index])
    except (OSError, UnreadableImage) as error:  # moved or deleted since: the report does without
        log.warning("no thumbnail of %s: %s", target.names[index], error)
        return ""
