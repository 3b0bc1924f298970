"""One class per item: cross-entropy, a linear head of C outputs, and the metrics of a classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from selector.core.contracts import LabelKind, Target, noun_of
from selector.core.stats import Metric, best_temperature, softmax
from selector.core.table import Table
from selector.core.task import Criterion, Section, Stats
from selector.tasks import task
from selector.tasks._classes import (
    ClassTask,
    absent_classes,
    auroc,
    balanced_accuracy,
    balanced_note,
    calibration_error,
    checked,
    class_weights,
    confusion_matrix,
    counts_of,
    dense_ranks,
    macro_f1,
    per_class_table,
)
from selector.tasks._error_analysis import section_of_items
from selector.tasks._linear import temperature_of
from selector.tasks._read_labels import (
    ArrayAnnotations,
    check_classes,
    check_slips,
    declared_names,
    encode_classes,
    labels_of,
    number_notes,
)


class ClassLabels(ArrayAnnotations):
    """Class numbers (N,)."""

    def review(self, splits: np.ndarray, names: Sequence[str]) -> list[str]:
        """Nothing to note.

        Raises:
            TargetError: a class that a split lacks.
        """
        check_classes(self.where, self.labels, self.class_names, splits, self.noun)
        return []


class ClassificationReading:
    """``Task.accepts`` and ``Task.read`` of classification."""

    role: ClassVar[str] = "label"

    def accepts(self, table: Table) -> str | None:
        """Any table with one column of labels: what other tasks did not take is classes, or told why not."""
        if "label" not in table.roles:
            return missing_label(table)
        if len(table.roles["label"]) > 1:
            return f"the data have {len(table.roles['label'])} label columns"
        return None

    def read(self, table: Table) -> ClassLabels:
        """Class numbers, sorted by name or as the input declares them; see ``encode_classes``."""
        column = table.roles["label"][0]
        raw, noun = labels_of(table), noun_of(table.modality)
        if table.schema.get("written") and table.schema.get("task") is None:
            check_slips(table, raw)
        fixed = declared_names(table, column)
        codes, class_names, notes = encode_classes(table.where, noun, lambda: table.names, raw, fixed)
        if fixed is None and table.schema.get("task") is None:
            notes += number_notes(raw, LabelKind.CLASSES)
        return ClassLabels(codes, class_names, codes, table.where, noun, tuple(notes))


def missing_label(table: Table) -> str:
    """Why a table has no label an item."""
    if "words" in table.roles:
        return "the data have one label per word, which is tagging"
    return f"the data have no column of labels (they have {' and '.join(table.roles) or 'none'})"


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric(),
    "balanced_accuracy": Metric(),
    "macro_f1": Metric(),
    "auroc": Metric(),
    "log_loss": Metric(sign=-1, unit="nats"),
    "calibration_error": Metric(sign=-1),
}


class ClassificationStats(Stats):
    """Of each item ``label``, ``predicted``, ``log_likelihood`` of the label and ``confidence`` in what was predicted
    (at the evaluator's temperature), and ``ranks`` (N, C): the place of its probability within each class's column.

    Ranks are what an area under the curve needs, of all items and of any resample, exactly; with more than
    2 million entries they are left out, and ``auroc`` is known of all items only. ``summary`` holds ``classes`` (C),
    ``temperature`` (the one that fits these outputs best, for ``calibrate``) and ``auroc``.
    """

    def __getitem__(self, items: np.ndarray) -> ClassificationStats:
        """The same of some items; what was known of all items only is not known of them."""
        found = super().__getitem__(items)
        found.summary.pop("auroc", None)
        return found

    def value(self, metric: str) -> float:
        """Any of ``METRICS``."""
        label, predicted = self.arrays["label"], self.arrays["predicted"]
        match metric:
            case "accuracy":
                return float((predicted == label).mean())
            case "log_loss":
                return float(-self.arrays["log_likelihood"].mean())
            case "calibration_error":
                return calibration_error(self.arrays["confidence"], predicted == label)
            case "balanced_accuracy":
                return balanced_accuracy(self.confusion)
            case "macro_f1":
                return macro_f1(self.confusion)
            case "auroc" if "ranks" in self.arrays:
                return auroc(self.arrays["ranks"], label)
            case "auroc":
                return float(self.summary.get("auroc", np.nan))
        raise KeyError(metric)

    def ratio(self, metric: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Accuracy and log-loss are means over items."""
        if metric == "accuracy":
            return (self.arrays["predicted"] == self.arrays["label"]).astype(float), np.ones(len(self))
        return (-self.arrays["log_likelihood"], np.ones(len(self))) if metric == "log_loss" else None

    def decided(self, metric: str) -> float | None:
        """Accuracy counts items; the means over classes count an item by the size of its class."""
        if metric == "accuracy":
            return 1.0
        if metric not in ("balanced_accuracy", "macro_f1"):
            return None
        counts = np.bincount(self.arrays["label"])
        counts = counts[counts > 0]
        return float(np.sqrt(len(self) * (1 / counts).sum()) / len(counts))

    @property
    def confusion(self) -> np.ndarray:
        """int (C, C): rows are the true class, columns the predicted one."""
        return confusion_matrix(self.arrays["predicted"], self.arrays["label"], int(self.summary["classes"]))


@task("classification")
class Classification(ClassificationReading, ClassTask):
    """See ``ClassTask``."""

    name = "classification"
    facet = "class"
    metrics = METRICS
    members: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "text": ("logme", "lda", "gbc")  # measured: docs/benchmarks/text-classification.md
    }
    stats_type: ClassVar[type[ClassificationStats]] = ClassificationStats
    balances: ClassVar[tuple[str, ...]] = ("weights", "sampling")
    smooths = True

    def strata(self, target: Target) -> np.ndarray | None:
        """The classes."""
        return self.labels(target.labels)

    def notes(self, target: Target) -> list[str]:
        """Classes that a split lacks, and how those that differ in size are balanced."""
        counts = np.bincount(self.labels(target.labels_of(target.indices("train"))))
        return [*absent_classes(target), *(balanced_note(counts, self.balance) if self.balances else [])]

    def criterion(self, target: Target) -> Criterion:
        """Cross-entropy; weighted by (a root of) inverse frequency where classes differ a lot in size."""
        import torch
        from torch.nn import functional

        train = self.labels(target.labels_of(target.indices("train")))
        counts = np.bincount(train, minlength=self.num_outputs(target))
        weights = class_weights(counts, always=self.balance == "weights")
        if self.balance in ("none", "sampling"):
            weights = None
        weight = None if weights is None else torch.from_numpy(weights)

        def cross_entropy(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return functional.cross_entropy(
                outputs,
                labels,
                weight=None if weight is None else weight.to(outputs.device),
                label_smoothing=self.label_smoothing,
            )

        return cross_entropy

    def judged(
        self, outputs: np.ndarray, target: Target, items: np.ndarray, context: Mapping[str, object] | None = None
    ) -> ClassificationStats:
        """See ``LinearTask``."""
        return self.stats(outputs, self.labels(target.labels_of(items)), temperature_of(context))

    def stats(self, outputs: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> ClassificationStats:
        """Statistics of outputs (N, C) and labels (N,).

        Raises:
            TargetError: shapes that do not fit, labels that are no outputs.
            NotFinite: outputs that are no numbers.
        """
        outputs, labels = checked(outputs, labels)
        probabilities = softmax(outputs, temperature)
        arrays = {
            "label": labels.astype(np.int32),
            "predicted": outputs.argmax(axis=1).astype(np.int32),
            "log_likelihood": np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-15)),
            "confidence": probabilities.max(axis=1),
        }
        summary = {"classes": outputs.shape[1], "temperature": best_temperature(outputs, labels)}
        ranks = dense_ranks(probabilities)
        if ranks is None:
            summary["auroc"] = auroc(probabilities, labels)
        else:
            arrays["ranks"] = ranks
        return self.stats_type(arrays, summary)

    def report(self, stats: Stats, class_names: Sequence[str]) -> Section:
        """Results by class, confusions, and the most telling items."""
        assert isinstance(stats, ClassificationStats)
        table = stats.confusion
        return section_of_items(stats.arrays, class_names, table, per_class_table(class_names, *counts_of(table)))
