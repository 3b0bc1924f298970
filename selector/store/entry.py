"""One encoder's rows: chunks of float32 features, addressed by the content hash of the item.

A chunk is one file (rows and their index together). Its name begins with a number that orders the
chunks; of rows that are stored twice the earlier chunk's is used, everywhere and always.
"""

from __future__ import annotations

import logging
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selector.core.container import Blocks, Container, Damaged, digest_of, pack
from selector.core.errors import SourceError, StoreError
from selector.store.documents import discard
from selector.store.files import Layered

logger = logging.getLogger(__name__)

_SUFFIX = ".safetensors"
_HEADS = ("head.safetensors", "head.arrays")  # the second of an earlier version
_MERGE_BLOCK = 4096  # rows in memory at once while chunks are merged
FEW_CHUNKS = 16  # chunks that are read as they lie: copying some thousand rows costs less than writing them again
_ATTEMPTS = 100  # other processes may merge chunks between our listing and our reading
_PAUSE = 0.02  # seconds at most before the next attempt


class RowsMissing(StoreError):
    """Rows were asked for that are not stored, or not any more (a damaged chunk was removed).

    ``indices`` are their positions in the request: extract them and ask again.
    """

    def __init__(self, message: str, indices: NDArray[np.int64]) -> None:
        super().__init__(message)
        self.indices = indices


