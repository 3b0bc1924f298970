"""Names in files of earlier versions and what they are called today; readers of ``run.json`` and of histories ask here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_FIELDS = {
    "evidence": "transferability",
    "evidence_low": "transferability_low",
    "evidence_high": "transferability_high",
    "skill": "normalized_score",
    "best_skill": "best_normalized_score",
    "normalised_score": "normalized_score",
    "best_normalised_score": "best_normalized_score",
    "course": "tuning_log",
    "outcome": "error_analysis",
    "rung": "round",
    "trial": "pilot",
    "licence": "license",
    "handed over": "selected",
    "chosen by": "chosen_by",
    "labelled": "labeled",
}
_CODES = {
    "unlike-calibration": "out-of-calibration",
    "static-explains": "explained-by-prior",
    "majority": "no-better-than-majority",
    "readings": "multiple-variants",
    "too-small": "too-few-examples",
    "no-training": "task-not-trainable",
    "stopped-early": "pruned",
}
_OPTIONS: dict[str, tuple[str, Mapping[object, str]]] = {
    "labelled_target": ("num_target_labels", {}),
    "on_bad_image": ("on_invalid", {"fail": "raise"}),
    "trust": ("hash_mode", {"stat": "mtime"}),
    "cost": ("measure_cost", {"again": "always", "off": "never"}),
    "drop": ("prune", {"off": "never", "force": "always"}),
    "licence": ("license", {}),
    "trials": ("pilot_cost", {}),
    "loss": ("loss", {"squared": "mse"}),
}
_PREDICTED = ("skill:", "normalised_score:")


def translate_run(data: dict[str, object], version: int) -> dict[str, object]:
    """A document ``run.json`` of format 1 or 2 under the names of format 3; what is malformed stays as it is."""
    if version > 2:
        return data
    parts: dict[str, object] = {k: _fields(data[k]) for k in ("models", "caveats", "confirmation") if k in data}
    for model in _mappings(parts.get("models")):
        if model.get("status") == "stopped":
            model["status"] = "pruned"
    for caveat in _mappings(parts.get("caveats")):
        caveat["code"] = _of(_CODES, caveat.get("code"))
    if isinstance(settings := data.get("settings"), dict):
        parts["settings"] = translate_options(settings)
    if isinstance(target := data.get("target"), dict):
        parts["target"] = _target(target)
    return data | parts


def translate_options(settings: Mapping[str, object]) -> dict[str, object]:
    """Recorded options under the names of today."""
    found: dict[str, object] = {}
    for key, value in settings.items():
        name, values = _OPTIONS.get(key, (key, {}))
        value = translate_options(value) if key == "confirm" and isinstance(value, dict) else value
        found[name] = _of(values, value)
    return found


def translate_metric(metric: str, prefix: str) -> str:
    """A predicted row's metric, which begins with ``prefix`` today."""
    for old in _PREDICTED:
        if metric.startswith(old):
            return prefix + metric.removeprefix(old)
    return metric


def _target(target: dict[str, Any]) -> dict[str, object]:
    found = {"unlabeled" if key == "unlabelled" else key: value for key, value in target.items()}
    if isinstance(splits := found.get("splits"), dict) and "unlabelled" in splits:
        found["splits"] = {"unlabeled" if key == "unlabelled" else key: n for key, n in splits.items()}
    origin = found.get("origin")
    if isinstance(origin, dict) and isinstance(options := origin.get("options"), dict):
        found["origin"] = origin | {"options": translate_options(options)}
    return found


def _fields(value: object) -> object:
    if isinstance(value, dict):
        return {_FIELDS.get(key, key): _fields(part) for key, part in value.items()}
    return [_fields(part) for part in value] if isinstance(value, list) else value


def _mappings(value: object) -> list[dict[str, object]]:
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []


def _of(names: Mapping[Any, str], value: Any) -> Any:
    return names.get(value, value) if isinstance(value, str) else value
