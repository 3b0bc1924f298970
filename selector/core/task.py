"""The contract of a task: what it reads from a table, its rows, its learner, its statistics an item.

A task is one file in ``tasks/``. Everything else (scan, tuning, report, deploy) calls it and never asks
which one it is: rows reach the proxies through ``RowPlan``, a model is trained and judged through
``Learner`` and ``Evaluator``, and whatever is compared, resampled, journalled or reported rests on
``Stats``, which is small whatever the outputs are (a mask of any size leaves a confusion matrix).
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeAlias, TypedDict

import numpy as np

from selector.core.contracts import Annotations, Encoder, Target, noun_of
from selector.core.errors import ConfigError, TargetError, TrainingError
from selector.core.prediction import Prediction, Predictions
from selector.core.stats import Metric
from selector.core.table import RowPlan, Table

if TYPE_CHECKING:
    import torch
    from torch import nn


# ---------------------------------------------------------------------------- statistics


class Stats(ABC):
    """Per-item statistics of one model on one split: small arrays whose first axis is the item.

    They are enough for every metric of the task, on all items and on any resample of them, so that bootstrap,
    P(best), journals and the error analysis need no outputs.

    Args:
        arrays: by name, an entry per item (a subclass that keeps several entries an item overrides ``__getitem__``).
        summary: what is not of single items, as plain JSON: sizes, names, what was worked out from all outputs.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], summary: Mapping[str, Any] | None = None) -> None:
        self.arrays = dict(arrays)
        self.summary = dict(summary or {})

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, items: np.ndarray) -> Self:
        """The same of some items, repeats allowed: a resample."""
        return type(self)({name: array[items] for name, array in self.arrays.items()}, self.summary)

    @abstractmethod
    def value(self, metric: str) -> float:
        """One metric over all items; NaN where it is undefined for them."""

    def ratio(self, metric: str) -> tuple[np.ndarray, np.ndarray] | None:
        """(numerators, denominators), an entry per item, where the metric is a sum over another: drawn without
        computing anything again. None where it is not."""
        return None

    def decided(self, metric: str) -> float | None:
        """Where an item is right or wrong as a whole: how far one item moves the metric, times the number of items (1 for
        accuracy). None where an item counts by degrees."""
        return None

    def values(self, metrics: Iterable[str]) -> dict[str, float]:
        """Those that are defined."""
        found = {name: self.value(name) for name in metrics}
        return {name: value for name, value in found.items() if value == value}


class NotFinite(TrainingError):
    """Outputs hold NaN or infinity: the training diverged."""


class Evaluator(Protocol):
    """Takes the outputs of a model batch by batch and keeps statistics, never outputs of a whole split of masks."""

    def update(self, outputs: Any, items: np.ndarray) -> None:
        """``outputs`` of ``Learner.predict`` for the items at these positions of the target.

        Raises:
            NotFinite: outputs that are no numbers.
        """
        ...

    def stats(self) -> Stats:
        """In the order in which the items came."""
        ...


# ---------------------------------------------------------------------------- learning


class Learner(Protocol):
    """What is trained: an ``nn.Module`` around ``network`` that knows its loss and its outputs.

    Attributes:
        network: what is saved, exported and handed over: (encoder and head, decoder or detector). Parameters of
            the learner outside it (weights of a loss, a domain classifier) live as long as the training.
        new: prefixes of the names (in the learner's ``named_parameters``) of what did not come pretrained: head,
            decoder, detector. They move in every strategy that trains, at the full rate.
    """

    network: nn.Module
    new: tuple[str, ...]

    def loss(self, batch: Any, annotations: Sequence[Any], unlabeled: object = None) -> torch.Tensor:
        """Mean loss of a batch; weights of classes and labels inside, where imbalance asks for them.

        Args:
            batch: as ``Encoder.encode`` takes it: (B, C, H, W) normalized, or tokens, on the network's device.
            annotations: of these B items, as ``Task.annotations`` gives them (after augmentation).
        """
        ...

    def weight(self, annotations: Sequence[object]) -> float:
        """What the mean of ``loss`` is over (items, words, pixels): pieces of a batch are summed by it."""
        ...

    def predict(self, batch: Any) -> object:
        """Outputs of a batch in eval mode, as the task's ``evaluator`` and ``predictions`` take them."""
        ...

    def rows(self, batch: object, places: Sequence[np.ndarray | None]) -> torch.Tensor | None:
        """Features (R, D) of the rows of these items, read at ``places`` (see ``RowPlan.place``): what
        ``Task.probe`` is solved on where the training does not run on the features of the scan. None where
        the learner cannot tell: it then starts from the probe on those of the scan."""
        ...


