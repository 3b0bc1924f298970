"""What generic code asks of a modality: previews, batches."""

import numpy as np
import pytest
import torch

from selector import modalities
from selector.core.contracts import Words
from selector.core.errors import TargetError
from selector.core.preprocess import Preprocess, TextPreprocess
from selector.modalities.tokens import TokenizedText, Tokens

IMAGE, TEXT = modalities.of("image"), modalities.of("text")


def tokens(*lengths: int) -> Tokens:
    rows = [TokenizedText((np.arange(1, n + 1, dtype=np.int32),), (np.zeros(n, np.uint8),)) for n in lengths]
    return Tokens.of(rows, 0)


def test_batches_are_told_apart_and_filled_up() -> None:
    pixels = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    assert modalities.of_batch(pixels) is modalities.of_batch(torch.zeros(1)) is IMAGE
    assert modalities.of_batch(tokens(3, 5)) is TEXT
    with pytest.raises(TypeError, match="a batch is pixels or tokens; got list"):
        modalities.of_batch([1])
    np.testing.assert_array_equal(IMAGE.filled(pixels, 4), pixels[[0, 1, 0, 0]])
    np.testing.assert_array_equal(IMAGE.repeated(pixels, 3), pixels[[0, 1, 0]])
    assert TEXT.filled(batch := tokens(3, 5), 4) is batch
    assert len(TEXT.repeated(batch, 5)) == 5
    assert (IMAGE.rows_of(pixels), TEXT.rows_of(batch)) == (2, 2)
    np.testing.assert_array_equal(IMAGE.mirrored(torch.from_numpy(pixels)), pixels[:, :, ::-1])
    assert TEXT.mirrored(batch) is None
    assert TEXT.augment(batch, [1, 2]) == (batch, [1, 2])


def test_a_modality_is_found_by_what_has_one() -> None:
    assert modalities.of(Preprocess()) is IMAGE
    assert modalities.of(TextPreprocess("{}", 8)) is TEXT
    assert modalities.registry.names() == ["image", "rows", "text"]
    with pytest.raises(TargetError, match="ready features holds rows, which no network reads"):
        modalities.of("rows").prepare([], [], [], [], folder=None)


def test_previews() -> None:
    assert TEXT.preview([("a  b", "c" * 300)], 0, "x") == {"text": f"a b | {'c' * 200}…"}
    assert TEXT.preview([Words(("a", "b", "c"))], 0, "x", slice(1, 3)) == {"words": ["b", "c"]}
    assert TEXT.unusable([" ", "a"]) == {0: "is only whitespace"}
    assert IMAGE.preview([b"no picture"], 0, "x") == {"thumbnail": ""}
    assert IMAGE.preview([np.zeros((4, 4, 3), np.uint8)], 0, "x")["thumbnail"].startswith("data:image/jpeg")
    assert (TEXT.facts(["a"]), TEXT.facts([("a", "b")]), TEXT.facts([Words(("a",))])) == (
        {"pairs": False},
        {"pairs": True},
        {},
    )
