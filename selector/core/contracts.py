"""What the rooms agree on: Encoder, Target, Score, and the kinds that distinguish them.

The five rooms in the middle (sources, targets, tasks, proxies, strategies) do not import each
other; they meet in these types and in ``core.task``. Nothing here imports torch at run time, so the command line and
a scan that is answered from the store stay light.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np
import xxhash

from selector.core.errors import SourceError
from selector.core.preprocess import AnyPreprocess, Preprocess

if TYPE_CHECKING:
    import torch
    from torch import nn


class LabelKind(StrEnum):
    """What the labels of a row are; proxies and tasks declare which of them they accept."""

    CLASSES = "classes"  # int (N,)
    MULTILABEL = "multilabel"  # 0/1 (N, L)
    REAL = "real"  # float (N,) or (N, T)


def noun_of(modality: str) -> str:
    """One item of a modality (a name in ``modalities/``), in messages.

    >>> noun_of("image"), noun_of("rows")
    ('image', 'row')
    """
    return modality.removesuffix("s")


SPLITS = ("train", "val", "test")
UNLABELED = "unlabeled"
"""The split of the items of a domain without labels, beside those of the labeled source domain."""


# ---------------------------------------------------------------------------- scores


@dataclass(frozen=True)
class Score:
    """The value of one proxy on one feature set; higher is always better.

    Attributes:
        value: the score.
        low: lower end of the 90% interval, or None when it was not asked for.
        high: its upper end.
        per_row: contributions (N,) whose mean is ``value``, for scores that are means over rows.
        details: further values by name (accuracy beside a log-likelihood, the strength chosen).
        seconds: time that the value took; ``interval_seconds`` what the interval took on top.
        blocks: leave-one-block-out values that the interval came from, for paired differences.
    """

    value: float
    low: float | None = None
    high: float | None = None
    per_row: np.ndarray | None = field(default=None, repr=False, compare=False)
    details: Mapping[str, float] = field(default_factory=dict, compare=False)
    seconds: float = field(default=0.0, compare=False)
    interval_seconds: float = field(default=0.0, compare=False)
    blocks: np.ndarray | None = field(default=None, repr=False, compare=False)

    def __float__(self) -> float:
        return float(self.value)


# ---------------------------------------------------------------------------- encoders


class Encoder(ABC):
    """A pretrained network as a source hands it over: images or texts in, features out.

    Attributes:
        name: the model's name in the zoo.
        module: the torch module, on the CPU, in eval mode; None when the network is not torch
            (ONNX): such an encoder gives frozen features only.
        preprocess: how its items are prepared; its class says which modality the encoder reads.
        identity: what addresses its features in the store, as plain JSON: source, model id,
            weights hash, pooling, layer (preprocessing, backend and precision are added later).
        num_features: D, read from a real forward pass.
        num_parameters: of the network without its source head.
        blocks: dotted names of the submodules in forward order, from the stem to the last block;
            what partial fine-tuning frees from the end, and what ``layer`` may name.
        source_head: (weight (C_s, D), bias (C_s,)) of the linear head of the source task when the
            encoder still has it, so that source logits are ``features @ weight.T + bias``.
        weights_bytes: of the weights' files, for a network that is not torch.
    """

    name: str
    module: nn.Module | None
    preprocess: AnyPreprocess
    identity: dict[str, object]
    num_features: int
    num_parameters: int
    blocks: tuple[str, ...] = ()
    source_head: tuple[np.ndarray, np.ndarray] | None = None
    weights_bytes: int | None = None

    outputs: tuple[Encoder, ...] = ()
    """Set when ``encode`` reads the network at several places at once: an encoder a reading. Their
    features lie side by side in the result, in this order, and go to entries of their own."""

    @property
    def modality(self) -> str:
        """What it reads."""
        return self.preprocess.modality

    @property
    def image_preprocess(self) -> Preprocess:
        """``preprocess`` of an encoder that reads images."""
        assert isinstance(self.preprocess, Preprocess)
        return self.preprocess

    @abstractmethod
    def encode(self, batch: Any) -> torch.Tensor:
        """Features (B, D) of a normalized batch (B, C, H, W), or of ``texts.Tokens`` (a row per text, or a
        word where ``preprocess.words``); differentiable for torch networks."""

    def probe(self) -> Any:
        """Two test items, always the same, as ``encode`` takes them."""
        import torch

        return torch.randn((2, *self.image_preprocess.input_size), generator=torch.Generator().manual_seed(0))

    def variant(self, spec: Any) -> Encoder:
        """The same network, weights shared, read as another spec says (its ``layer`` and ``pooling``).

        It equals what ``Source.load`` of that spec gives, identity included.

        Raises:
            SourceError: the network cannot be read there.
            NotImplementedError: networks of this source are loaded anew for each variant.
        """
        raise NotImplementedError(f"{self.name} is read in one place only")

    def encode_variants(self, batch: Any, variants: Sequence[Encoder]) -> list[torch.Tensor]:
        """Features of several variants of this network, (B, D) each, in one forward pass.

        Args:
            batch: as for ``encode``.
            variants: what ``variant`` gave. Only the way in which they read is theirs; the network
                that runs is this encoder's ``module``, which may have been moved or converted since.
        """
        raise NotImplementedError(f"{self.name} is read in one place only")

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels a cell of each feature map, the finest first; read from a real pass.

        Raises:
            SourceError: the network gives no maps.
        """
        raise SourceError(f"{self.name} returns no feature maps, which segmentation and detection need.")

    def maps(self, batch: torch.Tensor) -> list[tuple[int, torch.Tensor]]:
        """(stride, map (B, C, h, w)) of a normalized batch, the finest first: the last map of each stage.

        A plain vision transformer gives several depths, all at the stride of its patches, without its
        class and register tokens.

        Raises:
            SourceError: the network gives no maps.
        """
        return self.encode_maps(batch)[1]

    def encode_maps(self, batch: torch.Tensor) -> tuple[torch.Tensor, list[tuple[int, torch.Tensor]]]:
        """What ``encode`` and ``maps`` give, from one forward pass."""
        _ = self.strides
        raise NotImplementedError

    def on_canvas(self, size: tuple[int, int]) -> Encoder:
        """The same network for whole images squashed to (height, width), weights shared where they can be.

        Its ``preprocess`` says so (``Preprocess.on_canvas``), and with it the address of what is extracted.

        Raises:
            SourceError: the network gives no maps, or not at that size; the size is no multiple of its
                largest stride.
        """
        _ = self.strides
        raise NotImplementedError

    def map_module(self, input_size: tuple[int, int] | None = None) -> nn.Module:
        """A fresh trainable module, normalized batch -> maps, the finest first, with this encoder's weights.

        It has ``strides`` and ``channels``, an entry a map, and the architecture as ``network``, so that
        a block of ``blocks`` is its submodule ``network.<block>``. In eval mode.

        Raises:
            SourceError: as for ``on_canvas``, or the network cannot be trained (ONNX).
        """
        _ = self.strides
        raise NotImplementedError

    def map_recipe(self, input_size: tuple[int, int] | None = None) -> dict[str, object]:
        """How ``build`` of the same source makes the module of ``map_module`` again without weights: plain JSON."""
        _ = self.strides
        raise NotImplementedError

    def with_head(self, num_outputs: int, input_size: tuple[int, int] | None = None) -> nn.Module:
        """A fresh torch module, batch -> (B, num_outputs), with this encoder's weights.

        The last layer is linear on the features of ``encode`` and reached through
        ``get_classifier()`` of the returned module. ``input_size`` (height, width) asks for
        another resolution than the native one, where the architecture allows it.

        Raises:
            SourceError: the network cannot be trained (ONNX) or not at that size.
        """
        raise NotImplementedError

    def recipe(self, num_outputs: int, input_size: tuple[int, int] | None = None) -> dict[str, object]:
        """How to build the module of ``with_head`` again without weights: plain JSON, read by
        ``build`` of the same source and written into the saved model's ``config.json``."""
        raise NotImplementedError


