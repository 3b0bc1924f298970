"""Functions that take the options of a configuration as keywords: signature and docstring follow from its fields.

A checker and an editor read the keywords from the configuration's own constructor (``ParamSpec``); ``inspect.signature`` and
``help`` read them here. So an option is declared once.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from selector.core.options import CallOptions, about_field

PLACE = "{options}"
"""A line of a docstring's ``Args`` that the entries of the options stand for."""
_WIDTH = 110


def describe(function: Callable[..., Any], config: type[CallOptions]) -> None:
    """Give a function ``(what, **options)`` the signature and the docstring entries of a configuration's fields."""
    own = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    returns = inspect.signature(function).return_annotation
    function.__signature__ = inspect.Signature([*own, *_parameters(config)], return_annotation=returns)  # type: ignore[attr-defined]
    before, found, after = (function.__doc__ or "").partition(f"        {PLACE}\n")
    if found:
        function.__doc__ = before + "".join(f"{line}\n" for line in _entries(config)) + after


def _parameters(config: type[CallOptions]) -> Iterator[inspect.Parameter]:
    for name, _ in config.options():
        field = config.model_fields[name]
        kind = inspect.Parameter.KEYWORD_ONLY
        yield inspect.Parameter(name, kind, default=field.default, annotation=field.annotation)


def _entries(config: type[CallOptions]) -> Iterator[str]:
    for name, _ in config.options():
        field = config.model_fields[name]
        told = " ".join(part for part in (field.description, about_field(field).python) if part)
        told = re.sub(r"'([^'\s]*\*[^'\s]*)'", r"``\1``", told)  # a star is markup in a docstring
        yield from textwrap.wrap(f"{name}: {told}", _WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 12)
