"""JSON files of our own (``run.json``, ``config.json``), read as data that somebody may have changed.

One reader: what is no JSON, or does not have the form that is asked for, is a ``ConfigError`` that names the file, the
field, what was expected and what was found.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from selector.core.errors import ConfigError
from selector.core.input_files import check_json, read_file

T = TypeVar("T")

LONGEST = 1 << 30
"""Bytes of a document; a larger one is not ours."""


def read_document(path: Path, advice: str) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        advice: what to do about a file that cannot be read.

    Raises:
        FileNotFoundError, NotADirectoryError: there is none; the caller knows what that means.
        ConfigError: it cannot be read, or is no JSON object.
    """
    try:
        data = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, ValueError) as error:  # ValueError: no JSON, no UTF-8, NUL in a name, a number of 5,000 digits
        raise ConfigError(f"{path} cannot be read: {error}; {advice}.") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} cannot be read: expected a JSON object, found {type(data).__name__}; {advice}.")
    return data


def read_json(path: Path) -> Any:
    """The content of a JSON file of somebody else.

    Raises:
        OSError, ValueError: it cannot be read, is no JSON, is nested too deeply, or takes too much memory.
    """
    text = read_file(path, LONGEST).decode("utf-8")
    check_json(text)
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def checked(form: type[T] | TypeAdapter[T], data: object, where: object, advice: str, below: str = "") -> T:
    """Data in the form of a type; what the type does not know is left out, so that later versions are read.

    Args:
        where: the file, for messages.
        below: the field that ``data`` stands under.

    Raises:
        ConfigError: names the first field that is wrong.
    """
    adapter: TypeAdapter[T] = form if isinstance(form, TypeAdapter) else TypeAdapter(form)
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explained(error, below)}; {advice}.") from None
    except RecursionError:
        raise ConfigError(f"{where}: {below or 'the document'} is nested too deeply; {advice}.") from None


def explained(error: ValidationError, below: str = "") -> str:
    """The first of pydantic's errors as ``field: expected …, found …``."""
    first = error.errors(include_url=False)[0]
    path = [*([below] if below else []), *(str(part) for part in first["loc"])]
    own = first["type"] == "value_error" and isinstance(first["input"], dict | list)  # it says itself what it found
    found = "" if first["type"] == "missing" or own else f", found {_shown(first['input'])}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{'.'.join(path) or 'the document'}: {message[:1].lower()}{message[1:]}{found}"


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, str | int | float | None) else type(value).__name__
    return text if len(text) <= 80 else f"{text[:77]}..."


def plain(value: object) -> Any:
    """JSON has no NaN and no numpy: both become what a strict reader accepts."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value
