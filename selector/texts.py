"""One text: its content hash, whether it can be used, and the way from a string to token ids.

Shared by the targets (hashes), the extraction, the training loop and saved models that predict, so
that a text means the same everywhere. Nothing here imports torch before tokens become a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from selector.errors import ConfigError, TargetError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from selector.contracts import RawText, TextPreprocess

__all__ = ["TokenisedText", "Tokeniser", "Tokens", "UnreadableText", "text_hash", "why_unusable"]

_OVERLAP = 8  # neighbouring windows share an eighth of their length
_SPECIAL, _SECOND = 1, 2  # flags of a token: not part of the text; of the second text of a pair


class UnreadableText(TargetError):
    """One text cannot be used; the message is the reason, without the text's name."""


def text_hash(text: RawText) -> str:
    """xxh3_128 of a text or a pair as 32 hex digits.

    >>> text_hash("ab") == text_hash(("a", "b"))
    False
    """
    parts = (text,) if isinstance(text, str) else text
    digest = xxhash.xxh3_128(f"text {len(parts)}".encode())
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")  # a lone surrogate is reported later, with all other bad texts
        digest.update(f"\n{len(encoded)}\n".encode())
        digest.update(encoded)
    return digest.hexdigest()


def why_unusable(text: RawText) -> str:
    """The reason why a text has no content, to follow its name; empty when it has.

    >>> why_unusable(" \\t"), why_unusable("a"), why_unusable(("a", ""))
    ('is only whitespace', '', 'has an empty text in its pair')
    """
    parts = (text,) if isinstance(text, str) else text
    for part in parts:
        if not part:
            return "is empty" if len(parts) == 1 else "has an empty text in its pair"
        if not part.strip():
            return "is only whitespace" if len(parts) == 1 else "has only whitespace in its pair"
        if any("\ud800" <= char <= "\udfff" for char in part):
            return "holds half of a character (a lone surrogate); write the file in UTF-8 again"
    return ""


# ---------------------------------------------------------------------------- tokens


@dataclass(frozen=True)
class TokenisedText:
    """The rows of one text: one, or several when it is read in windows.

    ``ids`` and ``flags`` a row; ``cut`` is the number of tokens that were cut off.
    """

    ids: tuple[NDArray[np.int32], ...]
    flags: tuple[NDArray[np.uint8], ...]
    cut: int = 0

    @property
    def length(self) -> int:
        """Tokens of the longest row."""
        return max(len(row) for row in self.ids)


