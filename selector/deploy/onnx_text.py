"""The ONNX form of a network that reads texts: token ids in, probabilities out, its tokenizer beside the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from selector.contracts import TextPreprocess
from selector.deploy.texts import TOKENIZER, tokenised
from selector.errors import ConfigError
from selector.texts import Tokeniser, Tokens

if TYPE_CHECKING:
    from selector.deploy.load import SavedModel

_SAMPLES = (
    ("The quick brown fox jumps over the lazy dog.", "A second text."),
    ("one", "How many rivers cross the city, and which of them is the longest?", "Yes! No? 42.", "a b c d e f g"),
)  # of other lengths and numbers than what is exported with


class TokenRows(Tokens):
    """A batch as an ONNX network gets it: every row is a text of its own, and which tokens the tokenizer
    added is told by their ids."""

    def __init__(self, ids: Tensor, mask: Tensor, types: Tensor, specials: Sequence[int]) -> None:
        content = torch.ones_like(mask, dtype=torch.bool)
        for special in specials:
            content = content & (ids != special)
        super().__init__(ids, mask, content, types, owner=mask[:, 0])

    def __len__(self) -> int:
        return len(self.ids)

    def per_text(self, rows: Tensor) -> Tensor:
        """The rows themselves."""
        return rows


class ReadsIds(nn.Module):
    """A saved network (tokens -> logits) with calibrated probabilities, called with plain tensors.

    Its forward is ``(input_ids, attention_mask[, token_type_ids])``, int64 (B, T) each.
    """

    def __init__(self, network: nn.Module, preprocess: TextPreprocess, temperature: float) -> None:
        super().__init__()
        self.network, self._temperature = network, temperature
        self._specials = added_ids(preprocess)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(logits, probabilities), both (B, K)."""
        kinds = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        logits = self.network(TokenRows(input_ids, attention_mask, kinds, self._specials))
        return logits, (logits / self._temperature).softmax(dim=1)


def added_ids(preprocess: TextPreprocess) -> list[int]:
    """Ids of the tokens that a tokenizer puts round every text, or between the two of a pair."""
    tokenise = Tokeniser(preprocess)
    found: set[int] = set()
    for texts in ([_SAMPLES[0][0]], [(_SAMPLES[0][0], _SAMPLES[0][1])]):
        (text,) = tokenise(texts)
        for ids, flags in zip(text.ids, text.flags, strict=True):
            found |= {int(i) for i, flag in zip(ids, flags, strict=True) if flag & 1}
    return sorted(found)


def text_batches(saved: SavedModel) -> list[tuple[tuple[Tensor, ...], Tensor]]:
    """Inputs of an ONNX file, and the probabilities of the saved network as ``predict`` calls it."""
    preprocess = saved.preprocess
    assert isinstance(preprocess, TextPreprocess)
    longest = " ".join(["word"] * preprocess.max_length)
    found = []
    for texts in (_SAMPLES[0], (*_SAMPLES[1], longest)):
        # of a text that is read in windows the ONNX file reads one at a time
        tokens, _, _ = tokenised(texts, _cut(preprocess))
        assert tokens is not None
        with torch.inference_mode():
            expected = (saved.module(tokens) / saved.temperature).softmax(dim=1)
        inputs = (tokens.ids, tokens.mask, *([tokens.types] if preprocess.token_types else []))
        found.append((inputs, expected))
    return found


def write_tokenizer(preprocess: TextPreprocess, file: Path) -> None:
    """Put ``tokenizer.json`` beside an ONNX file.

    Raises:
        ConfigError: another tokenizer lies there.
    """
    path = file.with_name(TOKENIZER)
    if path.is_file() and path.read_text(encoding="utf-8") != preprocess.tokenizer:
        raise ConfigError(
            f"{path} is the tokenizer of another model; write {file.name} to a folder of its own, or remove that file."
        )
    path.write_text(preprocess.tokenizer, encoding="utf-8")


def _cut(preprocess: TextPreprocess) -> TextPreprocess:
    return replace(preprocess, long_texts="truncate")
