"""An option, described once: its type, default and help, and what the command line and a run's record know of it.

Which options there are is ``selector.options``.
"""

from __future__ import annotations

import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from selector.core.errors import ConfigError, OptionError, did_you_mean

SELECT, DATA, COST, CONFIRM, MACHINE = ("Models", "Data", "Limits", "Fine-tuning", "Machine and output")

LABELS, NETWORKS, IMAGES, ITEMS = "labels", "models", "images", "images or texts"
MASKS, BOXES, MASKS_OR_BOXES, SEVERAL = "masks", "boxes", "masks or boxes", "several labels per item"
TABLE, HUB = "a table", "a dataset of the hub (hf:org/name)"
"""What an option may need of a target: without it the option would do nothing and is refused (``CallOptions.refuse``)."""


PANELS = (DATA, SELECT, COST, CONFIRM, MACHINE)
"""Headings of ``--help``, in order."""


@dataclass(frozen=True)
class Option:
    """What the command line and the record know of a field beside its name, type, default and description.

    Attributes:
        panel: heading in ``--help``.
        cli: whether it is an option of the command line; objects of Python are not.
        cli_default: where the command line's default is another; the field's own otherwise.
        many: a comma-separated list on the command line.
        path: a file or folder, for shell completion.
        complete: names that the shell completes: ``proxies``, ``tags``, ``models``.
        key: its name in ``run.json``; None keeps it out.
        rerun: whether the command that makes a run again names it.
        usual: a recorded value that the command need not name, beside the default.
        unit: written behind a recorded number on the command line.
        common: whether it is among the few that ``--help`` shows; ``--help-all`` shows every one.
        needs: what a target must have for the option to do anything.
        python: what the docstring says beside the help text.
    """

    panel: str = MACHINE
    cli: bool = True
    cli_default: Any = None
    many: bool = False
    path: bool = False
    complete: str = ""
    key: str | None = None
    rerun: bool = True
    usual: Any = None
    unit: str = ""
    common: bool = False
    needs: tuple[str, ...] = ()
    python: str = ""

    def words(self, name: str, value: object) -> list[str]:
        """The option as words of a command line."""
        spelled = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            return [spelled if value else f"--no-{name.replace('_', '-')}"]
        if isinstance(value, list | tuple):
            value = ",".join(str(part) for part in value)
        if self.unit and isinstance(value, int | float):
            value = f"{value:g}{self.unit}"
        return [spelled, str(value)]


def option(default: object, help_text: str, *, record: bool | str = True, ge: int | None = None, **about: Any) -> Any:
    """A field: its default, its help text, and what ``Option`` says of it; ``record`` is False or the key in run.json."""
    key = None if record is False else record if isinstance(record, str) else ""
    extra: dict[str, Any] = {"option": Option(key=key, **about)}
    return Field(default, description=help_text, ge=ge, json_schema_extra=extra)


