"""What a scan of texts says, and what it leaves out: forecasts, confirmations, failures, plans."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import Result

import selector
from selector.core.errors import ConfigError
from selector.ranking.history import History
from selector.ranking.history import Result as Past
from selector.report.html import render_report
from selector.report.view import table_view
from tests.scan.test_tagging_scan import tagged
from tests.scan.test_text_scan import sentences
from tests.support.commands import run
from tests.support.text_models import text_model

FAST = {"proxies": ["knn", "logme"], "precision": "float32", "backend": "eager"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, a zoo file of both, and targets of every kind of label."""
    root = tmp_path_factory.mktemp("reporting")
    models = [f"- {{name: {f}, source: 'transformers:{text_model(root / f, f)}'}}" for f in ("bert", "gpt2")]
    (root / "zoo.yaml").write_text("\n".join(["version: 1", "models:", *models]))
    texts, labels = sentences(80)
    rng = np.random.default_rng(0)
    kinds = {
        "classes": labels,
        "real": [len(text.split()) + float(rng.uniform()) for text in texts],
        "multilabel": [[int(name == label) for name in ("weather", "sport")] for label in labels],
    }
    for kind, values in kinds.items():
        rows = [json.dumps({"text": t, "label": v}) for t, v in zip(texts, values, strict=True)]
        (root / f"{kind}.jsonl").write_text("\n".join(rows))
    return root


@pytest.fixture
def scan(folder: Path, tmp_path: Path) -> Callable[..., Result]:
    """``selector scan`` of one of the targets, on the command line."""

    def scanned(target: str, *words: object) -> Result:
        common = ["--zoo", folder / "zoo.yaml", "--store", folder / "store", "--out", tmp_path / "run", "--no-history"]
        quick = ["--proxies", "knn,logme", "--precision", "float32", "--backend", "eager", "--measure-cost", "never"]
        return run("scan", folder / f"{target}.jsonl", *common, *quick, *words)

    return scanned


def remember(history: History, metric: str) -> None:
    """Four targets on which five models were measured in a metric, as their normalized score let expect."""
    for t, i in np.ndindex(4, 5):
        common: dict[str, Any] = {"target": f"{metric}-{t}", "model": f"m{i}", "source": f"s{i}", "run": f"r{t}"}
        for members in ("knn+logme", "logme"):  # of tags, and of classes of texts
            history.add([Past(metric=f"normalized_score:{members}", value=i / 5, kind="predicted", **common)])
        history.add([Past(metric=metric, value=0.1 + i / 7 + t / 100, strategy="frozen", **common)])


def test_a_metric_is_foretold_from_the_same_metric_only(folder, tmp_path):
    history = History(tmp_path / "history.sqlite")
    asked: dict[str, Any] = {**FAST, "zoo": folder / "zoo.yaml", "store": folder / "store", "history": history}
    remember(history, "accuracy")
    ranking = selector.rank(tagged(60), **asked)
    assert all(model.predicted is None for model in ranking)
    assert "accuracy" not in str(ranking)
    assert {m.predicted.metric for m in selector.rank(sentences(80), **asked) if m.predicted} == {"accuracy"}
    done = selector.confirm(ranking, strategies=["frozen"], top_k=1, history=history, out=tmp_path / "run")
    assert all(model.predicted is None for model in done)
    remember(history, "entity_f1")
    for model in selector.rank(tagged(60), **asked):
        assert model.predicted is not None
        assert (model.predicted.metric, model.predicted.targets) == ("entity_f1", 5)  # the target itself is one


@pytest.mark.parametrize(("kind", "metric"), [("multilabel", "map"), ("real", "r2")])
def test_texts_of_several_labels_and_of_values_are_confirmed(kind, metric, scan, tmp_path):
    result = scan(kind, "--strategies", "frozen", "--max-steps", 2)
    assert result.exit_code == 0, result.output
    ranking = selector.load_ranking(tmp_path / "run")
    assert [m.rank for m in ranking if m.transferability is not None] == [1, 2]
    assert ranking.confirmation["metric"] == metric
    found = [measured for model in ranking for measured in model.measurements]
    assert [m.status for m in found] == ["ok", "ok"]
    assert max(m.test[metric] for m in found) > 0.6  # the labels follow from the words
    assert not any(c.code == "task-not-trainable" for c in ranking.caveats)


