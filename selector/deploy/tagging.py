"""Saved models that tag words: what stands for sentences to predict, and what is said of each word."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from selector.contracts import TextPreprocess, Words
from selector.deploy import texts
from selector.deploy.predictions import Prediction, Predictions
from selector.errors import ConfigError

if TYPE_CHECKING:
    import pandas

_JSON_LINES = (".jsonl", ".ndjson")
_KEYS = ("tokens", "words")


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
    module: Any,
    task: Any,
    class_names: Sequence[str],
    temperature: float,
    preprocess: TextPreprocess,
    sentences: Sequence[tuple[str, Words]],
    batch_size: int,
    device: str,
) -> TaggedTexts:
    """Tag named sentences.

    Args:
        module: tokens -> logits (W, C).
        task: bound to ``class_names``.
    """
    rows: list[TaggedText] = []
    blocks = [np.empty((0, len(class_names)))]
    for start in range(0, len(sentences), batch_size):
        part = sentences[start : start + batch_size]
        tokens, good, reasons = texts.tokenised([words for _, words in part], preprocess)
        known: dict[int, np.ndarray] = {}
        if tokens is not None:
            shares = task.probabilities(texts.logits(module, tokens, device), temperature)
            blocks.append(shares)
            ends = np.cumsum([len(part[i][1]) for i in good])
            known = dict(zip(good, np.split(shares, ends[:-1]), strict=True))
        rows += [
            TaggedText(name, error=reasons[i]) if reasons[i] else _tagged(name, words, known[i], class_names, task)
            for i, (name, words) in enumerate(part)
        ]
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


def expand(sentences: Any) -> Iterator[tuple[str, Words]]:
    """(name, words) of everything that ``sentences`` stands for.

    Args:
        sentences: a text, whose words stand apart by blanks; a list or tuple of words; a .txt file with
            a sentence a line; a .jsonl file with a list of words a line, or an object with one under
            ``tokens`` or ``words``; or a list of these.

    Raises:
        ConfigError: nothing there, or an item that is none of these.
    """
    given = [sentences] if isinstance(sentences, str | os.PathLike | Words) else list(sentences)
    if not given:
        raise ConfigError("there are no sentences to predict; give texts, lists of words, or .txt or .jsonl files.")
    for item in given:
        if isinstance(item, os.PathLike) or (isinstance(item, str) and _is_json_file(item)):
            path = Path(item)
            if path.suffix.lower() in _JSON_LINES:
                yield from _json_lines(path)
                continue
        if isinstance(item, str | os.PathLike):
            for name, text in texts.expand([item]):
                yield name, Words(str(text).split())
        elif isinstance(item, list | tuple) and all(isinstance(word, str) for word in item):
            yield texts.shortened(" ".join(item)), Words(item)
        else:
            raise ConfigError(f"expected a text, a list of words or a file. Got {type(item).__name__}.")


def _is_json_file(text: str) -> bool:
    return text.lower().endswith(_JSON_LINES) and len(text) < 4096 and Path(text).is_file()


def _json_lines(path: Path) -> Iterator[tuple[str, Words]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read as UTF-8 text ({error}); give a file with a list of words a line."
        ) from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}:{number}: not JSON ({error}); expected a list of words a line.") from None
        if isinstance(row, Mapping):
            row = next((row[key] for key in _KEYS if key in row), None)
        if not isinstance(row, list) or not all(isinstance(word, str) for word in row):
            raise ConfigError(
                f'{path}:{number}: expected a list of words, or an object such as {{"tokens": ["a", "word"]}}.'
            )
        yield f"{path}:{number}", Words(row)
