"""A class per word: cross-entropy over words, and the metrics of a tagger.

Rows are words; an item is a sentence, and no entity crosses its border.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import xxhash

from selector.core.contracts import Target, spread
from selector.core.errors import ConfigError
from selector.core.prediction import Prediction
from selector.core.stats import Metric, best_temperature, softmax
from selector.core.table import RowPlan, Table
from selector.core.task import Criterion, Section, Stats
from selector.tasks import task
from selector.tasks._classes import (
    ClassTask,
    absent_classes,
    calibration_error,
    checked,
    confusion_matrix,
    counts_of,
    macro_f1,
    per_class_table,
)
from selector.tasks._error_analysis import section_of_sentences
from selector.tasks._linear import temperature_of
from selector.tasks._read_labels import ArrayAnnotations, as_numbers, cell_counts, declared_names, encode_classes, plain
from selector.tasks._tag_predictions import Entity, TaggedText, TaggedTexts

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
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(right, predicted, gold), each (groups,): entities by type, or by sentence."""
        return (
            np.bincount(groups_of_predicted[self.right], minlength=groups),
            np.bincount(groups_of_predicted, minlength=groups),
            np.bincount(groups_of_gold, minlength=groups),
        )


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
        return None if "words" in table.roles else "the data have one label per item"

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


_ENTITIES = {"entity_f1": Metric(), "entity_precision": Metric(), "entity_recall": Metric()}
_WORDS = {
    "token_accuracy": Metric(),
    "macro_f1": Metric(),
    "log_loss": Metric(sign=-1, unit="nats"),
    "calibration_error": Metric(sign=-1),
}
_OF_WORDS = ("label", "predicted", "log_likelihood", "confidence")