@dataclass(frozen=True)
class Section:
    """A task's part of the report: tables and samples as plain JSON; see ``report/error_analysis.py``.

    ``tables``: title -> list of rows (mappings, in column order). ``samples``: items worth looking at, each with
    ``row`` (position in the split), and what it is labeled and what was predicted; or a ``group`` (the heading that
    it is shown under) and a ``note``, for tasks that draw their samples. ``figures``: name -> data that
    ``report.figures`` knows how to draw.
    """

    tables: Mapping[str, Sequence[Mapping[str, object]]] = field(default_factory=dict)
    samples: Sequence[Mapping[str, object]] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "tables": {title: [dict(row) for row in rows] for title, rows in self.tables.items()},
            "samples": [dict(sample) for sample in self.samples],
            "figures": dict(self.figures),
        }


@dataclass(frozen=True)
class Traced:
    """What an ONNX file holds of a network whose outputs are not one tensor.

    Attributes:
        module: one image (1, C, H, W), normalized -> a tensor for each of ``names``.
        names: of the outputs; the first axis of each may have any length.
        differ: (arrays of the file, those of torch) -> how they differ, in words; "" where they say the same.
        facts: metadata of the file.
    """

    module: nn.Module
    names: tuple[str, ...]
    differ: Callable[[Sequence[np.ndarray], Sequence[np.ndarray]], str]
    facts: Mapping[str, str] = field(default_factory=dict)


Criterion: TypeAlias = "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]"
"""(outputs (R, K) float32, labels (R,) or (R, K)) -> scalar mean loss."""

Probe: TypeAlias = Mapping[str, np.ndarray]
"""A solved linear probe, as the task solved it: ``weight`` (K, D) and ``bias`` (K,) of a linear head, ``strength`` ()."""


class BalanceOptions(TypedDict, total=False):
    """Options of ``Task.configured`` that tasks hand on."""

    balance: str | None
    label_smoothing: float | None