class Source(Protocol):
    """Where models come from: one module in ``sources/``, registered under its name.

    A source that knows the licenses of its weights also has ``license(spec) -> str | None``; it is
    asked, without torch, for models whose zoo entry names none.
    """

    def expand(self, pattern: str) -> list[str]:
        """Model ids that match a wildcard, in natural order; the pattern itself if it has none."""
        ...

    def identify(self, spec: object) -> dict[str, object]:
        """What decides the features of ``spec``, without importing torch or building the network.

        Plain JSON: source, model id, kwargs, content hash of the weights, pooling, layer,
        overrides, and the versions of the libraries whose code the features depend on.

        Raises:
            WeightsMissing: the weights are not on this machine and cannot be fetched.
        """
        ...

    def load(self, spec: Any) -> Encoder:
        """Build the network and load its weights.

        Raises:
            WeightsMissing: as for ``identify``.
            SourceError: anything else that makes this one model unusable.
        """
        ...

    def build(self, recipe: Mapping[str, object]) -> nn.Module:
        """The module that ``Encoder.recipe`` describes, without weights."""
        ...


# ---------------------------------------------------------------------------- targets

RawImage: TypeAlias = "bytes | np.ndarray"
"""An undecoded image: the bytes of an image file, or uint8 (H, W), (H, W, 1|3|4)."""

RawText: TypeAlias = "str | tuple[str, str]"
"""A text, or a pair of texts that are read together."""


