"""Which models are compared, and how their features are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from pydantic import SkipValidation, field_validator

from selector.core.contracts import Score
from selector.core.errors import OptionError
from selector.core.options import IMAGES, LABELS, NETWORKS, SELECT, CallOptions, option, shown
from selector.core.units import words
from selector.options.data import PathLike, Words
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
    models: SkipValidation[str | Sequence[Any] | None] = option(
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
