"""The texts of a target as token ids: tokenised once for a tokenizer and length, read in batches of like length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from selector.contracts import Items, Progress, ProgressCallback, RawText, TextPreprocess, Words, no_progress
from selector.errors import BadImagesError, TargetError
from selector.texts import TokenisedText, Tokeniser, Tokens, text_hash, why_unusable

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TokenTable", "open_tokens"]

_CHUNK = 1000  # texts tokenised at once
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

    def __init__(self, preprocess: TextPreprocess, texts: Sequence[TokenisedText | None], device: str = "cpu") -> None:
        self.preprocess = preprocess
        self.lengths = np.array([0 if text is None else text.length for text in texts], np.int64)
        self.cut_off = np.array([0 if text is None else text.cut for text in texts], np.int64)
        rows = [(row, flags) for text in texts if text for row, flags in zip(text.ids, text.flags, strict=True)]
        self._ids = np.concatenate([row for row, _ in rows]) if rows else np.empty(0, np.int32)
        self._flags = np.concatenate([flags for _, flags in rows]) if rows else np.empty(0, np.uint8)
        self._starts = np.concatenate([[0], np.cumsum([len(row) for row, _ in rows], dtype=np.int64)])
        self._first = np.concatenate([[0], np.cumsum([len(t.ids) if t else 0 for t in texts], dtype=np.int64)])
        self._words = np.concatenate([row for text in texts if text for row in text.words] or [np.empty(0, np.int32)])
        self._counts = np.array([0 if text is None else text.count for text in texts], np.int64)
        self._budget = _CPU_TOKENS if device == "cpu" else _GPU_TOKENS

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, indices: Sequence[int] | np.ndarray) -> Tokens:
        """The texts at ``indices``, in that order, filled up to the longest."""
        return Tokens.of([self._text(int(index)) for index in indices], self.preprocess.pad_id)

    def sample(self, indices: NDArray[np.int64]) -> Tokens:
        """Likewise, the longest first, so that slices of it need little filling up."""
        return self.batch(indices[np.argsort(-self.lengths[indices], kind="stable")])

    def cut(self, indices: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
        """Batches of texts of like length, the longest first (if memory is too small, that shows at once).

        A batch holds at most ``size`` texts, and no more tokens than the device works through well.
        """
        order = indices[np.argsort(-self.lengths[indices], kind="stable")]
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

    def _text(self, index: int) -> TokenisedText:
        if not self.lengths[index]:
            raise TargetError(f"text {index} cannot be used; leave it out before asking for it.")
        rows = range(self._first[index], self._first[index + 1])
        bounds = [(self._starts[row], self._starts[row + 1]) for row in rows]
        ids, flags = tuple(self._ids[a:b] for a, b in bounds), tuple(self._flags[a:b] for a, b in bounds)
        words = tuple(self._words[a:b] for a, b in bounds) if self.preprocess.words else ()
        return TokenisedText(ids, flags, words=words, count=int(self._counts[index]))


def open_tokens(
    items: Items,
    hashes: Sequence[str],
    names: Sequence[str],
    preprocess: TextPreprocess,
    *,
    device: str = "cpu",
    on_bad: Literal["fail", "skip"] = "fail",
    progress: ProgressCallback = no_progress,
) -> tuple[TokenTable, dict[int, str]]:
    """Tokenise a target.

    Args:
        items, hashes, names: of the target.
        on_bad: ``fail`` raises when texts cannot be used, with all of them; ``skip`` returns them.

    Returns:
        The tokens, and the reason by position of every text that cannot be used.
    Raises:
        BadImagesError: with the full list, when ``on_bad`` is ``fail``.
        TargetError: a text is not what its hash says.
    Cost: some 10,000 short texts a second and core; 5 bytes a token of memory.
    """
    tokenise = Tokeniser(preprocess)
    bad: dict[int, str] = {}
    found: list[TokenisedText | None] = []
    progress(Progress("tokenise", 0, len(items), "texts"))
    for chunk in _chunks(items, hashes, names):
        reasons = [why_unusable(text) for text in chunk]
        bad |= {len(found) + i: reason for i, reason in enumerate(reasons) if reason}
        made = iter(tokenise([text for text, reason in zip(chunk, reasons, strict=True) if not reason]))
        found += [None if reason else next(made) for reason in reasons]
        progress(Progress("tokenise", len(found), len(items), "texts"))
    if bad and on_bad == "fail":
        raise _bad_texts(bad, names)
    return TokenTable(preprocess, found, device), bad


def _chunks(items: Items, hashes: Sequence[str], names: Sequence[str]) -> Iterator[list[RawText | Words]]:
    for begin in range(0, len(items), _CHUNK):
        chunk = [items[i] for i in range(begin, min(begin + _CHUNK, len(items)))]
        for i, text in enumerate(chunk, begin):
            if text_hash(text) != hashes[i]:
                raise TargetError(
                    f"text {names[i]} has another content than when the target was loaded; load the target again."
                )
        yield chunk


def _bad_texts(bad: Mapping[int, str], names: Sequence[str]) -> BadImagesError:
    listed = [(str(names[i]), reason) for i, reason in bad.items()]
    shown = "; ".join(f"{name} {reason}" for name, reason in listed[:_SHOWN])
    more = f"; and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return BadImagesError(
        f"{len(listed)} text(s) cannot be used: {shown}{more}. Remove them, or leave them out with "
        "on_bad_image='skip' (--on-bad-image skip).",
        listed,
    )