class Words(tuple[str, ...]):
    """A text given as its words, each of which has a label of its own: an item of a tagging target."""

    __slots__ = ()

    @property
    def text(self) -> str:
        """The words with a blank between them: what the network reads."""
        return " ".join(self)


class Items(Protocol):
    """The items of a target, read one at a time and only when needed."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any:
        """A ``RawImage``, a ``RawText`` or ``Words``, as the target's modality says."""
        ...


class Annotations(Protocol):
    """What is known of each item, checked by a task; lazy where it is large.

    ``strata`` (N,) ints or (N, L) 0/1 is what splits keep the share of (classes, labels, what an image contains,
    quantiles of a value). ``digest(i)`` enters the target's fingerprint. ``labels`` is the array form where an
    item or word has one: (N,) or (N, L) or (N, T), else None. ``notes`` are what a person should know.
    """

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def strata(self) -> np.ndarray: ...

    @property
    def labels(self) -> np.ndarray | None: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any:
        """A class, a 0/1 vector, a value, the labels of words, a mask (H, W), boxes: as the task says."""
        ...

    def digest(self, index: int) -> str: ...

    def take(self, indices: np.ndarray) -> Annotations:
        """Those of some items."""
        ...

    def review(self, splits: np.ndarray, names: Sequence[str]) -> list[str]:
        """What the splits make of them, as notes: labels that training never shows, and the like.

        Raises:
            TargetError: nothing can be learned so (a class that a split lacks).
        """
        ...


