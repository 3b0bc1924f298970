"""Small pictures, texts or words for the samples of an outcome, so that the report needs the data no more."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from selector.core.contracts import Modality, RawText, Target
from selector.modalities.image import UnreadableImage, thumbnail
from selector.results import Measurement

log = logging.getLogger(__name__)

_SHOWN = 200  # characters of a text


def illustrated(measurements: Sequence[Measurement], target: Target) -> tuple[Measurement, ...]:
    """The measurements with a thumbnail for each sample of an outcome, or the text or words that it is about;
    ready features have nothing to show."""
    if target.modality is Modality.ROWS:
        return tuple(measurements)
    return tuple(_illustrated(m, target) if "outcome" in m.extra else m for m in measurements)


def _illustrated(measurement: Measurement, target: Target) -> Measurement:
    outcome = measurement.extra["outcome"]
    samples = [{**s, **_shown(target, s)} for s in outcome.get("samples", ())]
    return replace(measurement, extra={**measurement.extra, "outcome": {**outcome, "samples": samples}})


def _shown(target: Target, sample: Mapping[str, Any]) -> dict[str, Any]:
    if target.row_starts is None and target.modality is Modality.TEXT:
        return {"text": _beginning(target.items[sample["index"]])}
    if target.row_starts is None:
        return {"thumbnail": _picture(target, sample["index"])}
    begin = int(sample["begin"])
    return {"words": list(target.items[sample["index"]][begin : begin + len(sample["label"])])}


def _beginning(text: RawText) -> str:
    """The text on one line; of a pair both."""
    parts = (text,) if isinstance(text, str) else text
    lines = [" ".join(part.split()) for part in parts]
    return " | ".join(line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…" for line in lines)


def _picture(target: Target, index: int) -> str:
    try:
        return thumbnail(target.items[index])
    except (OSError, UnreadableImage) as error:  # moved or deleted since: the report does without
        log.warning("no thumbnail of %s: %s", target.names[index], error)
        return ""
