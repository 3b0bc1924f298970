"""The contract of a task: what it reads from a table, its rows, its learner, its statistics an item.

A task is one file in ``tasks/``. Everything else (scan, tuning, report, deploy) calls it and never asks
which one it is: rows reach the proxies through ``RowPlan``, a model is trained and judged through
``Learner`` and ``Evaluator``, and whatever is compared, resampled, journalled or reported rests on
``Stats``, which is small whatever the outputs are (a mask of any size leaves a confusion matrix).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import xxhash

from selector.core.contracts import Encoder, Items, LabelKind, Modality, Target

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Metric:
    """A declared metric: nothing is guessed from its name.

    Attributes:
        sign: 1 where higher is better, -1 where lower is.
        unit: ``share`` (0..1, differences are told in points), ``target`` (the target's own unit) or "".
        epsilon: the smallest difference that matters to a user, in the metric's unit; a tie below it.
        format: how a value is written.
        chance: value of the trivial predictor where it is a constant (0 for R²); None where ``Task.baseline`` works it out.
    """

    sign: int = 1
    unit: str = "share"
    epsilon: float = 0.005
    format: str = ".3f"
    chance: float | None = None

    def better(self, a: float, b: float) -> bool:
        """Whether ``a`` is better than ``b``."""
        return self.sign * (a - b) > 0


# ---------------------------------------------------------------------------- a table and what a task reads from it


@dataclass
class Table:
    """What a reader found, before any task has looked at it: columns of equal length, an item a row.

    Attributes:
        where: the input, as messages name it.
        name: for people.
        modality: what an item is.
        items: the items, lazily (see ``contracts.Items``); empty for ready features.
        names: a readable name an item (``file:line`` or a path), for messages.
        hashes: content hash of each item.
        columns: annotation columns by role or by their own name; a column is a sequence (N,), lazily read
            where it is large (masks).
        roles: which columns are annotations, by role: ``label`` (one or several), ``mask``, ``boxes``, ``words``.
        schema: what the input says of them: ``class_names``, a colour table, ``ignore_index``, box format, ...
        splits: (N,) of train, val, test or ""; None where the input does not say.
        notes: what a person should know. ``origin``: what reads it again, plain JSON, or None.
        features: ready features (N, D) instead of items.
    """

    where: str
    name: str
    modality: Modality
    items: Items
    names: Sequence[str]
    hashes: Sequence[str]
    columns: Mapping[str, Any] = field(default_factory=dict)
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    schema: Mapping[str, Any] = field(default_factory=dict)
    splits: Sequence[str] | None = None
    notes: list[str] = field(default_factory=list)
    origin: dict[str, Any] | None = None
    features: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.hashes)


class Annotations(Protocol):
    """What is known of each item, checked by a task; lazy where it is large.

    ``strata`` (N,) ints or (N, L) 0/1 is what splits keep the share of (classes, labels, what a picture contains,
    quantiles of a value). ``digest(i)`` enters the target's fingerprint. ``labels`` is the array form where an
    item or word has one: (N,) or (N, L) or (N, T), else None. ``notes`` are what a person should know.
    """

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def strata(self) -> np.ndarray: ...

    @property
    def labels(self) -> np.ndarray | None: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any:
        """A class, a 0/1 vector, a value, the labels of words, a mask (H, W), boxes: as the task says."""
        ...

    def digest(self, index: int) -> str: ...

    def take(self, indices: np.ndarray) -> Annotations:
        """Those of some items."""
        ...

    def review(self, splits: np.ndarray, names: Sequence[str]) -> list[str]:
        """What the splits make of them, as notes: labels that training never shows, and the like.

        Raises:
            TargetError: nothing can be learned so (a class that a split lacks).
        """
        ...


# ---------------------------------------------------------------------------- rows


@dataclass(frozen=True)
class Facet:
    """One row problem: what proxies are asked. ``mask`` (R,) or (R, L): True where a label is known."""

    kind: LabelKind
    labels: np.ndarray
    class_names: tuple[str, ...] = ()
    mask: np.ndarray | None = None


@dataclass(frozen=True)
class RowPlan:
    """Which rows, where they are read in their item, and what they are labelled.

    Attributes:
        item: (R,) positions in the target, ascending.
        place: (R, k) where in its item a row is read, in relative coordinates (a point: x, y in 0..1; a box:
            x0, y0, x1, y1 in 0..1; a word: its number); None where an item is a row.
        facets: row problems on the same features, by name. Classification has one; detection two.
        reader: name of the row reader in ``extract/readers``: pooled, word, point, box.
    """

    item: np.ndarray
    facets: Mapping[str, Facet]
    place: np.ndarray | None = None
    reader: str = "pooled"

    def __len__(self) -> int:
        return len(self.item)

    def addresses(self, hashes: Sequence[str]) -> list[str]:
        """What addresses each row in the store: the hash of its item and its place in it."""
        if self.place is None:
            return [hashes[i] for i in self.item]
        return [row_address(hashes[i], place) for i, place in zip(self.item, self.place, strict=True)]


def row_address(content: str, place: Any) -> str:
    """The address of a row at a place of an item; of a word its number, of a point or box its rounded coordinates."""
    numbers = np.atleast_1d(place)
    said = str(int(numbers[0])) if numbers.dtype.kind in "iu" else ",".join(f"{value:.5f}" for value in numbers)
    return xxhash.xxh3_128_hexdigest(f"{content} row {said}".encode())


# ---------------------------------------------------------------------------- statistics


class Stats(ABC):
    """Per-item statistics of one model on one split: small arrays whose first axis is the item.

    They are enough for every metric of the task, on all items and on any resample of them, so that bootstrap,
    P(best), journals and the error analysis need no outputs.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays = dict(arrays)

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, items: np.ndarray) -> Stats:
        """The same of some items, repeats allowed: a resample."""
        return type(self)({name: array[items] for name, array in self.arrays.items()})

    @abstractmethod
    def value(self, metric: str) -> float:
        """One metric over all items; NaN where it is undefined for them."""

    def ratio(self, metric: str) -> tuple[np.ndarray, np.ndarray] | None:
        """(numerators, denominators), an entry an item, where the metric is a sum over another: drawn without
        computing anything again. None where it is not."""
        return None

    def values(self, metrics: Sequence[str]) -> dict[str, float]:
        """Those that are defined."""
        found = {name: self.value(name) for name in metrics}
        return {name: value for name, value in found.items() if value == value}