@dataclass(frozen=True)
class Target:
    """A labeled dataset.

    An item is what splits, samples and statistics take as a whole. Mostly it has one label and gives
    one row; of a tagging target it is a text with a label and one row per word (``row_starts``).

    Attributes:
        name: short, for people; not an identity.
        modality: what an item is.
        label_kind: what a label is.
        items: the items, lazily; of ready features none, and ``features`` (N, D) is set.
        feature_widths: columns of each array by its name, in order, where ``features`` holds several side by side.
        names: a readable name per item (relative path, row number), for messages and reports.
        labels: of the rows: (N,) ints 0..C-1, (N, L) 0/1, or floats; as ``label_kind`` says.
        class_names: C names, in label order; empty for regression.
        splits: (N,) of ``train``, ``val``, ``test``. Proxies score train + val, val chooses, test
            is read once, for the final metric. Items of a domain without labels are ``UNLABELED``.
        split_origin: ``given`` (by the dataset) or ``drawn`` (by us, with ``seed``).
        hashes: content hash of each item; addresses its row in the store. Labels are not in it.
        fingerprint: of the whole: hashes, labels and splits; survives moving the folder.
        whole_fingerprint: of the target before items that cannot be used were left out; empty where none were.
        origin: what ``load_target`` needs to load it again (plain JSON), or None when it was
            built from objects in memory.
        notes: what a person should know (gray images converted, items skipped, splits drawn).
        row_starts: (items + 1,) where the rows of each item begin; None where an item is a row.
        task: name of the task that read the annotations.
        annotations: of the items, as that task reads them (``Annotations``); lazy where they are large.
            ``labels`` is their array form where an item has one, else of the shape (N, 0).
    """

    name: str
    modality: str
    label_kind: LabelKind
    items: Items
    names: Sequence[str]
    labels: np.ndarray
    class_names: tuple[str, ...]
    splits: np.ndarray
    split_origin: Literal["given", "drawn"]
    hashes: tuple[str, ...]
    fingerprint: str
    origin: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    features: np.ndarray | None = None
    feature_widths: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    row_starts: np.ndarray | None = None
    task: str | None = None
    annotations: Annotations | None = None
    whole_fingerprint: str = ""

    @property
    def identity(self) -> str:
        """The fingerprint of the data as they were given: the same before and after unusable items are found."""
        return self.whole_fingerprint or self.fingerprint

    def __repr__(self) -> str:
        classes = f", {len(self.class_names)} classes" if self.class_names else ""
        splits = ", ".join(f"{split} {count}" for split, count in self.counts().items())
        return f"Target({self.name}: {len(self)} items{classes}; {splits})"

    def __len__(self) -> int:
        """Items."""
        return len(self.splits)

    def ready_features(self, name: str) -> np.ndarray:
        """(N, D) of one of the arrays of ready features, a view; the only one has any name."""
        assert self.features is not None
        if not self.feature_widths:
            return self.features
        start = 0
        for other, width in self.feature_widths.items():
            if other == name:
                return self.features[:, start : start + width]
            start += width
        raise KeyError(name)

    @property
    def row_noun(self) -> str:
        """One row, in messages."""
        return noun_of(self.modality) if self.row_starts is None else "word"

    @property
    def of_words(self) -> bool:
        """Whether a row is a word of its item."""
        return self.row_starts is not None

    @property
    def item_classes(self) -> np.ndarray | None:
        """(N,) the class of each item; None where it has several, values, or rows of its own."""
        one = self.label_kind is LabelKind.CLASSES and self.row_starts is None and self.labels.ndim == 1
        return self.labels if one else None

    def starts_of(self, indices: np.ndarray) -> np.ndarray | None:
        """``row_starts`` of some items alone."""
        if self.row_starts is None:
            return None
        return np.concatenate([[0], np.cumsum(np.diff(self.row_starts)[indices])])

    def rows_of(self, indices: np.ndarray) -> np.ndarray:
        """Positions in ``labels`` of the rows of some items, item after item."""
        return indices if self.row_starts is None else spread(self.row_starts, indices)

    def labels_of(self, indices: np.ndarray) -> np.ndarray:
        """Labels of the rows of some items, item after item."""
        labels: np.ndarray = self.labels[self.rows_of(indices)]
        return labels

    def by_item(self, rows: np.ndarray, indices: np.ndarray) -> Sequence[object]:
        """What belongs to the rows of some items, item after item: an entry per item, or an array of its rows."""
        starts = self.starts_of(indices)
        return list(rows) if starts is None else np.split(rows, starts[1:-1])

    def row_hashes(self, indices: np.ndarray) -> list[str]:
        """What addresses the rows of some items in the store, item after item.

        The content hash of the item; of several rows an item each from that hash and its place.
        """
        if self.row_starts is None:
            return [self.hashes[i] for i in indices]
        counts = np.diff(self.row_starts)
        return [
            xxhash.xxh3_128_hexdigest(f"{self.hashes[i]} row {place}".encode())
            for i in indices
            for place in range(int(counts[i]))
        ]

    def groups_of(self, indices: np.ndarray) -> np.ndarray | None:
        """Which item each of ``rows_of`` belongs to, as its place in ``indices``; None where an item is a row."""
        if self.row_starts is None:
            return None
        return np.repeat(np.arange(len(indices)), np.diff(self.row_starts)[indices])

    def indices(self, *splits: str) -> np.ndarray:
        """Positions of the items of the named splits, in order."""
        return np.flatnonzero(np.isin(self.splits, splits))

    def counts(self) -> dict[str, int]:
        """Items a split.

        The keys are always train, val and test.
        """
        return {split: int((self.splits == split).sum()) for split in SPLITS}

    def class_counts(self) -> np.ndarray:
        """Rows of each class; where an item shows several classes (a mask, boxes) the items that show it; else empty."""
        nothing = np.empty(0, np.int64)
        if self.label_kind is not LabelKind.CLASSES:
            return nothing
        if self.labels.ndim == 1:
            known = self.labels_of(np.flatnonzero(self.splits != UNLABELED)).astype(int)
            return np.bincount(known, minlength=len(self.class_names))
        strata = None if self.annotations is None else self.annotations.strata
        return nothing if strata is None or strata.ndim == 1 else (strata > 0).sum(axis=0)

    def items_of_classes(self, split: str) -> np.ndarray:
        """(C,) how many items of a split show each class (words, where they have labels); empty of real values."""
        items = self.indices(split)
        if self.label_kind is LabelKind.MULTILABEL:
            return np.asarray((self.labels_of(items) == 1).sum(axis=0))
        if self.label_kind is LabelKind.CLASSES and self.labels.ndim == 1:
            return np.bincount(self.labels_of(items).astype(int), minlength=len(self.class_names))
        strata = None if self.annotations is None or not self.class_names else self.annotations.strata
        shown = self.label_kind is LabelKind.CLASSES and strata is not None and strata.ndim == 2
        return np.asarray((strata[items] > 0).sum(axis=0)) if shown and strata is not None else np.empty(0, np.int64)


def spread(starts: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Positions of the rows of some items, item after item; those of item i are ``starts[i]:starts[i + 1]``.

    >>> spread(np.array([0, 2, 2, 5]), np.array([2, 0]))
    array([2, 3, 4, 0, 1])
    """
    counts = starts[indices + 1] - starts[indices]
    ends = np.cumsum(counts)
    return np.asarray(np.arange(counts.sum()) + np.repeat(starts[indices] - (ends - counts), counts))


@dataclass(frozen=True)
class Progress:
    """One step of a long job, for whoever draws it; the library itself prints nothing.

    ``done`` of ``total`` in ``unit``; ``stage`` is one of decode, load, extract, score, plan, train.
    With a total of 0 the note is all there is. ``values`` are measured at this step, such as ``loss``, for experiment
    loggers.
    """

    stage: str
    done: int
    total: int
    unit: str = "images"
    model: str = ""
    note: str = ""
    values: Mapping[str, float] = field(default_factory=dict)


ProgressCallback: TypeAlias = Callable[[Progress], None]


def no_progress(_: Progress) -> None:
    """The default listener."""