class CallOptions(BaseModel):
    """What every call with options has."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, defer_build=True)

    @classmethod
    def of(cls, **options: Any) -> Self:
        """Checked options.

        Raises:
            OptionError: one is unknown or has a value that it cannot have; the message names it.
        """
        try:
            return cls.model_validate(options)
        except ValidationError as error:
            name, message = _explained(cls, error)
            raise OptionError(message, name) from None

    @classmethod
    def from_record(cls, settings: Mapping[str, object], where: str = "run.json") -> Self:
        """The options that a run recorded; what this version does not know is left out, so that other versions are read.

        Raises:
            ConfigError: a recorded value cannot be one.
        """
        found = {
            name: settings[key]
            for name, about in cls.options()
            if (key := about.key) is not None and settings.get(key) is not None
        }
        try:
            return cls.of(**found)
        except OptionError as error:
            raise ConfigError(f"{where}: settings: {error}") from None

    def given(self) -> dict[str, object]:
        """The options that are not at their default, by name; a switch that is off is one where it is usually on."""
        found = {}
        for name, about in self.options():
            default = type(self).model_fields[name].default
            value, usual = getattr(self, name), (default, about.usual, about.cli_default)
            if (value is not False or default is True) and not any(
                value is each or (type(value) is type(each) and value == each) for each in usual
            ):
                found[name] = value
        return found

    def refuse(self, lacking: Mapping[str, str], what: str) -> None:
        """Refuse the options that would do nothing for a target.

        Args:
            lacking: what the target lacks, and what it has instead.
            what: the target, for the message.

        Raises:
            OptionError: one was given that needs what is lacking.
        """
        for name, about in self.options():
            missing = next((need for need in about.needs if need in lacking), None)
            if missing is not None and name in self.given():
                raise OptionError(
                    f"{name} has no effect on {what}: it needs {missing}, and this target {lacking[missing]}. Leave it out.",
                    name,
                )

    @classmethod
    def options(cls) -> Iterator[tuple[str, Option]]:
        """Name and facts of every field, by the order of the headings."""
        fields = [(name, about_field(field)) for name, field in cls.model_fields.items()]
        for name, about in sorted(fields, key=lambda entry: PANELS.index(entry[1].panel)):
            yield name, (about if about.key != "" else replace(about, key=name))


def about_field(field: FieldInfo) -> Option:
    """What a field says of itself."""
    extra = field.json_schema_extra
    about = extra.get("option") if isinstance(extra, dict) else None
    return about if isinstance(about, Option) else Option(key="")


def cli_default(field: FieldInfo) -> object:
    """What holds on the command line when an option is not given."""
    about = about_field(field)
    return field.default if about.cli_default is None else about.cli_default


def quantity(name: str, value: str | int | float, read: Callable[[str | int | float], float]) -> float:
    """A number with a unit, whose error names the option."""
    try:
        return read(value)
    except ConfigError as error:
        raise OptionError(f"{name}: {error}", name) from None


def percent(text: str | int | float) -> float:
    """The number before ``%``."""
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"a share is a percentage, such as 25%. Got '{text}%'.") from None


# ---------------------------------------------------------------------------- errors


def _explained(config: type[CallOptions], error: ValidationError) -> tuple[str, str]:
    """The first error of pydantic as (option, message): which option, what it takes, what it got."""
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        known = list(config.model_fields)
        return name, f"unknown option {name}{did_you_mean(name, known) or '; known: ' + ', '.join(known) + '.'}"
    field = config.model_fields[name]
    least = next((m.ge for m in field.metadata if hasattr(m, "ge")), None)
    takes = _takes(field.annotation) + ("" if least is None else f" in the range [{least}, inf)")
    return name, f"{name} must be {takes}. Got {shown(first['input'])}."


def _takes(annotation: Any) -> str:
    """A type in words.

    >>> _takes(Literal["a", "b"]), _takes(int | None), _takes(str | list[str] | None)
    ("'a' or 'b'", 'an int', 'a text or a list of texts')
    """
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        parts = [_takes(part) for part in typing.get_args(annotation) if part is not type(None)]
        return " or ".join(dict.fromkeys(parts))
    if typing.get_origin(annotation) is Literal:
        *first, last = [repr(value) for value in typing.get_args(annotation)]
        return f"{', '.join(first)} or {last}" if first else last
    named = {int: "an int", float: "a number", bool: "True or False", str: "a text"}
    return named.get(annotation, "a list of texts")


def shown(value: object) -> str:
    """A value in a message: what is short as it is, an object as its type."""
    if isinstance(value, str | int | float | None) and len(repr(value)) <= 80:
        return repr(value)
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"


PLACE = "{options}"
"""A line of a docstring's ``Args`` that the entries of the options stand for."""
_WIDTH = 110


def describe(function: Callable[..., object], config: type[CallOptions]) -> None:
    """Give a function ``(what, **options)`` the signature and the docstring entries of a configuration's fields."""
    own = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    returns = inspect.signature(function).return_annotation
    function.__signature__ = inspect.Signature([*own, *_parameters(config)], return_annotation=returns)  # type: ignore[attr-defined]
    # without its indentation, which Python 3.13 strips and earlier versions keep
    before, found, after = (inspect.getdoc(function) or "").partition(f"    {PLACE}\n")
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
        yield from textwrap.wrap(f"{name}: {told}", _WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 8)
