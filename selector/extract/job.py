"""The work of one network as plain values: what is wanted in, keys and measurements out.

``selector.extract.workspace.extract`` does it, as the same function in this process, in a worker and on a cluster.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from selector import sources
from selector.core.contracts import Target
from selector.core.costs import Cost
from selector.core.preprocess import Preprocess
from selector.core.table import RowPlan
from selector.extract.known_costs import CostMode
from selector.run.job import Failure, WorkerLimits
from selector.zoo import ModelSpec
from selector.zoo.limits import Limits
from selector.zoo.spec import at_place
from selector.zoo.trust import runs_code

EXTRACTOR_VERSION = 5  # raised when the same encoder and image would give other features


@dataclass(frozen=True)
class ExtractSettings:
    """How networks are run and where rows are read; the same for every job of a scan.

    Attributes:
        reader: row reader of the task (``extract.row_readers``).
        aspect: (height, width) of whole images at a short side of 224, for readers of feature maps; a network
            reads them at its own short side (``canvas_side``). None where items are prepared as the network says.
    """

    device: str = "auto"
    precision: str = "auto"
    backend: str = "auto"
    trusted: bool = False
    on_invalid: Literal["raise", "skip"] = "raise"
    cost: CostMode = "never"
    limits: Limits = field(default_factory=Limits)
    reader: str = "pooled"
    aspect: tuple[int, int] | None = None

    @property
    def of_features(self) -> dict[str, Any]:
        """Those that decide the features."""
        return {"device": self.device, "precision": self.precision, "backend": self.backend}

    @property
    def reading(self) -> dict[str, Any] | None:
        """Reader and canvas of rows that are read off maps; None for features of whole items."""
        return None if self.aspect is None else {"reader": self.reader, "aspect": list(self.aspect)}


def wanted_of(
    spec: ModelSpec, device: str, precision: str, backend: str, reading: Mapping[str, object] | None = None
) -> dict[str, object]:
    """What a scan asks the store for, known without loading the network; the store remembers which
    entry it led to.

    Args:
        reading: of rows that are read off maps: reader and aspect of the canvas. ``spec.layer`` is the variant then.
    """
    known = at_place(spec, None, None) if reading else spec
    identity = sources.registry.get(spec.source_name).identify(known)
    asked: dict[str, object] = {"spec": identity, "device": device, "precision": precision, "backend": backend}
    if reading:
        asked["rows"] = {**reading, "variant": spec.layer}
    return versioned(asked)  # what an older version extracted is not looked up either


def versioned(facts: Mapping[str, object]) -> dict[str, object]:
    """Facts that decide features, with the version of the code that computes them."""
    return {**facts, "extractor": EXTRACTOR_VERSION}


def layer_specs(spec: ModelSpec) -> list[ModelSpec]:
    """A model read at each of its layers, where its source can tell them without building the network.

    Empty for other models, and for one that its zoo entry reads at a single layer.
    """
    layers: Any = getattr(sources.registry.get(spec.source_name), "layers", None)
    if layers is None or spec.layer not in (None, "mean"):
        return []
    return [spec.model_copy(update={"layer": layer, "name": f"{spec.name}@{layer}"}) for layer in layers(spec)]


@dataclass(frozen=True)
class ExtractJob:
    """What is wanted of one network.

    Attributes:
        specs: feature variants that are wanted, all of one network.
        beside: further variants that the same pass gives; one that cannot be had is nobody's failure.
        target: whose items; ``indices`` (n,) are their positions in it.
        store: folder or URL of the feature store, where the rows go.
        settings: how the network is run.
        to_come: what later jobs will probably read, so that images are decoded once for all of them.
        next_spec: the network that will probably be asked for next; loaded while this one runs.
        cost_only: the rows are all stored; the network is loaded for what it costs.
        plan: rows that are read off feature maps; None for features of whole items.
    """

    specs: tuple[ModelSpec, ...]
    target: Target
    indices: np.ndarray
    store: str
    settings: ExtractSettings = ExtractSettings()
    beside: tuple[ModelSpec, ...] = ()
    to_come: tuple[Preprocess, ...] = ()
    next_spec: ModelSpec | None = None
    cost_only: bool = False
    plan: RowPlan | None = None

    @property
    def name(self) -> str:
        """Of the first variant; for messages."""
        return self.specs[0].name


@dataclass(frozen=True)
class VariantResult:
    """One feature variant: the identity of its entry, or why it has none."""

    identity: Mapping[str, Any] | None = None
    cost: Cost | None = None
    failure: Failure | None = None


@dataclass(frozen=True)
class ExtractResult:
    """What a job found.

    Attributes:
        variants: in the order of ``ExtractJob.specs``.
        excluded: the limit that the network exceeds, or "".
        bad: content hash -> reason, of items that turned out to be unusable.
        seconds: by stage: extract (load, decide and run), cost, decode, tokenize.
    """

    variants: tuple[VariantResult, ...] = ()
    excluded: str = ""
    bad: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


Mode = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class Isolation:
    """Which models run in a worker of their own, so that one that crashes, hangs or eats the memory costs its own row.

    Attributes:
        mode: ``on`` for all, ``off`` for none, ``auto`` for third-party code and graphs: ``python:`` and ``onnx:`` entries
            of a zoo file.
        from_file: whether the zoo is a file that somebody wrote (and not the shipped one, nor a library call's own).
        timeout: seconds that one model may take for a round of rows; None for no limit.
        memory: bytes of resident memory at most; None for nine tenths of the machine's.
    """

    mode: Mode = "off"
    from_file: bool = False
    timeout: float | None = None
    memory: int | None = None

    def concerns(self, spec: ModelSpec) -> bool:
        """Whether a model runs in a worker of its own."""
        if sys.platform == "win32" or self.mode == "off":
            return False
        third_party = spec.source_name == "onnx" or runs_code(spec.source_name, spec.model_id)
        return self.mode == "on" or (self.from_file and third_party)

    def limits(self, spec: ModelSpec) -> WorkerLimits | None:
        """Of a job of this model; None where it may run in any process."""
        return WorkerLimits(self.timeout, self.memory) if self.concerns(spec) else None

    @property
    def of_trainings(self) -> WorkerLimits:
        """Of jobs that report their steps: the time counts from one to the next."""
        return WorkerLimits(self.timeout, self.memory, between_steps=True)
