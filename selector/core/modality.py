"""The contract of a modality: what its items are, how they are prepared once, batched, augmented and shown.

A modality is one file in ``modalities/``. Generic code asks ``modalities.of(...)`` and calls it; it never asks
which one it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeAlias, TypeVar

import numpy as np

from selector.core.contracts import Items, ProgressCallback, no_progress, noun_of
from selector.core.errors import BadImagesError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

Prepared = TypeVar("Prepared", bound=Sized)
"""A prepared batch on the processor: pixels, tokens. It has a length (items) and slices."""

Moved = TypeVar("Moved")
"""A batch as ``Encoder.encode`` takes it."""

Settings = TypeVar("Settings")
"""How an encoder's items are prepared."""


class Inputs(Protocol):
    """The prepared items of a target, read by position; threads may share it."""

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Of an item, where all have one; None otherwise."""
        ...

    @property
    def cut_off(self) -> NDArray[np.int64] | None:
        """(N,) what of each item did not fit into what the network reads (tokens); None where all fits."""
        ...

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Any:
        """The items at ``indices``, in that order; it has a length (items) and slices."""
        ...

    def longest_first(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """In the order in which slices of a batch need little filling up."""
        ...

    def cut(self, indices: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
        """Batches of at most ``size`` items, in the order in which they are run."""
        ...


class Modality(ABC, Generic[Prepared, Moved, Settings]):
    """What generic code may ask of a modality.

    Attributes:
        kind: its name in targets, zoo entries and saved models.
        stage: what preparing is called in progress and timings.
        has_models: False for features that are there already.
        fixed_shape: all batches have one shape: networks can be compiled for it, and a batch is filled up to it.
        resizable: its items are resized, so that ``resolution`` means something and small copies can be compared.
        layer_curves: the scores of a network's layers are shown as a curve.
        own_is_last: a network read where it says itself is read at its last layer.
        prepare_seconds: an item and core, at least and at most.
    """

    kind: ClassVar[str]
    stage: ClassVar[str]
    has_models: ClassVar[bool] = True
    fixed_shape: ClassVar[bool] = False
    resizable: ClassVar[bool] = False
    layer_curves: ClassVar[bool] = False
    own_is_last: ClassVar[bool] = False
    prepare_seconds: ClassVar[tuple[float, float]] = (0.0, 0.0)

    @property
    def noun(self) -> str:
        """One item, in messages."""
        return noun_of(self.kind)

    # a target's items

    def unusable(self, items: Items) -> dict[int, str]:
        """Items that cannot be used, by position, as far as that shows without preparing them."""
        return {}

    @abstractmethod
    def bad_items(self, bad: Mapping[int, str], names: Sequence[str]) -> BadImagesError:
        """The error that lists items that cannot be used."""

    def lacking_decoders(self, names: Sequence[str]) -> dict[str, tuple[int, str]]:
        """Items that cannot be read here by their names: of each format their number, and what to install."""
        return {}

    def preview(self, items: Items, index: int, name: str, part: slice | None = None) -> dict[str, object]:
        """An item for the report, small: plain JSON. What cannot be read any more has an empty one.

        Args:
            part: which of its parts (words) it is about; None for all of it.
        """
        return {}

    def facts(self, items: Items) -> dict[str, object]:
        """What a report says of the items beside their number: plain JSON."""
        return {}

    # prepared once

    @abstractmethod
    def key(self, preprocess: Settings) -> str:
        """What decides the prepared items: encoders with an equal key share them."""

    @abstractmethod
    def prepare(
        self,
        items: Items,
        hashes: Sequence[str],
        names: Sequence[str],
        preprocesses: Sequence[Settings],
        *,
        folder: Path | None,
        max_size: int | None = None,
        device: str = "cpu",
        on_invalid: Literal["raise", "skip"] = "raise",
        progress: ProgressCallback = no_progress,
    ) -> tuple[dict[str, Inputs], dict[int, str]]:
        """Every item as encoders read it: by key, and the reason by position of those that cannot be used.

        Args:
            folder: where what is expensive to prepare is kept between runs, and ``max_size`` bytes of it at most.

        Raises:
            BadImagesError: some cannot be used, and ``on_invalid`` is ``raise``; all of them are listed.
            TargetError: an item is not what its hash says.
        """

    # a batch

    @abstractmethod
    def owns(self, batch: object) -> bool:
        """Whether a prepared batch is of this modality."""

    def rows_of(self, batch: Prepared) -> int:
        """Rows of features that a batch gives."""
        return len(batch)

    def staged(self, batch: Prepared, device: torch.device) -> Prepared | torch.Tensor:
        """The batch on the processor, so laid out that moving it to the device does not wait."""
        return batch

    @abstractmethod
    def ready(
        self,
        batch: Prepared | torch.Tensor,
        preprocess: Settings,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
    ) -> Moved:
        """The batch as ``Encoder.encode`` takes it, on a device."""

    def filled(self, batch: Prepared, size: int) -> Prepared:
        """The batch filled up to the fixed shape of ``size`` items; as it is where there is none."""
        return batch

    @abstractmethod
    def repeated(self, batch: Prepared, size: int) -> Prepared:
        """``size`` items: those of the batch, over and over."""

    def standard(self, preprocess: Settings) -> Prepared | None:
        """A batch of one item that costs are of, where items differ in size; None where all are alike."""
        return None

    def pieces(self, batch: Prepared, size: int, tokens: int) -> Iterable[slice]:
        """Parts of a batch of so many items at most, and of so many tokens where items differ in length."""
        return [slice(start, start + size) for start in range(0, len(batch), size)]

    # costs, before anything has run

    def operations(self, parameters: int, input_size: Sequence[int] | None) -> tuple[float, float]:
        """Multiply-adds an item of a network with so many parameters, at least and at most.

        Args:
            input_size: (channels, height, width) where the network has one of its own.
        """
        return 0.0, 0.0

    def kept_bytes(self, input_size: Sequence[int] | None) -> int:
        """Of one prepared item in a cache that the store keeps."""
        return 0

    @abstractmethod
    def described(self, preprocess: Settings) -> str:
        """What a single item is and how it could be smaller, for the error of a memory that is too small."""

    def augment(
        self, batch: Moved, annotations: Sequence[object], mirror: bool = True, level: str = "light"
    ) -> tuple[Moved, Sequence[object]]:
        """A random variation of a batch, of which the annotations (an entry per item) know: geometry moves both.

        Drawn from torch's global generator, which a training loop seeds. The batch as it is where there is none.

        Args:
            mirror: whether mirror images are among the variations.
            level: ``light``, ``standard`` or ``strong``: how far they go.
        """
        return batch, annotations

    def mirrored(self, batch: Moved) -> Moved | None:
        """The mirror images of a prepared batch; None where items have none."""
        return None


AnyModality: TypeAlias = Modality[Any, Any, Any]
"""A modality of which nothing is known: what generic code holds."""
