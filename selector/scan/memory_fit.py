"""Whether a model fits into this machine's memory, at which batch size and resolution: told before anything is fetched."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from typing import Any

from selector import modalities, sources, tasks
from selector.config import ScanConfig
from selector.core.contracts import Target
from selector.core.costs import Footprint
from selector.core.errors import SourceError
from selector.core.system import free_memory, visible_cards
from selector.core.units import parse_size
from selector.extract.encode import batch_of
from selector.modalities.image import canvas_of
from selector.results import ModelResult
from selector.scan.dataset_view import reads_maps
from selector.store import FeatureStore
from selector.tuning.plan import FACTORS
from selector.zoo import ModelSpec
from selector.zoo.spec import network_of

log = logging.getLogger(__name__)

SCANNED, CONVERTED = 2.0, 4.0
"""Copies of the weights beside each other while a network is loaded and run: in torch, and where a backend converts it."""
TRAINED = 5.0
"""While it is trained: the encoder, the learner, its gradients, and the optimizer's two moments."""
LIBRARIES = 120 << 20
"""What a run loads beside what its plan has loaded: scores, index, optimizer."""
CANVAS_SIDE = 224  # short side of the canvas whose aspect whole pictures have
TEXTS = 64  # of 128 tokens in a forward pass: batches of texts hold so many tokens
VERSION = 1  # of what is remembered


@dataclass(frozen=True)
class Machine:
    """Free bytes: of the memory, and of the device where that has its own (None where it shares the memory)."""

    memory: int
    device: int | None = None

    @classmethod
    def of(cls, device: str, limit: float = math.inf) -> Machine:
        """This machine, for a device that torch knows (``cpu``, ``cuda``, ``cuda:1``).

        Args:
            limit: bytes of the device's memory that a model may take (``max_memory``).
        """
        free = free_memory()
        if device.startswith("cuda"):
            import torch

            if torch.cuda.is_available():  # a build of torch for the processor alone sees none
                return cls(free, int(min(limit, torch.cuda.mem_get_info(device)[0])))
        return cls(int(min(free, limit + LIBRARIES)))


@dataclass(frozen=True)
class Need:
    """What a scan or a training takes.

    Attributes:
        bytes: at its peak, beside what the process holds before.
        batch: items that go through at once; of a training the gradients of smaller pieces are summed.
        size: share of the model's own side in pixels at which it fits; 1 for its own.
        fits: whether it does; where not, ``bytes`` are for a single item.
    """

    bytes: int
    batch: int
    size: float = 1.0
    fits: bool = True


def scanning(shape: Footprint, machine: Machine, batch: int, *, area: float = 1.0, converts: bool = False) -> Need:
    """What extraction takes.

    Args:
        batch: items a forward pass at first; it is halved while memory is short.
        area: pixels of an item as a multiple of those that the footprint holds for.
        converts: whether a backend may be chosen that converts the network.
    """
    fixed = (CONVERTED if converts else SCANNED) * shape.weights
    return _halved(fixed, shape.weights, area * shape.item, machine, batch)


def training(
    shape: Footprint, machine: Machine, batch: int, *, area: float = 1.0, most: float = 1.0, resizable: bool = True
) -> Need:
    """What full fine-tuning takes, the other strategies at most: at the model's own size, else at the largest smaller one.

    Args:
        batch: items a step; the gradients of pieces of half the size are summed while memory is short.
        most: the largest share of that side that the budget leaves.
        resizable: whether items have a resolution that could be smaller.
    """
    found = Need(0, 1, fits=False)
    for factor in [f for f in FACTORS if f <= most] if resizable else FACTORS[:1]:
        found = _halved(
            TRAINED * shape.weights,
            (TRAINED - 1) * shape.weights,
            factor**2 * area * shape.step,
            machine,
            batch,
            factor,
        )
        if found.fits:
            break
    return found


def _halved(fixed: float, on_device: float, item: float, machine: Machine, batch: int, size: float = 1.0) -> Need:
    """The largest batch that fits, from ``batch`` down by halves."""
    while True:
        on_card = machine.device is not None
        taken = on_device + batch * item if on_card else LIBRARIES + fixed + batch * item
        free = machine.device if machine.device is not None else machine.memory
        fits = taken <= free and (not on_card or LIBRARIES + fixed <= machine.memory)
        if fits or batch == 1:
            return Need(round(taken), batch, size, fits)
        batch //= 2


FIT = (
    *("scan_bytes", "scan_batch", "training_bytes", "training_batch", "training_side", "training_precision"),
    *("training_epochs", "fits"),
)
"""Keys of a row of ``scan.planning.Plan`` and of ``ModelResult.fit``."""


