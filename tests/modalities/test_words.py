"""From words to tokens and back: which token is of which word, in every kind of tokenizer."""

import numpy as np
import pytest
import torch
from tokenizers import decoders

from selector.core.contracts import Words
from selector.core.errors import ConfigError, SourceError
from selector.core.preprocess import TextPreprocess
from selector.modalities.text import TextTokenizer, Tokens, text_hash, why_unusable
from selector.modalities.tokens.table import open_tokens
from tests.sources.samples import check_rows
from tests.support.text_models import FAMILIES, byte_level, load_text, text_model, tokens, wordpiece

SENTENCES = [
    Words(("the", "storm", "jumps", "over", "12345", "films")),
    Words(("good",)),
    Words(("rain", "\u200b\u0007", "sun", "New York", "??")),
]


def tokens_of(preprocess: TextPreprocess, sentences: list[Words] = SENTENCES) -> Tokens:
    return Tokens.of(TextTokenizer(preprocess)(sentences), preprocess.pad_id)


@pytest.mark.parametrize("make", [wordpiece, byte_level])
@pytest.mark.parametrize("prompt", ["", "query: "])
def test_tokens_belong_to_the_word_they_spell(make, prompt):
    tokenizer = make()
    tokens = tokens_of(TextPreprocess(tokenizer.to_str(), 128, prompt=prompt, words=True))
    assert tokens.words is not None
    assert tokens.num_features == 12
    flat = [word for sentence in SENTENCES for word in sentence]
    for number, word in enumerate(flat):
        ids = tokens.ids[tokens.words == number].tolist()
        pieces = [tokenizer.id_to_token(i).removeprefix("##") for i in ids]
        spelled = (decoders.ByteLevel().decode(pieces) if make is byte_level else "".join(pieces)).replace(" ", "")
        if make is wordpiece and word == "\u200b\u0007":
            assert not ids  # the tokenizer leaves nothing of it
        else:
            assert spelled.lower() == word.replace(" ", "").lower()
    # the prompt and what the tokenizer adds are of no word
    own = int((tokens.words >= 0).sum())
    assert own <= int(tokens.content.sum()) - (len(SENTENCES) if prompt else 0)


def test_long_texts_are_read_in_windows_and_no_word_is_lost():
    long = Words(tuple(f"{c}{i}" for i, c in enumerate("storm" * 30)))
    preprocess = TextPreprocess(wordpiece().to_str(), 32, words=True)
    (text,) = TextTokenizer(preprocess)([long])
    assert len(text.ids) > 5
    assert text.cut == 0
    places = np.concatenate(text.words)
    assert set(places[places >= 0]) == set(range(len(long)))
    # a word is read in one window only, with text on both sides of it
    for word in range(len(long)):
        holding = [i for i, row in enumerate(text.words) if (row == word).any()]
        assert len(holding) == 1
        place = np.flatnonzero(text.words[holding[0]] == word)[0]
        if 10 < word < len(long) - 10:
            assert 1 < place < len(text.ids[holding[0]]) - 2


def reference(hidden: np.ndarray, tokens: Tokens, *, first: bool) -> np.ndarray:
    assert tokens.words is not None
    rows = []
    words = tokens.words.numpy()
    counts = tokens.counts.numpy() if tokens.counts is not None else []
    owner = np.repeat(np.arange(len(counts)), counts)
    for number in range(tokens.num_features):
        where = np.argwhere(words == number)
        if not len(where):
            where = np.array([[np.flatnonzero(tokens.owner.numpy() == owner[number])[0], 0]])
        states = np.stack([hidden[r, t] for r, t in where])
        rows.append(states[0] if first else states.mean(0))
    return np.stack(rows)


@pytest.mark.parametrize("first", [True, False])
def test_rows_of_words_are_the_first_state_or_the_mean(first):
    long = Words(("storm", "rain", "sun") * 15)
    preprocess = TextPreprocess(wordpiece().to_str(), 24, words=True)
    tokens = tokens_of(preprocess, [*SENTENCES, long, SENTENCES[1]])
    hidden = torch.randn(*tokens.ids.shape, 5, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(
        tokens.per_word(hidden, first=first).numpy(),
        reference(hidden.numpy(), tokens, first=first),
        rtol=1e-5,
        atol=1e-6,
    )
    part = tokens[1:4]
    assert part.num_features == 1 + 5 + 45
    again = tokens_of(preprocess, [*SENTENCES[1:], long])
    assert part.words is not None
    assert again.words is not None
    assert torch.equal(part.words, again.words)
    many = tokens[:2].repeated(5)
    alone = tokens_of(preprocess, [SENTENCES[i % 2] for i in range(5)])
    assert many.words is not None
    assert alone.words is not None
    assert torch.equal(many.words, alone.words)
    assert many.num_features == alone.num_features == 6 + 1 + 6 + 1 + 6


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_a_table_gives_back_what_was_tokenized(chunk, monkeypatch):
    monkeypatch.setattr("selector.modalities.tokens.table._CHUNK", chunk)
    preprocess = TextPreprocess(wordpiece().to_str(), 32, words=True)
    sentences = [*SENTENCES, Words((" ", "a"))]
    table, bad = open_tokens(sentences, [text_hash(s) for s in sentences], list("abcd"), preprocess, on_invalid="skip")
    assert bad == {3: "has a word without content (word 1)"}
    batch, direct = table.batch([2, 0]), tokens_of(preprocess, [SENTENCES[2], SENTENCES[0]])
    assert batch.words is not None
    assert direct.words is not None
    assert torch.equal(batch.words, direct.words)
    assert torch.equal(batch.ids, direct.ids)
    with pytest.raises(ConfigError, match=r"takes lists of words \(Words\); some of the items are something else"):
        TextTokenizer(preprocess)(["a text"])
    assert why_unusable(Words(())) == "has no words"
    assert "half of a character" in why_unusable(Words(("a", "\ud83d")))


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_words_features_do_not_depend_on_its_batch(family, tmp_path):
    encoder = load_text(text_model(tmp_path, family), text={"words": True})
    assert encoder.preprocess.to_dict()["words"] is True
    together = check_rows(encoder, tokens(encoder, SENTENCES), [tokens(encoder, [s]) for s in SENTENCES])
    assert together.shape == (12, encoder.num_features)
    # a decoder's first token has not seen the rest of the word
    assert encoder.path.pooling == ("mean" if family in ("gpt2", "llama", "gemma", "qwen") else "first")
    assert encoder.with_head(4)(tokens(encoder, SENTENCES)).shape == (12, 4)


def test_words_are_pooled_in_two_ways_only(tmp_path):
    folder = text_model(tmp_path)
    with pytest.raises(SourceError, match=r"m: pooling 'cls' is over whole texts; words take first or mean"):
        load_text(folder, name="m", text={"words": True}, pooling="cls")
    with pytest.raises(SourceError, match=r"pooling 'first'"):
        load_text(folder, pooling="first")
