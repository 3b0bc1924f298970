"""What tasks with one class per row share: checks, confusion matrices, per-class tables, calibration, weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from selector.core.contracts import LabelKind, Target
from selector.core.errors import ConfigError, TargetError
from selector.core.stats import softmax
from selector.core.task import NotFinite, Stats
from selector.tasks._linear import LinearTask, temperature_of

if TYPE_CHECKING:
    import torch

IMBALANCE = 3.0  # the largest class over the smallest: above it the loss is weighted
MAX_WEIGHT = 10.0  # one rare image must not outweigh a batch
CALIBRATION_BINS = 15
MOST_RANKS = 2**21  # entries (N, C) that are kept for the area under the curve of a resample: 8 MB


def checked(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The arrays, labels as int64.

    Raises:
        TargetError: other shapes, labels that are no outputs.
        NotFinite: outputs that are not finite.
    """
    if logits.ndim != 2 or len(logits) != len(labels) or not len(labels):
        raise TargetError(
            f"expected logits (N, C) and labels (N,) with N > 0. Got {logits.shape} and {np.shape(labels)}."
        )
    if not np.isfinite(logits).all():
        raise NotFinite(f"logits must be finite; {int((~np.isfinite(logits)).any(axis=1).sum())} row(s) are not.")
    labels = np.asarray(labels).astype(np.int64)
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise TargetError(
            f"labels must be ints in 0..{logits.shape[1] - 1}. Got values from {labels.min()} to {labels.max()}."
        )
    return logits, labels


def balanced_note(counts: np.ndarray, balance: str) -> list[str]:
    """A sentence where classes of these sizes are balanced; none where they are alike or left as they are.

    >>> balanced_note(np.array([80, 10]), "auto")
    ['classes differ in size by a factor of 8: the loss is weighted by class (--balance none: all items count alike).']
    """
    present = counts[counts > 0]
    if balance == "none" or len(present) < 2 or (balance == "auto" and present.max() / present.min() <= IMBALANCE):
        return []
    how = "items are drawn by class" if balance == "sampling" else "the loss is weighted by class"
    return [
        f"classes differ in size by a factor of {present.max() / present.min():.0f}: {how} (--balance none: all items count "
        "alike)."
    ]


