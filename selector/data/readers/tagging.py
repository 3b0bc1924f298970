"""Texts as lists of words with a label each: parquet, JSONL, a ``datasets.Dataset``, a ``pandas.DataFrame``,
or lists in memory.

Labels are strings, or numbers whose names the table declares. They are taken as they are: whether they
are IOB tags, and of which kind, is the task's question.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selector.core.contracts import Modality, Words
from selector.core.errors import TargetError
from selector.core.task import Table
from selector.data._columns import is_dataset, is_frame, rows_of
from selector.data._files import table_files
from selector.data._items import ListItems
from selector.data._tables import Columns, column_of, of_dataset, of_files, of_frame, of_parquet, splits_of, usual_of
from selector.data._words import takes_words
from selector.data.reader import Found, Options, reader
from selector.modalities.text import text_hash

WORD_COLUMNS = ("tokens", "words")
LABEL_COLUMNS = ("tags", "labels", "label", "ner_tags", "pos_tags", "chunk_tags", "slots")


def tagged(
    options: Options,
    where: str,
    name: str,
    names: Sequence[str],
    words: Sequence[Any],
    labels: Sequence[Any],
    *,
    splits: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    origin: dict[str, Any] | None = None,
) -> Table:
    """The draft of sentences, checked: each has words, and a label a word.

    Args:
        names: a readable name a sentence.
        words, labels: a list a sentence.

    Raises:
        TargetError: the first sentence that is something else, by name.
    """
    if len(labels) != len(words):
        raise TargetError(f"{where}: {len(words)} lists of words but {len(labels)} of labels; give one a sentence.")
    items: list[Words] = []
    lists: list[Sequence[Any]] = []
    for said, own, tags in zip(names, words, labels, strict=True):
        own = own.tolist() if isinstance(own, np.ndarray) else own
        tags = tags.tolist() if hasattr(tags, "tolist") else tags
        if not isinstance(own, list | tuple) or not all(isinstance(word, str) for word in own):
            raise TargetError(f"{where}: {said}: expected a list of words. Got {_shown(own)}.")
        if not own:
            raise TargetError(f"{where}: {said} has no words; give it some or remove it.")
        if tags is None:
            raise TargetError(f"{where}: {said} has no labels; give it one a word or remove it.")
        if not isinstance(tags, list | tuple):
            raise TargetError(f"{where}: {said}: expected a list of labels. Got {_shown(tags)}.")
        if len(own) != len(tags):
            raise TargetError(f"{where}: {said} has {len(own)} words but {len(tags)} labels; give one label a word.")
        items.append(Words(own))
        lists.append(tags)
    return Found(
        where=where,
        name=name,
        items=ListItems(items),
        names=names,
        labels=lists,
        hashes=[text_hash(item) for item in items],
        splits=splits,
        class_names=class_names,
        origin=origin,
        modality=Modality.TEXT,
        role="words",
    ).table(options)


def _shown(cell: Any) -> str:
    return f"{type(cell).__name__} ({str(cell)[:40]})"


def _accepts(x: Any, options: Options) -> bool:
    return takes_words(x, options)


@reader(
    "tagging",
    "a table of word lists and label lists (JSONL, parquet, datasets.Dataset, pandas.DataFrame), or both as lists",
    _accepts,
)
def _read(x: Any, options: Options) -> Table:
    if isinstance(x, tuple):
        where = options.name or "sentences"
        words, labels = (rows_of(part) or [] for part in x)
        if _may_be_pairs(words, labels):
            raise TargetError(
                f"{where}: lists of two strings with two labels of 0 or 1 each may be sentences of two words or pairs with "
                "several labels; give pairs as tuples of two texts, or labels of words by their names."
            )
        return tagged(options, where, where, [f"row {i}" for i in range(len(words))], words, labels)
    if is_dataset(x) or is_frame(x):
        return _draft(of_dataset(x, options) if is_dataset(x) else of_frame(x, options), options)
    path = Path(os.fspath(x)).absolute()
    files = table_files(path)
    table = of_files(path, files) if files else of_parquet(path)
    table.origin = {"path": str(path)}
    return _draft(table, options)


def _draft(table: Columns, options: Options) -> Table:
    where, known = table.where, list(table.columns)
    lists = [name for name in known if any(isinstance(cell, list | np.ndarray) for cell in table.columns[name][:100])]
    if options.text_column is not None and not isinstance(options.text_column, str):
        raise TargetError(f"{where}: text_column names several columns; lists of words stand in one.")
    usual = usual_of(lists, WORD_COLUMNS) or [
        name for name in lists if all(isinstance(w, str) for cell in table.columns[name][:100] for w in _words(cell))
    ]
    words = column_of(where, "word", options.text_column, known, usual, "text_column")
    others = [name for name in known if name != words]
    candidates = usual_of([name for name in lists if name != words], LABEL_COLUMNS)
    candidates = candidates or [name for name in lists if name != words]
    label = column_of(where, "label", options.one_label, known, candidates, "label_column")
    return tagged(
        options,
        where,
        options.name or table.name,
        table.names,
        table.columns[words],
        table.columns[label],
        splits=splits_of(table, [name for name in others if name != label]),
        class_names=table.class_names(label),
        origin=table.origin,
    )


def _may_be_pairs(words: Sequence[Any], labels: Sequence[Any]) -> bool:
    two = all(isinstance(own, list) and len(own) == 2 for own in words)
    return two and all(len(found := _words(tags)) == 2 and all(tag in (0, 1) for tag in found) for tags in labels)


def _words(cell: Any) -> list[Any]:
    return list(cell) if isinstance(cell, list | tuple | np.ndarray) else []