class Task(ABC):
    """What is learned. One file in ``tasks/``, registered with ``@task("name")``.

    Most tasks give an item or a word one row and put one linear layer on it: they extend
    ``selector.tasks.LinearTask`` and say what their labels, their loss and their statistics are.

    Attributes:
        name: registered name.
        metrics: every metric it computes, declared; the first one decides unless the user says otherwise.
        strategies: names in ``tuning/strategies`` that make sense for it, in the order of cost.
        stats_type: the class of its statistics; a journal makes them again from arrays and summary.
        prediction_type: the class of its predictions, an item each.
        most_rows: rows that proxies see at most; None for all of them.
        class_noun: what ``class_names`` are, in the plural.
        proxies: what is computed when nothing is asked for, where that is not a matter of the label kind alone.
        members: proxies that make the combined score, by modality, where other ones than usual order its models better.
        balances: ways to balance classes that differ in size, beside ``auto`` and ``none``.
        smooths: its labels can be smoothed.
        balance, label_smoothing: as ``configured``.
        adapts: it learns from one domain for another that has no labels: what was measured before of labeled targets
            does not tell of it, and what is measured is not comparable with that.
        reader: how rows are read off a network (``extract.row_readers``).
        tie_breaker: a metric that orders candidates of equal value (accuracy ties are common on few items).
        batch_size: items a step at most; see ``batch``.
        probe_rows: rows that a probe is solved on, at most; None for all, 0 where no linear layer starts its heads.
        optimizer: ``sgd`` or ``adamw`` where its heads need one; None for what suits the network.
        draws: samples of its report show more than their item (``drawn``).
        onnx_differs: why what an ONNX file gives scores otherwise than ``predict``, a sentence; empty where it does not.
        free_size: an exported network takes images of any height and width, where its encoder does.
    """

    name: ClassVar[str]
    metrics: Mapping[str, Metric]
    strategies: ClassVar[tuple[str, ...]] = ("frozen", "partial", "full")
    stats_type: ClassVar[type[Stats]]
    prediction_type: ClassVar[type[Prediction]] = Prediction
    tie_breaker: ClassVar[str | None] = None
    most_rows: ClassVar[int | None] = None
    reader: ClassVar[str] = "pooled"
    batch_size: ClassVar[int] = 32
    probe_rows: ClassVar[int | None] = None
    optimizer: ClassVar[str | None] = None
    draws: ClassVar[bool] = False
    free_size: ClassVar[bool] = False
    onnx_differs: ClassVar[str] = ""
    class_noun: ClassVar[str] = "classes"
    proxies: ClassVar[tuple[str, ...]] = ()
    members: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    adapts: ClassVar[bool] = False
    balances: ClassVar[tuple[str, ...]] = ()
    smooths: ClassVar[bool] = False
    balance: str = "auto"
    label_smoothing: float = 0.0

    def batch(self, train: int) -> int:
        """Items a step, the same for every model: a tenth of few training items, so that an epoch is not two or three steps.

        >>> [Task.batch(Task, train) for train in (3, 82, 200, 412)]  # type: ignore[arg-type]
        [3, 8, 20, 32]
        """
        return max(1, min(self.batch_size, train, max(8, train // 10)))

    @property
    def default_metric(self) -> str:
        """The metric that decides."""
        return next(iter(self.metrics))

    def of(self, class_names: Sequence[str]) -> Task:
        """The task for such labels, where its metrics depend on them; else itself."""
        return self

    @property
    def address(self) -> str:
        """What names its trainings in a journal: two tasks that train differently differ in it."""
        return self.name + self.address_suffix

    def written_as(self, class_names: Sequence[str], context: Mapping[str, object]) -> list[int]:
        """The number that stands for each class in what the model gives."""
        return list(range(len(class_names)))

    def configured(
        self,
        *,
        decoder: str | None = None,
        loss: str | None = None,
        balance: str | None = None,
        label_smoothing: float | None = None,
    ) -> Self:
        """The task with options of its own.

        Raises:
            ConfigError: it has no such option, or not with that value.
        """
        if decoder is not None:
            raise ConfigError(f"the task '{self.name}' has no decoder (got '{decoder}'); leave decoder out.")
        if loss is not None:
            raise ConfigError(f"the task '{self.name}' has no choice of loss (got '{loss}'); leave loss out.")
        known = ("auto", "none", *self.balances) if self.balances else ("auto",)
        if balance not in (None, *known):
            raise ConfigError(f"the task '{self.name}' has no balance={balance!r}; expected {' or '.join(known)}.")
        if label_smoothing and not self.smooths:
            raise ConfigError(f"the task '{self.name}' has no label smoothing (got {label_smoothing}); leave it out.")
        other = copy.copy(self)
        other.balance = balance or self.balance
        other.label_smoothing = self.label_smoothing if label_smoothing is None else label_smoothing
        return other

    @property
    def address_suffix(self) -> str:
        """Tell ``balance`` and ``label_smoothing`` apart in ``address`` where they are not the default; begins with a blank."""
        balance = "" if self.balance == "auto" else f" balance {self.balance}"
        return balance + (f" smoothing {self.label_smoothing:g}" if self.label_smoothing else "")

    def sampling_weights(self, target: Target, items: np.ndarray) -> np.ndarray | None:
        """Probability that each training item is drawn, (N,) float64 with sum 1; None where each is drawn once per epoch.

        With ``balance="sampling"`` all ``strata`` are drawn equally often.
        """
        strata = None if self.balance != "sampling" else self.strata(target)
        if strata is None:
            return None
        _, place, counts = np.unique(strata[items], return_inverse=True, return_counts=True)
        weights: np.ndarray = 1.0 / counts[place] / len(counts)
        return weights

    def decoders_for(self, encoder: Encoder, named: Sequence[str]) -> Sequence[str]:
        """Those of the named decoders that can be compared on an encoder, none for its usual way."""
        return named

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

    def annotations(self, target: Target, indices: np.ndarray) -> Sequence[Any]:
        """What is known of some items, an entry per item, as ``loss`` and ``evaluator`` take it: a class, the labels
        of words, a mask (``torchvision.tv_tensors.Mask``), boxes. What is a tv_tensor moves with its image when
        that is augmented."""
        return target.by_item(target.labels_of(indices), indices)

    @abstractmethod
    def rows(self, target: Target, indices: np.ndarray, limit: int | None = None, seed: int = 0) -> RowPlan:
        """The rows of some items that proxies see, at most ``limit``, the same for every model."""

    def strata(self, target: Target) -> np.ndarray | None:
        """(N,) ints whose proportions a sample of items keeps; None where there are none."""
        return None

    def check(self, target: Target) -> None:
        """Whether something can be learned.

        Raises:
            TargetError: an empty split, a single class among the training items.
        """
        for split in ("train", "val"):
            if not len(target.indices(split)):
                raise TargetError(
                    f"target '{target.name}' has no {noun_of(target.modality)}s in {split}; fine-tuning needs train and val."
                )

    def probe_plan(self, target: Target, indices: np.ndarray) -> RowPlan:
        """The rows that a probe is solved on."""
        return self.rows(target, indices, self.probe_rows)

    def notes(self, target: Target) -> list[str]:
        """What a reader of the metrics should know of the splits: classes that are absent."""
        return []

    # learning

    def prepared(self, encoder: Encoder, target: Target) -> Encoder:
        """The encoder as this task reads its items: whole images on a canvas, where rows are places in them.

        Raises:
            SourceError: the network cannot be read so.
        """
        return encoder

    def width(self, encoder: Encoder) -> int:
        """D of the rows that ``learner`` reads off a prepared encoder."""
        return encoder.num_features

    @abstractmethod
    def learner(
        self,
        encoder: Encoder,
        target: Target,
        init: Probe | None = None,
        size: tuple[int, int] | None = None,
        **settings: object,
    ) -> nn.Module:
        """A fresh ``Learner`` on an encoder.

        Args:
            init: what ``probe`` solved: where the head starts.
            size: (height, width) of the training where it is not the encoder's own.
        """

    def probe(self, target: Target, train: tuple[RowPlan, np.ndarray], val: tuple[RowPlan, np.ndarray]) -> Probe | None:
        """Solve the linear probe on frozen features: the strategy ``frozen``, and where every training starts.

        Args:
            train, val: rows and their features (R, D); val chooses the strength.
        Returns:
            None where these rows leave nothing to solve (a single class).
        """
        return None

    def refit(self, target: Target, rows: tuple[RowPlan, np.ndarray], probe: Probe) -> Probe | None:
        """The probe solved again on all these rows, with the strength that validation chose for ``probe``; None where the
        task's probe holds more than that."""
        return None

    def probe_outputs(self, probe: Probe, features: np.ndarray) -> object:
        """Outputs of the probe as ``Learner.predict`` gives them, of rows that are whole items or words; None where
        outputs need the network itself (masks, boxes)."""
        return None

    def augment(self, batch: Any, annotations: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
        """What is left to do once the modality's augmentation has moved images and annotations (tv_tensors move
        with them): a task whose boxes may have left the image drops them here. Draws from torch's global
        generator, which the training loop seeds."""
        return batch, annotations

    @abstractmethod
    def evaluator(self, target: Target, context: Mapping[str, Any] | None = None) -> Evaluator:
        """For one split; ``context`` is what was chosen on validation (a temperature, thresholds)."""

    def calibrate(self, stats: Stats) -> dict[str, object]:
        """What is chosen on validation and used afterwards: temperature, thresholds, least score. Plain JSON."""
        return {}

    @abstractmethod
    def baseline(self, target: Target, metric: str, split: str = "test") -> float | None:
        """The metric on a split of the trivial predictor (most frequent class, label frequencies, the mean)."""

    # use

    def recipe(self, encoder: Encoder, target: Target, size: tuple[int, int] | None = None) -> dict[str, object]:
        """How to build ``Learner.network`` again without weights: plain JSON with the ``source`` that builds its
        encoder; read by ``rebuild``.

        Raises:
            NotImplementedError: its networks cannot be saved.
        """
        raise NotImplementedError(f"networks of the task '{self.name}' cannot be saved")

    def rebuild(self, recipe: Mapping[str, Any], build: Callable[[Mapping[str, Any]], nn.Module]) -> nn.Module:
        """The network of ``recipe``, without weights; ``build`` is that of the recipe's source."""
        return build(recipe)

    def output(self, network: nn.Module, batch: Any) -> Any:
        """Outputs of a saved network for a batch, as ``predictions`` take them: what ``Learner.predict`` gives."""
        return network(batch).float().cpu().numpy()

    @abstractmethod
    def predictions(
        self, outputs: Any, class_names: Sequence[str], context: Mapping[str, object]
    ) -> list[dict[str, object]]:
        """What predict hands over, an entry per item (or word): plain JSON but for arrays (masks)."""

    def condensed(self, output: Any, item: object, class_names: Sequence[str], context: Mapping[str, object]) -> object:
        """What ``predict`` keeps of an item's outputs until all items are read: the outputs, unless they are large."""
        return output

    def predicted(
        self,
        named: Sequence[tuple[str, object]],
        outputs: Sequence[object | None],
        reasons: Sequence[str],
        class_names: Sequence[str],
        context: Mapping[str, object],
        top: int = 1,
    ) -> Predictions:
        """Predictions of named items for a person or a program.

        Args:
            named: (name, item) each.
            outputs: of each item its own, with a first axis (or a list) of one; None where it cannot be read, for the
                reason at the same place.
            top: how many leading classes to name.
        """
        rows = [
            self.prediction_type(name, error=reason)
            if output is None
            else self.prediction(name, item, output, class_names, context, top)
            for (name, item), output, reason in zip(named, outputs, reasons, strict=True)
        ]
        return self.gathered(rows, class_names, context)

    def prediction(
        self, name: str, item: Any, output: Any, class_names: Sequence[str], context: Mapping[str, object], top: int
    ) -> Prediction:
        """Of one item that could be read; see ``predicted``."""
        (found,) = self.predictions(output, class_names, context)
        return self.prediction_type.of(name, found, class_names, min(top, len(class_names)))

    def gathered(
        self, rows: Sequence[Prediction], class_names: Sequence[str], context: Mapping[str, object]
    ) -> Predictions:
        """What ``predicted`` hands over, of its rows."""
        known = [row.shares for row in rows if row.shares is not None]
        width = len(known[0]) if known else len(class_names) if not any(row.values for row in rows) else 0
        nothing = np.full(width, np.nan)
        probabilities = np.array([nothing if row.shares is None else row.shares for row in rows])
        return Predictions(rows, probabilities.reshape(len(rows), width), class_names)

    def activation(self, outputs: Any, context: Mapping[str, Any]) -> tuple[str, torch.Tensor] | None:
        """(name, tensor) that an exported network gives beside its raw outputs: calibrated probabilities, values in
        the target's unit. Torch operations only, since they are traced. None where it gives the outputs alone."""
        return None

    def traced(self, network: nn.Module, context: Mapping[str, object]) -> Traced | None:
        """What is exported of a saved network where its outputs are not one tensor (boxes); None where they are."""
        return None

    def meaning(self, class_names: Sequence[str], context: Mapping[str, Any]) -> tuple[str, str]:
        """(name, sentence) of what becomes of the outputs, with what validation chose, for the model card."""
        return "probabilities", f"softmax(outputs / {float(context.get('temperature', 1.0)):.4g}), the temperature"

    @abstractmethod
    def report(self, stats: Stats, class_names: Sequence[str]) -> Section:
        """The error analysis."""

    def drawn(
        self, outputs: Sequence[object], target: Target, items: np.ndarray, context: Mapping[str, object]
    ) -> list[dict[str, object]]:
        """What a sample of ``report`` shows beside its item, an entry per item: ``pictures``, small ones as ``data:``
        URIs with a ``title`` each. Only asked where ``draws``.

        Args:
            outputs: of each item its own, from ``Learner.predict``.
            context: what validation chose.
        """
        return [{} for _ in items]
