"""The zoo: which models a scan may look at, as a validated YAML file.

A file holds ``version``, ``defaults`` and ``models``. An entry is a string ``source:model``, a
mapping with ``source: source:model``, or the short form ``timm: convnext*``. Wildcards stay
wildcards here; the sources expand them (``selector.scan``) and the run freezes the result.
"""

from __future__ import annotations

import fnmatch
import importlib.resources
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from selector.core.errors import ZooError, did_you_mean
from selector.core.input_files import read_file
from selector.core.units import words
from selector.zoo.own import as_spec, is_module
from selector.zoo.own import make_spec as Model
from selector.zoo.spec import (
    SOURCES,
    Location,
    ModelSpec,
    Pooling,
    PreprocessOverrides,
    TextSettings,
    WeightsFile,
    Zoo,
    dotted,
    explain_at,
    known_keys,
)
from selector.zoo.trust import check_trusted

__all__ = [
    "Model",
    "ModelSpec",
    "Pooling",
    "PreprocessOverrides",
    "TextSettings",
    "WeightsFile",
    "Zoo",
    "check_trusted",
    "load_zoo",
    "select",
    "shipped_zoo_path",
]


def shipped_zoo_path() -> Path:
    """``zoo.yaml`` as packed into the wheel, or at the top of a checkout."""
    packed = Path(str(importlib.resources.files("selector"))) / "zoo.yaml"
    return packed if packed.is_file() else packed.parent.parent / "zoo.yaml"


def load_zoo(
    zoo: str | os.PathLike[str] | Zoo | Iterable[object] | Mapping[str, object] | None = None, *, trust: bool = False
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
        raise ZooError(explain_at(error, {}, "zoo")) from None


def _read(path: Path, *, trusted: bool) -> Zoo:
    try:
        text = read_file(path, _LONGEST, "split it").decode("utf-8")
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
    lines: dict[Location, int] = {}
    _collect_lines(node, (), lines, str(path), set())
    if isinstance(data, dict) and "trusted" in data:  # frozen runs carry it
        raise ZooError(
            f"{path}:{lines['trusted',]} trusted: unknown key 'trusted'; known keys: {', '.join(known_keys(('trusted',)))}."
        )
    if not isinstance(data, dict) or not data.get("models"):
        raise ZooError(f"{path}:1: expected a mapping with a list 'models', such as 'models: [timm:resnet18]'.")
    defaults = data.get("defaults") or {}
    if isinstance(defaults, dict) and isinstance(data["models"], list):
        data["models"] = [_with_defaults(entry, defaults) for entry in data["models"]]
    try:
        zoo = Zoo.model_validate({**data, "trusted": trusted}, context=path.parent.resolve())
    except ValidationError as error:
        raise ZooError(explain_at(error, lines, str(path))) from None
    return _unique(zoo, lines, str(path))


def _with_defaults(entry: Any, defaults: dict[str, Any]) -> object:
    entry = {"source": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, dict):
        return entry
    merged = {**{k: v for k, v in defaults.items() if k not in ("tags", "preprocess")}, **entry}
    own = entry.get("tags") or []
    if isinstance(defaults.get("tags"), list) and isinstance(own, list):
        merged["tags"] = [*defaults["tags"], *own]
    if isinstance(defaults.get("preprocess"), dict) and isinstance(entry.get("preprocess") or {}, dict):
        merged["preprocess"] = {**defaults["preprocess"], **(entry.get("preprocess") or {})}
    return merged


def _unique(zoo: Zoo, lines: dict[Location, int], where: str) -> Zoo:
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


_LONGEST = 16 << 20  # bytes of a file
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


def _collect_lines(
    node: yaml.Node | None, path: Location, lines: dict[Location, int], where: str, seen: set[int]
) -> None:
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
                    f"{where}:{line} {dotted((*path, key.value))}: the key is written twice, first in line {first}."
                )
            lines[(*path, key.value)] = line
            _collect_lines(value, (*path, key.value), lines, where, seen)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _collect_lines(value, (*path, index), lines, where, seen)


def select(
    zoo: Zoo,
    models: str | Sequence[object] | None = None,
    tags: str | Sequence[str] | None = None,
    *,
    beyond: bool = False,
) -> list[ModelSpec]:
    """Entries chosen by glob on their names and by tag (any of them).

    A glob is on names, with or without the source before them: ``resnet*`` finds an entry that is named
    ``timm:resnet50.a1_in1k`` after its source. ``source:model`` in full that no entry is becomes an entry of
    its own; a control (random weights) is never found by its source, whose weights it has not.

    Args:
        models: one glob or several; a comma separates globs in a string. None takes all. A ``ModelSpec`` or a
            torch module among them is an entry of its own.
        tags: likewise.
        beyond: whether a wildcard with its source (``timm:*``) also stands for what the source lists and the zoo
            does not: where no zoo was named.

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
            if _looks_like_reference(pattern) and (not hits or (beyond and any(char in pattern for char in "*?["))):
                hits = [*hits, ModelSpec.model_validate(pattern)]  # what the zoo does not list
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
    return bool(separator and model) and source in SOURCES and source != "python"