class Tokeniser:
    """Texts to token ids, as a ``TextPreprocess`` says.

    Raises:
        ConfigError: the extra ``text`` is not installed.
    """

    def __init__(self, preprocess: TextPreprocess) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ConfigError(f"texts need the extra 'text' ({error}); run: pip install 'zoo-selector[text]'") from None
        self.preprocess = preprocess
        self._single = Tokenizer.from_str(preprocess.tokenizer)
        self._single.no_padding()
        self._pair = Tokenizer.from_str(preprocess.tokenizer)
        self._pair.no_padding()
        window = preprocess.long_texts == "window"
        self._single.enable_truncation(preprocess.max_length, stride=preprocess.max_length // _OVERLAP if window else 0)
        self._pair.enable_truncation(preprocess.max_length)

    def __call__(self, texts: Sequence[RawText]) -> list[TokenisedText]:
        """One entry a text, in order. Cost: some 10,000 short texts a second and core."""
        prefix = self.preprocess.prefix
        pairs = bool(texts) and not isinstance(texts[0], str)
        if any(isinstance(text, str) is pairs for text in texts):
            raise ConfigError("some of the items are texts and some are pairs of texts; give all of one kind.")
        if pairs:
            found = self._pair.encode_batch([(prefix + text[0], text[1]) for text in texts])
        else:
            found = self._single.encode_batch([f"{prefix}{text}" for text in texts])
        return [self._rows(encoding, pairs) for encoding in found]

    def _rows(self, encoding: Any, pair: bool) -> TokenisedText:
        rest = encoding.overflowing
        if self.preprocess.long_texts == "window" and not pair:
            rows = [encoding, *rest]
            cut = 0
        else:
            rows = [encoding]
            cut = sum(len(part.ids) - sum(part.special_tokens_mask) for part in rest)
        ids = tuple(np.asarray(row.ids or [self.preprocess.pad_id], np.int32) for row in rows)
        flags = tuple(
            np.asarray(row.special_tokens_mask or [0], np.uint8) * _SPECIAL
            + np.asarray(row.type_ids or [0], np.uint8) * _SECOND
            for row in rows
        )
        return TokenisedText(ids, flags, cut)


class Tokens:
    """A batch of texts as the networks take it: rows of token ids, filled up on the right.

    It has what the loops ask of a batch: a length (texts), slices of texts, ``to`` and ``device``.

    Attributes:
        ids, mask: int64 (R, T); mask is 0 where a row is filled up.
        content: bool (R, T), tokens of the text itself, not those that the tokenizer adds.
        types: int64 (R, T), 1 for the second text of a pair.
        owner: int64 (R,), the text that a row is a window of; ascending.
    """

    def __init__(
        self, ids: torch.Tensor, mask: torch.Tensor, content: torch.Tensor, types: torch.Tensor, owner: torch.Tensor
    ) -> None:
        self.ids, self.mask, self.content, self.types, self.owner = ids, mask, content, types, owner

    @classmethod
    def of(cls, texts: Sequence[TokenisedText], pad_id: int) -> Tokens:
        """Filled up to the longest row."""
        import torch

        rows = [(row, flags, index) for index, t in enumerate(texts) for row, flags in zip(t.ids, t.flags, strict=True)]
        width = max(len(row) for row, _, _ in rows)
        ids = np.full((len(rows), width), pad_id, np.int64)
        mask = np.zeros((len(rows), width), np.int64)
        marks = np.full((len(rows), width), _SPECIAL, np.uint8)
        for i, (row, flags, _) in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
            marks[i, : len(row)] = flags
        content = torch.from_numpy((marks & _SPECIAL) == 0)
        types = torch.from_numpy(((marks & _SECOND) // _SECOND).astype(np.int64))
        owner = torch.tensor([index for _, _, index in rows])
        return cls(torch.from_numpy(ids), torch.from_numpy(mask), content, types, owner)

    def __len__(self) -> int:
        """Texts, not rows."""
        return int(self.owner[-1]) + 1 if len(self.owner) else 0

    def __getitem__(self, part: slice) -> Tokens:
        """Some neighbouring texts, filled up to the longest of them."""
        start, stop, _ = part.indices(len(self))
        rows = (self.owner >= start) & (self.owner < stop)
        width = int(self.mask[rows].sum(1).max()) if bool(rows.any()) else 0
        ids, mask, content, types = (tensor[rows, :width] for tensor in (self.ids, self.mask, self.content, self.types))
        return Tokens(ids, mask, content, types, self.owner[rows] - start)

    def repeated(self, count: int) -> Tokens:
        """``count`` texts: these, over and over."""
        import torch

        places = [torch.nonzero(self.owner == i % len(self))[:, 0] for i in range(count)]
        rows = torch.cat(places)
        owner = torch.repeat_interleave(torch.arange(count), torch.tensor([len(place) for place in places]))
        return Tokens(self.ids[rows], self.mask[rows], self.content[rows], self.types[rows], owner)

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return self.ids.device

    def to(self, device: torch.device | str) -> Tokens:
        """A copy on another device."""
        moved = (t.to(device, non_blocking=True) for t in (self.ids, self.mask, self.content, self.types, self.owner))
        return Tokens(*moved)

    def per_text(self, rows: torch.Tensor) -> torch.Tensor:
        """Means over the windows of each text: (R, D) to (B, D)."""
        if len(rows) == len(self):
            return rows
        total = rows.new_zeros(len(self), *rows.shape[1:]).index_add(0, self.owner, rows)
        counts = self.owner.bincount(minlength=len(self)).to(rows.dtype)
        return total / counts[:, None]
