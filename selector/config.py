"""The options of a call, once: ``ScanConfig`` of ``rank`` and ``plan``, ``ConfirmConfig`` of ``confirm``.

A field's description is its help text. Signature checks, the options of the command line and their
help, the record of settings in ``run.json``, the dry run and the command that makes a run again all
come from these fields; ``selector.api`` repeats names, types and defaults so that editors complete
them, and a test holds the two together. A new option is one field here and one keyword there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self, TypeAlias

from pydantic import SkipValidation, field_validator, model_validator

from selector.core.contracts import ProgressCallback, Score
from selector.core.errors import ConfigError, OptionError
from selector.core.options import CONFIRM, COST, DATA, SELECT, Options, option, shown
from selector.core.units import parse_count, parse_duration, parse_size, words
from selector.data._class_names import ClassNames
from selector.ranking.history import History
from selector.store import FeatureStore
from selector.zoo import ModelSpec, Zoo
from selector.zoo.own import is_module

DEFAULT_BUDGET = 20 * 60.0  # seconds of a confirmation that names neither budget nor steps
TOP_K = 3
"""How many models are confirmed when nothing is said, where there are so many."""

PathLike: TypeAlias = str | os.PathLike[str]
Words: TypeAlias = str | Sequence[str]
ZooLike: TypeAlias = str | os.PathLike[str] | Zoo | Sequence[Any] | Mapping[str, Any]
"""Sequences and mappings hold ``ModelSpec``, ``source:model`` and torch modules."""
ProxyLike: TypeAlias = str | Callable[..., Score | float]
StoreLike: TypeAlias = str | os.PathLike[str] | FeatureStore
HistoryLike: TypeAlias = bool | str | os.PathLike[str] | History
READ = "read"
"""The user's own history is read and nothing is added to it: what a library call does unless it is asked."""

__all__ = [
    "ClassNames",
    "ConfirmConfig",
    "HistoryLike",
    "ProxyLike",
    "ScanConfig",
    "StoreLike",
    "Words",
    "ZooLike",
]

IN_MEMORY = "in memory"
"""What a run records as its zoo when it was given specs and no file."""


class _Recorded(Options):
    """What a call with options leaves in ``run.json``."""

    def record(self) -> dict[str, Any]:
        """What ``run.json`` keeps, as plain JSON: by name, objects as what they can be named by."""
        return {about.key: _plain(getattr(self, name)) for name, about in self.options() if about.key is not None}


class _Machine(_Recorded):
    """Where a call runs and what it leaves behind."""

    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps.")
    store: SkipValidation[StoreLike | None] = option(
        None, "Folder or URL of the feature store; 'selector store path' shows the default.", rerun=False
    )
    out: SkipValidation[PathLike | bool | None] = option(
        None, "Run folder; runs/NAME when not given.", record=False, path=True
    )
    overwrite: bool = option(
        False, "Replace a confirmed run in the run folder by one that is not confirmed, or of another target.",
        record=False,
    )  # fmt: skip
    offline: bool = option(False, "Use no network: only weights that are on this machine.")
    trust_zoo: bool = option(
        False, "Let 'python:' entries of the zoo run code; given on each call, never read from a run.",
        panel=SELECT, record=False,
    )  # fmt: skip
    history: SkipValidation[HistoryLike] = option(
        READ, "Use what was measured before ('selector history list') and add to it.", cli_default=True, usual=True
    )
    progress: SkipValidation[ProgressCallback | bool | None] = option(
        None, "Called with every step; True for bars, False for silence, None for bars in a notebook only.",
        cli=False, record=False,
    )  # fmt: skip
    engine: Literal["local", "processes", "ray"] = option(
        "local", "Where networks run: one after another in this process, in a pool of processes, on a Ray cluster.",
    )  # fmt: skip
    ray_address: str | None = option(
        None, "Ray cluster: auto or HOST:PORT; RAY_ADDRESS, or one of this machine for this run, when not given.",
        rerun=False,
    )  # fmt: skip
    workers: int | None = option(
        None, "Networks that run at once on engine processes or ray; as devices and cores allow when not given.", ge=1,
        rerun=False,
    )  # fmt: skip

    @model_validator(mode="after")
    def _cluster_of_ray(self) -> Self:
        if self.ray_address is not None and self.engine != "ray":
            raise OptionError(
                f"ray_address is a cluster for engine 'ray'. Got engine {self.engine!r}; say engine='ray'.",
                "ray_address",
                "engine",
            )
        if self.engine == "ray" and ":" in self.device:
            raise OptionError(
                f"device names one card, and a cluster gives each task a card of its own, which is the first one there. Got "
                f"{self.device!r}; say 'cuda'.",
                "device",
                "engine",
            )
        return self


