"""What a classifier gets right and wrong, as plain JSON that stays small whatever the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MOST_CLASSES = 200  # rows of the table of classes
MOST_CONFUSION = 40  # classes up to which the whole confusion matrix is kept
MOST_PAIRS = 30  # confusions that are listed otherwise
MOST_SAMPLES = 12


def outcome(
    probabilities: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    confusion: np.ndarray,
    per_class: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The record of one model on one split.

    Args:
        probabilities: calibrated, (N, C).
        labels: int (N,).
        confusion: (C, C), rows are the true class.
        per_class: class, images, precision, recall, f1; in label order.
    Returns:
        ``classes``: ``per_class``, beyond 200 classes those with the lowest F1 (classes without images left out);
        ``confusion``: the matrix, up to 40 classes; ``confused``: the most frequent confusions
        (label, predicted, images); ``samples``: up to 12 rows (row, label, predicted, probability,
        of_label), wrong ones first, the surest mistake before all, then right ones from the least sure.
    """
    classes = list(per_class)
    if len(classes) > MOST_CLASSES:
        present = [line for line in classes if line["images"]]
        classes = sorted(present, key=lambda line: (line["f1"], line["class"]))[:MOST_CLASSES]
    found: dict[str, Any] = {
        "classes": [{key: _short(value) for key, value in line.items()} for line in classes],
        "confused": _confused(confusion, class_names),
        "samples": _samples(probabilities, labels, class_names),
    }
    if len(class_names) <= MOST_CONFUSION:
        found["confusion"] = confusion.tolist()
    return found


def _confused(confusion: np.ndarray, class_names: Sequence[str]) -> list[dict[str, Any]]:
    off = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-off, axis=None, kind="stable")[:MOST_PAIRS]
    pairs = [divmod(int(place), len(off)) for place in order]
    return [
        {"label": class_names[truth], "predicted": class_names[said], "images": int(off[truth, said])}
        for truth, said in pairs
        if off[truth, said]
    ]


def _samples(probabilities: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> list[dict[str, Any]]:
    said = probabilities.argmax(axis=1)
    sure = probabilities.max(axis=1)
    wrong, right = np.flatnonzero(said != labels), np.flatnonzero(said == labels)
    order = [
        *wrong[np.argsort(-sure[wrong], kind="stable")],
        *right[np.argsort(sure[right], kind="stable")],
    ][:MOST_SAMPLES]
    return [
        {
            "row": int(row),
            "label": class_names[int(labels[row])],
            "predicted": class_names[int(said[row])],
            "probability": _short(float(sure[row])),
            "of_label": _short(float(probabilities[row, labels[row]])),
        }
        for row in order
    ]


def _short(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
