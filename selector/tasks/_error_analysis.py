"""What a classifier gets right and wrong, as plain JSON that stays small whatever the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from selector.core.task import Section
from selector.tasks._classes import confusion_matrix

MOST_CLASSES = 200  # rows of the table of classes
MOST_CONFUSION = 40  # classes up to which the whole confusion matrix is kept
MOST_PAIRS = 30  # confusions that are listed
MOST_SAMPLES = 12
MOST_WORDS = 60  # of a sentence that is shown, round the word that it is shown for


def section_of_items(
    arrays: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    confusion: np.ndarray,
    per_class: Sequence[Mapping[str, object]],
) -> Section:
    """The error analysis of one model on one split.

    Args:
        arrays: label, predicted, confidence and log_likelihood, (N,) each; calibrated.
        confusion: (C, C), rows are the true class.
        per_class: class, items, precision, recall, f1; in label order.
    Returns:
        Tables ``classes`` (beyond 200 those with the lowest F1, classes without items left out) and ``confused`` (the
        most frequent confusions: label, predicted, items); the figure ``confusion`` (the matrix, up to 40 classes);
        up to 12 samples (row, label, predicted, probability, of_label): errors first, the most confident before
        all, then right ones from the least confident.
    """
    figures = {"confusion": confusion.tolist()} if len(class_names) <= MOST_CONFUSION else {}
    tables = {"classes": _classes(per_class), "confused": _confused(confusion, class_names)}
    return Section(tables, _samples(arrays, class_names), figures)


def section_of_sentences(
    arrays: Mapping[str, np.ndarray],
    groups: np.ndarray,
    class_names: Sequence[str],
    per_class: Sequence[Mapping[str, object]],
    counted: str,
) -> Section:
    """The error analysis of a tagger on one split.

    Args:
        arrays: as for ``section_of_items``, an entry per word; ``groups`` (W,) the sentence of each word, ascending.
        per_class: as for ``section_of_items``, of entity types or of labels; ``counted`` says what ``items`` counts.
    Returns:
        As ``section_of_items``, without the matrix; ``row`` of a sample is a sentence, ``label`` and ``predicted``
        are lists, one entry per word from the word ``begin`` on, at most 60.
    """
    pairs = confusion_matrix(arrays["predicted"], arrays["label"], len(class_names))
    tables = {"classes": _classes(per_class), "confused": _confused(pairs, class_names)}
    return Section(tables, _sentences(arrays, groups, class_names), {"counted": counted})


def _classes(per_class: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    classes = list(per_class)
    if len(classes) > MOST_CLASSES:
        present = [line for line in classes if line["items"]]
        classes = sorted(present, key=lambda line: (line["f1"], line["class"]))[:MOST_CLASSES]
    return [
        {key: rounded(value) if isinstance(value, float) else value for key, value in line.items()} for line in classes
    ]


def _sentences(
    arrays: Mapping[str, np.ndarray], groups: np.ndarray, class_names: Sequence[str]
) -> list[dict[str, object]]:
    """Sentences as ``_samples``, each once, told by its surest mistake or its least sure word."""
    labels, said = arrays["label"], arrays["predicted"]
    wrong = said != labels
    right = ~np.isin(groups, np.unique(groups[wrong]))
    found: dict[int, dict[str, object]] = {}
    for word in _most_telling(arrays, wrong, right):
        unit = int(groups[word])
        if unit in found:
            continue
        start, stop = np.searchsorted(groups, [unit, unit + 1])
        begin = int(max(start, min(word - MOST_WORDS // 2, stop - MOST_WORDS)))
        shown = slice(begin, min(begin + MOST_WORDS, stop))
        found[unit] = {
            "row": unit,
            "begin": begin - int(start),
            "label": [class_names[i] for i in labels[shown]],
            "predicted": [class_names[i] for i in said[shown]],
            **_how_sure(arrays, word),
        }
        if len(found) == MOST_SAMPLES:
            break
    return list(found.values())


def _confused(confusion: np.ndarray, class_names: Sequence[str]) -> list[dict[str, object]]:
    return [
        {"label": class_names[truth], "predicted": class_names[said], "items": items}
        for truth, said, items in most_confused(confusion)
    ]


def most_confused(confusion: np.ndarray) -> list[tuple[int, int, int]]:
    """(true class, predicted class, how often) of the most frequent confusions, at most 30."""
    off = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-off, axis=None, kind="stable")[:MOST_PAIRS]
    pairs = [divmod(int(place), len(off)) for place in order]
    return [(truth, said, int(off[truth, said])) for truth, said in pairs if off[truth, said]]


def _samples(arrays: Mapping[str, np.ndarray], class_names: Sequence[str]) -> list[dict[str, object]]:
    labels, said = arrays["label"], arrays["predicted"]
    return [
        {
            "row": int(row),
            "label": class_names[int(labels[row])],
            "predicted": class_names[int(said[row])],
            **_how_sure(arrays, row),
        }
        for row in _most_telling(arrays, said != labels, said == labels)[:MOST_SAMPLES]
    ]


def _most_telling(arrays: Mapping[str, np.ndarray], wrong: np.ndarray, right: np.ndarray) -> list[int]:
    """Mistakes, the surest first, and then what is right, the least sure first."""
    sure = arrays["confidence"]
    surest = np.flatnonzero(wrong)[np.argsort(-sure[wrong], kind="stable")]
    return [*surest, *np.flatnonzero(right)[np.argsort(sure[right], kind="stable")]]


def _how_sure(arrays: Mapping[str, np.ndarray], place: int) -> dict[str, float | None]:
    likelihood = np.exp(arrays["log_likelihood"][place])
    return {"probability": rounded(arrays["confidence"][place]), "of_label": rounded(likelihood)}


def rounded(value: float) -> float | None:
    """For a table: four digits, nothing for NaN."""
    return None if np.isnan(value) else round(float(value), 4)