class _Training(Options):
    """How the leading models are fine-tuned."""

    top_k: int | None = option(
        None, "How many models to fine-tune, and the k of P(in top k); when not given as many as scores and pilot runs "
        "leave open, and k is three.",
        ge=1, panel=CONFIRM, usual=TOP_K,
    )  # fmt: skip
    pilot_cost: float = option(
        1.0,
        "Pilot runs of the models near the first ones, before the confirmation: what one may cost, as a multiple of "
        "the extraction of its model; 0 for none.",
        ge=0, panel=CONFIRM,
    )  # fmt: skip
    budget: str | int | float | None = option(
        None,
        "Time for the confirmation: 90s, 20m, 3h. When neither it nor max_steps is given: "
        f"{DEFAULT_BUDGET / 60:.0f}m; max_steps alone sets no limit of time.",
        panel=CONFIRM,
        record="budget_seconds",
        unit="s",
    )
    strategies: Words = option(("frozen", "full"), "How models are adapted, comma-separated.", panel=CONFIRM, many=True)
    resolution: int | None = option(
        None,
        "Train at images of this short side instead of the model's own; below it marked as reduced.",
        ge=16,
        panel=CONFIRM,
    )
    decoder: Words | None = option(
        None,
        "What is put on an encoder's maps: linear, fcn, deeplabv3 for masks; fasterrcnn, retinanet, fcos, ssd for boxes. "
        "Several, comma-separated, are compared.",
        panel=CONFIRM,
        many=True,
    )
    loss: str | None = option(None, "What trains real values: mse, or huber, which outliers move less.", panel=CONFIRM)
    metric: str | None = option(None, "Metric that decides; the task's own when not given.", panel=CONFIRM)
    max_steps: int | None = option(
        None, "Steps of a finalist's training, at most; trials before it are shorter.", ge=1, panel=CONFIRM
    )

    @field_validator("strategies")
    @classmethod
    def _named(cls, value: Words) -> tuple[str, ...]:
        named = tuple(words(value))
        if not named:
            raise OptionError("strategies names none; give at least one, such as frozen.", "strategies")
        return named

    @field_validator("decoder")
    @classmethod
    def _decoders(cls, value: Words | None) -> tuple[str, ...] | None:
        return None if value is None else tuple(dict.fromkeys(words(value))) or None

    @property
    def decoders(self) -> tuple[str, ...]:
        """Those that were asked for; none for the task's usual one."""
        return tuple(self.decoder or ())

    @field_validator("device", check_fields=False)
    @classmethod
    def _a_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
            raise OptionError(f"device must be auto, cpu, cuda, cuda:N or mps. Got {value!r}.", "device")
        return value

    @property
    def seconds(self) -> float | None:
        """The budget in seconds: the usual one where neither it nor the number of steps is given."""
        if self.budget is None:
            return DEFAULT_BUDGET if self.max_steps is None else None
        return parse_duration(self.budget)

    @field_validator("budget")
    @classmethod
    def _seconds(cls, value: str | int | float | None) -> float | None:
        return None if value is None else _quantity("budget", value, parse_duration)


