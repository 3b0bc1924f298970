"""Entities and their metrics against seqeval; what a bootstrap over sentences draws."""

from typing import Any

import numpy as np
import pytest
from seqeval.metrics import classification_report, f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities

from selector.core.contracts import LabelKind
from selector.core.errors import TargetError
from selector.data import load_target
from selector.tasks import registry, task_of
from selector.tasks.tagging import Scheme, Tagging
from selector.tuning.compare import standings

SCHEMES = {
    "IOB2 and IOB": ["B-LOC", "B-PER", "I-LOC", "I-PER", "O"],
    "IOB without B": ["I-LOC", "I-PER", "O"],
    "BIOES": ["B-LOC", "B-PER", "E-LOC", "E-PER", "I-LOC", "I-PER", "O", "S-LOC", "S-PER"],
    "types with hyphens": ["B-depart-time", "I-depart-time", "B-x.y", "O"],
}


def drawn(names: list[str], seed: int, sentences: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Any order of tags at all, valid or not: (logits, labels, groups)."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(sentences), rng.integers(1, 9, size=sentences))
    labels = rng.integers(len(names), size=len(groups))
    said = np.where(rng.random(len(groups)) < 0.6, labels, rng.integers(len(names), size=len(groups)))
    logits = rng.normal(size=(len(groups), len(names)))
    logits[np.arange(len(groups)), said] += 10
    return logits, labels, groups


def metrics_of(task: Tagging, logits: np.ndarray, labels: np.ndarray, groups: np.ndarray | None) -> dict[str, float]:
    return task.stats(logits, labels, groups).values(task.metrics)


def reported(names: list[str], logits: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    task = Tagging(names)
    section = task.report(task.stats(logits, labels, groups), names).to_dict()
    return {**section["tables"], **section["figures"], "samples": section["samples"]}


def as_lists(classes: np.ndarray, groups: np.ndarray, names: list[str]) -> list[list[str]]:
    return [[names[i] for i in classes[groups == unit]] for unit in np.unique(groups)]


@pytest.mark.parametrize("scheme", list(SCHEMES))
@pytest.mark.parametrize("seed", range(3))
def test_entity_metrics_are_those_of_seqeval(scheme: str, seed: int) -> None:
    names = SCHEMES[scheme]
    logits, labels, groups = drawn(names, seed)
    task = Tagging(tuple(names))
    gold, said = as_lists(labels, groups, names), as_lists(logits.argmax(1), groups, names)
    found = metrics_of(task, logits, labels, groups)
    assert found["entity_f1"] == pytest.approx(f1_score(gold, said))
    assert found["entity_precision"] == pytest.approx(precision_score(gold, said))
    assert found["entity_recall"] == pytest.approx(recall_score(gold, said))
    assert found["token_accuracy"] == pytest.approx((logits.argmax(1) == labels).mean())
    assert set(found) == set(task.metrics)
    made = Scheme.of(names)
    assert made is not None
    spans = made.spans(labels, groups)
    told = [(made.types[k], int(b), int(e)) for k, b, e in zip(spans.kinds, spans.begins, spans.ends, strict=True)]
    expected = []
    for unit, tags in enumerate(gold):
        offset = int(np.flatnonzero(groups == unit)[0])
        expected += [(kind, offset + first, offset + last + 1) for kind, first, last in get_entities(tags)]
    assert told == expected


def test_figures_by_type_are_those_of_seqeval() -> None:
    names = SCHEMES["IOB2 and IOB"]
    logits, labels, groups = drawn(names, 5)
    told = reported(names, logits, labels, groups)
    report = classification_report(
        as_lists(labels, groups, names), as_lists(logits.argmax(1), groups, names), output_dict=True
    )
    assert told["counted"] == "entities"
    for line in told["classes"]:
        expected = report[line["class"]]
        assert line["items"] == expected["support"]
        for mine, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert line[mine] == pytest.approx(expected[theirs], abs=1e-4)


def test_units_are_borders() -> None:
    names = ["B-A", "I-A", "O"]
    task = Tagging(tuple(names))
    labels = np.array([0, 1, 1])
    logits = 9.0 * np.eye(3)[labels]
    for groups, expected in ((np.array([0, 0, 1]), [2, 2]), (None, [2])):
        ratio = task.stats(logits, labels, groups).ratio("entity_f1")
        assert ratio is not None
        assert ratio[1].tolist() == expected
    assert task.entities(labels) == [("A", 0, 3)]


def test_labels_that_are_no_tags() -> None:
    for names in (["NOUN", "VERB"], ["O"], ["B-PER", "X"], ["B-", "O"]):
        assert Scheme.of(names) is None
    names = ["NOUN", "O", "VERB"]
    logits, labels, groups = drawn(names, 0)
    task = Tagging(tuple(names))
    assert task.default_metric == "token_accuracy"
    assert "entity_f1" not in metrics_of(task, logits, labels, groups)
    told = reported(names, logits, labels, groups)
    assert told["counted"] == "words"
    assert [line["class"] for line in told["classes"]] == names
    assert (task.entities(labels[:3]), task.stats(logits, labels, groups).ratio("entity_f1")) == ([], None)
    with pytest.raises(KeyError):
        task.stats(logits, labels, groups).value("entity_f1")


def test_no_entities_at_all() -> None:
    task = Tagging(("B-A", "O"))
    logits = np.tile([0.0, 5.0], (4, 1))
    found = metrics_of(task, logits, np.ones(4, int), np.zeros(4, int))
    assert found["entity_f1"] == found["entity_precision"] == 0
    assert found["token_accuracy"] == 1
    with pytest.raises(TargetError, match=r"labels must be ints in 0..1"):
        metrics_of(task, logits, np.array([0, 1, 2, 1]), None)


def test_the_task_of_a_target() -> None:
    words = [["Ada", str(i)] for i in range(20)]
    tagging = task_of(load_target((words, [["B-PER", "O"]] * 20)))
    assert (tagging.name, tagging.default_metric) == ("tagging", "entity_f1")
    plain = load_target(([f"a {i}" for i in range(20)], [i % 2 for i in range(20)]))
    assert task_of(plain) is registry.get("classification")
    assert tagging.label_kind is LabelKind.CLASSES


def test_sentences_are_resampled_not_words() -> None:
    names = SCHEMES["IOB2 and IOB"]
    logits, labels, groups = drawn(names, 1, sentences=150)
    worse = drawn(names, 2, sentences=150)[0][: len(labels)]
    worse = np.resize(worse, logits.shape)
    task = Tagging(tuple(names))
    first_stats, second_stats = (task.stats(outputs, labels, groups) for outputs in (logits, worse))
    table = standings({"a": [first_stats], "b": [second_stats]}, "entity_f1", task.metrics["entity_f1"])
    assert table["a"].value == pytest.approx(metrics_of(task, logits, labels, groups)["entity_f1"])
    # an independent bootstrap: whole sentences drawn, seqeval on each draw
    rng = np.random.default_rng(3)
    gold, first, second = (as_lists(c, groups, names) for c in (labels, logits.argmax(1), worse.argmax(1)))
    gaps = []
    for _ in range(150):
        chosen = rng.integers(len(gold), size=len(gold))
        g, a, b = ([part[i] for i in chosen] for part in (gold, first, second))
        gaps.append(f1_score(g, a) - f1_score(g, b))
    assert table["b"].low == pytest.approx(np.quantile(gaps, 0.05), abs=0.02)
    assert table["b"].high == pytest.approx(np.quantile(gaps, 0.95), abs=0.02)
    # the metric that is no ratio is computed again on each draw, along the same borders
    macro = standings({"a": [first_stats], "b": [second_stats]}, "macro_f1", task.metrics["macro_f1"])
    assert macro["b"].low > 0
    # repeated sentences: words drawn alone would make this interval as narrow as for 20 times as many
    many = [np.repeat(np.arange(40), 20), np.tile(np.arange(40) < 20, (20, 1)).T.reshape(-1)]
    one = np.where(many[1][:, None], [5.0, 0.0], [0.0, 5.0])
    other = np.where(many[1][:, None], [5.0, 0.0], [5.0, 0.0])
    plain = Tagging(("X", "Y"))
    made = {
        name: [plain.stats(outputs, (~many[1]).astype(int), many[0])] for name, outputs in (("a", one), ("b", other))
    }
    wide = standings(made, "token_accuracy", plain.metrics["token_accuracy"])
    assert wide["b"].high - wide["b"].low > 0.2


def test_telling_sentences_come_once_and_are_cut_round_their_word() -> None:
    names = ["B-A", "O"]
    groups = np.repeat([0, 1, 2], [100, 3, 2])
    labels = np.ones(105, int)
    said = labels.copy()
    said[[90, 101]] = 0
    logits = np.eye(2)[said] * np.linspace(2, 4, 105)[:, None]
    told = reported(names, logits, labels, groups)["samples"]
    assert [sample["row"] for sample in told] == [1, 0, 2]  # the surest mistake, another one, a right one
    long = told[1]
    assert len(long["label"]) == len(long["predicted"]) == 60
    assert long["predicted"][90 - long["begin"]] == "B-A"
    assert told[2]["label"] == told[2]["predicted"] == ["O", "O"]


def test_statistics_of_resampled_sentences_are_those_of_the_sentences() -> None:
    names = SCHEMES["IOB2 and IOB"]
    logits, labels, groups = drawn(names, 4, sentences=30)
    task = Tagging(names)
    stats = task.stats(logits, labels, groups)
    items = np.random.default_rng(0).integers(30, size=30)
    rows = np.concatenate([np.flatnonzero(groups == item) for item in items])
    fresh = np.concatenate([np.full((groups == item).sum(), i) for i, item in enumerate(items)])
    expected = metrics_of(task, logits[rows], labels[rows], fresh)
    assert stats[items].values(task.metrics) == pytest.approx(expected)
