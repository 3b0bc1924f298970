"""Tasks of which an item (or a word) is one row and whose head is one linear layer.

Classification, tagging, multi-label and regression extend ``LinearTask``: they say how wide the head is, which
loss trains it, and which statistics and metrics judge it. Everything else is here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xxhash

from selector.core.contracts import Encoder, LabelKind, Target
from selector.core.errors import TargetError
from selector.core.table import Facet, RowPlan
from selector.core.task import Criterion, NotFinite, Probe, Stats, Task
from selector.linear import solve_head

if TYPE_CHECKING:
    from torch import nn

WEAK = 0.1  # of the root mean square deviation over the columns


class LinearTask(Task):
    """See ``core.task.Task``.

    Attributes:
        label_kind: of its rows: how the probe is solved.
        facet: what its row problem is called.
        of_words: a row is a word of an item.
    """

    label_kind: ClassVar[LabelKind]
    facet: ClassVar[str] = "label"
    of_words: ClassVar[bool] = False

    def num_outputs(self, target: Target) -> int:
        """Width of the head: an output per class or label."""
        return len(target.class_names)

    @abstractmethod
    def criterion(self, target: Target) -> Criterion:
        """(outputs (R, K) float32, labels (R,) or (R, K)) -> mean loss; weights learned from the training split."""

    @abstractmethod
    def judged(
        self, outputs: np.ndarray, target: Target, items: np.ndarray, context: Mapping[str, Any] | None = None
    ) -> Stats:
        """Statistics of the outputs (R, K) of the rows of some items; ``context`` is what validation chose."""

    @abstractmethod
    def trivial(self, target: Target, items: np.ndarray) -> Stats:
        """Statistics of a predictor that looks at no item: what train + val say alone."""

    def evaluator(self, target: Target, context: Mapping[str, Any] | None = None) -> OutputEvaluator:
        """Takes outputs (R, K)."""
        return OutputEvaluator(lambda outputs, items: self.judged(outputs, target, items, context))

    def baseline(self, target: Target, metric: str, split: str = "test") -> float | None:
        """That of ``trivial``."""
        items = target.indices(split)
        if not len(items) or metric not in self.metrics:
            return None
        value = self.trivial(target, items).value(metric)
        return None if np.isnan(value) else value

    def labels(self, annotations: np.ndarray) -> np.ndarray:
        """Labels of rows in the type that loss and metrics take; classes are whole numbers."""
        return annotations.astype(np.int64)

    def annotations(self, target: Target, indices: np.ndarray) -> Sequence[object]:
        """The labels of some items: a number or a vector per item, of words an array (W,)."""
        return target.by_item(self.labels(target.labels_of(indices)), indices)

    def rows(self, target: Target, indices: np.ndarray, limit: int | None = None, seed: int = 0) -> RowPlan:
        """Every item (or word) a row; beyond ``limit`` the items with the smallest hash of content and seed, so that
        a row stays in whatever else there is."""
        indices = np.asarray(indices)
        if limit is not None and self._count(target, indices) > limit:
            keys = [xxhash.xxh3_64_intdigest(f"{target.hashes[i]} {seed}".encode()) for i in indices]
            order = indices[np.argsort(np.array(keys, dtype=np.uint64), kind="stable")]
            sizes = np.ones(len(order), int) if target.row_starts is None else np.diff(target.row_starts)[order]
            indices = np.sort(order[np.cumsum(sizes) <= limit])
        facet = Facet(self.label_kind, self.labels(target.labels_of(indices)), target.class_names)
        if target.row_starts is None:
            return RowPlan(indices, {self.facet: facet})
        counts = np.diff(target.row_starts)[indices]
        places = np.concatenate([np.arange(n) for n in counts]) if len(counts) else np.empty(0, int)
        return RowPlan(np.repeat(indices, counts), {self.facet: facet}, places[:, None], "word")

    def learner(
        self,
        encoder: Encoder,
        target: Target,
        init: Probe | None = None,
        size: tuple[int, int] | None = None,
        **settings: object,
    ) -> nn.Module:
        """The encoder with a linear head of ``num_outputs``, which starts as the solved probe."""
        from selector.tasks._learner import HeadLearner

        network = encoder.with_head(self.num_outputs(target), size)
        learner = HeadLearner(network, self.criterion(target), of_words=self.of_words)
        if init is not None:
            learner.start_from(init["weight"], init["bias"])
        return learner

    def probe(
        self,
        target: Target,
        train: tuple[RowPlan, np.ndarray],
        val: tuple[RowPlan, np.ndarray],
        strengths: Sequence[float] | None = None,
    ) -> Probe | None:
        """``weight`` (K, D), ``bias`` (K,), ``strength`` () and ``damping`` (); see ``linear.solve_head``, for ``strengths`` as
        well, and ``damping_of``."""
        (plan, rows), (held_plan, held_rows) = train, val
        labels, held_out = plan.facets[self.facet].labels, held_plan.facets[self.facet].labels
        if self.label_kind is LabelKind.CLASSES and len(np.unique(labels)) < 2:
            return None
        outputs = self.num_outputs(target)
        head = solve_head(
            steadied(rows), labels, held_rows, held_out, outputs, label_kind=self.label_kind, strengths=strengths
        )
        found = {"weight": head.weight, "bias": head.bias, "strength": np.array(head.strength)}
        if len(held_rows) > 1 and self.label_kind is not LabelKind.REAL:
            found["damping"] = np.array(damping_of(self.probe_outputs(found, rows), labels, head.val_log_loss))
        return found

    def refit(self, target: Target, rows: tuple[RowPlan, np.ndarray], probe: Probe) -> Probe | None:
        """See ``Task``."""
        plan, features = rows
        none = replace(plan, facets={name: replace(f, labels=f.labels[:0]) for name, f in plan.facets.items()})
        return self.probe(target, rows, (none, features[:0]), [float(probe["strength"])])

    def probe_outputs(self, probe: Probe, features: np.ndarray) -> np.ndarray:
        """(R, K) float32."""
        outputs: np.ndarray = (features @ probe["weight"].T + probe["bias"]).astype(np.float32)
        return outputs

    def recipe(self, encoder: Encoder, target: Target, size: tuple[int, int] | None = None) -> dict[str, object]:
        """That of the encoder with its head."""
        return encoder.recipe(self.num_outputs(target), size)

    def _count(self, target: Target, indices: np.ndarray) -> int:
        return len(indices) if target.row_starts is None else int(np.diff(target.row_starts)[indices].sum())


def steadied(rows: np.ndarray) -> np.ndarray:
    """Features (N, D) in which columns that hardly vary are constant, so that a linear-probe initialization ignores them.

    Standardizing blows such columns up: the head then leans on differences of a thousandth, which
    the first step of fine-tuning, a crop or another precision changes by more than that. On photos
    of textiles at 96 pixels this took the loss after the start from 65 to 4 and the validation
    log-loss of the frozen head from 0.65 to 0.54 (measured on the textile photos).
    """
    deviation = rows.std(axis=0, dtype=np.float64)
    weak = deviation < WEAK * np.sqrt((deviation**2).mean())
    result: np.ndarray = np.where(weak, rows.mean(axis=0, dtype=np.float64).astype(rows.dtype), rows)
    return result


LEAST_DAMPING = 0.05


def damping_of(outputs: np.ndarray, labels: np.ndarray, held_out_loss: float) -> float:
    """The factor of a probe's outputs at which its training rows lose as much as held-out rows do; 1 where they lose more.

    With fewer rows than columns a probe separates its training rows completely. A training that starts from it has
    nothing to learn on them: the encoder stays as it is, and the head grows.

    Args:
        outputs: (N, K) of the training rows; ``labels``: (N,) classes, or (N, K) of 0 and 1, where NaN is unknown.
        held_out_loss: mean log-loss of other rows, nats a row (or a label).
    Returns:
        A number in [``LEAST_DAMPING``, 1].
    """
    from scipy.optimize import brentq
    from scipy.special import logsumexp

    outputs = outputs.astype(np.float64)
    rows = np.arange(len(outputs))

    def surplus(factor: float) -> float:
        scaled = factor * outputs
        if labels.ndim == 1:
            return float((logsumexp(scaled, axis=1) - scaled[rows, labels]).mean()) - held_out_loss
        return float(np.nanmean(np.logaddexp(0, scaled) - scaled * labels)) - held_out_loss

    if surplus(1.0) >= 0:
        return 1.0
    return LEAST_DAMPING if surplus(LEAST_DAMPING) <= 0 else float(brentq(surplus, LEAST_DAMPING, 1.0, xtol=1e-3))


class OutputEvaluator:
    """Collects outputs (R, K) until ``stats`` works them out: a row is small, and what needs all of them (a
    temperature, an area under a curve) is found there.

    Args:
        make: (outputs of all rows, positions of the items) -> statistics.
    """

    def __init__(self, make: Callable[[np.ndarray, np.ndarray], Stats]) -> None:
        self._make = make
        self._outputs: list[np.ndarray] = []
        self._items: list[np.ndarray] = []

    def update(self, outputs: np.ndarray, items: np.ndarray) -> None:
        """See ``core.task.Evaluator``; whether outputs are finite is seen by ``make``."""
        self._outputs.append(np.asarray(outputs))
        self._items.append(np.asarray(items))

    def stats(self) -> Stats:
        """In the order in which the items came."""
        return self._make(np.concatenate(self._outputs), np.concatenate(self._items))


def check_columns(outputs: np.ndarray, labels: np.ndarray, expected: str) -> None:
    """Whether outputs are finite, a column a label.

    Raises:
        TargetError: shapes that do not fit.
        NotFinite: outputs that are no numbers.
    """
    if outputs.shape != labels.shape or outputs.ndim != 2:
        raise TargetError(f"outputs and {expected}. Got {outputs.shape} and {labels.shape}.")
    if not np.isfinite(outputs).all():
        raise NotFinite(f"outputs must be finite; {int((~np.isfinite(outputs)).any(axis=1).sum())} row(s) are not.")


def temperature_of(context: Mapping[str, Any] | None) -> float:
    """The temperature that validation chose; 1 where none was."""
    return float((context or {}).get("temperature", 1.0))
