"""Targets of texts, from every form that they come in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selector.core.errors import TargetError
from selector.data import load_origin, load_target
from tests.support.tables import class_label, csv, declared, json_lines

TEXTS = [f"text {i} of {'sun' if i % 2 else 'rain'}" for i in range(40)]
LABELS = ["sun" if i % 2 else "rain" for i in range(40)]
SPLIT_ROWS = [f"{TEXTS[i]},{LABELS[i]},{('train', 'train', 'val', 'test')[i // 10]}" for i in range(40)]


def parquet(path: Path, texts: list[str], labels: list[int], names: list[str]) -> Path:
    table = pa.table({"text": texts, "label": labels})
    pq.write_table(declared(table, text={"_type": "Value"}, label=class_label(names)), path)
    return path


def test_every_form_gives_the_same_target(tmp_path):
    import datasets

    rows = list(zip(TEXTS, LABELS, strict=True))
    forms: list[Any] = [
        csv(tmp_path / "a.csv", [f"{t},{label}" for t, label in rows]),
        csv(tmp_path / "a.tsv", [f"{t}\t{label}" for t, label in rows], "text\tlabel"),
        json_lines(tmp_path / "a.jsonl", [{"text": t, "label": label} for t, label in rows]),
        (TEXTS, LABELS),
        (np.array(TEXTS), LABELS),
        (np.array(TEXTS, dtype=np.dtypes.StringDType()), LABELS),
        (tuple(TEXTS), tuple(LABELS)),
        (pd.Series(TEXTS), pd.Series(LABELS, dtype="category")),
        (pd.Series(TEXTS, dtype=object, index=range(40, 0, -1)), LABELS),
        datasets.Dataset.from_dict({"text": TEXTS, "label": LABELS}),
        (datasets.Dataset.from_dict({"text": TEXTS})["text"], LABELS),
        pd.DataFrame({"id": range(40), "text": TEXTS, "label": LABELS}),
        parquet(tmp_path / "a.parquet", TEXTS, [int(label == "sun") for label in LABELS], ["rain", "sun"]),
    ]
    targets = [load_target(form) for form in forms]
    for target in targets:
        assert (target.modality, target.class_names) == ("text", ("rain", "sun"))
        assert [target.items[i] for i in range(40)] == TEXTS
        assert target.fingerprint == targets[0].fingerprint
    assert targets[0].names[0] == "line 2"
    again = load_origin(json.loads(json.dumps(targets[0].origin)))
    assert again.fingerprint == targets[0].fingerprint


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_tables_of_a_folder_are_splits(tmp_path, suffix):
    for name, begin, end in (("test", 30, 40), ("train", 0, 20), ("val", 20, 30)):
        path, rows = tmp_path / f"{name}.{suffix}", list(zip(TEXTS, LABELS, strict=True))[begin:end]
        if suffix == "jsonl":
            json_lines(path, [{"text": t, "label": k} for t, k in rows])
        elif suffix == "parquet":
            parquet(path, [t for t, _ in rows], [int(k == "sun") for _, k in rows], ["rain", "sun"])
        else:
            apart = "," if suffix == "csv" else "\t"
            csv(path, [f"{t}{apart}{k}" for t, k in rows], f"text{apart}label")
    target = load_target(tmp_path)
    assert (target.name, target.split_origin) == (tmp_path.name, "given")
    assert target.counts() == {"train": 20, "val": 10, "test": 10}
    assert [target.items[i] for i in range(40)] == TEXTS
    assert target.names[20] == f"val.{suffix}" + {"jsonl": ", line 1", "parquet": ":0"}.get(suffix, ", line 2")
    assert load_origin(json.loads(json.dumps(target.origin))).fingerprint == target.fingerprint


def test_a_folder_of_one_table_and_labels_over_all_files(tmp_path):
    rows = [f"{t},{i % 2},{('train', 'val', 'test')[i // 14]}" for i, t in enumerate(TEXTS)]
    csv(tmp_path / "train.csv", rows, "text,label,split")
    (tmp_path / ".git").mkdir()
    assert load_target(tmp_path).counts() == {"train": 14, "val": 14, "test": 12}
    csv(tmp_path / "train.csv", [f"{t},0{i % 2}" for i, t in enumerate(TEXTS)])
    csv(tmp_path / "test.csv", [f"more {t},{i % 2}" for i, t in enumerate(TEXTS)])
    with pytest.raises(TargetError, match=r"'0' has 0 in train \(test 20\), '1' has 0"):  # 00 is another label
        load_target(tmp_path)


def test_folders_of_tables_that_cannot_be_read(tmp_path):
    csv(tmp_path / "train.csv", [f"{t},x" for t in TEXTS])
    csv(tmp_path / "test.csv", TEXTS, "text")
    with pytest.raises(TargetError, match=r"test.csv: columns text; expected text, label as in train.csv"):
        load_target(tmp_path)
    json_lines(tmp_path / "test.jsonl", [{"text": "a", "label": "x"}])
    with pytest.raises(TargetError, match=r"found train.csv and test.jsonl; keep files of one kind"):
        load_target(tmp_path)
    (tmp_path / "test.jsonl").unlink()
    (tmp_path / "cats").mkdir()  # classes of images, perhaps
    with pytest.raises(TargetError, match=r"found 0 images .* Of the tables in it \(test.csv, train.csv\) give"):
        load_target(tmp_path)


def test_pairs_and_named_columns(tmp_path):
    rows = [f"a {i},b {i},{i % 2}" for i in range(20)]
    path = csv(tmp_path / "p.csv", rows, "premise,hypothesis,gold")
    target = load_target(path, text_column=("premise", "hypothesis"), label_column="gold")
    assert target.items[3] == ("a 3", "b 3")
    assert load_origin(json.loads(json.dumps(target.origin))).fingerprint == target.fingerprint
    written = load_target(path, text_column="premise, hypothesis", label_column="gold")
    assert written.fingerprint == target.fingerprint
    assert load_origin(json.loads(json.dumps(written.origin))).fingerprint == target.fingerprint
    with pytest.raises(TargetError, match=r"no column 'hypotheses'; did you mean 'hypothesis'"):
        load_target(path, text_column="premise,hypotheses")
    comma = json_lines(tmp_path / "c.jsonl", [{"a,b": t, "label": k} for t, k in zip(TEXTS, LABELS, strict=True)])
    assert load_target(comma, text_column="a,b").items[3] == TEXTS[3]
    rows_of_two = [["a " + str(i), "b " + str(i)] for i in range(20)]
    pairs: Any
    for pairs in (
        np.array(rows_of_two),
        pd.DataFrame(rows_of_two),
        pd.Series(rows_of_two),
        list(map(tuple, rows_of_two)),
    ):
        assert load_target((pairs, [i % 2 for i in range(20)])).hashes == target.hashes
    frame = load_target(pd.read_csv(path), text_column=["premise", "hypothesis"], label_column="gold")
    assert frame.fingerprint == target.fingerprint
    joined = load_target(([f"a {i} b {i}" for i in range(20)], [i % 2 for i in range(20)]))
    assert not set(joined.hashes) & set(target.hashes)


def test_what_is_no_list_of_texts():
    with pytest.raises(TargetError, match=r"texts: no items found; give a dataset with labeled texts"):
        load_target(([], []))
    with pytest.raises(TargetError, match="texts: no items found"):
        load_target((pd.Series([], dtype=object), pd.Series([], dtype=object)))
    for nothing in (("a text", "another"), (pd.Series([1.5, 2]), [0, 1]), (b"ab", [0, 1]), (range(9), range(9))):
        with pytest.raises(TargetError, match="an object of type tuple is not a target"):
            load_target(nothing)
    with pytest.raises(TargetError, match=r"row 0 is a (float|NoneType); expected a text or a pair of texts"):
        load_target((pd.Series([None, *TEXTS[1:]]), LABELS))


FRAME = pd.DataFrame({"text": TEXTS, "label": LABELS})


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (FRAME.rename(columns={"text": "body"}), r"table: which column holds the text\? Columns: body, label. Name it with text_c"),
        (FRAME.set_axis(["text", "text"], axis=1), r"table: a column name occurs twice \(text, text\); rename one"),
        (FRAME.assign(label=[*LABELS[:3], None, *LABELS[4:]]), r"row 3 has no label; give it one or remove it"),
        (FRAME.assign(text=[*TEXTS[:3], float("nan"), *TEXTS[4:]]), r"row 3: column 'text' holds float \(nan\); expected text"),
        (FRAME[:0], r"no items found"),
    ],
)  # fmt: skip
def test_frames_that_cannot_be_read(frame, message):
    with pytest.raises(TargetError, match=message):
        load_target(frame)


@pytest.mark.parametrize(
    ("header", "options", "message"),
    [
        ("text,sentence,label", {}, r"'text' and 'sentence' could each be the text column; choose one with text_column"),
        ("text,label,intent", {}, r"'label' and 'intent' could each be the label column; .* \(--label-column\)"),
        # 'text' in a name means nothing
        ("full_text,label", {}, r"t.csv: which column holds the texts, or the images\? Columns: full_text, label"),
        ("full_text,label", {"text_column": "ful_text"}, r"no column 'ful_text'; did you mean 'full_text'\? Columns: full_text, label"),
        (None, {}, r"which column holds the text\? Columns: body, label. Name it with text_column"),
        ("text,sentence,label", {"text_column": ["text", "text"]}, r"t.csv: text_column names 'text' twice; give it once, or two columns for p"),
        ("text,sentence,label", {"text_column": "text, text"}, r"t.csv: text_column names 'text' twice; give it once, or two columns for p"),
        ("text,sentence,label", {"text_column": ["text", "sentence", "label"]}, "text_column names 3 columns; give one, or two for pairs"),
    ],
)  # fmt: skip
def test_columns_are_asked_for_and_never_guessed(tmp_path, header, options, message):
    if header is None:
        file = json_lines(tmp_path / "l.jsonl", [{"body": "a", "label": 1}])
    else:
        file = csv(tmp_path / "t.csv", [",".join("abc"[: header.count(",") + 1])], header)
    with pytest.raises(TargetError, match=message):
        load_target(file, **options)


def test_a_manifest_of_images_stays_one(tmp_path):
    path = csv(tmp_path / "images.csv", ["a.png,a caption,x"], "path,text,label")
    with pytest.raises(TargetError, match=r"image 'a.png' does not exist"):
        load_target(path)
    assert load_target(csv(path, [f"a.png,{t},{i % 2}" for i, t in enumerate(TEXTS)], "path,text,label"),
                       text_column="text").modality == "text"  # fmt: skip


def test_splits_of_a_column(tmp_path):
    rows = [row.replace(",val", ",dev") for row in SPLIT_ROWS]
    target = load_target(csv(tmp_path / "s.csv", rows, "text,label,split"))
    assert target.counts() == {"train": 20, "val": 10, "test": 10}
    for name in ("Split", "SPLIT", "Subset"):
        again = load_target(csv(tmp_path / "s.csv", rows, f"text,label,{name}"))
        assert again.fingerprint == target.fingerprint
    both = [f"{row},test" for row in rows]
    assert load_target(csv(tmp_path / "s.csv", both, "text,label,split,Split")).fingerprint == target.fingerprint
    with pytest.raises(TargetError, match=r"Split and SPLIT could each be the column of splits; rename .* to 'split'"):
        load_target(csv(tmp_path / "s.csv", both, "text,label,Split,SPLIT"))
    with pytest.raises(TargetError, match=r"line 2: unknown split 'tests'; did you mean 'test'"):
        load_target(csv(tmp_path / "s.csv", ["a,b,tests"], "text,label,split"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "text,label\nschön,a\n".encode() + "schön,b\n".encode("latin-1"), r"x.csv:3: byte 0xf6 is not UTF-8; expected one encoding throughout"),
        ("x.jsonl", '{"text": "a", "label": 1}\n{"text": \n', r"x.jsonl:2: not JSON .*expected one object per line"),
        ("x.csv", "\n".join(["text,label", *(f"{t},x" for t in TEXTS[:5]), "unlabeled,"]), r"line 7 has no label; give it one or remove it"),
        ("x.jsonl", "\n\n", r"x.jsonl: no rows found; expected one object per line"),
        ("x.jsonl", '{"text": "a", "label": "x"}\n{"text": "b"}', r"line 2 has no label"),
        ("x.jsonl", '{"text": 3, "label": "x"}', r"line 1: column 'text' holds int \(3\); expected text"),
        ("x.csv", "\n".join(["text,label,split", *SPLIT_ROWS, "odd,snow,test"]), r"class 'snow' has no text in train \(train 0, val 0, test 1\)"),
    ],
)  # fmt: skip
def test_bad_files_are_named_with_their_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(TargetError, match=message):
        load_target(tmp_path / name)


def test_an_empty_table_whose_columns_are_named(tmp_path):
    (tmp_path / "x.csv").write_text("")
    with pytest.raises(TargetError, match=r"x.csv: the table is empty"):
        load_target(tmp_path / "x.csv", text_column="text")


ROWS = [f"{text}\t{label}" for text, label in zip(TEXTS, LABELS, strict=True)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (['"hello\tsun', *ROWS], r":2: a quote at the begin of a cell is never closed.*\(lines 2 to 42\). Write a quote"),
        ([*ROWS, '"hello\tsun'], r":42: a quote at the begin of a cell is never closed"),
        ([*ROWS, 'hello\t"sun'], r":42: a quote at the begin of a cell is never closed"),
        (['"hello\tsun', *ROWS, '"again\train'], r":2: a quote at the begin of a cell is closed within a text \(lines 2 to 43\)"),
        (['"hello\tsun', *ROWS, 'he said "bye"\train'], r":2: a quote at the begin of a cell is closed within a text"),
        ([*ROWS[:2], '"to be\tsun', *ROWS, 'or not"\train'],
         r":4: a quote at the begin of a cell makes one cell of lines that look like rows \(lines 4 to 45\)"),
        ([ROWS[0], '"to be\tsun', 'or not"\train', *ROWS], r":3: .* look like rows \(lines 3 to 4\)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("delimiter", ["\t", ",", ";"])
def test_a_quote_that_swallows_rows(tmp_path, rows, message, delimiter):
    path = csv(tmp_path / "q.csv", [row.replace("\t", delimiter) for row in rows], f"text{delimiter}label")
    with pytest.raises(TargetError, match=r"q\.csv" + message):
        load_target(path)


def test_texts_on_several_lines_are_no_rows(tmp_path):
    texts = ["Dear Bob, hi\nhow are you", "on May 5, 2019\nwe won 1,000", 'a "b", c\n"d", e', '"quoted"\n"again, sun"']
    texts += ['"quoted" and more\nsun']
    texts += [f"{i}, text\nof {i}, lines" for i in range(35)]
    table = pd.DataFrame({"id": range(40), "text": texts, "label": LABELS})
    for columns in (["text", "label"], ["label", "text"], ["id", "text", "label"]):
        table[columns].to_csv(tmp_path / "a.csv", index=False)
        target = load_target(tmp_path / "a.csv")
        assert [target.items[i] for i in range(40)] == texts
    loose = load_target(
        csv(tmp_path / "c.csv", ['"Yes" she said,sun', *(r.replace("\t", ",") for r in ROWS), '"No" he said,sun'])
    )
    assert (loose.items[0], loose.items[41]) == ("Yes she said", "No he said")
    one_row = 'sun,"to be\nrain,or not"'  # the text stands last
    with pytest.raises(TargetError, match=r"look like rows \(lines 3 to 4\)"):
        load_target(csv(tmp_path / "b.csv", ["rain,a", one_row, "sun,b", "rain,c"], "label,text"))


def test_a_long_cell_with_quotes_and_breaks(tmp_path):
    long = "word " * 40_000
    rows = [f'"{long}",x', '"two\nlines, and a ""quote""",y', *(f"{t},{'xy'[i % 2]}" for i, t in enumerate(TEXTS))]
    target = load_target(csv(tmp_path / "long.csv", rows))
    assert (target.items[0], target.items[1]) == (long, 'two\nlines, and a "quote"')