@pytest.mark.parametrize("kind", ["multilabel", "real"])
def test_labels_that_nothing_trains_on_are_ranked_and_the_confirmation_is_left_out(kind, scan, tmp_path, monkeypatch):
    """Every kind that ships has a task; a target of a kind that a later version adds has none yet."""
    monkeypatch.setattr(selector.tasks, "task_for", lambda target: None)
    result = scan(kind)
    assert result.exit_code == 3, result.output  # the confirmation was asked for
    assert "not confirmed: " in result.stderr
    assert scan(kind, "--no-confirm", "--out", tmp_path / "ranked").exit_code == 0
    ranking = selector.load_ranking(tmp_path / "run")
    assert [m.rank for m in ranking if m.transferability is not None] == [1, 2]
    assert not ranking.confirmation
    (told,) = [c.text for c in ranking.caveats if c.code == "task-not-trainable"]
    assert f"texts with {kind} labels" in told
    assert told.endswith(f"{', '.join(selector.tasks.registry.names())}.")
    html = (tmp_path / "run" / "report.html").read_text()
    assert told in html
    assert "selector confirm" not in html
    with pytest.raises(ConfigError, match="fine-tuning does not support"):
        selector.confirm(tmp_path / "run")


def test_a_small_zoo_is_confirmed_as_far_as_it_goes(scan, tmp_path):
    words = ["--strategies", "frozen", "--max-steps", 2]
    result = scan("classes", *words)
    assert result.exit_code == 0, result.output
    ranking = selector.load_ranking(tmp_path / "run")
    assert all(model.measurements for model in ranking)
    assert (ranking.settings["top_k"], ranking.settings["confirm"]["top_k"]) == (2, 2)
    assert selector.confirm(tmp_path / "run", strategies=["frozen"]).settings["confirm"]["top_k"] == 2


def test_texts_have_no_resolution(scan, folder, tmp_path):
    refused = scan("classes", "--resolution", 64)
    assert refused.exit_code == 2
    told = "--resolution has no effect on classes: it needs images, and this target holds texts"
    assert told in refused.output.replace("\n", " ")
    assert scan("classes", "--no-confirm").exit_code == 0
    with pytest.raises(ConfigError, match=r"this target holds texts"):
        selector.confirm(tmp_path / "run", resolution=64)


def test_a_reading_that_fails_is_told_once_with_its_reason(scan, tmp_path):
    result = scan("classes", "--layers", "3,9", "--models", "bert", "--no-confirm")
    assert result.exit_code == 3, result.output
    notes = table_view(selector.load_ranking(tmp_path / "run")).notes
    reason = "there is no layer '9'; expected 'mean', 'last' or a number in 1..3."
    assert [note for note in notes if "bert@9" in note] == [f"Failed: bert@9: {reason}"]
    html = (tmp_path / "run" / "report.html").read_text()
    assert html.count("bert@9: ") == 1  # in the traceback
    assert "not ranked" not in html


def test_a_plan_counts_what_models_read(scan, folder):
    assert "2 of 2 models usable, 68 texts" in scan("classes", "--dry-run").output
    words, tags = tagged(60)
    lists = [json.dumps({"tokens": w, "tags": t}) for w, t in zip(words, tags, strict=True)]
    (folder / "words.jsonl").write_text("\n".join(lists))
    assert re.search(r"models usable, \d+ words$", scan("words", "--dry-run").output, re.M)
    assert json.loads(scan("words", "--dry-run", "--json").stdout)["noun"] == "word"


def test_tags_that_training_never_shows_are_told_once(folder, tmp_path):
    words, tags = tagged(60)
    tags[50][0], tags[45][0] = "B-NEW", "B-VAL"
    parts = {split: (words[a:b], tags[a:b]) for split, a, b in (("train", 0, 40), ("val", 40, 50), ("test", 50, 60))}
    ranking = selector.rank(
        parts, **FAST, zoo=folder / "zoo.yaml", store=folder / "store", models="bert", history=False,
        confirm=True, strategies=("frozen",), out=tmp_path / "run",
    )  # fmt: skip
    (told,) = [warning for warning in ranking.warnings if "B-NEW" in warning or "B-VAL" in warning]
    assert "B-NEW (val 0, test 1), B-VAL (val 1, test 0)" in told


def test_without_intervals_nothing_is_said_of_them(folder):
    asked: dict[str, Any] = {**FAST, "zoo": folder / "zoo.yaml", "store": folder / "store", "history": False}
    ranking = selector.rank(sentences(80), **asked, intervals=False)
    for model in ranking:
        assert model.transferability is not None
        assert (model.transferability_low, model.p_best, model.p_top_k, model.mean_rank) == (None, None, None, None)
    keys = {column.key for column in table_view(ranking).columns}
    assert "transferability" in keys
    assert not keys & {"interval", "p_best", "p_top_k"}
    html = render_report(ranking)
    for claim in ("figure-intervals", "90% interval", "The probability that", "not significantly different"):
        assert claim not in html
    assert "figure-intervals" in render_report(selector.rank(sentences(80), **asked))
