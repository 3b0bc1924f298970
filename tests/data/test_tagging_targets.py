"""Targets whose words have labels, from every form that they come in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selector.core.contracts import LabelKind, Target, Words
from selector.core.errors import ConfigError, TargetError
from selector.data import load_origin, load_target, subsample, without
from tests.support.tables import class_label, declared, json_lines

NAMES = ["B-PER", "I-PER", "O"]


def sentences(count: int = 40) -> tuple[list[list[str]], list[list[str]]]:
    """Words of which some are people, in sentences of different lengths."""
    words, tags = [], []
    for i in range(count):
        words.append(["Ada", "Lovelace", "wrote", *["and"] * (i % 3), str(i)])
        tags.append(["B-PER", "I-PER", "O", *["O"] * (i % 3), "O"])
    return words, tags


def conll(path: Path, words: list[list[str]], tags: list[list[str]], separator: str = " ") -> Path:
    blocks = [
        "\n".join(separator.join((w, "NN", t)) for w, t in zip(sentence, own, strict=True))
        for sentence, own in zip(words, tags, strict=True)
    ]
    path.write_text("-DOCSTART- -X- O\n\n" + "\n\n".join(blocks) + "\n\n\n", encoding="utf-8")
    return path


def parquet(path: Path, words: list[list[str]], tags: list[list[str]]) -> Path:
    table = pa.table({"tokens": words, "ner_tags": [[NAMES.index(t) for t in own] for own in tags]})
    pq.write_table(declared(table, ner_tags={"feature": class_label(NAMES), "_type": "Sequence"}), path)
    return path


def of(words: list[list[str]], tags: list[list[str]]) -> list[dict[str, Any]]:
    return [{"tokens": w, "tags": t} for w, t in zip(words, tags, strict=True)]


def test_every_form_gives_the_same_target(tmp_path: Path) -> None:
    import datasets

    words, tags = sentences()
    numbers = [[NAMES.index(t) for t in own] for own in tags]
    kind = datasets.Sequence(datasets.ClassLabel(names=NAMES))
    features = datasets.Features({"tokens": datasets.Sequence(datasets.Value("string")), "ner_tags": kind})
    table = datasets.Dataset.from_dict({"tokens": words, "ner_tags": numbers}, features=features)
    forms: list[Any] = [
        conll(tmp_path / "a.conll", words, tags),
        conll(tmp_path / "a.iob2", words, tags, "\t"),
        json_lines(tmp_path / "a.jsonl", of(words, tags)),
        parquet(tmp_path / "a.parquet", words, tags),
        table,
        table.with_format("torch"),
        table.with_format("numpy"),
        table.with_format("pandas"),
        pd.DataFrame(of(words, tags)),
        (pd.Series(words), pd.Series(tags)),
        (table["tokens"], tags),
        (tuple(words), tuple(tags)),
        (words, tags),
        ([tuple(own) for own in words], [np.array(own) for own in tags]),
        (words, [np.array(own) for own in tags]),
    ]
    targets = [load_target(form) for form in forms]
    for target in targets:
        assert target.class_names == ("B-PER", "I-PER", "O")
        assert target.fingerprint == targets[0].fingerprint
        assert len(target) == 40
        assert [target.items[i] for i in range(40)] == [Words(own) for own in words]
        told = [[target.class_names[k] for k in target.labels_of(np.array([i]))] for i in range(40)]
        assert told == tags
    assert targets[0].names[0] == "line 3"
    again = load_origin(json.loads(json.dumps(targets[0].origin)))
    assert again.fingerprint == targets[0].fingerprint


def test_words_are_not_a_pair_of_texts(tmp_path: Path) -> None:
    pairs = [["a", str(i)] for i in range(20)]
    tagged = load_target((pairs, [["x", "y"]] * 20))
    assert tagged.row_starts is not None
    assert load_target(([("a", str(i)) for i in range(20)], [i % 2 for i in range(20)])).row_starts is None
    several = load_target(([("a", str(i)) for i in range(20)], [[i % 2, 1] for i in range(20)]))
    assert (several.label_kind, several.items[3]) == (LabelKind.MULTILABEL, ("a", "3"))
    named = load_target(([("a", str(i)) for i in range(20)], [["x", "y"], ["y"], ["x"], []] * 5))
    assert (named.task, named.row_starts) == ("multilabel", None)
    short = [("a", str(i)) for i in range(20)]
    for said in ([*short, ("a", "b", "c")], [Words(own) for own in short]):  # not all of them are pairs
        assert load_target((said, [["x", "y", "z"][: len(own)] for own in said])).row_starts is not None
    with pytest.raises(TargetError, match="may be sentences of two words or pairs with several labels"):
        load_target((pairs, [[0, 1]] * 20))
    path = json_lines(tmp_path / "both.jsonl", [{"text": f"a {i}", "tokens": ["a", str(i)], "tags": ["x", "y"], "label": i % 2} for i in range(20)])  # fmt: skip
    assert load_target(path).row_starts is None  # a column of texts is there, and nothing else was named
    assert load_target(path, text_column="tokens").row_starts is not None
    assert load_target(path, label_column="tags").row_starts is not None


def test_what_a_function_makes_of_a_dataset_is_meant() -> None:
    import datasets

    words, tags = sentences()
    table = datasets.Dataset.from_dict({"tokens": words, "tags": tags})
    lower = table.with_transform(lambda rows: {**rows, "tokens": [[w.lower() for w in own] for own in rows["tokens"]]})
    assert load_target(lower).items[0] == Words([word.lower() for word in words[0]])


def test_splits_never_cut_a_sentence_and_come_from_files_and_columns(tmp_path: Path) -> None:
    words, tags = sentences()
    folder = tmp_path / "set"
    folder.mkdir()
    for name, part in (("train.txt", slice(0, 24)), ("valid.txt", slice(24, 32)), ("test.txt", slice(32, 40))):
        conll(folder / name, words[part], tags[part])
    target = load_target(folder)
    assert (target.counts(), target.names[24]) == ({"train": 24, "val": 8, "test": 8}, "valid.txt:3")
    column = json_lines(tmp_path / "c.jsonl", [{**row, "split": ("train", "val", "test")[min(2, i // 14)]} for i, row in enumerate(of(words, tags))])  # fmt: skip
    assert load_target(column).counts() == {"train": 14, "val": 14, "test": 12}
    joined = load_target({"train": (words[:30], tags[:30]), "test": (words[30:], tags[30:])})
    assert joined.counts()["test"] == 10
    for split in ("train", "val", "test"):
        assert len(joined.rows_of(joined.indices(split))) == sum(len(joined.items[i]) for i in joined.indices(split))
    (tmp_path / "lines").mkdir()
    json_lines(tmp_path / "lines" / "train.jsonl", of(words, tags)[:30])
    json_lines(tmp_path / "lines" / "test.jsonl", of(words, tags)[30:])
    lines = load_target(tmp_path / "lines")
    assert lines.fingerprint == joined.fingerprint
    assert load_origin(json.loads(json.dumps(lines.origin))).fingerprint == joined.fingerprint


def test_columns_of_conll_files(tmp_path: Path) -> None:
    words, tags = sentences()
    path = conll(tmp_path / "a.conll", words, tags)
    assert load_target(path, label_column="-1").fingerprint == load_target(path, label_column="3").fingerprint
    with pytest.raises(TargetError, match=r"label_column '4' is not one of its 3 columns"):
        load_target(path, label_column="4")
    with pytest.raises(TargetError, match=r"column 1 of 3 would hold both words and labels"):
        load_target(path, label_column="1")
    assert load_target(path, text_column=1, label_column=-1).fingerprint == load_target(path).fingerprint
    universal = tmp_path / "a.conllu"
    block = "# sent_id = {i}\n1-2\tdel\t_\t_\t_\t_\t_\t_\t_\t_\n1\tde\tde\tADP\t_\t_\t3\tcase\t_\t_\n2\tNew York\tel\tPROPN\t_\t_\t3\tdet\t_\t_\n3\tn{i}\tx\tNOUN\t_\t_\t0\troot\t_\t_\n"
    universal.write_text("\n".join(block.format(i=i) for i in range(20)))
    target = load_target(universal, label_column="UPOS")
    assert target.items[4] == Words(("de", "New York", "n4"))
    assert target.class_names == ("ADP", "NOUN", "PROPN")
    assert load_target(universal, label_column="8").class_names == ("case", "det", "root")
    with pytest.raises(TargetError, match=r"'UPOSS' is not one of its 10 columns.*did you mean 'UPOS'"):
        load_target(universal, label_column="UPOSS")


@pytest.mark.parametrize("separator", [" ", "\t"])
@pytest.mark.parametrize("width", [2, 3, 4])
def test_comments_of_conll_files_that_are_not_universal(tmp_path: Path, separator: str, width: int) -> None:
    path = tmp_path / "a.conll"
    words, tags = sentences()
    words[3], tags[3] = ["#", "Ada"], ["O", "B-PER"]  # a word like any other
    words[4], tags[4] = ["Ada", "#"], ["B-PER", "O"]
    middle = ["x"] * (width - 2)
    blocks = [
        f"# sent_id = {i}\n# text = {' '.join(own)}\n"
        + "\n".join(separator.join([word, *middle, tag]) for word, tag in zip(own, said, strict=True))
        for i, (own, said) in enumerate(zip(words, tags, strict=True))
    ]
    path.write_text("# a file with comments of its own\n" + "\n\n".join(blocks))
    target = load_target(path)
    assert target.fingerprint == load_target((words, tags)).fingerprint
    assert target.names[1] == "line 11"


def test_a_line_within_a_sentence_is_no_comment(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("# O\nAda B\n# here is more\n")
    with pytest.raises(TargetError, match=r"a.conll:3: found 4 columns; expected 2 as on line 1"):
        load_target(path)
    path.write_text("# O\n\n" * 9 + "# B\n")
    assert load_target({"train": path, "val": path, "test": path}).items[0] == Words(["#"])


def test_columns_are_asked_for(tmp_path: Path) -> None:
    words, tags = sentences(4)
    rows = [{**row, "pos_tags": row["tags"]} for row in of(words, tags)]
    path = json_lines(tmp_path / "two.jsonl", rows)
    with pytest.raises(TargetError, match=r"'tags' and 'pos_tags' could each be the label column; .*--label-column"):
        load_target(path)


@pytest.mark.parametrize(
    ("words", "tags", "message"),
    [
        (["a", "b"], ["O"], r"line 41 has 2 words but 1 labels; give one label per word"),
        ([], [], r"line 41 has no words; give it some or remove it"),
        (["a"], None, r"line 41 has no labels; give it one a word or remove it"),
        (["a", "b"], ["O", None], r"line 41, word 2 has no label; give it one or remove it"),
        (["a", 3], ["O", "O"], r"line 41: expected a list of words. Got list \(\['a', 3\]\)"),
    ],
)
def test_bad_sentences_are_named_with_their_line(tmp_path: Path, words: Any, tags: Any, message: str) -> None:
    good, own = sentences()
    with pytest.raises(TargetError, match=message):
        load_target(json_lines(tmp_path / "bad.jsonl", of([*good, words], [*own, tags])))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a O\nb O\n\nc\n", r"bad.conll:4: found 1 columns; expected 2 as on line 1: every word needs"),
        ("only words\n\n" * 3, r"found one class only \('words'"),
        ("word\n", r"bad.conll:1: found one column \('word'\); expected a word and its label"),
        ("\n\n", r"no sentences found"),
    ],
)
def test_bad_conll_files(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "bad.conll").write_text(content)
    with pytest.raises(TargetError, match=message):
        load_target(tmp_path / "bad.conll")


def test_a_number_that_is_no_label_and_a_task_that_does_not_fit(tmp_path: Path) -> None:
    path = parquet(tmp_path / "p.parquet", *sentences())
    table = pq.read_table(path).to_pydict()
    table["ner_tags"][3][0] = 7
    pq.write_table(pa.table(table).replace_schema_metadata(pq.read_schema(path).metadata), path)
    with pytest.raises(TargetError, match=r"p.parquet:3, word 1 has the label 7; expected an int in 0..2"):
        load_target(path)
    with pytest.raises(ConfigError, match=r"task 'classification' was asked for, but the data have one label per word"):
        load_target(sentences(), task="classification")


def test_labels_that_training_never_shows_are_told() -> None:
    words, tags = sentences()
    target = load_target({"train": (words, tags), "val": (words, tags), "test": ([["Paris", "is"]], [["B-LOC", "O"]])})
    (note,) = [n for n in target.notes if "no word in train" in n]
    assert note.startswith("1 labels")
    assert "B-LOC (val 0, test 1)" in note


def row_labels(target: Target, indices: np.ndarray) -> list[list[str]]:
    return [[target.class_names[k] for k in target.labels_of(np.array([i]))] for i in indices]


def test_fewer_sentences_keep_their_words() -> None:
    words, tags = sentences()
    whole = load_target((words, tags))
    small = subsample(whole, 20)
    known = dict(zip(map(Words, words), tags, strict=True))
    assert (len(small), small.counts()) == (20, {"train": 14, "val": 3, "test": 3})
    assert row_labels(small, np.arange(20)) == [known[small.items[i]] for i in range(20)]
    rest = without(whole, [0, 5], ["is bad", "is bad"])
    assert row_labels(rest, np.arange(38)) == [known[rest.items[i]] for i in range(38)]
    assert rest.fingerprint != whole.fingerprint
    assert small.row_hashes(np.arange(20)) == [
        h for i in range(20) for h in whole.row_hashes(np.array([whole.hashes.index(small.hashes[i])]))
    ]
    assert len(set(whole.row_hashes(np.arange(40)))) == len(whole.labels)


def test_a_real_set(assets: Path) -> None:
    target = load_target(assets / "text" / "atis_slots")
    assert (target.counts(), len(target.class_names)) == ({"train": 3688, "val": 790, "test": 893}, 126)
    assert target.items[0] == Words(["i", "want", "to", "fly", "from", "baltimore", "to", "dallas", "round", "trip"])
    told = [target.class_names[k] for k in target.labels_of(np.array([0]))]
    assert told == [*["O"] * 5, "B-fromloc.city_name", "O", "B-toloc.city_name", "B-round_trip", "I-round_trip"]
    assert any("10 labels have no word in train" in note for note in target.notes)