@dataclass(frozen=True)
class Room:
    """What a call's models have to fit into.

    Attributes:
        machine: what is free.
        device: ``cpu``, ``cuda``, ``cuda:1``.
        first: items in a forward pass of the scan; ``batch``: in a training step.
        area: pixels that an item is read at, as a multiple of a model's own.
        trains: whether models are fine-tuned at all.
        resolution: short side that they are trained at, where the call says so.
        resizable: whether items have a resolution; ``converts``: whether a backend may convert networks.
    """

    machine: Machine
    device: str
    first: int
    batch: int
    area: float
    trains: bool
    resolution: int | None
    resizable: bool
    converts: bool

    @classmethod
    def of(cls, data: Target, config: ScanConfig) -> Room:
        """That of a call."""
        device = "cuda" if config.device == "auto" and visible_cards() else config.device.replace("auto", "cpu")
        task, modality = tasks.task_for(data), modalities.of(data)
        aspect = canvas_of(data.items, CANVAS_SIDE) if reads_maps(data) else None
        return cls(
            Machine.of(device, math.inf if config.max_memory is None else parse_size(config.max_memory)),
            device,
            batch_of(device) if modality.fixed_shape else TEXTS,
            1 if task is None else task.batch(len(data.indices("train"))),
            1.0 if aspect is None else aspect[0] * aspect[1] / CANVAS_SIDE**2,
            config.confirm and task is not None and set(config.strategies) != {"frozen"},
            config.resolution,
            modality.resizable,
            config.backend != "eager" and device == "cpu" and find_spec("openvino") is not None,
        )

    def fit(
        self,
        shape: Footprint,
        size: Sequence[int] | None = None,
        factor: float = 1.0,
        epochs: float | None = None,
    ) -> dict[str, object]:
        """How a model fits, by the names of ``FIT``.

        Args:
            size: (channels, height, width) that it reads, where that is not what its footprint is of.
            factor, epochs: share of its side that the budget leaves for training, and how often it goes over the items;
                see ``plan.foresee``. No epochs: the budget is too short; None where that is not known.
        """
        native = round(math.sqrt(shape.area)) if self.resizable else None
        own = self.area if size is None or native is None else self.area * size[1] * size[2] / shape.area
        scan = scanning(shape, self.machine, self.first, area=own, converts=self.converts)
        row: dict[str, object] = {**dict.fromkeys(FIT), "scan_bytes": scan.bytes, "scan_batch": scan.batch}
        reasons = [] if scan.fits else ["too little memory to scan it"]
        if self.trains:
            asked = 1.0 if self.resolution is None or native is None else (self.resolution / native) ** 2
            need = training(
                shape, self.machine, self.batch, area=own * asked, most=factor, resizable=native is not None
            )
            side = native and round(native * math.sqrt(own * asked / self.area) * need.size)
            row |= {"training_bytes": need.bytes, "training_batch": need.batch, "training_side": side}
            row |= {"training_precision": shape.precision, "training_epochs": epochs}
            if not need.fits:
                reasons.append("too little memory to train it")
            elif need.size < factor:
                reasons.append(f"too little memory to train it at its own size: --resolution {side}")
            if epochs == 0:
                reasons.append("too short a budget to train it")
        return {**row, "fits": "; ".join(reasons)}


def with_fits(
    models: Sequence[ModelResult], specs: Sequence[ModelSpec], room: Room, store: FeatureStore
) -> tuple[ModelResult, ...]:
    """The rows of a ranking with how each model fits, of those that a dry run has looked at.

    A scan looks at none itself: one that the store answers needs no torch, and no table may depend on the clock.
    """
    by_name = {spec.name: spec for spec in specs}

    def fitted(model: ModelResult) -> ModelResult:
        spec = by_name.get(model.name) if model.status in ("ok", "pruned") else None
        shape = None if spec is None else footprint_of(spec, store, room.device, looks=False)
        if spec is None or shape is None:
            return model
        return replace(model, fit=room.fit(shape, spec.preprocess.input_size))

    return tuple(map(fitted, models))


def footprint_of(spec: ModelSpec, store: FeatureStore, device: str, *, looks: bool = True) -> Footprint | None:
    """The footprint of a model as it is remembered, else as its source's sketch of it tells; None where that cannot.

    Args:
        looks: whether to look at one that is not remembered.

    Cost: up to some seconds for a model that was not looked at before.
    """
    key = {"network": network_of(spec), "device": device, "version": VERSION}
    remembered = store.get("footprint", key)
    if remembered is not None:
        return Footprint(**remembered) if remembered else None
    if not looks:
        return None
    sketch_of: Any = getattr(sources.registry.get(spec.source_name), "sketch", None)
    found = None
    if sketch_of is not None:
        from selector.extract.cost import footprint
        from selector.tuning.strategies._parts import bf16_helps, mixed_precision

        try:
            sketch = sketch_of(spec)
            found = footprint(sketch, bf16=mixed_precision(sketch.module, device, bf16_helps(device)))
        except SourceError as error:
            log.info("%s: %s", spec.name, error)
    store.put("footprint", key, {} if found is None else asdict(found))
    return found
