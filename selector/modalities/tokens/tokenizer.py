"""One text: its content hash, whether it can be used, and the way from a string to token ids.

Shared by the targets (hashes), the extraction, the training loop and saved models that predict, so
that a text means the same everywhere. Nothing here imports torch; ``tokens.Tokens`` is the batch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from selector.core.contracts import Words
from selector.core.errors import ConfigError, SelectorError, SourceError, TargetError, first_line
from selector.modalities.tokens import SECOND, SPECIAL, TokenizedText

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from selector.core.contracts import RawText
    from selector.core.preprocess import TextPreprocess

_OVERLAP = 8  # neighboring windows share an eighth of their length


class UnreadableText(TargetError):
    """One text cannot be used; the message is the reason, without the text's name."""


def text_hash(text: RawText | Words) -> str:
    """xxh3_128 of a text, a pair or a list of words as 32 hex digits.

    >>> text_hash("ab") == text_hash(("a", "b")) or text_hash(("a", "b")) == text_hash(Words(("a", "b")))
    False
    """
    parts = (text,) if isinstance(text, str) else text
    kind = "words" if isinstance(text, Words) else "text"
    digest = xxhash.xxh3_128(f"{kind} {len(parts)}".encode())
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")  # a lone surrogate is reported later, with all other bad texts
        digest.update(f"\n{len(encoded)}\n".encode())
        digest.update(encoded)
    return digest.hexdigest()


LONGEST_TEXT = 1_000_000
"""Characters of one text: a tokenizer takes 150 bytes for each, and a text of 200 MB the machine with it."""


def why_unusable(text: RawText | Words) -> str:
    """The reason why a text has no content, to follow its name; empty when it has.

    >>> why_unusable(" \\t"), why_unusable("a"), why_unusable(("a", "")), why_unusable(Words(("a", " ")))
    ('is only whitespace', '', 'has an empty text in its pair', 'has a word without content (word 2)')
    """
    if isinstance(text, Words):
        return _why_no_words(text)
    parts = (text,) if isinstance(text, str) else text
    for part in parts:
        if len(part) > LONGEST_TEXT:
            return f"is too long ({len(part):,} characters, more than {LONGEST_TEXT:,}); split it into several texts"
        if not part:
            return "is empty" if len(parts) == 1 else "has an empty text in its pair"
        if not part.strip():
            return "is only whitespace" if len(parts) == 1 else "has only whitespace in its pair"
        if _has_surrogate(part):
            return _SURROGATE
    return ""


_SURROGATE = "holds half of a character (a lone surrogate); write the file in UTF-8 again"


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _why_no_words(words: Words) -> str:
    if not words:
        return "has no words"
    for place, word in enumerate(words, 1):
        if not word.strip():
            return f"has a word without content (word {place})"
        if _has_surrogate(word):
            return _SURROGATE
    return ""


# ---------------------------------------------------------------------------- tokens


LONGEST_PROMPT = 10_000
"""Characters that are put before each text."""

_INSERTED = ("content", "prepend", "ids", "single", "pair", "continuing_subword_prefix", "end_of_word_suffix")
_MOST_GROWTH = 1000  # usual are 10 to 40


def parse_tokenizer(text: str) -> Any:
    """A tokenizer of the ``tokenizers`` library from the JSON of somebody else.

    Raises:
        ConfigError: the extra ``text`` is not installed.
        SourceError: it cannot be read, or its rules make a long text of a short one: 40 that double each ``a`` end the process.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ConfigError(f"texts need the extra 'text' ({error}); run: pip install 'zoo-selector[text]'") from None
    try:
        data = json.loads(text)
        affixes = {key: data["model"].get(key) for key in _INSERTED}
        if _growth([affixes, data.get("normalizer"), data.get("post_processor")]) > _MOST_GROWTH:
            raise ValueError("its rules make a long text of a short one")
        with panics_as_errors():
            return Tokenizer.from_str(text)
    except Exception as error:  # noqa: BLE001  the library raises plain Exceptions
        raise SourceError(f"the tokenizer cannot be used: {first_line(error)}") from None


def _growth(rules: object) -> int:
    """How much longer the rules of a tokenizer make a text, at most: by the lengths of all that they put into it."""
    if isinstance(rules, list):
        return math.prod(map(_growth, rules))
    put = [rules.get(key) for key in _INSERTED] if isinstance(rules, dict) else []
    own = math.prod(len(each) for each in put if each and isinstance(each, str | list))
    return own * math.prod(map(_growth, rules.values())) if isinstance(rules, dict) else 1


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """What ends code in Rust is no ``Exception``: here it is a ``ValueError``."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(first_line(error)) from None


