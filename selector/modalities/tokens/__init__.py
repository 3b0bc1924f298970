"""A batch of texts as rows of token ids, and the way from states of tokens back to rows of texts or words.

torch is imported when a batch is made, not before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

SPECIAL, SECOND = 1, 2
"""Flags of a token: not part of the text; of the second text of a pair."""


@dataclass(frozen=True)
class TokenizedText:
    """The rows of one text: one, or several when it is read in windows.

    ``ids`` and ``flags`` a row; ``cut`` is the number of tokens that were cut off. Of a list of words
    ``words`` says for each token which word it is of, -1 for none, and ``count`` how many words there are.
    """

    ids: tuple[NDArray[np.int32], ...]
    flags: tuple[NDArray[np.uint8], ...]
    cut: int = 0
    words: tuple[NDArray[np.int32], ...] = ()
    count: int = 0

    @property
    def length(self) -> int:
        """Tokens of the longest row."""
        return max(len(row) for row in self.ids)


class Tokens:
    """A batch of texts as the networks take it: rows of token ids, filled up on the right.

    It has what the loops ask of a batch: a length (texts), slices of texts, ``to`` and ``device``.

    Attributes:
        ids, mask: int64 (R, T); mask is 0 where a row is filled up.
        content: bool (R, T), tokens of the text itself, not those that the tokenizer adds.
        types: int64 (R, T), 1 for the second text of a pair.
        owner: int64 (R,), the text that a row is a window of; ascending.
        words: int64 (R, T), the word of the batch that a token is of, -1 for none; None where features
            are of whole texts. Words are numbered text after text.
        counts: int64 (B,), words a text; None likewise.
    """

    def __init__(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        content: torch.Tensor,
        types: torch.Tensor,
        owner: torch.Tensor,
        words: torch.Tensor | None = None,
        counts: torch.Tensor | None = None,
    ) -> None:
        self.ids, self.mask, self.content, self.types, self.owner = ids, mask, content, types, owner
        self.words, self.counts = words, counts

    @classmethod
    def of(cls, texts: Sequence[TokenizedText], pad_id: int) -> Tokens:
        """Filled up to the longest row."""
        import torch

        rows = [(row, flags, index) for index, t in enumerate(texts) for row, flags in zip(t.ids, t.flags, strict=True)]
        width = max(len(row) for row, _, _ in rows)
        ids = np.full((len(rows), width), pad_id, np.int64)
        mask = np.zeros((len(rows), width), np.int64)
        marks = np.full((len(rows), width), SPECIAL, np.uint8)
        for i, (row, flags, _) in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
            marks[i, : len(row)] = flags
        content = torch.from_numpy((marks & SPECIAL) == 0)
        types = torch.from_numpy(((marks & SECOND) // SECOND).astype(np.int64))
        owner = torch.tensor([index for _, _, index in rows])
        words, counts = _numbered(texts, ids.shape)
        return cls(torch.from_numpy(ids), torch.from_numpy(mask), content, types, owner, words, counts)

    @property
    def num_features(self) -> int:
        """Rows of features that the batch gives: one a text, or one a word."""
        return len(self) if self.counts is None else int(self.counts.sum())

    @property
    def windows(self) -> bool:
        """Whether some text has several rows."""
        return len(self.ids) > len(self)

    def __len__(self) -> int:
        """Texts, not rows."""
        return int(self.owner[-1]) + 1 if len(self.owner) else 0

    def __getitem__(self, part: slice) -> Tokens:
        """Some neighboring texts, filled up to the longest of them."""
        import torch

        start, stop, _ = part.indices(len(self))
        rows = (self.owner >= start) & (self.owner < stop)
        width = int(self.mask[rows].sum(1).max()) if bool(rows.any()) else 0
        ids, mask, content, types = (tensor[rows, :width] for tensor in (self.ids, self.mask, self.content, self.types))
        if self.words is None or self.counts is None:
            return Tokens(ids, mask, content, types, self.owner[rows] - start)
        words = self.words[rows, :width]
        words = torch.where(words < 0, words, words - self.counts[:start].sum())
        return Tokens(ids, mask, content, types, self.owner[rows] - start, words, self.counts[start:stop])

    def pieces(self, texts: int, tokens: int) -> Iterator[slice]:
        """Neighboring texts: so many at most, and as many as fit into ``tokens`` when filled up; one at least."""
        import torch

        windows = torch.bincount(self.owner, minlength=len(self)).tolist()
        lengths = self.mask.sum(1)
        longest = torch.zeros_like(self.owner[: len(self)]).scatter_reduce(0, self.owner, lengths, "amax").tolist()
        start, rows, width = 0, 0, 0
        for i in range(len(self)):
            rows, width = rows + windows[i], max(width, longest[i])
            if i > start and (i - start == texts or rows * width > tokens):
                yield slice(start, i)
                start, rows, width = i, windows[i], longest[i]
        yield slice(start, len(self))

    def rows(self, size: int) -> Iterator[Tokens]:
        """The rows as texts of their own, so many at once: of batches without words."""
        import torch

        for start in range(0, len(self.ids), size):
            part = slice(start, start + size)
            width = int(self.mask[part].sum(1).max())
            ids, mask, content, types = (t[part, :width] for t in (self.ids, self.mask, self.content, self.types))
            yield Tokens(ids, mask, content, types, torch.arange(len(ids), device=ids.device))

    def repeated(self, count: int) -> Tokens:
        """``count`` texts: these, over and over."""
        import torch

        places = [torch.nonzero(self.owner == i % len(self))[:, 0] for i in range(count)]
        rows = torch.cat(places)
        owner = torch.repeat_interleave(torch.arange(count), torch.tensor([len(place) for place in places]))
        parts = self.ids[rows], self.mask[rows], self.content[rows], self.types[rows], owner
        if self.words is None or self.counts is None:
            return Tokens(*parts)
        counts = self.counts[torch.arange(count) % len(self)]
        before = torch.cat([self.counts.new_zeros(1), self.counts.cumsum(0)])[self.owner[rows]]
        shift = (counts.cumsum(0) - counts)[owner] - before
        words = self.words[rows]
        return Tokens(*parts, torch.where(words < 0, words, words + shift[:, None]), counts)

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return self.ids.device

    def to(self, device: torch.device | str) -> Tokens:
        """A copy on another device."""
        moved = [t.to(device, non_blocking=True) for t in (self.ids, self.mask, self.content, self.types, self.owner)]
        if self.words is not None and self.counts is not None:
            moved += [t.to(device, non_blocking=True) for t in (self.words, self.counts)]
        return Tokens(*moved)

    def per_text(self, rows: torch.Tensor) -> torch.Tensor:
        """Means over the windows of each text: (R, D) to (B, D)."""
        if len(rows) == len(self):
            return rows
        total = rows.new_zeros(len(self), *rows.shape[1:]).index_add(0, self.owner, rows)
        counts = self.owner.bincount(minlength=len(self)).to(rows.dtype)
        return total / counts[:, None]

    def per_word(self, hidden: torch.Tensor, *, first: bool) -> torch.Tensor:
        """States of tokens (R, T, D) to float32 rows of the words (W, D).

        Args:
            first: the state of a word's first token, else the mean over its tokens. A word of which the
                tokenizer leaves nothing (a control character) has the state at the begin of its text.
        """
        import torch

        assert self.words is not None
        assert self.counts is not None
        flat, states = self.words.reshape(-1), hidden.reshape(-1, hidden.shape[-1])
        places = torch.nonzero(flat >= 0)[:, 0]
        word, total = flat[places], self.num_features
        begins = torch.searchsorted(self.owner, torch.arange(len(self), device=flat.device)) * self.words.shape[1]
        start = begins.repeat_interleave(self.counts)
        beyond = torch.full_like(start, flat.numel()).scatter_reduce(0, word, places, "amin")
        head = torch.where(beyond < flat.numel(), beyond, start)
        if first:
            return states[head].float()
        counted = torch.bincount(word, minlength=total)
        bare = torch.nonzero(counted == 0)[:, 0]
        word, places = torch.cat([word, bare]), torch.cat([places, start[bare]])
        rows = states.new_zeros(total, states.shape[1], dtype=torch.float32).index_add(0, word, states[places].float())
        return rows / counted.clamp(min=1)[:, None]


def _numbered(
    texts: Sequence[TokenizedText], shape: tuple[int, ...]
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """``Tokens.words`` and ``Tokens.counts`` of a batch."""
    import torch

    if not any(text.words for text in texts):
        return None, None
    counts = np.array([text.count for text in texts], np.int64)
    before = np.cumsum(counts) - counts
    words = np.full(shape, -1, np.int64)
    rows = [(row, int(shift)) for text, shift in zip(texts, before, strict=True) for row in text.words]
    for i, (row, shift) in enumerate(rows):
        words[i, : len(row)] = np.where(row < 0, -1, row + shift)
    return torch.from_numpy(words), torch.from_numpy(counts)
