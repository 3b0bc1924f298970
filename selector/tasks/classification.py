"""One class an item: cross-entropy, a linear head of C outputs, and the metrics of a classifier.

Everything here takes logits (N, C) and labels (N,) as numpy arrays, so that a figure can be
computed again from what a run has stored; only the loss is torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from selector.core.contracts import LabelKind, Target
from selector.core.errors import ConfigError, TargetError
from selector.core.stats import mean_ranks
from selector.tasks import task
from selector.tasks._outcome import outcome

IMBALANCE = 3.0  # the largest class over the smallest: above it the loss is weighted
MAX_WEIGHT = 10.0  # one rare image must not outweigh a batch
CALIBRATION_BINS = 15
METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "log_loss", "calibration_error")


@task("classification")
class Classification:
    """See ``contracts.Task``; ``temperature`` and ``probabilities`` calibrate what the head says."""

    name = "classification"
    label_kind = LabelKind.CLASSES
    default_metric = "accuracy"
    metric_names = METRICS

    def num_outputs(self, target: Target) -> int:
        """C, the number of class names."""
        return len(target.class_names)

    def loss(self, target: Target, train_labels: np.ndarray, label_smoothing: float = 0.0) -> Callable[..., Any]:
        """Cross-entropy; weighted by (a root of) inverse frequency where classes differ a lot in size."""
        import torch
        from torch.nn import functional

        weights = class_weights(train_labels, self.num_outputs(target))
        weight = None if weights is None else torch.from_numpy(weights)

        def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            moved = None if weight is None else weight.to(logits.device)
            return functional.cross_entropy(logits.float(), labels, weight=moved, label_smoothing=label_smoothing)

        return cross_entropy

    def metrics(self, logits: np.ndarray, labels: np.ndarray, units: np.ndarray | None = None) -> dict[str, float]:
        """Every metric by name; one that is undefined for these labels is left out. An item is a row: no ``units``.

        Args:
            logits: float (N, C), finite.
            labels: int (N,), 0..C-1.
        Returns:
            accuracy, balanced_accuracy (mean recall of the classes present), macro_f1, auroc
            (one against the rest, mean over the classes present), log_loss (nats) and
            calibration_error (expected, 15 equal bins of confidence; lower is better for the last two).
        """
        logits, labels = checked(logits, labels)
        probabilities = self.probabilities(logits)
        table = confusion_matrix(logits, labels)
        per_class = _precision_recall(table)
        present = table.sum(axis=1) > 0
        chosen = probabilities[np.arange(len(labels)), labels]
        found = {
            "accuracy": float(np.trace(table) / len(labels)),
            "balanced_accuracy": float(per_class["recall"][present].mean()),
            "macro_f1": macro_f1(table),
            "auroc": auroc(probabilities, labels),
            "log_loss": float(-np.log(np.maximum(chosen, 1e-15)).mean()),
            "calibration_error": calibration_error(probabilities, labels),
        }
        return {name: value for name, value in found.items() if value is not None}

    def ratio(
        self, metric: str, logits: np.ndarray, labels: np.ndarray, units: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """A metric as the sum of one array (N,) over that of another, an entry an item: what resampling draws.

        Raises:
            KeyError: the metric is no such ratio.
        """
        if metric != "accuracy":
            raise KeyError(metric)
        return (logits.argmax(axis=1) == labels).astype(float), np.ones(len(labels))

    def probabilities(self, logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """softmax(logits / temperature), float64 (N, C)."""
        scaled = logits.astype(np.float64) / temperature
        exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        result: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
        return result

    def temperature(self, logits: np.ndarray, labels: np.ndarray) -> float:
        """The temperature that minimises the log-loss of these (validation) logits; within 0.05..20.

        Cost: some 40 softmaxes.   Source: Guo et al., ICML 2017, arXiv:1706.04599.
        """
        from scipy.optimize import minimize_scalar

        logits, labels = checked(logits, labels)

        def log_loss(log_temperature: float) -> float:
            scaled = logits.astype(np.float64) / np.exp(log_temperature)
            top = scaled.max(axis=1, keepdims=True)
            normaliser = top[:, 0] + np.log(np.exp(scaled - top).sum(axis=1))
            return float((normaliser - scaled[np.arange(len(labels)), labels]).mean())

        best = minimize_scalar(log_loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
        return float(np.exp(best.x))

    def outcome(
        self,
        logits: np.ndarray,
        labels: np.ndarray,
        class_names: Sequence[str],
        temperature: float = 1.0,
        units: np.ndarray | None = None,
    ) -> dict[str, Any]:
        """Per-class figures, confusions and telling samples as small plain JSON; see ``tasks/_outcome.py``."""
        return outcome(
            self.probabilities(logits, temperature),
            np.asarray(labels),
            class_names,
            confusion_matrix(logits, labels),
            per_class_table(logits, labels, class_names),
        )


def class_weights(labels: np.ndarray, num_classes: int) -> np.ndarray | None:
    """float32 (C,) with mean 1 over the rows, or None while the classes are of similar size.

    The root of inverse frequency rather than the inverse: full balancing gives a handful of images
    gradients that a fine-tuned network memorises. A class without rows weighs 0.
    """
    counts = np.bincount(labels, minlength=num_classes).astype(np.float64)
    present = counts > 0
    if present.sum() < 2 or counts.max() / counts[present].min() <= IMBALANCE:
        return None
    weights = np.where(present, 1.0 / np.sqrt(np.maximum(counts, 1.0)), 0.0)
    weights /= (weights * counts).sum() / counts.sum()
    weights = np.minimum(weights, MAX_WEIGHT)
    result: np.ndarray = (weights / ((weights * counts).sum() / counts.sum())).astype(np.float32)
    return result


def confusion_matrix(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """int (C, C): rows are the true class, columns the predicted one.

    >>> confusion_matrix(np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0]]), np.array([0, 1, 1]))
    array([[1, 0],
           [1, 1]])
    """
    logits, labels = checked(logits, labels)
    classes = logits.shape[1]
    return np.bincount(labels * classes + logits.argmax(axis=1), minlength=classes * classes).reshape(classes, classes)


def macro_f1(table: np.ndarray) -> float:
    """Mean F1 over the classes that occur or are predicted, of a confusion matrix (C, C)."""
    met = (table.sum(axis=1) > 0) | (table.sum(axis=0) > 0)
    return float(_precision_recall(table)["f1"][met].mean())


def per_class_table(logits: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """One row a class, in label order: class, images, precision, recall, f1."""
    table = confusion_matrix(logits, labels)
    if len(class_names) != len(table):
        raise ConfigError(f"expected {len(table)} class names, one an output. Got {len(class_names)}.")
    figures = _precision_recall(table)
    return [
        {"class": name, "images": int(table[i].sum()), **{key: float(column[i]) for key, column in figures.items()}}
        for i, name in enumerate(class_names)
    ]


def auroc(probabilities: np.ndarray, labels: np.ndarray) -> float | None:
    """Area under the ROC curve, one against the rest, mean over classes that are present.

    Ties count half. None when fewer than two classes are present.
    """
    areas = []
    for label in np.unique(labels):
        positive = labels == label
        n_positive, n_negative = int(positive.sum()), int((~positive).sum())
        if n_negative:
            ranks = mean_ranks(probabilities[:, label])
            areas.append((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))
    return float(np.mean(areas)) if areas else None


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error of the predicted class: Σ share of bin · |accuracy − confidence|."""
    confidence = probabilities.max(axis=1)
    right = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(which, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def _precision_recall(table: np.ndarray) -> Mapping[str, np.ndarray]:
    right = np.diag(table).astype(np.float64)
    predicted, actual = table.sum(axis=0), table.sum(axis=1)
    precision = np.divide(right, predicted, out=np.zeros_like(right), where=predicted > 0)
    recall = np.divide(right, actual, out=np.zeros_like(right), where=actual > 0)
    both = predicted + actual
    f1 = np.divide(2 * right, both, out=np.zeros_like(right), where=both > 0)
    return {"precision": precision, "recall": recall, "f1": f1}


def checked(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The arrays, labels as int64.

    Raises:
        TargetError: other shapes, outputs that are not finite, labels that are no outputs.
    """
    if logits.ndim != 2 or len(logits) != len(labels) or not len(labels):
        raise TargetError(
            f"expected logits (N, C) and labels (N,) with N > 0. Got {logits.shape} and {np.shape(labels)}."
        )
    if not np.isfinite(logits).all():
        raise TargetError(f"logits must be finite; {int((~np.isfinite(logits)).any(axis=1).sum())} row(s) are not.")
    labels = np.asarray(labels).astype(np.int64)
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise TargetError(
            f"labels must be ints in 0..{logits.shape[1] - 1}. Got values from {labels.min()} to {labels.max()}."
        )
    return logits, labels
