"""Entities in the CoNLL sense: runs of tags, read off arrays of class numbers.

IOB (an entity begins where its type changes or with B), IOB2 (every entity begins with B), and tags
that mark ends and single words (BIOES, BILOU) are read by one rule, that of conlleval: an entity
begins with B or S, after an E, S or O, or where the type changes, and goes on to the next begin or O.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_TAG = re.compile(r"([BIESLU])-(.+)", re.DOTALL)
_OUTSIDE, _BEGIN, _INSIDE, _END, _SINGLE = range(5)
_PREFIXES = {"B": _BEGIN, "I": _INSIDE, "E": _END, "L": _END, "S": _SINGLE, "U": _SINGLE}


@dataclass(frozen=True)
class Spans:
    """Entities of a run of words, in order.

    Attributes:
        begins, ends: (n,) positions of the first word and of the one behind the last.
        kinds: (n,) positions in ``Scheme.types``.
    """

    begins: np.ndarray
    ends: np.ndarray
    kinds: np.ndarray

    def __len__(self) -> int:
        return len(self.begins)


@dataclass(frozen=True)
class Scheme:
    """How class names are read as tags.

    Attributes:
        types: names of the entity types, sorted.
        prefixes, kinds: (C,) part and type of each class; type -1 for O.
    """

    types: tuple[str, ...]
    prefixes: np.ndarray
    kinds: np.ndarray

    @classmethod
    def of(cls, class_names: Sequence[str]) -> Scheme | None:
        """None where the names are no tags: each must be O, or one of B, I, E, S, L, U, a hyphen and a type.

        >>> Scheme.of(["B-PER", "I-PER", "O"]).types, Scheme.of(["NOUN", "O"])
        (('PER',), None)
        """
        parts = [_TAG.fullmatch(name) for name in class_names]
        if not any(parts) or any(part is None and name != "O" for part, name in zip(parts, class_names, strict=True)):
            return None
        types = tuple(sorted({part[2] for part in parts if part}))
        return cls(
            types,
            np.array([_PREFIXES[part[1]] if part else _OUTSIDE for part in parts]),
            np.array([types.index(part[2]) if part else -1 for part in parts]),
        )

    def spans(self, classes: np.ndarray, groups: np.ndarray | None = None) -> Spans:
        """Entities of words.

        Args:
            classes: int (N,) class of each word.
            groups: (N,) the sentence of each word, neighboring; one sentence when not given.
        """
        if not len(classes):
            return Spans(*(np.empty(0, np.int64) for _ in range(3)))
        prefix, kind = self.prefixes[classes], self.kinds[classes]
        first = np.ones(len(classes), bool)
        first[1:] = False if groups is None else groups[1:] != groups[:-1]
        before = np.where(first, _OUTSIDE, np.roll(prefix, 1))
        changed = first | (np.roll(kind, 1) != kind)
        ended = np.isin(before, (_OUTSIDE, _END, _SINGLE))
        begins = np.isin(prefix, (_BEGIN, _SINGLE)) | ((prefix != _OUTSIDE) & (ended | changed))
        starts = np.flatnonzero(begins)
        breaks = np.append(np.flatnonzero(begins | (prefix == _OUTSIDE)), len(classes))
        ends = breaks[np.searchsorted(breaks, starts, side="right")]
        return Spans(starts, ends, kind[starts])


@dataclass(frozen=True)
class MatchedEntities:
    """Gold and predicted entities of the same words, and which predicted ones are right (n_predicted,)."""

    gold: Spans
    predicted: Spans
    right: np.ndarray

    @classmethod
    def of(
        cls, scheme: Scheme, predicted: np.ndarray, labels: np.ndarray, groups: np.ndarray | None
    ) -> MatchedEntities:
        """From classes (N,); right is an entity whose begin, end and type are those of a gold one."""
        gold, said = scheme.spans(labels, groups), scheme.spans(predicted, groups)
        end, kind = np.full(len(labels) + 1, -1), np.full(len(labels) + 1, -1)
        end[gold.begins], kind[gold.begins] = gold.ends, gold.kinds
        return cls(gold, said, (end[said.begins] == said.ends) & (kind[said.begins] == said.kinds))

    def counts(
        self, groups_of_gold: np.ndarray, groups_of_predicted: np.ndarray, groups: int
    ) -> tuple[np.ndarray, ...]:
        """(right, predicted, gold), each (groups,): entities by type, or by sentence."""
        return (
            np.bincount(groups_of_predicted[self.right], minlength=groups),
            np.bincount(groups_of_predicted, minlength=groups),
            np.bincount(groups_of_gold, minlength=groups),
        )
