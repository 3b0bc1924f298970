"""The configuration of a call: ``ScanConfig`` of ``rank`` and ``plan``, ``ConfirmConfig`` of ``confirm``.

Both combine groups of options; each option is declared once, here or, where another room needs its group, in
``selector.options``. A new option is one field of a group.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self, TypeAlias

from pydantic import SkipValidation, field_validator, model_validator

from selector.core.contracts import ProgressCallback, Score
from selector.core.errors import OptionError
from selector.core.options import (
    CONFIRM,
    COST,
    IMAGES,
    LABELS,
    NETWORKS,
    SELECT,
    CallOptions,
    option,
    percent,
    quantity,
    shown,
)
from selector.core.units import parse_count, parse_duration, parse_size, words
from selector.options.data import DataOptions, ItemOptions, PathLike, Words
from selector.options.training import TrainingOptions
from selector.ranking.history import History
from selector.store import FeatureStore
from selector.zoo import ModelSpec, Zoo
from selector.zoo.own import is_module

ZooLike: TypeAlias = PathLike | Zoo | Sequence[Any] | Mapping[str, Any]
"""Sequences and mappings hold ``ModelSpec``, ``source:model`` and torch modules."""
ProxyLike: TypeAlias = str | Callable[..., Score | float]


class TrustOptions(CallOptions):
    """Whose code may run; shared by ``rank`` and ``confirm``."""

    trust_zoo: bool = option(
        False, "Permission for 'python:' zoo entries to run their code; never read from a run (default: no).",
        panel=SELECT, record=False,
    )  # fmt: skip


class ModelOptions(TrustOptions):
    """Which models are compared, and how."""

    zoo: SkipValidation[ZooLike | None] = option(
        None, "Zoo file that lists the models (default: the shipped zoo).",
        python="Or a ``Zoo``, a list of ``selector.Model``, ``source:model`` or torch modules, or a mapping of names to them.",
        panel=SELECT, path=True, needs=(NETWORKS,),
    )  # fmt: skip
    models: SkipValidation[str | Sequence[object] | None] = option(
        None, "Name patterns of models, comma-separated, such as 'resnet*,*lite*' (default: the whole zoo).",
        python="Or a list of patterns, entries or torch modules.", panel=SELECT, complete="models", common=True,
        needs=(NETWORKS,),
    )  # fmt: skip
    tags: Words | None = option(
        None, "Zoo tags, comma-separated; models with at least one are compared (default: all).",
        panel=SELECT, complete="tags", needs=(NETWORKS,),
    )  # fmt: skip
    layers: Words | None = option(
        None, "Layers to compare, comma-separated, such as 'last,blocks.8'; one row per layer (default: last).",
        panel=SELECT, needs=(NETWORKS,),
    )  # fmt: skip
    pooling: Words | None = option(
        None, "Poolings to compare, comma-separated: own, avg, max, cls; texts: mean, cls, last, weighted, max; words: first, "
        "mean. One row per pooling (default: the model's own).", panel=SELECT, needs=(NETWORKS,),
    )  # fmt: skip
    zero_shot: bool = option(
        False, "Zero-shot rows of models with a text tower (CLIP) from the class names, as a baseline (default: off).",
        panel=SELECT, needs=(LABELS, NETWORKS, IMAGES),
    )  # fmt: skip
    proxies: SkipValidation[str | Sequence[ProxyLike] | None] = option(
        None, "Proxy scores, comma-separated; 'selector proxies' lists them (default: those that suit the labels).",
        python="Or callables ``(FeatureSet) -> Score | float``.", panel=SELECT, many=True, complete="proxies",
    )  # fmt: skip
    intervals: bool = option(True, "90% confidence intervals and the probabilities based on them (default: computed).")
    prune: Literal["auto", "always", "never"] = option(
        "auto", "Early pruning of models that cannot reach the top k: auto (from 8 models on, default), always, never.",
        needs=(NETWORKS,),
    )  # fmt: skip
    precision: str = option(
        "auto", "Precision of feature extraction: auto (default), float32 or bfloat16.", needs=(NETWORKS,)
    )
    backend: str = option(
        "auto", "Backend of feature extraction: auto (default), eager, compile or openvino.", needs=(NETWORKS,)
    )

    @field_validator("models")
    @classmethod
    def _some_models(cls, value: object) -> str | list[object] | None:
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


StoreLike: TypeAlias = str | os.PathLike[str] | FeatureStore
HistoryLike: TypeAlias = bool | str | os.PathLike[str] | History
READ = "read"
"""The user's own history is read and nothing is added to it: what a library call does unless it is asked."""


