"""What a second scan says of texts that it does not tokenize again."""

from typing import Any

import pytest

import selector
from selector.core.errors import BadImagesError
from tests.scan.test_scan import table
from tests.scan.test_text_scan import sentences
from tests.support.text_models import text_model


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return [{"name": "small-bert", "source": f"transformers:{text_model(tmp_path_factory.mktemp('zoo') / 'bert')}"}]


def notes(ranking: selector.Ranking) -> list[str]:
    return [w for w in ranking.warnings if "were cut" in w]


def test_cut_texts_are_told_by_a_warm_scan_and_for_another_target(zoo, tmp_path):
    texts, labels = sentences(60)
    texts[0], texts[1] = "word " * 500, "rain " * 300
    cold = selector.rank((texts, labels), zoo=zoo, store=tmp_path, history=False)
    assert len(notes(cold)) == 1
    assert "2 of 60 texts have more than 64 tokens" in notes(cold)[0]
    warm = selector.rank((texts, labels), zoo=zoo, store=tmp_path, history=False)
    assert warm["small-bert"].cached
    assert table(warm) == table(cold)
    assert notes(warm) == notes(cold)
    part = selector.rank((texts[1:], labels[1:]), zoo=zoo, store=tmp_path, history=False)
    assert part["small-bert"].cached
    assert "1 of 59 texts have more than 64 tokens" in notes(part)[0]


def test_a_text_of_the_test_split_that_is_unusable_stops_a_warm_scan_too(zoo, tmp_path):
    """The proxies read train and val only, so that a warm scan has all the rows that it needs."""
    texts, labels = sentences(60)
    parts = {"train": slice(0, 36), "val": slice(36, 48), "test": slice(48, 60)}
    texts[50] = "  "
    target = {split: (texts[part], labels[part]) for split, part in parts.items()}
    skipped = selector.rank(target, zoo=zoo, store=tmp_path, on_invalid="skip", history=False)
    assert skipped.target["items"] == 59
    with pytest.raises(BadImagesError, match=r"1 text\(s\) cannot be used: test.* 2 is only whitespace"):
        selector.rank(target, zoo=zoo, store=tmp_path, on_invalid="raise", history=False)
    again = selector.rank(target, zoo=zoo, store=tmp_path, on_invalid="skip", history=False)
    assert again["small-bert"].cached
    assert any("1 of 60 items skipped" in w for w in again.warnings)
