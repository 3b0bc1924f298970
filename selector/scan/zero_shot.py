"""Zero-shot rows: what models with an image and a text tower say from the class names alone, as a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from selector import sources, tasks
from selector.core.contracts import Target
from selector.core.errors import OptionError, SelectorError
from selector.report.ranking import Ranking
from selector.results import BASELINE, Measurement
from selector.scan.extraction import Extraction
from selector.zoo import ModelSpec

TEMPLATE = "a photo of a {}."


def check_zero_shot(target: Target, specs: Sequence[ModelSpec]) -> None:
    """Refuse zero-shot rows where there are no class names, or no models that may read them."""
    faults = {
        "it needs one class per image": target.item_classes is None,
        "its classes are numbers, without a name": all(name.isdigit() for name in target.class_names),
        "no selected model has a text tower, as vision:openai/clip-vit-base-patch32 has": not any(map(_reader, specs)),
    }
    if fault := next((text for text, found in faults.items() if found), ""):
        raise OptionError(f"zero_shot has no effect on {target.name}: {fault}. Leave it out.", "zero_shot")


def with_zero_shot(ranking: Ranking, extraction: Extraction, specs: Sequence[ModelSpec], *, test: bool) -> Ranking:
    """The ranking with a row of each model that has a text tower; ``test``: the test split is read as well."""
    target, task, warnings = extraction.target, tasks.task_of(extraction.target), list(ranking.warnings)
    texts = [TEMPLATE.format(name.replace("_", " ")) for name in target.class_names]
    metric = str(ranking.settings.get("metric") or task.default_metric)
    models = {model.name: model for model in ranking}
    for spec in [spec for spec in specs if _reader(spec) and models[spec.name].status == "ok"]:
        values: dict[str, dict[str, float]] = {"val": {}, "test": {}}
        try:
            logits = _reader(spec)(spec, texts)
            for split in ("val", "test") if test else ("val",):
                if logits is not None and len(items := target.indices(split)):
                    evaluator = task.evaluator(target)
                    evaluator.update(logits(extraction.features(spec, items)), items)
                    values[split] = evaluator.stats().values(task.metrics)
        except SelectorError as error:
            warnings.append(f"no zero-shot row of {spec.name}: {error}")
        if values["val"]:
            note = f"from the texts '{TEMPLATE}', without training"
            row = Measurement("zero-shot", metric, values["val"], values["test"], status=BASELINE, note=note)
            model = models[spec.name]
            models[spec.name] = replace(model, measurements=(*model.measurements, row))
    return replace(ranking, models=tuple(models.values()), warnings=tuple(warnings))


def _reader(spec: ModelSpec) -> Any:
    """What reads texts beside a model's features; None where these are not what its text tower was trained with."""
    own = spec.layer is None and spec.pooling is None
    return getattr(sources.registry.get(spec.source_name), "zero_shot", None) if own else None
