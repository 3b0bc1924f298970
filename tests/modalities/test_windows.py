"""Windows: of pairs the longer text moves on beside the shorter one, and no batch holds too many of them."""

from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy

from selector.core.errors import ConfigError
from selector.core.preprocess import TextPreprocess
from selector.modalities.text import TextTokenizer, TokenizedText, Tokens, text_hash
from selector.modalities.tokens.table import open_tokens
from selector.sources import registry
from selector.tasks._learner import HeadLearner
from selector.tuning.strategies._loop import Feed, Settings, train
from selector.tuning.strategies._parts import Group
from selector.zoo import ModelSpec
from tests.support.text_models import WORDS, byte_level, text_model, wordpiece

LONG = WORDS[:40]  # a token each
SHORT = ["quick", "brown", "fox"]


def windows(pair: tuple[str, str], length: int, **more: Any) -> TokenizedText:
    tokenizer: Tokenizer = more.pop("tokenizer", None) or wordpiece()
    (found,) = TextTokenizer(TextPreprocess(tokenizer.to_str(), length, long_texts="window", **more))([pair])
    return found


def words(found: TokenizedText) -> list[tuple[list[str], list[str]]]:
    """Of each window the words of the first and of the second text."""
    names = {i: token for token, i in wordpiece().get_vocab().items()}
    rows = []
    for ids, flags in zip(found.ids, found.flags, strict=True):
        pieces = [(names[int(i)], int(flag)) for i, flag in zip(ids, flags, strict=True) if not flag & 1]
        rows.append(([w for w, flag in pieces if not flag & 2], [w for w, flag in pieces if flag & 2]))
    return rows


@pytest.mark.parametrize("second_is_long", [True, False])
def test_windows_of_the_longer_text_beside_the_shorter(second_is_long):
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


def test_a_pair_that_fits_is_one_row():
    found = windows(("quick brown", "fox jumps"), 16)
    assert (words(found), found.cut) == ([(["quick", "brown"], ["fox", "jumps"])], 0)


def test_a_shorter_text_that_leaves_no_room_is_cut_to_half_of_it():
    found = windows((" ".join(LONG[:20]), " ".join(LONG)), 23)  # three tokens are the tokenizer's
    assert found.cut == 20 - 10
    assert all(first == LONG[:10] for first, _ in words(found))
    assert {word for _, second in words(found) for word in second} == set(LONG)
    with pytest.raises(ConfigError, match=r"max_length 4 leaves no room for a pair of texts; raise it"):
        windows((" ".join(LONG), " ".join(LONG)), 4)


def test_the_prefix_belongs_to_the_first_text_and_any_script_is_cut_between_characters():
    found = windows((" ".join(SHORT), " ".join(LONG)), 16, prompt="query : ")
    assert all(first == ["query", ":", *SHORT] for first, _ in words(found))
    pair = ("\u0645\u0631\u062d\u0628\u0627" * 20, "\U0001f642\u00e9" * 200)
    found = windows(pair, 40, tokenizer=byte_level())
    assert len(found.ids) > 2
    assert all(len(row) <= 40 for row in found.ids)


def test_pieces_of_a_batch_hold_so_many_tokens():
    tokenized = TextTokenizer(TextPreprocess(wordpiece().to_str(), 12, long_texts="window"))(
        [" ".join(LONG), "quick", "brown fox", " ".join(LONG[:25]), "a"]
    )
    batch = Tokens.of(tokenized, 0)
    found = list(batch.pieces(2, 24))
    assert [i for part in found for i in range(part.start, part.stop)] == [0, 1, 2, 3, 4]
    for part in found:
        piece = batch[part]
        assert len(piece) == 1 or (len(piece) <= 2 and piece.ids.numel() <= 24)
    assert slice(1, 3) in found  # neighbors that fit share a piece
    assert list(batch.pieces(5, 10**6)) == [slice(0, 5)]
    assert list(batch.pieces(1, 10**6)) == [slice(i, i + 1) for i in range(5)]


def test_training_in_pieces_gives_the_same_weights(tmp_path, monkeypatch):
    folder = text_model(tmp_path / "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    spec = {"source": f"transformers:{folder}", "text": {"max_length": 12, "long_texts": "window"}}
    encoder = registry.get("transformers").load(ModelSpec.model_validate(spec))
    texts = [" ".join(LONG[i : i + 20]) for i in range(6)] + SHORT
    table, _ = open_tokens(texts, [text_hash(t) for t in texts], texts, encoder.preprocess)
    seen: list[int] = []

    def trained() -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        module = encoder.with_head(3)
        module.backbone.register_forward_pre_hook(
            lambda _m, _args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
        )
        settings = Settings(steps=2, batch_size=9, rate=0.01, optimizer="sgd")
        learner = HeadLearner(module, cross_entropy)
        groups = [Group(tuple(dict(learner.named_parameters())), 1.0)]
        feed = Feed(table, lambda batch: batch, lambda items: list(items % 3))
        train(learner, groups, feed, np.arange(9), settings)
        return dict(module.state_dict())

    whole = trained()
    assert len(seen) == 2
    monkeypatch.setattr("selector.tuning.strategies._loop.MAX_TOKENS", 60)
    pieces = trained()
    assert len(seen) > 6
    assert max(seen[2:]) <= 60 < max(seen[:2])
    for name, value in whole.items():
        torch.testing.assert_close(pieces[name], value, rtol=1e-4, atol=1e-6)