class TextTokenizer:
    """Texts to token ids, as a ``TextPreprocess`` says.

    Raises:
        ConfigError: the extra ``text`` is not installed.
        SourceError: as ``parse_tokenizer``, or a prompt longer than ``LONGEST_PROMPT``.
    """

    def __init__(self, preprocess: TextPreprocess) -> None:
        if len(preprocess.prompt) > LONGEST_PROMPT:
            raise SourceError(
                f"a prompt has {len(preprocess.prompt):,} characters, expected at most {LONGEST_PROMPT:,}."
            )
        self.preprocess = preprocess
        self._single = parse_tokenizer(preprocess.tokenizer)
        self._single.no_padding()
        self._windows = preprocess.long_texts == "window" or preprocess.words
        self._stride = preprocess.max_length // _OVERLAP if self._windows else 0
        self._side = "right" if self._windows else preprocess.truncation_side
        self._single.enable_truncation(preprocess.max_length, stride=self._stride, direction=self._side)

    def __call__(self, texts: Sequence[RawText | Words]) -> list[TokenizedText]:
        """One entry per text, in order. Cost: some 10,000 short texts a second and core."""
        try:
            with panics_as_errors():
                return self._tokenized(texts)
        except SelectorError:
            raise
        except Exception as error:  # the library raises plain Exceptions
            raise SourceError(f"the tokenizer fails on a text: {first_line(error)}") from error

    def _tokenized(self, texts: Sequence[RawText | Words]) -> list[TokenizedText]:
        prompt = self.preprocess.prompt
        if self.preprocess.words:
            return self._of_words(texts)
        pairs = bool(texts) and not isinstance(texts[0], str)
        if any(isinstance(text, str) is pairs for text in texts):
            raise ConfigError("some of the items are texts and some are pairs of texts; give all of one kind.")
        if pairs:
            given = [(prompt + text[0], text[1]) for text in texts]
            found = self._pair.encode_batch(given)
            if self._windows:
                return [self._pair_rows(pair, whole) for pair, whole in zip(given, found, strict=True)]
        else:
            found = self._single.encode_batch([f"{prompt}{text}" for text in texts])
        return [self._rows(encoding) for encoding in found]

    def _of_words(self, texts: Sequence[RawText | Words]) -> list[TokenizedText]:
        sentences = [text if isinstance(text, Words) else None for text in texts]
        if any(words is None for words in sentences):
            raise ConfigError("this tokenizer takes lists of words (Words); some of the items are something else.")
        # read as one text, so that a word's tokens are those it has in running text, whatever the tokenizer
        prompt = self.preprocess.prompt
        found = self._single.encode_batch([prompt + words.text for words in sentences if words is not None])
        return [
            self._words_of(encoding, words)
            for encoding, words in zip(found, sentences, strict=True)
            if words is not None
        ]

    def _words_of(self, encoding: Any, words: Words) -> TokenizedText:
        text = self._rows(encoding)
        lengths = np.array([len(word) for word in words], np.int64)
        begins = len(self.preprocess.prompt) + np.concatenate([[0], np.cumsum(lengths + 1)[:-1]])
        windows = [_word_of_token(row, begins, begins + lengths) for row in (encoding, *encoding.overflowing)]
        # the first token of a word decides in which window it is read: where most text is on both sides of it
        best, owner = np.full(len(words), -1), np.full(len(words), -1)
        for number, found in enumerate(windows):
            seen, first = np.unique(found, return_index=True)
            room = np.minimum(first, len(found) - 1 - first)
            better = (seen >= 0) & (room > best[seen])
            best[seen[better]], owner[seen[better]] = room[better], number
        chosen = tuple(
            np.where((found >= 0) & (owner[found] == number), found, -1).astype(np.int32)
            for number, found in enumerate(windows)
        )
        return TokenizedText(text.ids, text.flags, words=chosen, count=len(words))

    def _pair_rows(self, pair: tuple[str, str], whole: Any) -> TokenizedText:
        longest = self.preprocess.max_length
        if len(whole.ids) <= longest:
            return self._rows(whole)
        return self._rows(*pair_windows(self._windowed, pair, whole, longest, self._stride))

    @cached_property
    def unpooled(self) -> int:
        """Tokens at the begin of a row that count in no pooling over tokens: those of the prompt, unless
        ``include_prompt`` says otherwise. 0 where the tokens of the text itself are what counts."""
        if self.preprocess.include_prompt or not self.preprocess.prompt:
            return 0
        special = self._single.encode(self.preprocess.prompt).special_tokens_mask
        return len(special) - (special[-1] if special else 0)

    @cached_property
    def _pair(self) -> Any:
        """A tokenizer of its own, cut otherwise; made when there are pairs, since a large vocabulary takes long."""
        found = type(self._single).from_str(self.preprocess.tokenizer)
        found.no_padding()
        if not self._windows:
            found.enable_truncation(self.preprocess.max_length, direction=self._side)
        return found

    @cached_property
    def _windowed(self) -> Any:
        """A tokenizer of its own, whose truncation changes from pair to pair."""
        return type(self._single).from_str(self.preprocess.tokenizer)

    def _rows(self, encoding: Any, cut: int = 0) -> TokenizedText:
        rows = [encoding]
        if self._windows:
            rows += encoding.overflowing
        else:
            cut = sum(len(part.ids) - sum(part.special_tokens_mask) for part in encoding.overflowing)
        ids = tuple(np.asarray(row.ids or [self.preprocess.pad_id], np.int32) for row in rows)
        flags = tuple(
            np.asarray(row.special_tokens_mask or [0], np.uint8) * SPECIAL
            + np.asarray(row.type_ids or [0], np.uint8) * SECOND
            for row in rows
        )
        if self.unpooled:
            flags[0][:] = (flags[0] & ~np.uint8(SPECIAL)) | (np.arange(len(flags[0])) < self.unpooled) * np.uint8(
                SPECIAL
            )
        return TokenizedText(ids, flags, cut)


