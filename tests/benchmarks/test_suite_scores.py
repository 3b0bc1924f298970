"""The suite's scores as a table: what is appended, what is read back, what is done only once."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.suite import agreement_table, score_cells, table
from benchmarks.suite.ceiling import SeedNoise
from benchmarks.suite.image_suite import SUITE
from selector.core.contracts import LabelKind
from selector.features import FeatureSet
from selector.proxies import evaluate, registry
from selector.ranking.combination import LabelFacts
from selector.ranking.prior import ModelFacts


@pytest.fixture
def cells(tmp_path, monkeypatch):
    """Features of three encoders on one set, the first the best; where the suite looks for them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "selector-suite" / "digits"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    for noise, name in ((0.3, "mnv1_100"), (1.0, "mnist_cnn"), (3.0, "usps_cnn")):
        rows = np.eye(3, 8)[labels] + noise * rng.standard_normal((120, 8))
        np.savez(folder / f"{name}.npz", features=rows.astype(np.float32), labels=labels, splits=labels, size=28)
    return folder


def run(out, *names):
    assert score_cells.main(["--sets", "digits", "--out", str(out), "--scores", *names]) == 0


def next_version(monkeypatch, changed):
    """As if the code of one proxy had changed since."""

    def get(name, get=registry.get):
        return replace(get(name), version=get(name).version + 1) if name == changed else get(name)

    monkeypatch.setattr(score_cells.registry, "get", get)


def test_scores_are_what_the_proxies_give_and_are_computed_once_a_version(cells, tmp_path, monkeypatch):
    out = tmp_path / "scores.csv"
    run(out, "logme", "leep")
    scored = score_cells.read(out)
    with np.load(cells / "mnist_cnn.npz") as saved:
        features, labels = saved["features"], saved["labels"]
    expected = evaluate(FeatureSet(features, labels, seed=0), "logme", intervals=True)
    assert scored.values["logme"]["digits"]["mnist_cnn"] == expected.value
    left_out = expected.blocks
    error = np.sqrt((len(left_out) - 1) / len(left_out) * ((left_out - left_out.mean()) ** 2).sum())
    assert scored.errors["logme"]["digits"]["mnist_cnn"] == pytest.approx(error, rel=1e-4)
    assert "no head of its source task" in scored.missing["digits", "leep", "mnist_cnn"]
    assert scored.labels["digits"] == LabelFacts.of(labels, LabelKind.CLASSES)
    before = out.read_bytes()
    run(out, "logme", "leep")
    assert out.read_bytes() == before
    next_version(monkeypatch, "logme")
    run(out, "logme")
    assert len(table.whole_rows(out)) == 9


def test_a_row_of_another_version_is_no_value_and_is_computed_again(cells, tmp_path, monkeypatch, capsys):
    out = tmp_path / "scores.csv"
    run(out, "logme", "knn")
    found = score_cells.read(out).values
    next_version(monkeypatch, "logme")
    capsys.readouterr()
    stale = score_cells.read(out)
    assert stale.values == {"knn": found["knn"]}
    assert "computed by version" in stale.missing["digits", "logme", "usps_cnn"]
    told = capsys.readouterr().err
    version = registry.get("logme").version
    assert f"logme version {version - 1} (3 cells; the code has {version})" in told
    assert "score_cells --extract" in told
    assert score_cells.lacking("digits", "usps_cnn", ["logme", "knn"], out) == ["logme"]
    run(out, "logme")
    assert score_cells.read(out).values == found
    assert capsys.readouterr().err == ""
    old = table.whole_rows(out)[0] | {"version": "0", "value": "9"}  # appended late by a checkout that is behind
    table.append(out, old, score_cells.COLUMNS)
    assert score_cells.read(out).values == found


def test_a_torn_last_row_is_left_out_and_the_next_one_starts_a_line(cells, tmp_path):
    out = tmp_path / "scores.csv"
    run(out, "logme")
    whole = out.read_bytes()
    out.write_bytes(whole[:-20])
    run(out, "logme")
    assert score_cells.read(out).values["logme"]["digits"].keys() == {"mnv1_100", "mnist_cnn", "usps_cnn"}