class Entry:
    """The features of one encoder, made by ``FeatureStore.entry`` and friends.

    Attributes:
        key: digest of the identity; the name of the entry's folder.
        identity: everything that decides the features, as plain JSON.
        meta: facts remembered with the entry (backend, precision, num_parameters, ...).
    """

    def __init__(
        self,
        files: Layered,
        key: str,
        identity: Mapping[str, Any],
        meta: Mapping[str, Any],
        on_write: Callable[[int], None] = lambda size: None,
    ) -> None:
        self.key = key
        self.identity = dict(identity)
        self.meta = dict(meta)
        self._files = files
        self._folder = f"entries/{key}"
        self._on_write = on_write
        self._listed: list[str] = []
        self._chunks: dict[str, Container] = {}
        self._sound: set[str] = set()  # chunks whose rows' checksum was verified by this process
        self._index = _Index.of({})

    def __repr__(self) -> str:
        return f"Entry({self.key}, {self.stored} rows)"

    @property
    def stored(self) -> int:
        """Distinct rows stored. Not ``__len__``: an entry without rows is an entry, and must not be false."""
        self._refresh()
        return self._index.distinct

    @property
    def num_features(self) -> int | None:
        """D; None as long as neither the facts nor a row tell."""
        if "num_features" in self.meta:
            return int(self.meta["num_features"])
        if not self._chunks:
            self._refresh()
        return next((chunk.shape("rows")[1] for chunk in self._chunks.values()), None)

    def missing(self, hashes: Sequence[str]) -> NDArray[np.int64]:
        """Positions in ``hashes`` whose rows are not stored; of a repeated hash the first position only."""
        self._refresh()
        keys = _as_keys(hashes)
        absent = np.flatnonzero(self._index.find(keys) < 0)
        if len(absent) > 1:
            _, first = np.unique(keys[absent], axis=0, return_index=True)
            absent = absent[np.sort(first)]
        return absent

    def append(self, hashes: Sequence[str], rows: np.ndarray) -> None:
        """Store rows as one chunk: either all of them are stored afterwards or none.

        Args:
            hashes: N content hashes. One that is stored already is harmless; the stored row stays.
            rows: (N, D), kept as float32.

        Raises:
            SourceError: shapes that do not fit: the network gives something else than it did or said.
            StoreError: a disk that is full.
        """
        rows = np.ascontiguousarray(rows, dtype="<f4")
        width = self.num_features
        if rows.ndim != 2 or len(rows) != len(hashes) or (width is not None and rows.shape[1] != width):
            raise SourceError(
                f"entry {self.key} takes rows of shape ({len(hashes)}, {width or 'D'}), one a hash. Got {rows.shape}."
            )
        if not len(rows):
            return
        # listed, not opened: rows that come in thousands of chunks would else be indexed anew for each of them
        number = 1 + max(map(_number, self._names()), default=0)
        keys = _as_keys(hashes)
        self._on_write(self._files.write(self._new_name(number), lambda: pack({"keys": keys, "rows": rows})))

    def rows(self, hashes: Sequence[str]) -> NDArray[np.float32]:
        """Features (N, D) in the order asked for, read-only.

        Memory-mapped where they lie in one chunk in that order, else a copy. Rows that lie in many chunks are
        first merged into one file in this order, so that the next time they are mapped.

        Raises:
            RowsMissing: some are not stored; or a checksum did not match, the chunk was removed
                with a warning and its rows have to be extracted again.
        """
        keys = _as_keys(hashes)
        for _ in range(_ATTEMPTS):
            self._refresh()
            found = self._index.find(keys)
            absent = np.flatnonzero(found < 0)
            if len(absent):
                raise RowsMissing(
                    f"entry {self.key} lacks {len(absent)} of {len(hashes)} rows; extract them and ask again.", absent
                )
            try:
                used = self._check(np.unique(self._index.chunk[found]))
                if not len(keys):
                    return np.empty((0, self.num_features or 0), np.float32)
                if len(used) > FEW_CHUNKS and self._merge(used, keys):
                    continue
                return self._gather(found)
            except FileNotFoundError:
                # removed, merged or pruned meanwhile: look again
                self._chunks, self._listed, self._index = {}, [], _Index.of({})
                time.sleep(random.uniform(0, _PAUSE))
        raise StoreError(f"entry {self.key} keeps changing under this process; run the same command again.")

    def set_head(self, weight: np.ndarray, bias: np.ndarray) -> None:
        """Keep the linear head of the source task: weight (C_s, D), bias (C_s,)."""
        if self.head() is None:
            arrays = {"weight": np.asarray(weight, "<f4"), "bias": np.asarray(bias, "<f4")}
            self._on_write(self._files.write(f"{self._folder}/{_HEADS[0]}", lambda: pack(arrays)))

    def head(self) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """What ``set_head`` kept: source logits are ``rows @ weight.T + bias``."""
        for name in (f"{self._folder}/{head}" for head in _HEADS):
            try:
                container = self._open(name)
                return container.array("weight"), container.array("bias")
            except FileNotFoundError:
                continue
            except Damaged as error:
                discard(self._files, name, error)
        return None

    # ------------------------------------------------------------------ chunks

    def _refresh(self) -> None:
        """See what other processes wrote, merged or removed; opens the headers of new chunks only.

        A listing that meets a merge may lack both the new file and an old one, so it is repeated
        until it stays the same.
        """
        for _ in range(_ATTEMPTS):
            names = self._names()
            if names == self._listed:
                return
            self._listed = names
            chunks: dict[str, Container] = {}
            keys: dict[str, np.ndarray] = {}
            for name in names:
                full = f"{self._folder}/{name}"
                try:
                    container = self._chunks.get(name) or self._open(full)
                    keys[name] = container.array("keys", check=name not in self._chunks)
                    chunks[name] = container
                except FileNotFoundError:
                    continue  # removed since the listing
                except Damaged as error:
                    discard(self._files, full, error)
            self._chunks = chunks
            self._index = _Index.of(keys)

    def _names(self) -> list[str]:
        return [name for name in self._files.names(self._folder) if is_chunk(name)]

    def _open(self, name: str) -> Container:
        try:
            return Container(self._files.path(name))
        except Damaged:
            if self._files.refetch(name):  # the local copy of a remote file may be what is damaged
                return Container(self._files.path(name))
            raise

    def _check(self, used: np.ndarray) -> list[str]:
        """Verify the rows of some chunks once a process; returns their names.

        Raises:
            FileNotFoundError: one was damaged and is removed, or is gone: look again.
        """
        names = [list(self._chunks)[i] for i in used]
        for name in names:
            if name in self._sound:
                continue
            try:
                self._chunks[name].array("rows")
            except Damaged as error:
                full = f"{self._folder}/{name}"
                if self._files.refetch(full):
                    try:
                        Container(self._files.path(full)).array("rows")
                    except Damaged as still:
                        discard(self._files, full, still)
                else:
                    discard(self._files, full, error)
                raise FileNotFoundError(name) from error
            self._sound.add(name)
        return names

    def _gather(self, found: np.ndarray) -> NDArray[np.float32]:
        chunk, row = self._index.chunk[found], self._index.row[found]
        containers = list(self._chunks.values())
        arrays = {int(i): containers[i].array("rows", check=False) for i in np.unique(chunk)}
        if len(arrays) == 1 and (np.diff(row) == 1).all():
            mapped: NDArray[np.float32] = arrays[chunk[0]][row[0] : row[0] + len(row)]
            return mapped
        out = np.empty((len(found), arrays[chunk[0]].shape[1]), np.float32)
        for i, array in arrays.items():
            where = np.flatnonzero(chunk == i)
            out[where] = array[row[where]]
        out.flags.writeable = False
        return out

    def _merge(self, names: list[str], wanted: np.ndarray) -> bool:
        """Write several chunks as one: the wanted rows in their order, then the others.

        The new file is complete before the old ones go, and carries a name that no other process
        uses, so readers and other mergers always find every row.
        """
        if self._files.read_only or self._files.is_remote:
            return False
        places = [list(self._chunks).index(name) for name in names]
        others = np.flatnonzero(np.isin(self._index.chunk, places) & self._index.first)
        found = self._index.find(wanted)
        _, first = np.unique(found, return_index=True)
        order = np.concatenate([found[np.sort(first)], others[~np.isin(others, found)]])
        keys = np.concatenate([self._chunks[name].array("keys", check=False) for name in self._chunks])[order]
        width = self._chunks[names[0]].shape("rows")[1]

        def pieces() -> Iterator[np.ndarray]:
            for begin in range(0, len(order), _MERGE_BLOCK):
                yield self._gather(order[begin : begin + _MERGE_BLOCK])

        rows = Blocks(np.dtype("<f4"), (len(order), width), pieces)
        merged = self._new_name(_number(names[0]))
        held = [self._chunks[name].array("rows", check=False) for name in names]  # mapped once, not once a piece
        try:
            self._files.write(merged, lambda: pack({"keys": keys, "rows": rows}))
        except StoreError as error:
            logger.info("the chunks of entry %s are not merged: %s", self.key, error)
            return False
        del held
        for name in names:
            self._files.remove(f"{self._folder}/{name}")
        return True

    def _new_name(self, number: int) -> str:
        return f"{self._folder}/{number:08d}-{uuid.uuid4().hex}{_SUFFIX}"


