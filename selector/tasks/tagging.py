"""A class a word: cross-entropy over words, and the metrics of a tagger.

Rows are words; ``units`` says which sentence a word belongs to, and no entity crosses its border.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from selector.core.contracts import LabelKind, Target
from selector.tasks import task
from selector.tasks._entities import Found, Scheme
from selector.tasks._outcome import outcome_of_sentences
from selector.tasks.classification import (
    Classification,
    calibration_error,
    checked,
    confusion_matrix,
    macro_f1,
    per_class_table,
)

ENTITY_METRICS = ("entity_f1", "entity_precision", "entity_recall")


@task("tagging")
@dataclass(frozen=True)
class Tagging:
    """See ``contracts.Task``. The registered one knows no labels; ``of`` gives the one for a target.

    Where all labels are tags (O, B-x, I-x, ...), entities are what counts: micro-averaged precision,
    recall and F1 over entities whose words and type are all right. Otherwise it is the share of words.
    """

    class_names: tuple[str, ...] = ()
    name = "tagging"
    label_kind = LabelKind.CLASSES

    def of(self, target: Target) -> Tagging:
        """The task with the labels of a target."""
        return self.with_labels(target.class_names)

    def with_labels(self, class_names: Sequence[str]) -> Tagging:
        """Likewise, from the names alone, in the order of the outputs."""
        return Tagging(tuple(class_names))

    @cached_property
    def scheme(self) -> Scheme | None:
        """How labels are read as tags; None where they are none."""
        return Scheme.of(self.class_names)

    @property
    def _ratios(self) -> tuple[str, ...]:
        return (*(ENTITY_METRICS if self.scheme else ()), "token_accuracy")

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What ``metrics`` holds."""
        return (*self._ratios, "macro_f1", "log_loss", "calibration_error")

    @property
    def default_metric(self) -> str:
        """Entity F1 for tags, else the share of words that are right."""
        return self.metric_names[0]

    def num_outputs(self, target: Target) -> int:
        """C, the number of labels."""
        return len(target.class_names)

    def loss(self, target: Target, train_labels: np.ndarray, label_smoothing: float = 0.0) -> Callable[..., Any]:
        """Cross-entropy, every word alike: most words are O in the data that a tagger meets as well."""
        from torch.nn import functional

        def cross_entropy(logits: Any, labels: Any) -> Any:
            return functional.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)

        return cross_entropy

    def metrics(self, logits: np.ndarray, labels: np.ndarray, units: np.ndarray | None = None) -> dict[str, float]:
        """Every metric by name.

        Args:
            logits: float (N, C), finite; a row a word.
            labels: int (N,).
            units: (N,) the sentence of each word.
        Returns:
            entity_f1, entity_precision, entity_recall (micro; 0 where nothing is there to divide by) for
            tags, token_accuracy, macro_f1 (over the labels of words), log_loss (nats a word) and
            calibration_error.
        """
        logits, labels = checked(logits, labels)
        found = {name: _share(*self.ratio(name, logits, labels, units)) for name in self._ratios}
        probabilities = self.probabilities(logits)
        chosen = probabilities[np.arange(len(labels)), labels]
        return found | {
            "macro_f1": macro_f1(confusion_matrix(logits, labels)),
            "log_loss": float(-np.log(np.maximum(chosen, 1e-15)).mean()),
            "calibration_error": calibration_error(probabilities, labels),
        }

    def ratio(
        self, metric: str, logits: np.ndarray, labels: np.ndarray, units: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """A metric as the sum of one array over that of another, an entry a sentence: what resampling draws.

        Raises:
            KeyError: the metric is no such ratio.
        """
        sentence = np.zeros(len(labels), np.int64) if units is None else np.unique(units, return_inverse=True)[1]
        count = int(sentence.max()) + 1 if len(sentence) else 0
        said = logits.argmax(axis=1)
        if metric == "token_accuracy":
            return np.bincount(sentence, said == labels, count), np.bincount(sentence, minlength=count)
        if self.scheme is None or metric not in ENTITY_METRICS:
            raise KeyError(metric)
        found = Found.of(self.scheme, said, labels, units)
        right, predicted, gold = found.counts(sentence[found.gold.begins], sentence[found.predicted.begins], count)
        return {
            "entity_f1": (2 * right, predicted + gold),
            "entity_precision": (right, predicted),
            "entity_recall": (right, gold),
        }[metric]

    def probabilities(self, logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """softmax(logits / temperature), float64 (N, C)."""
        return _WORDS.probabilities(logits, temperature)

    def temperature(self, logits: np.ndarray, labels: np.ndarray) -> float:
        """The temperature that minimises the log-loss of these words; see ``Classification``."""
        return _WORDS.temperature(logits, labels)

    def outcome(
        self,
        logits: np.ndarray,
        labels: np.ndarray,
        class_names: Sequence[str],
        temperature: float = 1.0,
        units: np.ndarray | None = None,
    ) -> dict[str, Any]:
        """Figures by entity type (by label where they are no tags), confused labels and telling sentences."""
        labels = np.asarray(labels)
        lines = (
            per_class_table(logits, labels, class_names)
            if self.scheme is None
            else self._by_type(logits, labels, units)
        )
        return outcome_of_sentences(
            self.probabilities(logits, temperature),
            labels,
            np.zeros(len(labels), np.int64) if units is None else units,
            class_names,
            lines,
            "words" if self.scheme is None else "entities",
        )

    def _by_type(self, logits: np.ndarray, labels: np.ndarray, units: np.ndarray | None) -> list[dict[str, Any]]:
        assert self.scheme is not None
        found = Found.of(self.scheme, logits.argmax(axis=1), labels, units)
        types = self.scheme.types
        counts = found.counts(found.gold.kinds, found.predicted.kinds, len(types))
        return [
            {
                "class": name,
                "images": int(gold),
                "precision": _share(right, predicted),
                "recall": _share(right, gold),
                "f1": _share(2 * right, predicted + gold),
            }
            for name, right, predicted, gold in zip(types, *counts, strict=True)
        ]

    def entities(self, classes: np.ndarray) -> list[tuple[str, int, int]]:
        """(type, first word, word behind the last) of one sentence; empty where labels are no tags."""
        if self.scheme is None:
            return []
        spans = self.scheme.spans(np.asarray(classes))
        return [
            (self.scheme.types[kind], int(begin), int(end))
            for begin, end, kind in zip(spans.begins, spans.ends, spans.kinds, strict=True)
        ]


_WORDS = Classification()


def _share(part: Any, whole: Any) -> float:
    total = float(np.sum(whole))
    return float(np.sum(part)) / total if total else 0.0
