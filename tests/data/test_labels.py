"""What raw labels are taken for, and which of them are refused."""

import decimal
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from selector.core.contracts import LabelKind, Target
from selector.core.errors import TargetError
from selector.data import load_target

TEXTS = [f"text {i}" for i in range(40)]


def csv(path: Path, labels: list[str]) -> Path:
    path.write_text("text,label\n" + "".join(f"{TEXTS[i]},{labels[i % len(labels)]}\n" for i in range(40)))
    return path


def of(labels: list[Any]) -> Target:
    return load_target((TEXTS, [labels[i % len(labels)] for i in range(40)]))


def test_only_what_is_written_as_an_int_is_one(tmp_path: Path) -> None:
    assert load_target(csv(tmp_path / "a.csv", ["10", "2"])).class_names == ("2", "10")
    assert load_target(csv(tmp_path / "a.csv", ["10", " 2"])).class_names == ("2", "10")
    assert load_target(csv(tmp_path / "a.csv", ["01", "1"])).class_names == ("01", "1")
    assert load_target(csv(tmp_path / "a.csv", ["1_0", "10"])).class_names == ("10", "1_0")
    assert load_target(csv(tmp_path / "a.csv", ["-1", "0", "+1"])).class_names == ("+1", "-1", "0")
    assert load_target(csv(tmp_path / "a.csv", ["1" * 30, "1" * 29 + "2"])).class_names == ("1" * 30, "1" * 29 + "2")
    assert load_target(csv(tmp_path / "a.csv", ["1.5", "2", "3"])).label_kind is LabelKind.REAL


def test_numbers_are_told_over_all_files(tmp_path: Path) -> None:
    a, b = csv(tmp_path / "a.csv", ["01", "1"]), csv(tmp_path / "b.csv", ["1", "01", "1"])
    assert load_target({"train": a, "test": b}).class_names == ("01", "1")
    b = csv(tmp_path / "b.csv", ["1", "2.5"])
    assert load_target({"train": csv(a, ["1", "2"]), "test": b}).label_kind is LabelKind.REAL
    mixed = load_target({"train": a, "test": (TEXTS, [1, 2] * 20)})
    assert mixed.class_names == ("1", "2")


def test_a_blank_label_is_a_missing_one(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"a.csv: line 4 has no label; give it one or remove it"):
        load_target(csv(tmp_path / "a.csv", ["x", "y", "  "]))
    with pytest.raises(TargetError, match=r"texts: row 1 has no label"):
        of(["x", "\t\n"])
    with pytest.raises(TargetError, match=r"sentences: row 0, word 2 has no label"):
        load_target(([["a", "b", "c"]] * 9, [["O", " ", "B"]] * 9))


@pytest.mark.parametrize(
    "gap",
    [None, "", float("nan"), pd.NA, pd.NaT, np.float32("nan"), np.float16("inf"), decimal.Decimal("NaN"), np.ma.masked],
)
def test_a_gap_of_any_type_is_a_missing_label_in_splits_too(gap: Any) -> None:
    labels = pd.Series(["x", "z", *["x", "y"] * 19], dtype=object)
    labels[1] = gap
    for given in (labels, labels.tolist(), labels.to_numpy()):
        with pytest.raises(TargetError, match=r"texts: row 1 has no label"):
            load_target((TEXTS, given), task="classification")
    with pytest.raises(TargetError, match=r"train: row 1 has no label"):
        load_target({"train": (TEXTS, labels.tolist())}, task="classification")


def test_whole_floats_are_regression_and_that_is_said(tmp_path: Path) -> None:
    target = load_target(csv(tmp_path / "a.csv", ["0.0", "1.0", "2.0"]))
    assert target.label_kind is LabelKind.REAL
    assert target.notes[0] == (
        "the labels are numbers with a decimal point (0.0, 1.0, 2.0), so this is read as regression, although all are "
        "whole and only 3 differ; if they are classes, write them without the point, or use "
        "selector.load_target(..., task='classification')"
    )
    assert load_target(csv(tmp_path / "a.csv", ["0.0", "1.0"]), task="classification").class_names == ("0", "1")
    asked = load_target(csv(tmp_path / "a.csv", ["0.0", "1.0"]), task="regression")
    amounts = [of([0.5, 1.0, 2.0]), of([float(i) for i in range(40)]), asked]
    assert not any("decimal point" in note for target in amounts for note in target.notes)


