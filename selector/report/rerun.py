"""The command that makes a run again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from selector.results import Ranking

# settings that are an option of the same meaning, in the order in which they are written
_OPTIONS = {
    "zoo": "--zoo",
    "models": "--models",
    "tags": "--tags",
    "layers": "--layers",
    "pooling": "--pooling",
    "proxies": "--proxies",
    "max_samples": "--max-samples",
    "on_bad_image": "--on-bad-image",
    "top_k": "--top-k",
    "budget": "--budget",
    "strategies": "--strategies",
    "resolution": "--resolution",
    "metric": "--metric",
    "max_steps": "--max-steps",
    "device": "--device",
    "precision": "--precision",
    "backend": "--backend",
    "drop": "--drop",
    "max_params": "--max-params",
    "max_latency": "--max-latency",
    "max_memory": "--max-memory",
    "licence": "--licence",
    "cost": "--cost",
    "seed": "--seed",
}
IN_MEMORY = "in memory"
"""What a run records as its zoo when it was given specs and no file."""

_DEFAULTS: Mapping[str, Any] = {
    "on_bad_image": "skip",
    "top_k": 3,
    "strategies": "frozen,full",
    "device": "auto",
    "precision": "auto",
    "backend": "auto",
    "drop": "auto",
    "cost": "auto",
    "seed": 0,
}


def command(ranking: Ranking) -> str | None:
    """``selector scan ...`` with the settings of the run; None when its target or zoo was in memory only."""
    place = _place(ranking.target.get("origin"))
    settings = _flat(ranking.settings)
    if place is None or settings.get("zoo") == IN_MEMORY:
        return None
    words = ["selector", "scan", place, *_columns(ranking.target["origin"])]
    for key, option in _OPTIONS.items():
        value = settings.get(key)
        if isinstance(value, list | tuple):
            value = ",".join(str(part) for part in value)
        if key == "max_latency" and isinstance(value, int | float):
            value = f"{value:g}s"  # the option asks for a unit
        if value is not None and value != "" and value != _DEFAULTS.get(key):
            words += [option, str(value)]
    if settings.get("offline"):
        words.append("--offline")
    if settings.get("intervals") is False:
        words.append("--no-intervals")
    if settings.get("history") is False:
        words.append("--no-history")
    if not any(model.measurements for model in ranking):
        words.append("--no-confirm")
    if ranking.path is not None:
        words += ["--out", str(ranking.path)]
    return shlex.join(words)


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the confirmation beside those of the scan, the budget as the option takes it."""
    confirm = settings.get("confirm") or {}
    flat = {**settings, **confirm}
    if flat.get("budget_seconds") is not None:
        flat["budget"] = f"{flat['budget_seconds']:g}s"
    return flat


def _columns(origin: Mapping[str, Any]) -> list[str]:
    """Options that name the columns of a table, as the target was loaded with."""
    named = origin.get("options") or {}
    text = named.get("text_column")
    columns = {"--text-column": ",".join(text) if isinstance(text, list) else text}
    columns |= {"--label-column": named.get("label_column")}
    return [word for option, column in columns.items() if column for word in (option, str(column))]


def _place(origin: Any) -> str | None:
    return str(origin["path"]) if isinstance(origin, Mapping) and origin.get("path") else None
