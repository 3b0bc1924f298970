"""What a classifier gets right and wrong, as plain JSON that stays small whatever the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MOST_CLASSES = 200  # rows of the table of classes
MOST_CONFUSION = 40  # classes up to which the whole confusion matrix is kept
MOST_PAIRS = 30  # confusions that are listed otherwise
MOST_SAMPLES = 12
MOST_WORDS = 60  # of a sentence that is shown, round the word that it is shown for


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
    found: dict[str, Any] = {
        "classes": _classes(per_class),
        "confused": _confused(confusion, class_names),
        "samples": _samples(probabilities, labels, class_names),
    }
    if len(class_names) <= MOST_CONFUSION:
        found["confusion"] = confusion.tolist()
    return found


def outcome_of_sentences(
    probabilities: np.ndarray,
    labels: np.ndarray,
    units: np.ndarray,
    class_names: Sequence[str],
    per_class: Sequence[Mapping[str, Any]],
    counted: str,
) -> dict[str, Any]:
    """The record of a tagger on one split.

    Args:
        probabilities: calibrated, (N, C), a row a word.
        labels: int (N,); ``units`` (N,) the sentence of each word, ascending.
        per_class: as for ``outcome``, of entity types or of labels; ``counted`` says what ``images`` counts.
    Returns:
        As ``outcome``, without the matrix; ``row`` of a sample is a sentence, ``label`` and ``predicted``
        are lists, one entry a word from the word ``begin`` on, at most 60.
    """
    size = len(class_names)
    pairs = np.bincount(labels * size + probabilities.argmax(axis=1), minlength=size * size).reshape(size, size)
    return {
        "classes": _classes(per_class),
        "counted": counted,
        "confused": _confused(pairs, class_names),
        "samples": _sentences(probabilities, labels, units, class_names),
    }


def _classes(per_class: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    classes = list(per_class)
    if len(classes) > MOST_CLASSES:
        present = [line for line in classes if line["images"]]
        classes = sorted(present, key=lambda line: (line["f1"], line["class"]))[:MOST_CLASSES]
    return [{key: _short(value) for key, value in line.items()} for line in classes]


def _sentences(
    probabilities: np.ndarray, labels: np.ndarray, units: np.ndarray, class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Sentences as ``_samples``, each once, told by its surest mistake or its least sure word."""
    said, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = said != labels
    with_mistakes = np.unique(units[wrong])
    right = ~np.isin(units, with_mistakes)
    order = [
        *np.flatnonzero(wrong)[np.argsort(-sure[wrong], kind="stable")],
        *np.flatnonzero(right)[np.argsort(sure[right], kind="stable")],
    ]
    found: dict[int, dict[str, Any]] = {}
    for word in order:
        unit = int(units[word])
        if unit in found:
            continue
        start, stop = np.searchsorted(units, [unit, unit + 1])
        begin = int(max(start, min(word - MOST_WORDS // 2, stop - MOST_WORDS)))
        shown = slice(begin, min(begin + MOST_WORDS, stop))
        found[unit] = {
            "row": unit,
            "begin": begin - int(start),
            "label": [class_names[i] for i in labels[shown]],
            "predicted": [class_names[i] for i in said[shown]],
            "probability": _short(float(sure[word])),
            "of_label": _short(float(probabilities[word, labels[word]])),
        }
        if len(found) == MOST_SAMPLES:
            break
    return list(found.values())


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
