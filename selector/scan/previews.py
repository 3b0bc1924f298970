"""Small images, texts or words for the samples of an outcome, so that the report needs the data no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from selector import modalities
from selector.core.contracts import Target
from selector.results import Measurement


def illustrated(measurements: Sequence[Measurement], target: Target) -> tuple[Measurement, ...]:
    """The measurements with a thumbnail for each sample of an outcome, or the text or words that it is about."""
    return tuple(_illustrated(m, target) if "error_analysis" in m.extra else m for m in measurements)


def _illustrated(measurement: Measurement, target: Target) -> Measurement:
    outcome = measurement.extra["error_analysis"]
    samples = previewed(outcome.get("samples", ()), target)
    return replace(measurement, extra={**measurement.extra, "error_analysis": {**outcome, "samples": samples}})


def previewed(samples: Sequence[Mapping[str, Any]], target: Target) -> list[dict[str, Any]]:
    """Samples, which name their item by ``index``, each with its thumbnail or text; ready features have nothing to show."""
    items = modalities.of(target)
    if not items.has_models:
        return [dict(sample) for sample in samples]

    def shown(sample: Mapping[str, Any]) -> dict[str, Any]:
        index, begin = sample["index"], sample.get("begin")
        part = None if begin is None else slice(int(begin), int(begin) + len(sample["label"]))
        return dict(items.preview(target.items, index, str(target.names[index]), part))

    return [{**sample, **shown(sample)} for sample in samples]
