"""Windows of long pairs: the longer text moves on, the shorter one stays beside it."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer

from selector.contracts import TextPreprocess
from selector.errors import ConfigError
from selector.texts import TokenisedText, Tokeniser
from tests.text.models import WORDS, byte_level, wordpiece

LONG = WORDS[:40]  # a token each
SHORT = ["quick", "brown", "fox"]


def windows(pair: tuple[str, str], length: int, **more: Any) -> TokenisedText:
    tokenizer: Tokenizer = more.pop("tokenizer", None) or wordpiece()
    (found,) = Tokeniser(TextPreprocess(tokenizer.to_str(), length, long_texts="window", **more))([pair])
    return found


def words(found: TokenisedText) -> list[tuple[list[str], list[str]]]:
    """Of each window the words of the first and of the second text."""
    names = {i: token for token, i in wordpiece().get_vocab().items()}
    rows = []
    for ids, flags in zip(found.ids, found.flags, strict=True):
        pieces = [(names[int(i)], int(flag)) for i, flag in zip(ids, flags, strict=True) if not flag & 1]
        rows.append(([w for w, flag in pieces if not flag & 2], [w for w, flag in pieces if flag & 2]))
    return rows


@pytest.mark.parametrize("second_is_long", [True, False])
def test_windows_of_the_longer_text_beside_the_shorter(second_is_long: bool) -> None:
    pair = (" ".join(SHORT), " ".join(LONG))
    found = windows(pair if second_is_long else (pair[1], pair[0]), 16)
    assert found.cut == 0
    assert all(len(row) <= 16 for row in found.ids)
    seen: list[str] = []
    for first, second in words(found):
        stays, moves = (first, second) if second_is_long else (second, first)
        assert stays == SHORT
        begin = LONG.index(moves[0])
        assert moves == LONG[begin : begin + len(moves)]
        assert begin <= len(seen)  # windows overlap or touch: nothing is left out
        seen += moves[len(seen) - begin :]
    assert seen == LONG


def test_a_pair_that_fits_is_one_row() -> None:
    found = windows(("quick brown", "fox jumps"), 16)
    assert words(found) == [(["quick", "brown"], ["fox", "jumps"])]
    assert found.cut == 0


def test_a_shorter_text_that_leaves_no_room_is_cut_to_half_of_it() -> None:
    found = windows((" ".join(LONG[:20]), " ".join(LONG)), 23)  # three tokens are the tokenizer's
    assert found.cut == 20 - 10
    assert all(first == LONG[:10] for first, _ in words(found))
    assert {word for _, second in words(found) for word in second} == set(LONG)
    with pytest.raises(ConfigError, match=r"max_length 4 leaves no room for a pair of texts; raise it"):
        windows((" ".join(LONG), " ".join(LONG)), 4)


def test_the_prefix_belongs_to_the_first_text_and_any_script_is_cut_between_characters() -> None:
    found = windows((" ".join(SHORT), " ".join(LONG)), 16, prefix="query : ")
    assert all(first == ["query", ":", *SHORT] for first, _ in words(found))
    pair = ("\u0645\u0631\u062d\u0628\u0627" * 20, "\U0001f642\u00e9" * 200)
    found = windows(pair, 40, tokenizer=byte_level())
    assert len(found.ids) > 2
    assert all(len(row) <= 40 for row in found.ids)
