"""``config.json`` of a saved model, read as data that somebody may have changed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from selector.core.documents import checked, read_document
from selector.core.errors import ConfigError
from selector.deploy import forms
from selector.deploy.forms._form import AGAIN

LEAST = 1e-6
"""Of a temperature: what is less divides outputs into what is no number."""


class _SavedConfig(BaseModel):
    """What decides predictions; further keys are facts for people."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    task: str
    source: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
    recipe: dict[str, Any]
    modality: Literal["image", "text", "rows"] = "image"
    preprocess: dict[str, Any]
    class_names: list[str]
    pairs: bool | None = None
    temperature: float | None = Field(default=None, ge=LEAST, le=1 / LEAST)
    context: dict[str, Any] | None = None

    @field_validator("context")
    @classmethod
    def _usable(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        for name, found in (value or {}).items():
            if not _finite(found):
                raise ValueError(f"'{name}' must hold finite numbers")
            number = isinstance(found, int | float) and not isinstance(found, bool)
            if name == "temperature" and not (number and LEAST <= found <= 1 / LEAST):
                raise ValueError(
                    f"'temperature' must be a number in the range [{LEAST:g}, {1 / LEAST:g}], got {found!r}"
                )
        return value


def read_config(path: Path, formats: tuple[int, ...]) -> dict[str, Any]:
    """The configuration of a saved model, checked.

    Raises:
        FileNotFoundError, NotADirectoryError: there is none.
        ConfigError: it cannot be read; the message names the file and the field.
    """
    data = read_document(path, AGAIN)
    if data.get("format") not in formats:
        raise ConfigError(
            f"{path} has format {data.get('format')!r}, expected {max(formats)}; use the version that wrote it."
        )
    config = checked(_SavedConfig, data, path, AGAIN)
    if config.context is None and config.temperature is None:
        raise ConfigError(f"{path}: context: field required; {AGAIN}.")
    return {**data, "preprocess": forms.of(config.modality).checked(config.preprocess, path)}


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list | tuple):
        return all(_finite(part) for part in value)
    return all(_finite(part) for part in value.values()) if isinstance(value, dict) else True
