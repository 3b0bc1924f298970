"""What goes into a fine-tuning stage and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from selector.core.contracts import Encoder
from selector.core.preprocess import AnyPreprocess
from selector.results import Measurement

if TYPE_CHECKING:
    from torch import nn


class Cache(Protocol):
    """A small store of JSON documents by key; ``selector.store.FeatureStore`` is one."""

    def get(self, kind: str, key: Mapping[str, object]) -> Any: ...

    def put(self, kind: str, key: Mapping[str, object], value: Mapping[str, object]) -> Any: ...


@dataclass(frozen=True)
class TuningCandidate:
    """One model of the fine-tuning stage.

    Attributes:
        name: unique in the fine-tuning stage.
        load: makes its encoder; a failure becomes a failed measurement.
        identity: what addresses it in records, as plain JSON; its encoder's identity is added.
        latency: seconds an image, where known; orders models that are equally good.
        rounded: its stored features were computed in less than single precision.
    """

    name: str
    load: Callable[[], Encoder]
    identity: Mapping[str, Any] = field(default_factory=dict)
    latency: float | None = None
    rounded: bool = False


@dataclass(frozen=True)
class Trained:
    """A trained model, ready to be saved.

    Attributes:
        name, strategy, learning_rate, seed, steps: how it came about.
        module: the learner's ``network``: batch -> outputs, on the CPU, in eval mode.
        source, recipe: how the module is built again without this object.
        preprocess: as trained, resolution included.
        class_names: in output order.
        context: what validation chose, as ``Task.calibrate`` gave it: a temperature, thresholds. Plain JSON.
        task: name of the task.
    """

    name: str
    strategy: str
    module: nn.Module
    source: str
    recipe: Mapping[str, Any]
    preprocess: AnyPreprocess
    class_names: tuple[str, ...]
    context: Mapping[str, Any] = field(default_factory=dict)
    task: str = "classification"
    learning_rate: float | None = None
    seed: int = 0
    steps: int = 0


@dataclass(frozen=True)
class EpsilonMember:
    """A model that cannot be shown to be more than ε worse than the best one.

    ``difference`` is best minus this one on the same validation images, with its 90% interval,
    in units of the metric.
    """

    name: str
    strategy: str
    value: float
    difference: float
    low: float
    high: float
    parameters: int
    latency: float | None = None


@dataclass(frozen=True)
class FineTuningResult:
    """What was measured.

    Attributes:
        measurements: by model, one a strategy: its best trial in its last round.
        best: the model with the best validation metric; None when nothing could be trained.
        epsilon_best: see ``EpsilonMember``; the cheapest first.
        history: every trial of every round, in order (plain JSON).
        notes: what a reader should know before trusting the metrics.
        tuning_log: the plan and what became of it, in sentences.
        advice: which strategy to take, in one sentence per model.
        p_best: probability that ``best`` is the best of those measured, over validation images.
        settled: whether the fine-tuning stage ended because it was decided.
        seconds: where the time went, by part, in order: they add up to all of it.
    """

    measurements: Mapping[str, tuple[Measurement, ...]]
    best: Trained | None
    epsilon_best: tuple[EpsilonMember, ...] = ()
    history: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    tuning_log: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    p_best: float | None = None
    settled: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)