def _word_of_token(encoding: Any, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which word each token is of, by the characters that they share; -1 for none."""
    if not encoding.ids:
        return np.array([-1])
    spans = np.asarray(encoding.offsets, np.int64).reshape(-1, 2)
    word = np.searchsorted(ends, spans[:, 0], side="right")  # the first one that ends behind the token's begin
    known = np.minimum(word, len(begins) - 1)
    shares = (word < len(begins)) & (spans[:, 1] > begins[known]) & (spans[:, 1] > spans[:, 0])
    own = np.asarray(encoding.special_tokens_mask) == 0
    return np.where(shares & own, word, -1)


def is_pair(item: Any) -> bool:
    """Whether an item is a pair of texts; two words (``Words``) are none."""
    texts = isinstance(item, tuple | list) and not isinstance(item, Words)
    return texts and len(item) == 2 and all(isinstance(part, str) for part in item)


def pair_windows(tokenizer: Any, pair: tuple[str, str], whole: Any, longest: int, stride: int) -> tuple[Any, int]:
    """Windows of the longer text of a pair, each beside the whole shorter one.

    Of a shorter text that leaves its neighbor less than half of the room, what is over is cut off.

    Args:
        tokenizer: of the ``tokenizers`` library; its truncation is set here.
        whole: the encoding of the pair, not truncated.
        longest: tokens of a window, those that the tokenizer adds among them.
        stride: tokens that neighboring windows share.

    Returns:
        The encoding, its windows in ``overflowing``, and how many tokens of the shorter text were cut off.
    Raises:
        ConfigError: no room for two texts.
    """
    counts = [whole.sequence_ids.count(part) for part in (0, 1)]
    short, long = (0, 1) if counts[0] <= counts[1] else (1, 0)
    room = longest - (len(whole.ids) - sum(counts))
    kept = min(counts[short], room // 2)
    if room - kept < 1 or not kept:
        raise ConfigError(f"max_length {longest} leaves no room for a pair of texts; raise it.")
    cut = counts[short] - kept
    if cut:
        ends = [end for (_, end), part in zip(whole.offsets, whole.sequence_ids, strict=True) if part == short]
        shortened = pair[short][: ends[kept - 1]]
        pair = (shortened, pair[1]) if short == 0 else (pair[0], shortened)
    strategy = ("only_first", "only_second")[long]
    tokenizer.enable_truncation(longest, stride=min(stride, room - kept - 1), strategy=strategy)
    return tokenizer.encode(*pair), cut
