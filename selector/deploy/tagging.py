"""Saved models that tag words: what stands for sentences to predict, and what is said of each word."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from selector.core.contracts import Words
from selector.core.errors import ConfigError
from selector.deploy import texts
from selector.deploy.predictions import Prediction, Predictions
from selector.deploy.text_files import JSON_LINES, file_of, json_lines, lines
from selector.modalities.text import Tokeniser

if TYPE_CHECKING:
    import pandas

    from selector.deploy.load import SavedModel

_KEYS = ("tokens", "words")
_LINE = "a list of words"


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

    def __str__(self) -> str:
        if self.error:
            return f"{self.image}: {self.error}"
        tagged = (
            word if label == "O" else f"{word}/{label}" for word, label in zip(self.words, self.labels, strict=True)
        )
        return " ".join(tagged)


class TaggedTexts(Predictions):
    """Sentences in the order in which they were given.

    Attributes:
        class_names: C labels, in label order.
        probabilities: float (words, C), calibrated, sentence after sentence; those that could not be
            read have no rows.
    """

    def __iter__(self) -> Iterator[TaggedText]:
        return cast("Iterator[TaggedText]", super().__iter__())

    def to_dicts(self) -> list[dict[str, Any]]:
        """Plain JSON types."""
        return [
            {
                "text": row.image,
                "words": list(row.words),
                "labels": list(row.labels),
                "probabilities": list(row.probabilities),
                "entities": [vars(entity) for entity in row.entities],
                "error": row.error,
            }
            for row in self
        ]

    def to_dataframe(self) -> pandas.DataFrame:
        """A row a word: columns sentence (from 0), word, label, probability, error."""
        import pandas as pd

        rows: list[tuple[Any, ...]] = []
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
            rows.append([row.image, row.error or str(row), found])
        return ["item", "tagged", "entities"], rows


def predict(
    saved: SavedModel,
    tokenise: Tokeniser,
    sentences: Sequence[tuple[str, Words]],
    batch_size: int,
    device: str,
) -> TaggedTexts:
    """Tag named sentences."""
    class_names = saved.class_names
    outputs, reasons = texts.outputs(saved.module, [words for _, words in sentences], tokenise, batch_size, device)
    rows: list[TaggedText] = []
    blocks = [np.empty((0, len(class_names)))]
    for (name, words), logits, reason in zip(sentences, outputs, reasons, strict=True):
        if logits is None:
            rows.append(TaggedText(name, error=reason))
            continue
        found = saved.task.predictions(logits, class_names, saved.context)
        shares = np.array([word["probabilities"] for word in found]).reshape(-1, len(class_names))
        blocks.append(shares)
        rows.append(_tagged(name, words, shares, class_names, saved.task))
    return TaggedTexts(rows, np.concatenate(blocks), class_names)


def _tagged(name: str, words: Words, shares: np.ndarray, class_names: Sequence[str], task: Any) -> TaggedText:
    said = shares.argmax(axis=1)
    return TaggedText(
        name,
        words=tuple(words),
        labels=tuple(class_names[i] for i in said),
        probabilities=tuple(float(value) for value in shares.max(axis=1)),
        entities=tuple(Entity(kind, a, b, " ".join(words[a:b])) for kind, a, b in task.entities(said)),
    )


def expand(sentences: Any) -> list[tuple[str, Words]]:
    """(name, words) of everything that ``sentences`` stands for.

    Args:
        sentences: a text, whose words stand apart by blanks; a list or tuple of words; a .txt file with
            a sentence a line; a .jsonl file with a list of words a line, or an object with one under
            ``tokens`` or ``words``; or a list of these.

    Raises:
        ConfigError: nothing there, or an item that is none of these.
    """
    alone = isinstance(sentences, str | os.PathLike | Words)
    given = [sentences] if alone else texts.listed(sentences, "texts, lists of words or files")
    if not given:
        raise ConfigError("there are no sentences to predict; give texts, lists of words, or .txt or .jsonl files.")
    return [named for place, item in enumerate(given) for named in _named(place, item)]


def _named(place: int, item: Any) -> Iterator[tuple[str, Words]]:
    file = file_of(item, _LINE)
    if file is not None:
        yield from _of_lists(file) if file.suffix.lower() in JSON_LINES else _of_texts(file)
    elif isinstance(item, str) or _is_words(item):
        words = Words(item.split() if isinstance(item, str) else item)
        yield texts.shortened(words.text) or f"sentence {place}", words
    else:
        raise ConfigError(f"expected a text, a list of words or a file. Got {type(item).__name__}.")


def _of_texts(path: Path) -> Iterator[tuple[str, Words]]:
    return ((name, Words(text.split())) for name, text in lines(path))


def _of_lists(path: Path) -> Iterator[tuple[str, Words]]:
    for name, row in json_lines(path, _LINE):
        words = next((row[key] for key in _KEYS if key in row), None) if isinstance(row, Mapping) else row
        if not isinstance(words, list) or not _is_words(words):
            raise ConfigError(f'{name}: expected a list of words, or an object such as {{"tokens": ["a", "word"]}}.')
        yield name, Words(words)


def _is_words(item: Any) -> bool:
    return isinstance(item, list | tuple) and all(isinstance(word, str) for word in item)
