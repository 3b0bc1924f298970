"""A row a word: ``Encoder.encode`` gives one for each word of each text; a place is the word's number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from selector.extract.readers import Outputs, reader

if TYPE_CHECKING:
    from torch import Tensor


@reader("word")
class Word:
    """See ``readers.Reader``."""

    needs_maps = False

    def variants(self, strides: Sequence[int]) -> list[str]:
        """One: the features."""
        return ["features"]

    def read(self, outputs: Outputs, item: Tensor, place: Tensor | None, variant: str) -> Tensor:
        """The features of the words named by ``place`` (R, 1), from 0.

        Raises:
            IndexError: a text has fewer words.
        """
        assert outputs.features is not None
        assert outputs.starts is not None
        assert place is not None
        number = place.reshape(-1).long()
        rows = outputs.starts[item] + number
        if bool((rows >= outputs.starts[item + 1]).any()) or bool((number < 0).any()):
            raise IndexError("a row is read at a word that its text does not have.")
        return outputs.features[rows].float()