class TaggingStats(Stats):
    """Of each sentence ``words`` (how many it has) and, where labels are tags, ``right``, ``found`` and ``gold``
    (entities); of each word, sentence after sentence, ``label``, ``predicted``, ``log_likelihood``, ``confidence``.

    ``summary`` holds ``classes`` (C) and ``temperature``.
    """

    def __len__(self) -> int:
        return len(self.arrays["words"])

    def __getitem__(self, items: np.ndarray) -> Self:
        """Sentences with all their words."""
        starts = np.concatenate([[0], np.cumsum(self.arrays["words"])])
        rows = spread(starts, np.asarray(items))
        found = {name: array[rows if name in _OF_WORDS else items] for name, array in self.arrays.items()}
        return type(self)(found, self.summary)

    @property
    def groups(self) -> np.ndarray:
        """(W,) the sentence of each word."""
        return np.repeat(np.arange(len(self)), self.arrays["words"])

    def value(self, metric: str) -> float:
        """Any metric of the task."""
        ratio = self.ratio(metric)
        if ratio is not None:
            below = float(ratio[1].sum())
            return float(ratio[0].sum()) / below if below else 0.0
        label, predicted = self.arrays["label"], self.arrays["predicted"]
        if metric == "macro_f1":
            return macro_f1(confusion_matrix(predicted, label, int(self.summary["classes"])))
        if metric == "calibration_error":
            return calibration_error(self.arrays["confidence"], predicted == label)
        raise KeyError(metric)

    def ratio(self, metric: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Metrics of entities, accuracy and log-loss are sums over sentences."""
        words = self.arrays["words"]
        if metric == "token_accuracy":
            return self._by_sentence(self.arrays["predicted"] == self.arrays["label"]), words
        if metric == "log_loss":
            return self._by_sentence(-self.arrays["log_likelihood"]), words
        if metric not in _ENTITIES or "gold" not in self.arrays:
            return None
        right, found, gold = (self.arrays[name] for name in ("right", "found", "gold"))
        return {
            "entity_f1": (2 * right, found + gold),
            "entity_precision": (right, found),
            "entity_recall": (right, gold),
        }[metric]

    def _by_sentence(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self.groups, values, len(self))


@task("tagging")
class Tagging(TaggingReading, ClassTask):
    """See ``core.task.Task``. The registered one knows no labels; ``of`` gives the one for a target's.

    Where all labels are tags (O, B-x, I-x, ...), entities are what counts: micro-averaged precision,
    recall and F1 over entities whose words and type are all right. Otherwise it is the share of words.
    """

    name = "tagging"
    facet = "label"
    smooths = True
    of_words = True
    stats_type: ClassVar[type[TaggingStats]] = TaggingStats
    prediction_type = TaggedText
    most_rows = 10_000
    reader = "word"

    def __init__(self, class_names: Sequence[str] = ()) -> None:
        self.class_names = tuple(class_names)

    def of(self, class_names: Sequence[str]) -> Tagging:
        """The task with these labels, in the order of the outputs."""
        return Tagging(class_names)

    @cached_property
    def scheme(self) -> Scheme | None:
        """How labels are read as tags; None where they are none."""
        return Scheme.of(self.class_names)

    @cached_property
    def metrics(self) -> Mapping[str, Metric]:  # type: ignore[override]
        """Those of entities come first where labels are tags. A task without labels declares all."""
        return {**(_ENTITIES if self.scheme or not self.class_names else {}), **_WORDS}

    def notes(self, target: Target) -> list[str]:
        """Labels that val or test lack; those that train lacks are in the target's own notes."""
        present = set(target.labels_of(target.indices("train")).tolist())
        told = [name for i, name in enumerate(target.class_names) if i not in present]
        return absent_classes(target, told)

    def rows(self, target: Target, indices: np.ndarray, limit: int | None = None, seed: int = 0) -> RowPlan:
        """Every word a row. Beyond ``limit`` words of the most frequent label are left out first, which mostly is O
        and tells little, as far as they outnumber all others; then words of all labels alike, by content and seed."""
        plan = super().rows(target, indices, None, seed)
        if limit is None or len(plan) <= limit:
            return plan
        facet = plan.facets[self.facet]
        kept = thinned(facet.labels, plan.addresses(target.hashes), limit, seed)
        assert plan.place is not None
        facets = {self.facet: replace(facet, labels=facet.labels[kept])}
        return RowPlan(plan.item[kept], facets, plan.place[kept], plan.reader)

    def criterion(self, target: Target) -> Criterion:
        """Cross-entropy, every word alike: most words are O in the data that a tagger meets as well."""
        from functools import partial

        from torch.nn import functional

        return partial(functional.cross_entropy, label_smoothing=self.label_smoothing)

    def judged(
        self, outputs: np.ndarray, target: Target, items: np.ndarray, context: Mapping[str, object] | None = None
    ) -> TaggingStats:
        """See ``LinearTask``."""
        labels, groups = self.labels(target.labels_of(items)), target.groups_of(items)
        return self.stats(outputs, labels, groups, temperature_of(context))

    def stats(
        self, outputs: np.ndarray, labels: np.ndarray, groups: np.ndarray | None, temperature: float = 1.0
    ) -> TaggingStats:
        """Statistics of outputs (W, C), labels (W,) and the sentence of each word (W,), neighboring; without
        ``groups`` all words are one sentence.

        Raises:
            TargetError: shapes that do not fit, labels that are no outputs.
            NotFinite: outputs that are no numbers.
        """
        outputs, labels = checked(outputs, labels)
        sentence = np.zeros(len(labels), np.int64) if groups is None else np.unique(groups, return_inverse=True)[1]
        count = int(sentence.max()) + 1
        probabilities = softmax(outputs, temperature)
        predicted = outputs.argmax(axis=1)
        arrays = {
            "words": np.bincount(sentence, minlength=count),
            "label": labels.astype(np.int32),
            "predicted": predicted.astype(np.int32),
            "log_likelihood": np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-15)),
            "confidence": probabilities.max(axis=1),
        }
        if self.scheme is not None:
            found = MatchedEntities.of(self.scheme, predicted, labels, sentence)
            counts = found.counts(sentence[found.gold.begins], sentence[found.predicted.begins], count)
            arrays |= dict(zip(("right", "found", "gold"), counts, strict=True))
        summary = {"classes": outputs.shape[1], "temperature": best_temperature(outputs, labels)}
        return self.stats_type(arrays, summary)

    def prediction(
        self, name: str, item: Any, output: Any, class_names: Sequence[str], context: Mapping[str, object], top: int
    ) -> TaggedText:
        """A sentence with a label per word, and the entities of those.

        Raises:
            ConfigError: the network does not return one row per word, because it was saved with other settings.
        """
        shares = softmax(np.asarray(output), temperature_of(context))
        if len(shares) != len(item):
            raise ConfigError(
                f"{name}: the network gives {len(shares)} row(s) for {len(item)} words; config.json must say 'words' under "
                "preprocess; run 'selector confirm' again."
            )
        predicted = shares.argmax(axis=1)
        entities = (Entity(kind, a, b, " ".join(item[a:b])) for kind, a, b in self.entities(predicted))
        return TaggedText(
            name,
            words=tuple(item),
            labels=tuple(class_names[i] for i in predicted),
            probabilities=tuple(float(value) for value in shares.max(axis=1)),
            entities=tuple(entities),
            shares=shares,
        )

    def gathered(
        self, rows: Sequence[Prediction], class_names: Sequence[str], context: Mapping[str, object]
    ) -> TaggedTexts:
        """Probabilities word after word."""
        blocks = [np.empty((0, len(class_names))), *(row.shares for row in rows if row.shares is not None)]
        return TaggedTexts(rows, np.concatenate(blocks), class_names)

    def report(self, stats: Stats, class_names: Sequence[str]) -> Section:
        """Results by entity type (by label where they are no tags), confused labels and telling sentences."""
        assert isinstance(stats, TaggingStats)
        if self.scheme is None:
            table = confusion_matrix(stats.arrays["predicted"], stats.arrays["label"], len(class_names))
            lines, counted = per_class_table(class_names, *counts_of(table)), "words"
        else:
            found = MatchedEntities.of(self.scheme, stats.arrays["predicted"], stats.arrays["label"], stats.groups)
            types = self.scheme.types
            counts = found.counts(found.gold.kinds, found.predicted.kinds, len(types))
            lines, counted = per_class_table(types, *counts), "entities"
        return section_of_sentences(stats.arrays, stats.groups, class_names, lines, counted)

    def entities(self, classes: np.ndarray) -> list[tuple[str, int, int]]:
        """(type, first word, word behind the last) of one sentence; empty where labels are no tags."""
        if self.scheme is None:
            return []
        spans = self.scheme.spans(np.asarray(classes))
        return [
            (self.scheme.types[kind], int(begin), int(end))
            for begin, end, kind in zip(spans.begins, spans.ends, spans.kinds, strict=True)
        ]


def thinned(labels: np.ndarray, hashes: Sequence[str], most: int, seed: int) -> np.ndarray:
    """Positions, ascending, of ``most`` rows: see ``Tagging.rows``.

    Args:
        labels: int (N,), N > ``most``.
        hashes: of the rows: decide, with the seed, which ones stay.
    """
    order = np.argsort(
        np.array([xxhash.xxh3_64_intdigest(value.encode(), seed) for value in hashes], np.uint64), kind="stable"
    )
    counts = np.bincount(labels)
    frequent = int(counts.argmax())
    others = len(labels) - int(counts[frequent])
    wanted = max(most - others, min(others, int(counts[frequent])))  # at least as many as all others together
    ours = order[labels[order] == frequent][:wanted]
    left = np.sort(np.concatenate([ours, np.flatnonzero(labels != frequent)]))
    if len(left) <= most:
        return left
    shuffled = order[np.isin(order, left)]
    by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
    return np.sort(by_label[np.arange(most) * len(by_label) // most])
