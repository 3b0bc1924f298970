"""The configuration of a call: ``ScanConfig`` of ``rank`` and ``plan``, ``ConfirmConfig`` of ``confirm``.

Both combine the groups of ``selector.options``, where each option is declared once. A new option is one field there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Self

from pydantic import SkipValidation, field_validator, model_validator

from selector.core.errors import OptionError
from selector.core.options import CONFIRM, LABELS, NETWORKS, CallOptions, option, quantity
from selector.core.units import parse_count
from selector.options.data import DataOptions, ItemOptions
from selector.options.limits import LimitOptions
from selector.options.machine import READ, HistoryLike, MachineOptions, StoreLike
from selector.options.models import ModelOptions, ProxyLike, TrustOptions, ZooLike
from selector.options.training import DEFAULT_BUDGET, TOP_K, TrainingOptions
from selector.zoo import ModelSpec, Zoo
from selector.zoo.own import is_module

__all__ = [
    "DEFAULT_BUDGET",
    "READ",
    "TOP_K",
    "ConfirmConfig",
    "HistoryLike",
    "ProxyLike",
    "ScanConfig",
    "StoreLike",
    "ZooLike",
]

IN_MEMORY = "in memory"
"""What a run records as its zoo when it was given specs and no file."""


class _Recorded(CallOptions):
    """What a call with options leaves in ``run.json``."""

    def record(self) -> dict[str, Any]:
        """What ``run.json`` keeps, as plain JSON: by name, objects as what they can be named by."""
        return {about.key: _plain(getattr(self, name)) for name, about in self.options() if about.key is not None}


class ScanConfig(_Recorded, MachineOptions, TrainingOptions, LimitOptions, ModelOptions, ItemOptions, DataOptions):
    """The options of ``selector scan``, ``selector.rank`` and ``selector.plan``."""

    confirm: bool = option(
        False, "Fine-tuning of the leading models, within the budget (default: on; Python calls: off).",
        panel=CONFIRM, record=False, cli_default=True, common=True,
    )  # fmt: skip
    seed: int = option(0, "Random seed for splits, subsampling and training (default: 0).")

    @field_validator("max_pixels")
    @classmethod
    def _pixels(cls, value: str | int | float | None) -> int | None:
        found = None if value is None else int(quantity("max_pixels", value, parse_count))
        if found == 0:
            raise OptionError(f"max_pixels must be more than 0, or no image can be used. Got {value!r}.", "max_pixels")
        return found

    @property
    def pixels(self) -> int | None:
        """``max_pixels`` as a number."""
        return None if self.max_pixels is None else parse_count(self.max_pixels)

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.prune == "always" and not self.intervals:
            raise OptionError(
                "prune='always' needs intervals, by which models are pruned. Leave one of the two out.",
                "prune",
                "intervals",
            )
        return self


class ConfirmConfig(_Recorded, MachineOptions, TrainingOptions, TrustOptions):
    """The options of ``selector confirm`` and ``selector.confirm``."""

    target: SkipValidation[Any] = option(
        None, "The data of a saved ranking that was made from objects in memory.", cli=False, record=False
    )
    models: str | list[str] | tuple[str, ...] | None = option(
        None, "Models of the run to fine-tune: names or patterns, comma-separated (default: the leading ones). They train at the "
        "rate that was best before. The saved model stays unless validation prefers another.", record=False, needs=(LABELS, NETWORKS),
    )  # fmt: skip
    seed: int | None = option(None, "Random seed for training (default: the run's own).")

    @staticmethod
    def training_fields() -> tuple[str, ...]:
        """Names of the options that decide the measurements; ``ScanConfig`` has them too."""
        return (*TrainingOptions.model_fields, "seed")

    def training_record(self) -> dict[str, Any]:
        """What decides the measurements: kept in ``run.json`` as ``confirm``."""
        kept = {about.key for name, about in self.options() if name in self.training_fields()}
        return {key: value for key, value in self.record().items() if key in kept}


def _plain(value: Any) -> Any:
    if isinstance(value, Zoo | Mapping):
        return IN_MEMORY
    if isinstance(value, list | tuple) and any(isinstance(p, ModelSpec | dict) or is_module(p) for p in value):
        return IN_MEMORY
    if isinstance(value, str | int | float | None):
        return value
    if isinstance(value, list | tuple):
        return [part if isinstance(part, str | int | float) else _called(part) for part in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return str(getattr(value, "root", _called(value)))


def _called(value: Any) -> str:
    return str(getattr(value, "__name__", None) or type(value).__name__)