class Evaluator(Protocol):
    """Takes the outputs of a model batch by batch and keeps statistics, never outputs of a whole split."""

    def update(self, outputs: Any, items: np.ndarray) -> None:
        """``outputs`` of ``Learner.predict`` for the items at these positions of the target."""
        ...

    def stats(self) -> Stats:
        """In the order in which the items came."""
        ...


# ---------------------------------------------------------------------------- learning


class Learner(Protocol):
    """What is trained: an ``nn.Module`` (encoder and head, decoder or detector) with its loss and its outputs."""

    def loss(self, batch: Any, annotations: Any, unlabelled: Any = None) -> torch.Tensor:
        """Mean loss of a batch; weights of classes and labels inside, where imbalance asks for them."""
        ...

    def predict(self, batch: Any) -> Any:
        """Outputs of a batch in eval mode, as the task's ``evaluator`` and ``predictions`` take them."""
        ...


@dataclass(frozen=True)
class Section:
    """A task's part of the report: tables and samples as plain JSON; see ``report/``.

    ``tables``: title -> list of rows (mappings, in column order). ``samples``: items worth looking at, each with
    ``item`` (position in the split), what it is labelled and what was predicted. ``figures``: name -> data that
    ``report.figures`` knows how to draw.
    """

    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    samples: Sequence[Mapping[str, Any]] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)


class Task(ABC):
    """What is learned. One file in ``tasks/``, registered with ``@task("name")``.

    Attributes:
        name: registered name.
        metrics: every metric it computes, declared; the first one decides unless the user says otherwise.
        strategies: names in ``tuning/strategies`` that make sense for it, in the order of cost.
    """

    name: ClassVar[str]
    metrics: Mapping[str, Metric]
    strategies: ClassVar[tuple[str, ...]] = ("frozen", "partial", "full")

    @property
    def default_metric(self) -> str:
        """The metric that decides."""
        return next(iter(self.metrics))

    # what it is about

    @abstractmethod
    def accepts(self, table: Table) -> str | None:
        """Why a table is not for this task (a column lacks, another kind of label); None when it is."""

    @abstractmethod
    def read(self, table: Table) -> Annotations:
        """Validate the annotation of a table.

        Raises:
            TargetError: names the item, what was expected and found.
        """

    @abstractmethod
    def rows(self, target: Target, indices: np.ndarray, limit: int | None = None, seed: int = 0) -> RowPlan:
        """The rows of some items that proxies see, at most ``limit``, the same for every model."""

    # learning

    @abstractmethod
    def learner(
        self, encoder: Encoder, target: Target, init: Mapping[str, np.ndarray] | None = None, **settings: Any
    ) -> nn.Module:
        """A fresh ``Learner`` on an encoder; ``init`` is the solved linear probe (``weight``, ``bias``) it starts from."""

    @abstractmethod
    def evaluator(self, target: Target, context: Mapping[str, Any] | None = None) -> Evaluator:
        """For one split; ``context`` is what was chosen on validation (a temperature, thresholds)."""

    def calibrate(self, stats: Stats) -> dict[str, Any]:
        """What is chosen on validation and used afterwards: temperature, thresholds, least score. Plain JSON."""
        return {}

    @abstractmethod
    def baseline(self, target: Target, metric: str) -> float | None:
        """The metric on the test split of the trivial predictor (most frequent class, label frequencies, the mean)."""

    # use

    @abstractmethod
    def predictions(self, outputs: Any, class_names: Sequence[str], context: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What predict hands over, an entry an item: plain JSON but for arrays (masks)."""

    @abstractmethod
    def report(self, stats: Stats, class_names: Sequence[str]) -> Section:
        """The error analysis."""