def test_agreement_comes_from_the_tables_alone(cells, tmp_path):
    out = tmp_path / "scores.csv"
    run(out, "knn", "probe", "logme")
    for file in cells.iterdir():
        file.unlink()
    truth = {"digits": {"mnv1_100": 90.0, "mnist_cnn": 60.0, "usps_cnn": 40.0}}
    found = agreement_table.known(score_cells.read(out), truth, {})
    transferability = found[agreement_table.TRANSFERABILITY]["digits"]
    assert sorted(transferability, key=transferability.get) == ["usps_cnn", "mnist_cnn", "mnv1_100"]
    normalized_score = found[agreement_table.NORMALIZED_SCORE]["digits"]
    assert transferability == pytest.approx(normalized_score)  # of nothing known no prior
    facts = {"usps_cnn": ModelFacts(parameters=1e12), "mnist_cnn": ModelFacts(parameters=1e6)}
    moved = agreement_table.known(score_cells.read(out), truth, facts)[agreement_table.TRANSFERABILITY]["digits"]
    assert moved["usps_cnn"] > transferability["usps_cnn"]
    path = tmp_path / "written.csv"
    agreement_table.write_scores(path, found, truth, {})
    assert len(list(csv.DictReader(path.open()))) == 15


def test_a_random_order_agrees_by_nothing_and_a_perfect_one_wholly():
    rng = np.random.default_rng(1)
    truth = {name: {f"e{i}": float(v) for i, v in enumerate(rng.uniform(50, 90, 12))} for name in "abcd"}
    noise = SeedNoise({"": 2.0}, {})
    rows = agreement_table.agreement({"oracle": truth}, truth, SUITE.scopes, draws=20, seed=0, noise=noise)
    by_score = {row["score"]: row for row in rows if row["scope"] == "all"}
    assert by_score["oracle"]["weighted_tau"] == pytest.approx(1)
    ceiling = by_score[agreement_table.CEILING]  # two points of noise on either side, accuracies three and a half apart
    assert 0.7 < ceiling["weighted_tau"] < 0.9
    assert 0 < ceiling["regret@1"] < 3
    chance = by_score[agreement_table.RANDOM]
    assert abs(chance["weighted_tau"]) < 0.1
    expected = np.mean([max(c.values()) - np.mean(list(c.values())) for c in truth.values()])
    assert chance["regret@1"] == pytest.approx(expected, rel=0.1)


def test_source_head_scores_are_compared_with_the_others_on_encoders_that_have_one():
    truth = {"a": {f"e{i}": float(i) for i in range(8)}}
    leep = {"a": {f"e{i}": float(i) for i in range(4)}}
    rows = agreement_table.agreement({"knn": truth, "leep": leep}, truth, SUITE.scopes, draws=5, seed=0)
    counts = {row["score"]: row["encoders"] for row in rows if row["scope"] == "with a source head"}
    assert counts == {"knn": 4, "leep": 4, agreement_table.RANDOM: 4}


def test_the_gain_is_over_the_transferability_on_the_encoders_that_both_have():
    truth = {"a": {f"e{i}": float(i) for i in range(8)}}
    transferability = {"a": {**truth["a"], "e7": -1.0}}  # the best encoder comes last
    few = {"a": {f"e{i}": float(i) for i in range(7)}}
    by_score = {agreement_table.TRANSFERABILITY: transferability, "oracle": truth, "few": few}
    rows = agreement_table.agreement(by_score, truth, SUITE.scopes, draws=20, seed=0)
    found = {row["score"]: row for row in rows if row["scope"] == "all"}
    assert found["oracle"]["gain"] == pytest.approx(1 - found[agreement_table.TRANSFERABILITY]["weighted_tau"])
    assert found["oracle"]["gain_low"] >= 0
    assert found[agreement_table.TRANSFERABILITY]["gain"] == found["few"]["gain"] == 0
    assert "gain" not in found[agreement_table.RANDOM]


def test_encoders_are_drawn_once_for_all_sets():
    """The same encoders with the same errors on four sets say no more than on one: only sets differ in nothing."""
    rng = np.random.default_rng(0)
    one = {f"e{i}": float(i) for i in range(12)}
    wrong = dict(zip(one, rng.permutation(12) + np.arange(12.0), strict=True))

    def width(sets):
        truth = dict.fromkeys(sets, one)
        scores, scopes = {"x": dict.fromkeys(sets, wrong)}, {"all": SUITE.scopes["all"]}
        rows = agreement_table.agreement(scores, truth, scopes, draws=300, seed=0)
        found = next(row for row in rows if (row["score"], row["scope"]) == ("x", "all"))
        return found["weighted_tau_high"] - found["weighted_tau_low"]

    assert width("abcd") == pytest.approx(width("a"), rel=0.15)
