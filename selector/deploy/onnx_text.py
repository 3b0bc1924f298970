"""The ONNX form of a network that reads texts: token ids in, probabilities out, its tokenizer beside the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from selector.core.contracts import Words
from selector.core.errors import SelectorError
from selector.core.preprocess import TextPreprocess
from selector.modalities.text import TextTokenizer, Tokens

if TYPE_CHECKING:
    from selector.deploy.load import SavedModel

_SAMPLES = (
    ("The quick brown fox jumps over the lazy dog.", "A second text."),
    ("one", "How many rivers cross the city, and which of them is the longest?", "Yes! No? 42.", "a b c d e f g"),
)  # of other lengths and numbers than what is exported with
_SAME = 1e-4  # of the largest logit

Activation = Callable[[Tensor], Tensor]
"""Outputs of a network -> what its task makes of them."""


class TokenRows(Tokens):
    """A batch as an ONNX network gets it: every row is a text of its own. The tokens that the tokenizer added are known
    by their ids, those of a prompt by their places. Where words are tagged every token counts as one."""

    def __init__(
        self, ids: Tensor, mask: Tensor, types: Tensor, specials: Sequence[int], unpooled: int, *, words: bool
    ) -> None:
        content = torch.ones_like(mask, dtype=torch.bool)
        if unpooled:
            content = content & (torch.arange(ids.shape[1], device=ids.device) >= unpooled)
        else:
            for special in specials:
                content = content & (ids != special)
        super().__init__(ids, mask, content, types, owner=mask[:, 0], words=ids if words else None)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def windows(self) -> bool:
        """No: and nothing may look at the lengths, which are open."""
        return False

    def per_text(self, rows: Tensor) -> Tensor:
        """The rows themselves."""
        return rows

    def per_word(self, hidden: Tensor, *, first: bool) -> Tensor:
        """The states of all tokens: which is whose is for the caller to say."""
        return hidden.float()


class ReadsIds(nn.Module):
    """A saved network (tokens -> logits) with calibrated probabilities, called with plain tensors.

    Its forward is ``(input_ids, attention_mask[, token_type_ids])``, int64 (B, T) each.
    """

    def __init__(self, network: nn.Module, preprocess: TextPreprocess, activation: Activation) -> None:
        super().__init__()
        self.network, self.activation = network, activation
        self._specials = added_ids(preprocess)
        self._words = preprocess.words
        self._unpooled = TextTokenizer(preprocess).unpooled

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(logits, probabilities), both (B, K); of a network that tags both (B, T, K), a row per token."""
        kinds = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        logits = self.network(
            TokenRows(input_ids, attention_mask, kinds, self._specials, self._unpooled, words=self._words)
        )
        return logits, self.activation(logits)


def added_ids(preprocess: TextPreprocess) -> list[int]:
    """Ids of the tokens that a tokenizer puts round every text, or between the two of a pair."""
    tokenize = TextTokenizer(replace(preprocess, words=False))
    found: set[int] = set()
    for texts in ([_SAMPLES[0][0]], [(_SAMPLES[0][0], _SAMPLES[0][1])]):
        (text,) = tokenize(texts)
        for ids, flags in zip(text.ids, text.flags, strict=True):
            found |= {int(i) for i, flag in zip(ids, flags, strict=True) if flag & 1}
    return sorted(found)


def text_batches(saved: SavedModel, network: ReadsIds) -> list[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
    """Inputs of an ONNX file, and the probabilities that it must give: those of the saved network as ``predict``
    calls it.

    Raises:
        SelectorError: the network tags words, and the tokens of one do not give its answer.
    """
    preprocess = cast(TextPreprocess, saved.preprocess)
    longest = " ".join(["word"] * preprocess.max_length)
    tokenize = TextTokenizer(replace(preprocess, long_texts="truncate"))
    found: list[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]] = []
    for texts in (_SAMPLES[0], (*_SAMPLES[1], longest)):
        # of a text that is read in windows the ONNX file reads one at a time
        given = [Words(text.split()) for text in texts] if preprocess.words else texts
        tokens = Tokens.of(tokenize(given), preprocess.pad_id)
        inputs = (tokens.ids, tokens.mask, *([tokens.types] if preprocess.token_types else []))
        with torch.inference_mode():
            logits = saved.module(tokens)
            expected = network.activation(logits)
            if preprocess.words:
                each, expected = network(*inputs)
                _check_words(saved, tokens.per_word(each, first=word_pooling(saved) == "first"), logits)
        found.append((inputs, (expected,)))
    return found


def word_pooling(saved: SavedModel) -> str:
    """What the logits of a word are: those of its ``first`` token, or the ``mean`` over its tokens.

    The head is linear, so a mean of logits is the logits of a mean.
    """
    network: Any = saved.module
    return str(network.path.pooling)


def _check_words(saved: SavedModel, found: Tensor, expected: Tensor) -> None:
    gap = float((found - expected).abs().max())
    if not gap <= _SAME * max(1.0, float(expected.abs().max())):
        raise SelectorError(
            f"the logits of {saved.config['name']} for a word are not those of its tokens (difference {gap:.2g}); it "
            "cannot be exported to ONNX."
        )
