"""Reading a class a word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from selector.core.contracts import spread
from selector.core.task import Table
from selector.tasks._annotations import ArrayAnnotations
from selector.tasks._read_labels import as_numbers, cell_counts, declared_names, encode_classes, plain


@dataclass(frozen=True)
class WordTags(ArrayAnnotations):
    """Class numbers of all words, item after item; ``starts`` (N + 1,) says where those of an item begin."""

    starts: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))

    def __getitem__(self, index: int, /) -> Any:
        return self.labels[self.starts[index] : self.starts[index + 1]]

    def take(self, indices: np.ndarray) -> WordTags:
        """Those of some items."""
        starts = np.concatenate([[0], np.cumsum(np.diff(self.starts)[indices])])
        labels = self.labels[spread(self.starts, indices)]
        return replace(self, labels=labels, strata=self.strata[indices], starts=starts)

    def review(self, splits: np.ndarray, names: Sequence[str]) -> list[str]:
        """Labels that training never shows: long tails of tags are usual, so that is no error."""
        counts = cell_counts(self.labels, np.repeat(splits, np.diff(self.starts)))
        unseen = [label for label in range(len(self.class_names)) if not counts[label, "train"]]
        if not unseen:
            return []
        told = ", ".join(
            f"{self.class_names[i]} (val {counts[i, 'val']}, test {counts[i, 'test']})" for i in unseen[:5]
        )
        more = f" and {len(unseen) - 5} more" if len(unseen) > 5 else ""
        return [
            f"{len(unseen)} labels have no word in train, so that every such word counts as a mistake: {told}{more}"
        ]


class TaggingReading:
    """``Task.accepts`` and ``Task.read`` of tagging: the role ``words`` is a list of labels an item."""

    role: ClassVar[str] = "words"

    def accepts(self, table: Table) -> str | None:
        """Tables whose labels are of words."""
        return None if "words" in table.roles else "the data have a label an item"

    def read(self, table: Table) -> WordTags:
        """Class numbers of the words; see ``encode_classes``."""
        column = table.roles["words"][0]
        lists = table.columns[column]
        counts = [len(labels) for labels in lists]
        flat = [label for labels in lists for label in labels]
        raw = as_numbers(flat) if table.schema.get("written") else plain(flat)

        def names() -> Iterator[str]:
            for name, count in zip(table.names, counts, strict=True):
                yield from (f"{name}, word {place}" for place in range(1, count + 1))

        codes, class_names, notes = encode_classes(table.where, "word", names, raw, declared_names(table, column))
        starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        nothing = np.zeros((len(counts), 0), np.int64)  # an item with several labels is of no class
        return WordTags(codes, class_names, nothing, table.where, "word", tuple(notes), starts)