def test_lists_of_names_are_several_labels() -> None:
    several = of([["a", "b"], ["a", "c"], ["c"], []])
    assert (several.task, several.label_kind) == ("multilabel", LabelKind.MULTILABEL)
    assert several.class_names == ("a", "b", "c")
    assert several.labels[:4].tolist() == [[1, 1, 0], [1, 0, 1], [0, 0, 1], [0, 0, 0]]
    assert "10 texts have no label, such as row 3; they count as negatives" in several.notes
    numbers = load_target({"train": (TEXTS, [[0, 1], [1], [0]] * 13 + [[0]])})
    assert (numbers.class_names, numbers.labels[:3].tolist()) == (("0", "1"), [[1, 1], [0, 1], [1, 0]])
    for second, said in ((None, "has no list"), ("c", "has 'c'"), ([["c"]], "has .* among")):
        with pytest.raises(TargetError, match=rf"texts: row 1 {said}.* its labels; expected"):
            of([["a", "b"], second])


def test_declared_classes_in_lists() -> None:
    import datasets

    kind = datasets.Sequence(datasets.ClassLabel(names=["a", "b", "zebra"]))
    features = datasets.Features({"text": datasets.Value("string"), "label": kind})
    data = datasets.Dataset.from_dict({"text": TEXTS, "label": [[0], [0, 1], [1], []] * 10}, features=features)
    several = load_target(data)
    assert several.class_names == ("a", "b")
    assert several.labels[:4].tolist() == [[1, 0], [1, 1], [0, 1], [0, 0]]
    assert "1 of 3 labels have no text and were left out" in several.notes


def test_labels_that_are_no_names(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "label": "x"}\n{"text": "b", "label": {"id": 1}}\n')
    with pytest.raises(TargetError, match=r"line 2 has a dict as its label \(\{'id': 1\}\)"):
        load_target(path)
    rows = [{"text": text, "label": "x\ud800" if text == "text 3" else "y"} for text in TEXTS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(TargetError, match=r"a.jsonl: line 4 has a label that holds half of a character"):
        load_target(path)


def test_tensors_are_labels() -> None:
    plain = of([0, 1])
    for labels in (torch.arange(40) % 2, list(torch.arange(40) % 2)):
        assert load_target((TEXTS, labels)).fingerprint == plain.fingerprint
        assert load_target({"train": (TEXTS, labels)}).class_names == ("0", "1")
        assert load_target((np.eye(40), labels)).class_names == ("0", "1")
    words = [["a", str(i), "b"] for i in range(20)]
    tags = torch.tensor([0, 1, 2]).repeat(20, 1)
    assert load_target((words, list(tags))).fingerprint == load_target((words, tags.tolist())).fingerprint
    several = load_target((TEXTS, torch.stack([torch.arange(40) % 2, torch.arange(40) % 3 // 2], 1)))
    assert several.label_kind is LabelKind.MULTILABEL
    assert of([0.5, 1.0]).fingerprint == load_target((TEXTS, torch.tensor([0.5, 1.0] * 20))).fingerprint


def test_one_class_of_words_and_one_sentence() -> None:
    with pytest.raises(TargetError, match=r"found one class only \('O', 60 words\)"):
        load_target(([["a", "b", "c"]] * 20, [["O", "O", "O"]] * 20))
    with pytest.raises(TargetError, match=r"there is 1 item; 3 are needed, at least .* and test; add texts\.$"):
        load_target(([["a", "b", "c"]], [["O", "O", "B"]]))