class MachineOptions(CallOptions):
    """Where a call runs and what it leaves behind."""

    device: str = option("auto", "Device: auto (default), cpu, cuda, cuda:1 or mps.", common=True)
    store: SkipValidation[StoreLike | None] = option(
        None, "Folder or URL of the feature store (default: 'selector store path' shows it).", rerun=False
    )
    out: SkipValidation[PathLike | bool | None] = option(
        None, "Run folder (default: runs/NAME).",
        python="None saves nothing unless models are confirmed; True is runs/NAME.", record=False, path=True, common=True,
    )  # fmt: skip
    overwrite: bool = option(
        False, "Replacement of a confirmed run in the run folder by another run (default: refused).", record=False
    )
    offline: bool = option(False, "No network access: only weights on this machine are used (default: access allowed).")
    history: SkipValidation[HistoryLike] = option(
        READ, "History of measured results: it informs the prior, and new results are added (default: used; Python calls only "
        "read it).",
        python="'read' reads your history and adds nothing; True also adds; False uses none; a path names another file. "
        "The command line uses True.", cli_default=True, usual=True, needs=(LABELS, NETWORKS),
    )  # fmt: skip
    progress: SkipValidation[ProgressCallback | bool | None] = option(
        None, "Callback for every step; True shows bars, False is silent, None shows bars in a notebook only.",
        cli=False, record=False,
    )  # fmt: skip
    log: SkipValidation[object] = option(
        None, "Experiment loggers, comma-separated: tensorboard, mlflow, wandb, trackio; a place follows a colon (default: "
        "none).",
        python="Objects with the methods of selector.loggers.ExperimentLog are taken as well.", record=False,
    )  # fmt: skip
    engine: Literal["local", "processes", "ray"] = option(
        "local", "Where models run: local (this process, default), processes (a pool) or ray (a Ray cluster).",
        needs=(NETWORKS,),
    )  # fmt: skip
    ray_address: str | None = option(
        None, "Ray cluster: auto or HOST:PORT (default: RAY_ADDRESS, or a cluster on this machine for this run).",
        rerun=False,
    )  # fmt: skip
    workers: int | None = option(
        None, "Number of models that run at once with engine processes or ray (default: what devices and cores allow).",
        ge=1, rerun=False,
    )  # fmt: skip

    threads: int | None = option(
        None, "Maximum number of threads of the run, workers included (default: SELECTOR_THREADS, or one per core).",
        ge=1, rerun=False,
    )  # fmt: skip

    @field_validator("device")
    @classmethod
    def _a_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
            raise OptionError(f"device must be auto, cpu, cuda, cuda:N or mps. Got {value!r}.", "device")
        return value

    @model_validator(mode="after")
    def _of_the_engine(self) -> Self:
        if self.ray_address is not None and self.engine != "ray":
            raise OptionError(f"ray_address needs engine='ray'. Got engine={self.engine!r}.", "ray_address", "engine")
        if self.workers is not None and self.engine == "local":
            raise OptionError(
                "workers needs engine='processes' or engine='ray'. Got engine='local'.", "workers", "engine"
            )
        if self.workers is not None and self.threads is not None and self.workers > self.threads:
            raise OptionError(
                f"workers must be at most threads, since each needs one. Got workers={self.workers}, threads={self.threads}.",
                "workers",
                "threads",
            )
        if self.engine == "ray" and ":" in self.device:
            raise OptionError(
                f"device={self.device!r} cannot be used with engine='ray', which assigns a GPU to each task. Use "
                "device='cuda'.",
                "device",
                "engine",
            )
        return self


def _positive(name: str, value: str | int | float, read: Callable[..., float], otherwise: str = "") -> float:
    found = quantity(name, value, read)
    if found <= 0:
        raise OptionError(f"{name} must be more than 0{otherwise}. Got {value!r}.", name)
    return found


