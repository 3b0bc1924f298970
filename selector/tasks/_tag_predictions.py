"""Predictions of words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from selector.core.prediction import Prediction, Predictions

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Entity:
    """A run of words of one type: ``words[begin:end]``."""

    type: str
    begin: int
    end: int
    text: str


@dataclass(frozen=True)
class TaggedText(Prediction):
    """One sentence: a label and its calibrated probability for each word, and the entities where labels are tags.

    ``label``, ``probability`` and ``top`` are of whole items and stay empty.
    """

    words: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    entities: tuple[Entity, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Plain JSON types."""
        return {
            "item": self.item,
            "words": list(self.words),
            "labels": list(self.labels),
            "probabilities": list(self.probabilities),
            "entities": [vars(entity) for entity in self.entities],
            "error": self.error,
        }

    def __str__(self) -> str:
        if self.error:
            return f"{self.item}: {self.error}"
        tagged = (
            word if label == "O" else f"{word}/{label}" for word, label in zip(self.words, self.labels, strict=True)
        )
        return " ".join(tagged)


class TaggedTexts(Predictions):
    """Sentences in the order in which they were given.

    Attributes:
        class_names: C labels, in the order of the outputs.
        probabilities: float (words, C), calibrated, sentence after sentence; those that could not be
            read have no rows.
    """

    def __iter__(self) -> Iterator[TaggedText]:
        return cast("Iterator[TaggedText]", super().__iter__())

    def to_dataframe(self) -> pandas.DataFrame:
        """A row per word: columns sentence (from 0), word, label, probability, error."""
        import pandas as pd

        rows: list[tuple[object, ...]] = []
        for number, row in enumerate(iter(self)):
            if row.error:
                rows.append((number, None, None, None, row.error))
            words = zip(row.words, row.labels, row.probabilities, strict=True)
            rows += [(number, word, label, probability, None) for word, label, probability in words]
        return pd.DataFrame(rows, columns=["sentence", "word", "label", "probability", "error"])

    def table(self, top: int) -> tuple[list[str], list[list[str]]]:
        """Headers and cells: the sentence with its tags, and its entities."""
        rows = []
        for row in self:
            found = "; ".join(f"{entity.type}: {entity.text}" for entity in row.entities)
            rows.append([row.item, row.error or str(row), found])
        return ["item", "tagged", "entities"], rows
