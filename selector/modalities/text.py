"""Texts, pairs of texts and lists of words: tokenized once for a tokenizer and a length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from selector import modalities
from selector.core.contracts import Items, ProgressCallback, Words, no_progress
from selector.core.costs import TEXT_TOKENS
from selector.core.errors import BadImagesError
from selector.core.modality import Inputs, Modality
from selector.core.preprocess import TextPreprocess
from selector.modalities.tokens import TokenizedText, Tokens
from selector.modalities.tokens.tokenizer import TextTokenizer, UnreadableText, text_hash, why_unusable

if TYPE_CHECKING:
    import torch

__all__ = ["TextTokenizer", "TokenizedText", "Tokens", "UnreadableText", "text_hash", "why_unusable"]

_SHOWN = 200  # characters of a text
_USUAL_TOKENS = (16.0, 256.0)


@modalities.modality("text")
class TextModality(Modality[Tokens, Tokens, TextPreprocess]):
    """See ``core.modality``. Batches are ``Tokens``."""

    kind = "text"
    stage = "tokenize"
    layer_curves = True

    def unusable(self, items: Items) -> dict[int, str]:
        """Texts without content."""
        reasons = ((i, why_unusable(items[i])) for i in range(len(items)))
        return {i: reason for i, reason in reasons if reason}

    def bad_items(self, bad: Mapping[int, str], names: Sequence[str]) -> BadImagesError:
        """See ``core.modality``."""
        from selector.modalities.tokens.table import bad_texts

        return bad_texts(bad, names)

    def preview(self, items: Items, index: int, name: str, part: slice | None = None) -> dict[str, object]:
        """The words that it is about, or the beginning of the text on one line; of a pair both."""
        item = items[index]
        if part is not None:
            return {"words": list(item[part])}
        parts = (item,) if isinstance(item, str) else item
        lines = [" ".join(part.split()) for part in parts]
        return {"text": " | ".join(line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…" for line in lines)}

    def facts(self, items: Items) -> dict[str, object]:
        """Whether they are pairs; nothing of lists of words."""
        first = items[0] if len(items) else ""
        return {} if isinstance(first, Words) else {"pairs": not isinstance(first, str)}

    def key(self, preprocess: TextPreprocess) -> str:
        """See ``core.modality``."""
        return preprocess.tokens_key()

    def prepare(
        self, items: Items, hashes: Sequence[str], names: Sequence[str], preprocesses: Sequence[TextPreprocess], *,
        folder: Path | None, max_size: int | None = None, device: str = "cpu", on_invalid: Literal["raise", "skip"] = "raise",
        progress: ProgressCallback = no_progress,
    ) -> tuple[dict[str, Inputs], dict[int, str]]:  # fmt: skip
        """See ``core.modality``; nothing is kept between runs."""
        from selector.modalities.tokens.table import open_tokens

        found: dict[str, Inputs] = {}
        bad: dict[int, str] = {}
        for preprocess in preprocesses:
            found[self.key(preprocess)], bad = open_tokens(
                items, hashes, names, preprocess, device=device, on_invalid=on_invalid, progress=progress
            )
        return found, bad

    def standard(self, preprocess: TextPreprocess) -> Tokens:
        """One text of ``TEXT_TOKENS`` tokens, or of as many as the network reads."""
        length = min(TEXT_TOKENS * preprocess.tokens_per_word, preprocess.max_length)
        short = replace(preprocess, max_length=length, long_texts="truncate", words=False)
        return Tokens.of(
            TextTokenizer(short)(["The quick brown fox jumps over the lazy dog. " * TEXT_TOKENS]), short.pad_id
        )

    def owns(self, batch: object) -> bool:
        """Tokens."""
        return isinstance(batch, Tokens)

    def rows_of(self, batch: Tokens) -> int:
        """A row per text, or one a word."""
        return batch.num_features

    def ready(
        self,
        batch: Tokens | torch.Tensor,
        preprocess: TextPreprocess,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
    ) -> Tokens:
        """Moved; tokens are whole numbers, whatever the precision."""
        assert isinstance(batch, Tokens)
        return batch.to(device)

    def repeated(self, batch: Tokens, size: int) -> Tokens:
        """See ``core.modality``."""
        return batch.repeated(size)

    def pieces(self, batch: Tokens, size: int, tokens: int) -> Iterable[slice]:
        """Texts read in windows have many rows each."""
        return batch.pieces(size, tokens)

    def operations(self, parameters: int, input_size: Sequence[int] | None) -> tuple[float, float]:
        """See ``core.modality``; a token takes a multiply-add a parameter, at most: embeddings are looked up."""
        return parameters * _USUAL_TOKENS[0] / 4, parameters * _USUAL_TOKENS[1]

    def described(self, preprocess: TextPreprocess) -> str:
        """See ``core.modality``."""
        return f"text of {preprocess.max_length} tokens; free memory, or set a smaller text.max_length."