class LimitOptions(CallOptions):
    """Limits on models, on isolated ones and on the scan."""

    max_params: str | int | float | None = option(
        None, "Maximum number of parameters, such as 30M; larger models are excluded (default: no limit).",
        panel=COST, common=True, needs=(NETWORKS,),
    )  # fmt: skip
    max_latency: str | int | float | None = option(
        None, "Maximum time per item on this device, such as 20ms (default: no limit).", panel=COST, unit="s",
        needs=(NETWORKS,),
    )  # fmt: skip
    max_memory: str | int | float | None = option(
        None, "Maximum memory of a model at work, such as 4GB: batches shrink, models that need more are excluded (default: no "
        "limit).", python="Weights, activations, gradients and optimizer state; on the CPU beside what Python takes.",
        panel=COST, needs=(NETWORKS,),
    )  # fmt: skip
    license: Words | None = option(
        None, "'permissive', or license names and patterns, such as 'mit,apache-2.0,bsd-*' (default: any).",
        panel=COST, needs=(NETWORKS,),
    )  # fmt: skip
    measure_cost: Literal["auto", "always", "never"] = option(
        "auto", "Measurement of latency and memory: auto (where not known yet, default), always or never.", panel=COST,
        needs=(NETWORKS,),
    )  # fmt: skip
    scan_budget: str | int | float | None = option(
        None, "Time for the scan, such as 30m, or a share of its full cost, such as 25% (default: half of the budget, "
        "if one is given).",
        python="Models are read by prior and cost, about a hundred rows first, the leading ones at more.",
        panel=COST, unit="s", needs=(NETWORKS,),
    )  # fmt: skip
    isolate: Literal["auto", "on", "off"] = option(
        "auto", "Isolation of models in a child process: auto (third-party code of a zoo file, default), on (all), off.",
        needs=(NETWORKS,),
    )  # fmt: skip
    model_timeout: str | int | float | None = option(
        None, "Maximum time of an isolated model per round of rows or training step, such as 10m (default: no limit).",
        unit="s", needs=(NETWORKS,),
    )  # fmt: skip
    model_memory: str | int | float | None = option(
        None, "Maximum memory of an isolated model, such as 8GB (default: 90% of the machine's).", needs=(NETWORKS,)
    )

    @field_validator("model_timeout", "model_memory")
    @classmethod
    def _limited(cls, value: str | int | float | None, info: Any) -> float | None:
        read = parse_duration if info.field_name == "model_timeout" else parse_size
        return None if value is None else _positive(info.field_name, value, read)

    @field_validator("scan_budget")
    @classmethod
    def _spendable(cls, value: str | int | float | None) -> str | float | None:
        if value is None:
            return None
        if isinstance(value, str) and value.strip().endswith("%"):
            share = quantity("scan_budget", value.strip()[:-1], percent)
            if not 0 < share <= 100:
                raise OptionError(
                    f"scan_budget must be a share above 0% and at most 100%. Got {value!r}.", "scan_budget"
                )
            return f"{share:g}%"
        return _positive("scan_budget", value, parse_duration)

    @field_validator("max_params", "max_latency", "max_memory")
    @classmethod
    def _readable(cls, value: str | int | float | None, info: Any) -> str | int | float | None:
        readers: dict[str, Callable[[str | int | float], float]] = {
            "max_params": parse_count, "max_memory": parse_size,
            "max_latency": lambda latency: parse_duration(latency, needs_unit=True),
        }  # fmt: skip
        if value is not None:
            _positive(info.field_name, value, readers[info.field_name], ", or every model is excluded")
        return value

    @model_validator(mode="after")
    def _measured(self) -> Self:
        if self.measure_cost == "never" and (self.max_latency is not None or self.max_memory is not None):
            raise OptionError(
                "max_latency and max_memory need measured models; measure_cost must be 'auto' or 'always'. Got 'never'.",
                "max_latency", "max_memory", "measure_cost",
            )  # fmt: skip
        return self


IN_MEMORY = "in memory"
"""What a run records as its zoo when it was given specs and no file."""


class _Recorded(CallOptions):
    """What a call with options leaves in ``run.json``."""

    def record(self) -> dict[str, object]:
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
        return None if value is None else int(_positive("max_pixels", value, parse_count, ", or no image can be used"))

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

    target: SkipValidation[object] = option(
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

    def training_record(self) -> dict[str, object]:
        """What decides the measurements: kept in ``run.json`` as ``confirm``."""
        kept = {about.key for name, about in self.options() if name in self.training_fields()}
        return {key: value for key, value in self.record().items() if key in kept}


def _plain(value: object) -> object:
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


def _called(value: object) -> str:
    return str(getattr(value, "__name__", None) or type(value).__name__)
