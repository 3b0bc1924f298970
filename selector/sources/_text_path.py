"""Where features are read off a network of texts. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from selector.modalities.text import Tokens

TextPooling = Literal["mean", "cls", "last", "weighted", "max", "first"]
WORD_POOLINGS = ("first", "mean")

MEAN, LAST = "mean", "last"


@dataclass(frozen=True)
class TextPath:
    """How features (B, D) are read off a text network.

    Attributes:
        layer: ``mean`` over all layers without the embeddings, ``last``, or a number from 1.
        pooling: over the tokens of a text; ``weighted`` is the mean weighted by position, for
            decoders, whose later tokens have seen more (Muennighoff, arXiv:2202.08904). Of texts that
            are lists of words over the tokens of each word: ``first`` or ``mean``.
        specials: whether tokens that the tokenizer adds count in mean and max.
    """

    layer: str = MEAN
    pooling: TextPooling = "mean"
    specials: bool = False

    def depth(self, blocks: int) -> int:
        """How many of so many blocks are read."""
        return min(int(self.layer), blocks) if self.layer.isdigit() else blocks

    def pool(self, hidden: Tensor, tokens: Tokens) -> Tensor:
        """(R, T, D) to (B, D) in float32; windows of one text are averaged. Of lists of words (W, D), a row per word."""
        if tokens.words is not None:
            return tokens.per_word(hidden, first=self.pooling == "first")
        if self.pooling == "cls":
            rows = hidden[:, 0].float()
        elif self.pooling == "last":
            last = (tokens.mask.sum(1) - 1)[:, None, None]
            rows = hidden.take_along_dim(last, 1)[:, 0].float()
        else:
            counted = tokens.mask.bool()
            if not self.specials:
                # a text of which the tokenizer leaves nothing still has its special tokens
                own = tokens.content & counted
                counted = own | (counted & ~own.any(1, keepdim=True))
            if self.pooling == "max":
                rows = hidden.masked_fill(~counted[:, :, None], float("-inf")).amax(1).float()
            else:
                weights = counted.float()
                if self.pooling == "weighted":
                    weights = weights * weights.cumsum(1)
                weights = weights / weights.sum(1, keepdim=True)
                rows = weights[:, None].bmm(hidden.float())[:, 0]
        return tokens.per_text(rows)
