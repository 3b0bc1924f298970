"""The texts of a target as token ids: tokenized once for a tokenizer and length, read in batches of like length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from selector.core.contracts import Items, Progress, ProgressCallback, RawText, Words, no_progress
from selector.core.errors import BadImagesError, TargetError
from selector.core.preprocess import TextPreprocess
from selector.modalities.tokens import TokenizedText, Tokens
from selector.modalities.tokens.tokenizer import TextTokenizer, text_hash, why_unusable

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHUNK = 1000  # texts tokenized at once
_CPU_TOKENS, _GPU_TOKENS = 2048, 65_536  # a forward pass, filled up; more leave the cache, fewer idle the cores
_ALIKE = 0.85  # of the longest text of a batch: what is shorter begins another one, from so many texts on
_FEWEST = 16
_SHOWN = 10


class TokenTable:
    """Tokens of all usable texts of a target, in flat arrays.

    Attributes:
        preprocess: what they were made with.
        lengths: (N,) tokens of the longest row of a text; 0 where it cannot be used.
        cut_off: (N,) tokens that did not fit.
    """

    def __init__(
        self, preprocess: TextPreprocess, chunks: Iterable[Sequence[TokenizedText | None]], device: str = "cpu"
    ) -> None:
        self.preprocess = preprocess
        self._budget = (_CPU_TOKENS if device == "cpu" else _GPU_TOKENS) * preprocess.tokens_per_word
        # flattened chunk by chunk: as objects the texts take many times the memory
        flat = [_flattened(chunk) for chunk in chunks] or [_flattened([])]
        self.shape: tuple[int, ...] | None = None
        self.cut_off: NDArray[np.int64] | None
        self.lengths, self.cut_off, windows, self._counts, sizes, self._ids, self._flags, self._words = (
            np.concatenate(parts) for parts in zip(*flat, strict=True)
        )
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._first = np.concatenate([[0], np.cumsum(windows)])

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, indices: Sequence[int] | np.ndarray) -> Tokens:
        """The texts at ``indices``, in that order, filled up to the longest."""
        return Tokens.of([self._text(int(index)) for index in indices], self.preprocess.pad_id)

    def longest_first(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """In that order slices of a batch need little filling up."""
        return indices[np.argsort(-self.lengths[indices], kind="stable")]

    def cut(self, indices: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
        """Batches of texts of like length, the longest first (if memory is too small, that shows at once).

        A batch holds at most ``size`` texts, and no more tokens than the device works through well.
        """
        order = self.longest_first(indices)
        windows = np.diff(self._first)
        batches, begin, rows = [], 0, 0
        for end, index in enumerate(order):
            more = int(windows[index])
            longest = self.lengths[order[begin]]
            full = (rows + more) * longest > self._budget or end - begin >= size
            short = self.lengths[index] < _ALIKE * longest and end - begin >= _FEWEST
            if end > begin and (full or short):
                batches.append(order[begin:end])
                begin, rows = end, 0
            rows += more
        return [*batches, order[begin:]] if len(order) else []

    def _text(self, index: int) -> TokenizedText:
        if not self.lengths[index]:
            raise TargetError(f"text {index} cannot be used; leave it out before asking for it.")
        rows = range(self._first[index], self._first[index + 1])
        bounds = [(self._starts[row], self._starts[row + 1]) for row in rows]
        ids, flags = tuple(self._ids[a:b] for a, b in bounds), tuple(self._flags[a:b] for a, b in bounds)
        words = tuple(self._words[a:b] for a, b in bounds) if self.preprocess.words else ()
        return TokenizedText(ids, flags, words=words, count=int(self._counts[index]))


def open_tokens(
    items: Items,
    hashes: Sequence[str],
    names: Sequence[str],
    preprocess: TextPreprocess,
    *,
    device: str = "cpu",
    on_invalid: Literal["raise", "skip"] = "raise",
    progress: ProgressCallback = no_progress,
) -> tuple[TokenTable, dict[int, str]]:
    """Tokenize a target.

    Args:
        items, hashes, names: of the target.
        on_invalid: ``raise`` raises when texts cannot be used, with all of them; ``skip`` returns them.

    Returns:
        The tokens, and the reason by position of every text that cannot be used.
    Raises:
        BadImagesError: with the full list, when ``on_invalid`` is ``raise``.
        TargetError: a text is not what its hash says.
    Cost: some 10,000 short texts a second and core; 5 bytes a token of memory.
    """
    tokenize = TextTokenizer(preprocess)
    bad: dict[int, str] = {}

    def tokenized() -> Iterator[list[TokenizedText | None]]:
        done = 0
        progress(Progress("tokenize", 0, len(items), "texts"))
        for chunk in _chunks(items, hashes, names):
            reasons = [why_unusable(text) for text in chunk]
            bad.update({done + i: reason for i, reason in enumerate(reasons) if reason})
            made = iter(tokenize([text for text, reason in zip(chunk, reasons, strict=True) if not reason]))
            yield [None if reason else next(made) for reason in reasons]
            done += len(chunk)
            progress(Progress("tokenize", done, len(items), "texts"))

    table = TokenTable(preprocess, tokenized(), device)
    if bad and on_invalid == "raise":
        raise bad_texts(bad, names)
    return table, bad


def _flattened(texts: Sequence[TokenizedText | None]) -> tuple[NDArray[Any], ...]:
    """Of each text its length, tokens cut off, rows and words; of each row its length; then ids, flags and words
    of all tokens."""
    told = [(t.length, t.cut, len(t.ids), t.count) if t else (0, 0, 0, 0) for t in texts]
    lengths, cut_off, windows, counts = np.array(told, np.int64).reshape(-1, 4).T
    ids = [row for text in texts if text for row in text.ids]
    flags = [row for text in texts if text for row in text.flags]
    words = [row for text in texts if text for row in text.words]
    sizes = np.array([len(row) for row in ids], np.int64)
    no_ids, no_flags = np.empty(0, np.int32), np.empty(0, np.uint8)
    return (
        *(lengths, cut_off, windows, counts, sizes),
        *(np.concatenate(ids or [no_ids]), np.concatenate(flags or [no_flags]), np.concatenate(words or [no_ids])),
    )


def _chunks(items: Items, hashes: Sequence[str], names: Sequence[str]) -> Iterator[list[RawText | Words]]:
    for begin in range(0, len(items), _CHUNK):
        chunk = [items[i] for i in range(begin, min(begin + _CHUNK, len(items)))]
        for i, text in enumerate(chunk, begin):
            if text_hash(text) != hashes[i]:
                raise TargetError(f"text {names[i]} has changed since the target was loaded; load the target again.")
        yield chunk


def bad_texts(bad: Mapping[int, str], names: Sequence[str]) -> BadImagesError:
    listed = [(str(names[i]), reason) for i, reason in bad.items()]
    shown = "; ".join(f"{name} {reason}" for name, reason in listed[:_SHOWN])
    more = f"; and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return BadImagesError(
        f"{len(listed)} text(s) cannot be used: {shown}{more}. Remove them, or leave them out with "
        "on_invalid='skip' (--on-invalid skip).",
        listed,
    )