def class_weights(counts: np.ndarray, *, always: bool = False) -> np.ndarray | None:
    """float32 (C,) with mean 1 over the rows (or pixels) that are counted, or None while the classes are of similar size.

    The root of inverse frequency rather than the inverse: full balancing gives a handful of images
    gradients that a fine-tuned network memorizes. A class without rows weighs 0.
    """
    counts = np.asarray(counts, dtype=np.float64)
    present = counts > 0
    if present.sum() < 2 or (not always and counts.max() / counts[present].min() <= IMBALANCE):
        return None
    weights = np.where(present, 1.0 / np.sqrt(np.maximum(counts, 1.0)), 0.0)
    weights /= (weights * counts).sum() / counts.sum()
    weights = np.minimum(weights, MAX_WEIGHT)
    result: np.ndarray = (weights / ((weights * counts).sum() / counts.sum())).astype(np.float32)
    return result


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """int (C, C): rows are the true class, columns the predicted one. One pass, for thousands of resamples.

    >>> confusion_matrix(np.array([0, 1, 0]), np.array([0, 1, 1]), 2)
    array([[1, 0],
           [1, 1]])
    """
    pairs = labels.astype(np.int64) * classes + predicted
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def counts_of(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(right, predicted, actual) of each class (C,), of a confusion matrix."""
    return np.diag(table), table.sum(axis=0), table.sum(axis=1)


def precision_recall(right: np.ndarray, predicted: np.ndarray, actual: np.ndarray) -> Mapping[str, np.ndarray]:
    """precision, recall and f1, each (C,); 0 where nothing is there to divide by."""
    parts = {"precision": (right, predicted), "recall": (right, actual), "f1": (2 * right, predicted + actual)}
    return {
        name: np.divide(top, below, out=np.zeros(len(right)), where=below > 0) for name, (top, below) in parts.items()
    }


def macro_f1(table: np.ndarray) -> float:
    """Mean F1 over the classes that occur or are predicted, of a confusion matrix (C, C)."""
    right, predicted, actual = counts_of(table)
    return float(precision_recall(right, predicted, actual)["f1"][(actual > 0) | (predicted > 0)].mean())


def balanced_accuracy(table: np.ndarray) -> float:
    """Mean recall of the classes present."""
    counts = counts_of(table)
    return float(precision_recall(*counts)["recall"][counts[2] > 0].mean())


def per_class_table(
    class_names: Sequence[str], right: np.ndarray, predicted: np.ndarray, actual: np.ndarray
) -> list[dict[str, object]]:
    """One row per class, in label order: class, items, precision, recall, f1."""
    if len(class_names) != len(actual):
        raise ConfigError(f"expected {len(actual)} class names, one an output. Got {len(class_names)}.")
    metrics = precision_recall(right, predicted, actual)
    return [
        {"class": name, "items": int(actual[i]), **{key: float(column[i]) for key, column in metrics.items()}}
        for i, name in enumerate(class_names)
    ]


def dense_ranks(probabilities: np.ndarray) -> np.ndarray | None:
    """int32 (N, C) dense ranks within each column: all that an area under the curve of any resample needs, ties
    included. None beyond ``MOST_RANKS`` entries."""
    from scipy.stats import rankdata

    if probabilities.size > MOST_RANKS:
        return None
    return np.asarray(rankdata(probabilities, method="dense", axis=0)).astype(np.int32)


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve, one against the rest, mean over classes that are present; scores or ranks (N, C).

    Ties count half. NaN when fewer than two classes are present. As ``sklearn.metrics.roc_auc_score`` of each
    class, by ranks of all columns at once, since a bootstrap asks hundreds of times.
    """
    from scipy.stats import rankdata

    present = np.unique(labels)
    if len(present) < 2:
        return float("nan")
    positive = labels[:, None] == present
    n_positive = positive.sum(axis=0)
    sums = np.where(positive, rankdata(scores[:, present], axis=0), 0.0).sum(axis=0)
    areas = (sums - n_positive * (n_positive + 1) / 2) / (n_positive * (len(labels) - n_positive))
    return float(areas.mean())


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Expected calibration error of the predicted class: Σ share of bin · |accuracy − confidence|, 15 equal bins.

    Source: Naeini, Cooper and Hauskrecht, AAAI 2015; Guo et al., ICML 2017. A confidence of 1 has a bin of its own, as in
    torchmetrics.
    """
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1, dtype=confidence.dtype)
    place = np.searchsorted(edges, confidence, side="right") - 1
    gaps = np.bincount(place, weights=correct.astype(np.float64) - confidence)
    return float(np.abs(gaps).sum() / len(confidence))


def absent_classes(target: Target, told: Sequence[str] = ()) -> list[str]:
    """A sentence per split that lacks classes; ``told``: those that another note names."""
    found = []
    for split in ("train", "val", "test"):
        present = set(target.labels_of(target.indices(split)).tolist())
        absent = [name for i, name in enumerate(target.class_names) if i not in present and name not in told]
        if absent:
            shown = ", ".join(absent[:5]) + (" ..." if len(absent) > 5 else "")
            effect = "cannot be learned" if split == "train" else f"count in no metric on {split}"
            found.append(f"{len(absent)} class(es) without {target.row_noun}s in {split} {effect}: {shown}.")
    return found


class ClassTask(LinearTask):
    """See ``core.task.Task``; what validation chooses is a temperature."""

    label_kind = LabelKind.CLASSES
    tie_breaker = "log_loss"

    def check(self, target: Target) -> None:
        """Also: at least two classes in train."""
        super().check(target)
        if len(np.unique(target.labels_of(target.indices("train")))) < 2:
            raise TargetError(
                f"the training {target.row_noun}s of '{target.name}' are all of one class; there is nothing to learn."
            )

    def calibrate(self, stats: Stats) -> dict[str, Any]:
        """The temperature that minimizes the log-loss."""
        return {"temperature": float(stats.summary["temperature"])}

    def trivial(self, target: Target, items: np.ndarray) -> Stats:
        """Always the most frequent class of train + val; its log-loss is that of their class shares."""
        known = self.labels(target.labels_of(target.indices("train", "val")))
        shares = np.bincount(known, minlength=self.num_outputs(target)) / len(known)
        outputs = np.log(np.maximum(np.tile(shares, (len(target.rows_of(items)), 1)), 1e-15))
        return self.of(target.class_names).judged(outputs, target, items)  # type: ignore[attr-defined,no-any-return]

    def predictions(
        self, outputs: object, class_names: Sequence[str], context: Mapping[str, object]
    ) -> list[dict[str, object]]:
        """An entry per row: ``label``, its calibrated ``probability``, and ``probabilities`` (C,) of all classes."""
        probabilities = softmax(np.asarray(outputs), temperature_of(context))
        return [
            {"label": class_names[int(i)], "probability": float(row[i]), "probabilities": row}
            for i, row in zip(probabilities.argmax(axis=1), probabilities, strict=True)
        ]

    def activation(self, outputs: torch.Tensor, context: Mapping[str, object]) -> tuple[str, torch.Tensor]:
        """Calibrated probabilities."""
        return "probabilities", (outputs / temperature_of(context)).softmax(dim=-1)