class _Index:
    """Where the row of a hash lies: sorted by the first half of the hash, compared in both."""

    def __init__(self, keys: np.ndarray, chunk: np.ndarray, row: np.ndarray) -> None:
        self.chunk, self.row = chunk, row
        self._order = np.argsort(keys[:, 0], kind="stable")  # stable: the earlier chunk comes first
        self._sorted = keys[self._order]
        self.first = self.find(keys) == np.arange(len(keys))  # not a later copy of a stored row
        self.distinct = int(self.first.sum())

    @classmethod
    def of(cls, keys: Mapping[str, np.ndarray]) -> _Index:
        sizes = [len(k) for k in keys.values()]
        chunk = np.repeat(np.arange(len(sizes)), sizes)
        row = np.concatenate([np.arange(n) for n in sizes]) if sizes else np.empty(0, np.int64)
        return cls(np.concatenate(list(keys.values())) if sizes else np.empty((0, 2), "<u8"), chunk, row)

    def find(self, keys: np.ndarray) -> NDArray[np.int64]:
        """Position of each key among all rows, -1 where there is none."""
        found = np.full(len(keys), -1, np.int64)
        at = np.searchsorted(self._sorted[:, 0], keys[:, 0])
        open_ = np.arange(len(keys))
        while len(open_):
            open_ = open_[at[open_] < len(self._sorted)]
            open_ = open_[self._sorted[at[open_], 0] == keys[open_, 0]]
            same = self._sorted[at[open_], 1] == keys[open_, 1]
            found[open_[same]] = self._order[at[open_[same]]]
            open_ = open_[~same]
            at[open_] += 1  # another hash with the same first half
        return found


def _as_keys(hashes: Sequence[str]) -> np.ndarray:
    """(N, 2) uint64 of content hashes; texts that are not 32 hex digits are digested first."""
    if not len(hashes):
        return np.empty((0, 2), "<u8")
    try:
        if all(len(h) == 32 for h in hashes):
            return np.frombuffer(bytes.fromhex("".join(hashes)), "<u8").reshape(-1, 2)
    except ValueError:
        pass  # not all are hex: one by one below
    return np.frombuffer(b"".join(map(digest_of, hashes)), "<u8").reshape(-1, 2)


def is_chunk(name: str) -> bool:
    """Whether a file of an entry holds rows; ``.rows`` are those of an earlier version."""
    return name[:1].isdigit() and name.endswith((_SUFFIX, ".rows"))


def _number(name: str) -> int:
    return int(name.partition("-")[0])
