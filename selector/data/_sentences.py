"""Sentences with a label per word, checked: what readers of words have in common, whatever they read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from selector.core.contracts import Words
from selector.core.errors import TargetError
from selector.core.table import Table
from selector.data._items import ListItems
from selector.data.reader import Options
from selector.modalities.text import text_hash


def words_table(
    name: str,
    where: str,
    names: Sequence[str],
    words: Sequence[object],
    labels: Sequence[object],
    options: Options,
    *,
    splits: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    origin: dict[str, Any] | None = None,
) -> Table:
    """The table of sentences and the labels of their words, checked: each has words, and a label per word.

    Args:
        names: a readable name per sentence.
        words, labels: a list per sentence.

    Raises:
        TargetError: the first sentence that is something else, by name.
    """
    if len(labels) != len(words):
        raise TargetError(f"{where}: {len(words)} lists of words but {len(labels)} of labels; give one a sentence.")
    items: list[Words] = []
    lists: list[Sequence[object]] = []
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
            raise TargetError(f"{where}: {said} has {len(own)} words but {len(tags)} labels; give one label per word.")
        items.append(Words(own))
        lists.append(tags)
    return Table(
        where=where,
        name=options.name or name,
        modality="text",
        items=ListItems(items),
        names=names,
        hashes=[text_hash(item) for item in items],
        columns={"words": lists},
        roles={"words": ("words",)},
        schema={"class_names": {"words": list(class_names)}} if class_names else {},
        splits=splits,
        origin=origin,
    )


def _shown(cell: object) -> str:
    return f"{type(cell).__name__} ({str(cell)[:40]})"