class ScanConfig(_Machine, _Training):
    """The options of ``selector scan``, ``selector.rank`` and ``selector.plan``."""

    source_domain: SkipValidation[Any] = option(
        None,
        "Labeled data of the same classes from elsewhere (another camera, clinic, year): the target then needs no labels, "
        "and those that it has are used for the final metric only.",
        panel=DATA, path=True,
    )  # fmt: skip
    num_target_labels: int | None = option(
        None, "Learn from so many labels of the target as well, where it has some (with --source-domain).", ge=1,
        panel=DATA,
    )  # fmt: skip
    image_column: str | None = option(None, "Column of a table that holds image paths or images.", panel=DATA)
    image_root: SkipValidation[PathLike | None] = option(
        None, "Folder that the image paths of a table are relative to; its own folder when not given.",
        panel=DATA, path=True,
    )  # fmt: skip
    mask_column: str | None = option(None, "Column of a table that holds masks.", panel=DATA)
    box_column: str | None = option(None, "Column of a table that holds boxes.", panel=DATA)
    box_format: Literal["xywh", "xyxy"] | None = option(
        None, "How boxes are written, in pixels: left, top, width, height; or left, top, right, bottom.", panel=DATA
    )
    separator: str | None = option(
        None, "What separates the labels of a cell that holds several: '|' in cat|dog.", panel=DATA
    )
    class_names: SkipValidation[ClassNames] = option(
        None, "File of class names (a name a line, JSON or YAML), where the data name none.", panel=DATA, path=True
    )
    ignore_index: int | None = option(
        None, "Value of a mask that is no class; 255 where it occurs and nothing is said.", panel=DATA
    )

    text_column: Words | None = option(
        None, "Column of a table that holds the text; two, comma-separated, make pairs.", panel=DATA, many=True
    )
    label_column: Words | int | None = option(
        None,
        "Column of a table that holds the label (several, comma-separated, for several labels or values); of a CoNLL "
        "file its number, -1 for the last.",
        panel=DATA,
    )
    task: str | None = option(
        None, "What is learned: classification, multilabel, regression, tagging, …; inferred from the data when not given.",
        panel=DATA,
    )  # fmt: skip
    max_samples: int | None = option(None, "Score a stratified subsample of so many items.", ge=2, panel=DATA)
    max_pixels: str | int | float | None = option(
        None, "Pixels that an image may have: 50M; 179M when not given. Larger ones cannot be used.", panel=DATA
    )
    on_invalid: Literal["skip", "raise"] = option(
        "skip",
        "What to do about items that cannot be used (images that do not decode, texts without content): leave them "
        "out with a warning, or list them in one error.",
        panel=DATA,
    )
    hash_mode: Literal["mtime", "content"] = option(
        "mtime", "Whether files are known by size and time stamps, or read and hashed again.", panel=DATA, rerun=False
    )
    zoo: SkipValidation[ZooLike | None] = option(
        None, "Zoo file; the shipped one when not given.", panel=SELECT, path=True
    )
    models: SkipValidation[str | Sequence[Any] | None] = option(
        None, "Globs on names, comma-separated: 'resnet*,*lite*'.", panel=SELECT, complete="models"
    )
    tags: Words | None = option(
        None, "Only models with one of these tags, comma-separated.", panel=SELECT, complete="tags"
    )
    layers: Words | None = option(
        None, "Layers whose features are compared, comma-separated: 'last,blocks.8'. Each is a row of its own.",
        panel=SELECT,
    )  # fmt: skip
    pooling: Words | None = option(
        None,
        "Poolings that are compared, comma-separated: own, avg, max, cls; of texts mean, cls, last, weighted, max; of "
        "tagged words first, mean. Each is a row of its own.",
        panel=SELECT,
    )
    proxies: SkipValidation[str | Sequence[ProxyLike] | None] = option(
        None, "Proxies, comma-separated; 'selector proxies' lists them.", panel=SELECT, many=True, complete="proxies"
    )
    max_params: str | int | float | None = option(None, "Parameters at most: 30M.", panel=COST)
    max_latency: str | int | float | None = option(
        None, "Time for a single item on this device at most: 20ms.", panel=COST, unit="s"
    )
    max_memory: str | int | float | None = option(
        None, "Memory at its peak for a single item at most: 4GB.", panel=COST
    )
    license: Words | None = option(
        None, "'permissive', or licenses by name or glob: 'mit,apache-2.0,bsd-*'.", panel=COST
    )
    measure_cost: Literal["auto", "always", "never"] = option(
        "auto", "Measure what models cost: when not known yet, again, not at all.", panel=COST
    )
    confirm: bool = option(False, "Fine-tune the leading models.", panel=CONFIRM, record=False, cli_default=True)
    seed: int = option(0, "Of splits, subsamples and training.")
    intervals: bool = option(True, "Compute 90 % intervals and the probabilities that rest on them.")
    prune: Literal["auto", "always", "never"] = option("auto", "Stop models early that cannot reach the top k.")
    precision: str = option("auto", "Of the extraction: auto, float32, bfloat16.")
    backend: str = option("auto", "Of the extraction: auto, eager, compile, openvino.")

    isolate: Literal["auto", "on", "off"] = option(
        "auto",
        "Run networks in a child process, so that one that crashes or hangs costs its own row: auto (python: and onnx: "
        "entries of a zoo file), on (all), off.",
    )
    model_timeout: str | int | float | None = option(
        None,
        "Time that one isolated network may take for a round of rows, or between steps of a training: 10m.",
        unit="s",
    )
    model_memory: str | int | float | None = option(
        None, "Memory that one isolated network may take: 8GB; nine tenths of the machine's when not given."
    )

    scan_budget: str | int | float | None = option(
        None, "Time for the scan itself: 30m; or a share of what all models on all rows would take: 25%. Models are then "
        "looked at by prior and price, a few rows first.", panel=COST, unit="s",
    )  # fmt: skip

    @field_validator("models")
    @classmethod
    def _some_models(cls, value: Any) -> str | list[Any] | None:
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, Sequence):
            for each in value:
                if not (isinstance(each, str | ModelSpec) or is_module(each)):
                    raise OptionError(
                        f"models must hold globs, entries (selector.Model) or torch modules. Got {shown(each)}.",
                        "models",
                    )
            return list(value)
        raise OptionError(
            f"models must be a text or a list of texts, entries or modules. Got {shown(value)}.", "models"
        )

    @field_validator("proxies")
    @classmethod
    def _listed(cls, value: str | Sequence[ProxyLike] | None) -> list[ProxyLike] | None:
        return words(value) or None

    @field_validator("model_timeout", "model_memory")
    @classmethod
    def _limited(cls, value: str | int | float | None, info: Any) -> float | None:
        read = parse_duration if info.field_name == "model_timeout" else parse_size
        if value is None:
            return None
        found = _quantity(info.field_name, value, read)
        if found <= 0:
            raise OptionError(f"{info.field_name} must be more than 0. Got {value!r}.", info.field_name)
        return found

    @field_validator("max_pixels")
    @classmethod
    def _pixels(cls, value: str | int | float | None) -> int | None:
        found = None if value is None else int(_quantity("max_pixels", value, parse_count))
        if found == 0:
            raise OptionError(f"max_pixels must be more than 0, or no image can be used. Got {value!r}.", "max_pixels")
        return found

    @field_validator("scan_budget")
    @classmethod
    def _spendable(cls, value: str | int | float | None) -> str | float | None:
        if value is None:
            return None
        if isinstance(value, str) and value.strip().endswith("%"):
            share = _quantity("scan_budget", value.strip()[:-1], _per_cent)
            if not 0 < share <= 100:
                raise OptionError(
                    f"scan_budget must be a share above 0 % and at most 100 %. Got {value!r}.", "scan_budget"
                )
            return f"{share:g}%"
        found = _quantity("scan_budget", value, parse_duration)
        if found <= 0:
            raise OptionError(f"scan_budget must be more than 0. Got {value!r}.", "scan_budget")
        return found

    @field_validator("max_params", "max_latency", "max_memory")
    @classmethod
    def _readable(cls, value: str | int | float | None, info: Any) -> str | int | float | None:
        readers: dict[str, Callable[[str | int | float], float]] = {
            "max_params": parse_count, "max_memory": parse_size,
            "max_latency": lambda latency: parse_duration(latency, needs_unit=True),
        }  # fmt: skip
        if value is not None and _quantity(info.field_name, value, readers[info.field_name]) == 0:
            raise OptionError(
                f"{info.field_name} must be more than 0, or every model is excluded. Got {value!r}.", info.field_name
            )
        return value

    @property
    def pixels(self) -> int | None:
        """``max_pixels`` as a number."""
        return None if self.max_pixels is None else parse_count(self.max_pixels)

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.prune == "always" and not self.intervals:
            raise OptionError(
                "prune is 'always', but models are pruned by their intervals, and those are off; leave one out.",
                "prune",
            )
        if self.measure_cost == "never" and (self.max_latency is not None or self.max_memory is not None):
            raise OptionError(
                "max_latency and max_memory need models to be measured; measure_cost must be 'auto' or 'always'. Got 'never'.",
                "max_latency", "max_memory", "measure_cost",
            )  # fmt: skip
        return self


class ConfirmConfig(_Machine, _Training):
    """The options of ``selector confirm`` and ``selector.confirm``."""

    target: SkipValidation[Any] = option(
        None, "The data, when the ranking was made from objects in memory and then saved.", cli=False, record=False
    )
    seed: int | None = option(None, "Of the training; the run's own when not given.")

    @staticmethod
    def training_fields() -> tuple[str, ...]:
        """Names of the options that decide the measurements; ``ScanConfig`` has them too."""
        return (*_Training.model_fields, "seed")

    def training_record(self) -> dict[str, Any]:
        """What decides the measurements: kept in ``run.json`` as ``confirm``."""
        kept = {about.key for name, about in self.options() if name in self.training_fields()}
        return {key: value for key, value in self.record().items() if key in kept}


def _quantity(name: str, value: str | int | float, read: Callable[[str | int | float], float]) -> float:
    try:
        return read(value)
    except ConfigError as error:
        raise OptionError(f"{name}: {error}", name) from None


def _per_cent(text: str | int | float) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"a share is a number of per cent, such as 25%. Got '{text}%'.") from None


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
