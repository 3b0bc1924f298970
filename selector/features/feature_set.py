"""FeatureSet: rows, labels, and what proxies share about them, computed once and on first use."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

import numpy as np

from selector.core.contracts import LabelKind
from selector.core.errors import NotApplicable, ProxyError
from selector.features.arrays import as_array, as_float, as_rows, chunks, content_hashes, equal_rows
from selector.features.blocks import NUM_BLOCKS, draw_blocks, hash_names, stratified_sample
from selector.features.device import device_of
from selector.features.labels import check_labels
from selector.features.moments import Moments, accumulate, merge
from selector.features.spectrum import Kernel, Spectrum, from_kernel, from_moments

_T = TypeVar("_T")
_Decomposed: TypeAlias = tuple[Spectrum, np.ndarray]

NUM_FOLDS = 5
_OF_ROWS = ("hashes", "equal_rows", "mean", "source_logits", "neighbors")  # the same under other labels
_PARTS_BYTES = 300 * 2**20  # moments of all folds are kept up to this size


class FeatureSet:
    """Features of one encoder on one target, as every proxy sees them.

    Args:
        rows: (N, D) features; numpy of any float type (memory-mapped, not contiguous), or a torch
            tensor including bfloat16. Not copied when they are float32 or float64.
        labels: (N,) classes, (N, L) of 0 and 1, or (N,) / (N, T) real values; NaN where a 0/1 or real entry
            is unknown.
        label_kind: what the labels are; inferred when not given (``check_labels``).
        mask: (N,) or (N, L), True where a label is known.
        label_names: of the columns, for ``label_data.note()`` and details.
        groups: (N,) ids of the items that statistics resample (an image, when a row is a pixel, a point or a
            box): blocks and folds hold whole items, neighbors of the same item do not vote, and leaving out
            a row leaves out its item.
        keys: (N,) names or content hashes of the items; the hash of a row's values when not given.
            Folds, blocks and subsamples are drawn from them, never from the position.
        source_logits: (N, C_s) of the encoder's source head, or ``source_head``: (weight (C_s, D),
            bias (C_s,)), from which they are computed.
        unlabeled: (M, D) rows of another domain, of which no label is known; ``unlabeled_keys`` as ``keys``.
        seed: of folds, blocks and subsamples.
        device: where torch does the large products (``cuda``); that of ``rows`` when they are a
            tensor on a GPU, else numpy on the CPU.

    Raises:
        ProxyError: see ``as_rows`` and ``check_labels``.
    """

    def __init__(
        self,
        rows: object,
        labels: object,
        *,
        label_kind: LabelKind | str | None = None,
        mask: object = None,
        label_names: Sequence[str] = (),
        groups: object = None,
        keys: Sequence[object] | np.ndarray | None = None,
        source_logits: object = None,
        source_head: tuple[object, object] | None = None,
        unlabeled: object = None,
        unlabeled_keys: Sequence[object] | np.ndarray | None = None,
        seed: int = 0,
        device: str | None = None,
    ) -> None:
        self.device = device or device_of(rows)
        self._rows: np.ndarray | None = as_rows(rows)
        self._shape: tuple[int, int] = self._rows.shape
        self.label_data = check_labels(labels, len(self), label_kind, mask=mask, names=label_names)
        self.seed = seed
        self.groups = None if groups is None else as_array(groups, "groups")
        self._keys = keys
        for what, given in (("groups", self.groups), ("keys", keys)):
            if given is not None and len(given) != len(self):
                raise ProxyError(f"{what} must have one entry per row. Got {len(given)} for {len(self)} rows.")
        self._source_logits = None if source_logits is None else as_rows(source_logits, "source_logits")
        if self._source_logits is not None and len(self._source_logits) != len(self):
            raise ProxyError(
                f"source_logits must have one row per feature row. Got {len(self._source_logits)} for {len(self)}."
            )
        self._source_head = source_head
        self._unlabeled = None if unlabeled is None else _other_domain(unlabeled, self.width)
        self._unlabeled_keys = unlabeled_keys
        self._part_of: tuple[FeatureSet, np.ndarray, np.ndarray] | None = None
        self._left_out: int | None = None
        self._spectra: dict[int, tuple[Spectrum, np.ndarray | None]] = {}
        self._shared: dict[str, Any] = {}

    # ------------------------------------------------------------------ shape and labels

    def __len__(self) -> int:
        return self._shape[0]

    @property
    def width(self) -> int:
        """D."""
        return self._shape[1]

    @property
    def rows(self) -> np.ndarray:
        """(N, D) as given; a part of another feature set gathers them on first use."""
        if self._rows is None:
            assert self._part_of is not None
            whole, indices, _ = self._part_of
            self._rows = whole.rows[indices]
        return self._rows

    @property
    def label_kind(self) -> LabelKind:
        """What the labels are."""
        return self.label_data.kind

    @property
    def labels(self) -> np.ndarray:
        """int (N,) positions in ``classes`` for class labels, else float64 (N, T), NaN where unknown."""
        return self.label_data.codes if self.label_data.columns is None else self.label_data.columns

    @property
    def classes(self) -> np.ndarray:
        """The class ids that occur, sorted; C of them."""
        return self.label_data.classes

    @cached_property
    def class_counts(self) -> np.ndarray:
        """(C,) rows a class."""
        return np.bincount(self.label_data.codes, minlength=len(self.classes))

    def chunks(self, size: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """(first index, float32 or float64 rows) in order."""
        if self._rows is None and self._part_of is not None:  # without gathering all of them
            whole, indices, _ = self._part_of
            return chunks(whole.rows, size, indices)
        return chunks(self.rows, size)

    @property
    def is_whole(self) -> bool:
        """Whether no block is left out of it."""
        return self._left_out is None

    @property
    def unlabeled(self) -> np.ndarray | None:
        """(M, D) rows of the domain without labels; of a part without a block also without theirs in that block."""
        if self._part_of is None:
            return self._unlabeled
        whole = self._part_of[0]
        if whole.unlabeled is None or self._left_out is None:
            return whole.unlabeled
        return np.asarray(whole.unlabeled[whole.unlabeled_blocks != self._left_out])

    @cached_property
    def unlabeled_blocks(self) -> np.ndarray:
        """(M,) in 0..9, from keys and the seed: deleted together with the blocks of the labeled rows."""
        assert self._unlabeled is not None
        keys, seed = self._unlabeled_keys, self.seed
        hashes = content_hashes(self._unlabeled, seed) if keys is None else hash_names(keys, seed)
        return np.argsort(np.argsort(hashes, kind="stable")) % NUM_BLOCKS

    @property
    def has_source_logits(self) -> bool:
        """Whether the encoder still has its source head."""
        if self._part_of is not None:
            return self._part_of[0].has_source_logits
        return self._source_logits is not None or self._source_head is not None

    @cached_property
    def source_logits(self) -> np.ndarray:
        """float (N, C_s).

        Raises:
            NotApplicable: the encoder has no source head.
        """
        if self._part_of is not None:
            whole, indices, _ = self._part_of
            return np.asarray(whole.source_logits[indices])
        if self._source_logits is not None:
            return as_float(self._source_logits)
        if self._source_head is None:
            raise NotApplicable("needs source logits, and this encoder has no head of its source task")
        weight, bias = (as_array(part, "source_head") for part in self._source_head)
        if weight.ndim != 2 or weight.shape[1] != self.width or bias.shape != weight.shape[:1]:
            raise ProxyError(
                f"source_head must be (weight (C_s, {self.width}), bias (C_s,)). Got shapes {weight.shape}, {bias.shape}."
            )
        return np.concatenate([chunk @ weight.T.astype(chunk.dtype) + bias for _, chunk in self.chunks()])

    # ------------------------------------------------------------------ blocks and folds

    @cached_property
    def hashes(self) -> np.ndarray:
        """uint64 (N,) of the keys, or of the rows' values; what draws are made from."""
        if self._part_of is not None:
            whole, indices, _ = self._part_of
            return np.asarray(whole.hashes[indices])
        if self._keys is not None:
            return hash_names(self._keys, 0)
        return content_hashes(self.rows, 0)

    @cached_property
    def equal_rows(self) -> np.ndarray | None:
        """(N,) ids 0.. of groups of equal rows; None where no two are equal.

        Cost: a few columns, unless rows agree in these.
        """
        if self._part_of is not None:
            whole, indices, _ = self._part_of
            groups = whole.equal_rows
            if groups is None:
                return None
            ids = np.unique(groups[indices], return_inverse=True)[1].ravel()
            return ids if ids.max() + 1 < len(ids) else None
        return equal_rows(self.rows)

    @cached_property
    def canonical(self) -> tuple[np.ndarray, np.ndarray]:
        """Row indices in the order of their hashes, and class codes in the order of first row.

        Neither depends on the order of rows or the names of classes, so what is computed in single
        precision along them is the same to the last bit.
        """
        if self.label_data.columns is not None:  # no classes
            return np.argsort(self.hashes, kind="stable"), np.empty(0, dtype=np.int64)
        lowest = np.full(len(self.classes), np.iinfo(np.uint64).max, dtype=np.uint64)
        np.minimum.at(lowest, self.labels, self.hashes)
        rank = np.empty(len(self.classes), dtype=np.int64)
        rank[np.argsort(lowest, kind="stable")] = np.arange(len(self.classes))
        codes = rank[self.labels]
        return np.lexsort((codes, self.hashes)), codes

    @cached_property
    def blocks(self) -> np.ndarray:
        """(N,) in 0..9: stratified, whole groups, the same for every model of a target."""
        if self._part_of is not None:
            whole, indices, _ = self._part_of
            return np.asarray(whole.blocks[indices])
        return draw_blocks(self.label_data, self.hashes, self.seed, self.groups)

    @property
    def folds(self) -> np.ndarray:
        """(N,) in 0..4: two blocks make a fold."""
        return self.blocks % NUM_FOLDS

    def reseeded(self, seed: int) -> FeatureSet:
        """The same rows with folds and blocks drawn from another seed."""
        other = self.take(np.arange(len(self)))
        other.seed = seed
        other.blocks = draw_blocks(other.label_data, self.hashes, seed, self.groups)
        return other

    def with_labels(self, labels: object, label_kind: LabelKind | str | None = None) -> FeatureSet:
        """The same rows under other labels, in blocks drawn for these; what depends on rows alone is computed once."""
        other = copy.copy(self)
        for name, kind in vars(FeatureSet).items():
            if isinstance(kind, cached_property) and name not in _OF_ROWS:
                other.__dict__.pop(name, None)
        other.label_data = check_labels(labels, len(self), label_kind)
        other._spectra = {}
        other._shared = {key: found for key, found in self._shared.items() if key in _OF_ROWS}
        return other

    def shared(self, key: str, make: Callable[[], _T]) -> _T:
        """What ``make`` gives, made once: for what several proxies need (neighbors, logits)."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]  # type: ignore[no-any-return]

    # ------------------------------------------------------------------ parts

    def take(self, rows: np.ndarray, columns: np.ndarray | None = None) -> FeatureSet:
        """Some rows (indices or a mask) as a feature set of their own, in the blocks they had.

        Args:
            columns: of the labels, where not all are looked at.
        Raises:
            ProxyError: fewer than two rows or classes are left.
        """
        indices = np.flatnonzero(rows) if rows.dtype == bool else rows
        if len(indices) < 2:
            raise ProxyError(f"a part of a feature set must have at least two rows. Got {len(indices)}.")
        part = FeatureSet.__new__(FeatureSet)
        part.label_data, kept = self.label_data.select(indices, columns)
        part._rows = None
        part._shape = (len(indices), self.width)
        part.seed = self.seed
        part.device = self.device
        part.groups = None if self.groups is None else self.groups[indices]
        part._keys = part._source_logits = part._source_head = part._unlabeled = part._unlabeled_keys = None
        part._part_of = (self, indices, kept)
        part._left_out = None
        part._spectra, part._shared = {}, {}
        return part

    def complete_parts(self) -> list[FeatureSet]:
        """Itself; with unknown labels, for every pattern of them the columns that share it on the rows that they
        are known for. Every column is in one part.

        Scores from moments or a spectrum are means over these parts' columns. Cost: a spectrum a pattern.
        """
        if self.label_data.known is None:
            return [self]
        if self._left_out is not None and self._part_of is not None:
            return [part.without(self._left_out) for part in self._part_of[0].complete_parts()]
        return self._complete_parts

    @cached_property
    def _complete_parts(self) -> list[FeatureSet]:
        _ = self.hashes, self.blocks
        apart = copy.copy(self)  # parts know it, and it does not know them: no circle
        apart._spectra, apart._shared = {}, {}
        return [apart.take(rows, columns) for columns, rows in self.label_data.patterns()]

    def sample(self, count: int) -> np.ndarray:
        """Indices of at most ``count`` rows, stratified, drawn from hashes and the seed; a fixed order."""
        return stratified_sample(self.label_data, self.hashes, self.seed, count)

    def without(self, block: int) -> FeatureSet:
        """All rows but those of one block; its moments are ours minus the block's.

        The part knows its whole, so the whole must not know the part: it keeps the part's spectrum
        alone, which serves every proxy. A circle would keep the rows until the garbage collector runs.
        """
        part = self.take(self.blocks != block)
        part._left_out = block
        return part

    @cached_property
    def block_ids(self) -> np.ndarray:
        """The blocks that hold rows, ascending."""
        return np.unique(self.blocks)

    # ------------------------------------------------------------------ second order

    @property
    def uses_kernel(self) -> bool:
        """Whether the N × N side is the smaller one; a part keeps its whole's side."""
        if self._part_of is not None and self._left_out is not None:
            return self._part_of[0].uses_kernel
        return self._shape[0] < self._shape[1]

    def _needs_every_label(self) -> None:
        if self.label_data.known is not None:
            raise NotApplicable("needs every label of every row, and some are unknown")

    @cached_property
    def _fold_moments(self) -> list[Moments] | None:
        """Moments of every fold, unless they would take too much memory."""
        size = 8 * self.width * (self.width + self.label_data.num_columns) * NUM_FOLDS
        if size > _PARTS_BYTES or self._part_of is not None:
            return None
        return accumulate(self.rows, self.label_data, self.folds, NUM_FOLDS, device=self.device)

    @property
    def moments(self) -> Moments:
        """Sums over all rows. Cost: one pass, N·D² in float64; afterwards, an addition of the folds."""
        self._needs_every_label()
        folds = self._fold_moments
        return self._own_moments if folds is None else merge(folds)

    @cached_property
    def _own_moments(self) -> Moments:
        if self._left_out is not None and self._part_of is not None:
            whole, _, kept = self._part_of
            return (whole.moments - self._block_moments).columns(kept)
        return accumulate(self.rows, self.label_data, device=self.device)[0]

    def training_moments(self, fold: int) -> Moments:
        """Sums over the rows outside one fold, newly made."""
        folds = self._fold_moments
        if folds is None:
            return self.moments - self.moments_of_fold(fold)
        return merge([moments for number, moments in enumerate(folds) if number != fold])

    @property
    def _block_moments(self) -> Moments:
        """Of the block that this part leaves out, in the whole's label columns."""
        assert self._part_of is not None
        whole = self._part_of[0]
        return accumulate(
            whole.rows, whole.label_data, whole.blocks, NUM_BLOCKS, self._left_out, whole.moments.shift, self.device
        )[0]

    def moments_of_fold(self, fold: int) -> Moments:
        """Sums over the rows of one fold, about the same shift as ``moments``."""
        if self._left_out is not None and self._part_of is not None:
            whole, _, kept = self._part_of
            moments = whole.moments_of_fold(fold)
            if self._left_out % NUM_FOLDS == fold:
                moments = moments - self._block_moments
            return moments.columns(kept)
        folds = self._fold_moments
        if folds is not None:
            return folds[fold]
        return accumulate(self.rows, self.label_data, self.folds, NUM_FOLDS, fold, self.moments.shift)[0]

    @cached_property
    def mean(self) -> np.ndarray:
        """(D,) of the rows, float64."""
        total = np.zeros(self.width)
        for _, chunk in self.chunks():
            total += chunk.sum(axis=0, dtype=np.float64)
        return np.asarray(total / len(self))

    @cached_property
    def _kernel(self) -> Kernel:
        if self._left_out is not None and self._part_of is not None:
            whole, indices, _ = self._part_of
            return whole._kernel.take(indices)
        return Kernel.of(self.rows, self.mean)

    @cached_property
    def _decomposed(self) -> _Decomposed:
        """The spectrum, and U (N, k) on the N × N side, else V (D, k)."""
        self._needs_every_label()
        if self._left_out is not None and self._part_of is not None:
            spectrum, directions = self._part_of[0]._spectra.get(self._left_out, (None, None))
            if spectrum is not None and directions is not None:
                return spectrum, directions
        if self.uses_kernel:
            return from_kernel(self._kernel, self.label_data, self.width, self.device)
        return from_moments(self.moments, self.device)

    @property
    def spectrum(self) -> Spectrum:
        """The one eigendecomposition. Cost: min(N, D)³ and a min(N, D)²·T product."""
        self._needs_every_label()
        if self._left_out is None or self._part_of is None:
            return self._decomposed[0]
        return self._part_of[0]._spectrum_without(self._left_out)

    def _spectrum_without(self, block: int) -> Spectrum:
        """The spectrum of ``without(block)``, kept for the next proxy unless that would take much memory."""
        if block in self._spectra:
            return self._spectra[block][0]
        spectrum, directions = self.without(block)._decomposed
        kept = self.uses_kernel and directions.nbytes * NUM_BLOCKS <= _PARTS_BYTES
        if 8 * min(self._shape) * (self.label_data.num_columns + 2) * NUM_BLOCKS <= _PARTS_BYTES:
            self._spectra[block] = spectrum, directions if kept else None
        return spectrum

    @property
    def centered_norm4(self) -> float:
        """Σ‖x - mean‖⁴, for Ledoit-Wolf."""
        return self.spectrum.norm4

    @property
    def directions(self) -> np.ndarray:
        """U (N, k) where ``uses_kernel``, else V (D, k): the eigenvectors behind ``spectrum``."""
        return self._decomposed[1]

    @property
    def basis(self) -> np.ndarray:
        """(D, k) V, orthonormal where the eigenvalue is positive: the directions of ``spectrum``."""
        if not self.uses_kernel:
            return self._decomposed[1]
        spectrum, u = self._decomposed
        inverse = np.zeros(len(spectrum.values))
        np.divide(1.0, np.sqrt(spectrum.values), out=inverse, where=spectrum.values > 0)
        return np.asarray(self.centered_rows().T @ (u * inverse))

    def centered_rows(self) -> np.ndarray:
        """float64 (N, D), a copy: for small N."""
        return np.asarray(np.subtract(as_float(self.rows), self.mean, dtype=np.float64))

    def coordinates(self, limit: int | None = None) -> np.ndarray:
        """(N, k) centered rows in the basis of their largest eigenvalues, largest first.

        Args:
            limit: how many at most; None for all with a positive eigenvalue. Distances between
                all coordinates are those between rows, whatever D is.
        Returns:
            float64 on the N × N side, else of the rows' own precision.
        """
        spectrum, directions = self._decomposed
        values = spectrum.values
        top = np.flatnonzero(values > 0)[::-1][:limit]
        if self.uses_kernel:
            z = directions[:, top] * np.sqrt(values[top])
        else:
            basis = directions[:, top]
            z = np.concatenate(
                [(chunk - self.mean.astype(chunk.dtype)) @ basis.astype(chunk.dtype) for _, chunk in self.chunks()]
            )
        # an eigenvector's sign is arbitrary: the long tail points up, whatever the order of rows
        return np.asarray(z * np.where(np.einsum("ij,ij,ij->j", z, z, z) < 0, -1, 1).astype(z.dtype))


def _other_domain(rows: object, width: int) -> np.ndarray:
    found = as_rows(rows, "unlabeled")
    if found.shape[1] != width:
        raise ProxyError(f"unlabeled must have as many features as the labeled rows, {width}. Got {found.shape[1]}.")
    return found
