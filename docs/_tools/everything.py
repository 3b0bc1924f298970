"""A ranking in which every optional value is present, so that its table has every column: only the headings are read."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

from selector import results
from selector.proxies import DEFAULT_PROXIES
from selector.report.ranking import Ranking


def ranking() -> Ranking:
    """One model with a value of every kind, one that failed."""
    scores = {name: results.ScoreCell(0.5, 0.4, 0.6) for name in DEFAULT_PROXIES}
    measured = [
        results.Measurement(strategy=name, metric="accuracy", val={"accuracy": 0.5}, test={"accuracy": 0.5})
        for name in ("frozen", "full")
    ]
    spec = {"source": "timm:resnet18", "license": "mit"}
    model = _filled(
        results.ModelResult,
        scores=scores,
        measurements=tuple(measured),
        spec=spec,
        status="ok",
        name="model",
        prompt="query: ",
    )
    failed = results.ModelResult("other", {"source": "timm:resnet18"}, status="failed", reason="…")
    target = {"name": "target", "items": 10, "classes": 2, "modality": "image"}
    return Ranking(target, {"top_k": 3, "proxies": list(scores)}, {}, (model, failed))


def _filled(cls: type, **given: Any) -> Any:
    hints = typing.get_type_hints(cls)
    values = {field.name: _value(hints[field.name], field.name) for field in dataclasses.fields(cls)}
    return cls(**values | given)


def _value(hint: Any, name: str) -> Any:
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    kind = next((part for part in parts if part is not type(None)), str)
    if typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    if dataclasses.is_dataclass(kind):
        return _filled(typing.cast(type, kind))
    if kind in (int, float, bool):
        return kind(1)
    if typing.get_origin(kind) is tuple:
        return (64, 64) if name == "resolution" else (0.5,)
    if getattr(typing.get_origin(kind), "__name__", "") == "Mapping":
        return {}
    return "accuracy" if name == "metric" else "ok" if name == "status" else "full" if name == "strategy" else ""
