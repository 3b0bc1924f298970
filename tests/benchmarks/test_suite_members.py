"""Choosing members on the suite: nothing that is learned has seen the set it is judged on."""

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.suite import members, score_cells
from selector.core.contracts import LabelKind, Score
from selector.ranking.agreement import Calibration, CalibrationSet
from selector.ranking.combination import LabelFacts, combine

FACTS = LabelFacts.of(np.arange(300) % 3, LabelKind.CLASSES)
NAMES = tuple(f"e{i}" for i in range(16))


@pytest.fixture
def cells():
    """Three sets of 16 encoders; knn says much, the others little."""
    rng = np.random.default_rng(0)
    found = {}
    for name in "abc":
        quality = rng.uniform(0.1, 0.9, len(NAMES))
        raw = {m: rng.uniform(0, 1, len(NAMES)) for m in (*members.NORMALIZED_SCORES, *members.OTHERS)}
        raw["knn"] = quality
        normalized_scores = {m: raw[m] for m in members.NORMALIZED_SCORES}
        found[name] = members.Cells(NAMES, normalized_scores, raw, rng.standard_normal(len(NAMES)), 100 * quality)
    return found


@pytest.mark.parametrize("label", [c for c in members.CANDIDATES if c.startswith(("learned", "z"))])
def test_what_is_learned_comes_from_the_other_sets(cells, label):
    others = [cells["b"], cells["c"]]
    before = members.CANDIDATES[label](cells["a"], others)
    reversed_truth = replace(cells["a"], accuracy=cells["a"].accuracy[::-1].copy())
    assert members.CANDIDATES[label](reversed_truth, others) == pytest.approx(before)


def test_learned_weights_find_the_member_that_says_something(cells):
    rows = members.compare(cells, draws=2, seed=0)  # intervals are not looked at
    taus = {row["score"]: row["weighted_tau"] for row in rows if row["scope"] == "all"}
    assert taus["normalized score: knn"] == pytest.approx(1)
    assert taus["learned: knn+probe+logme"] > taus[members.DEFAULT]
    gains = {row["score"]: row["gain"] for row in rows if row["scope"] == "all"}
    assert gains[members.DEFAULT] == 0
    assert gains["normalized score: knn"] == pytest.approx(1 - taus[members.DEFAULT])
    assert {row["encoders"] for row in rows if row["scope"] == "upper half"} == {3 * 8}


def test_further_scores_are_tried_as_members(cells):
    rng = np.random.default_rng(1)
    wider = {
        n: replace(c, raw={**c.raw, "itm": c.accuracy / 50, "lead": rng.uniform(0, 1, len(NAMES))})
        for n, c in cells.items()
    }
    rows = members.compare(wider, draws=2, seed=0, candidates=members.further(["itm", "lead"]))
    taus = {row["score"]: row["weighted_tau"] for row in rows if row["scope"] == "all"}
    assert taus["z: itm"] == pytest.approx(1)
    assert taus["z: lead"] < 0.5
    assert taus["z: chosen on the other sets"] == pytest.approx(1)  # knn or itm alone, or both
    assert taus["z: knn+probe+logme+itm"] > taus["z: knn+probe+logme"]


def test_the_weight_of_the_prior_comes_from_the_other_sets(cells):
    """The prior orders b and c as the truth does and a the other way round; knn is noise on all three."""
    rng = np.random.default_rng(3)
    members_of = dict.fromkeys(("knn", "probe", "logme"))
    made = {
        n: replace(
            c,
            prior=(1 if n in known else -1) * (c.accuracy - 50) / 10,
            normalized_scores={m: rng.uniform(0.45, 0.55, len(NAMES)) + c.accuracy / 2000 for m in members_of},
        )
        for known in ("bc",)
        for n, c in cells.items()
    }
    best = members.best_weight([made["b"], made["c"]], *members_of)
    assert best >= 0.25
    found = members.weight_chosen_elsewhere(*members_of)(made["a"], [made["b"], made["c"]])
    assert found == pytest.approx(members.where_it_agrees(*members_of, weight=best)(made["a"], ()))
    turned = {n: replace(c, prior=-c.prior, normalized_scores=made[n].normalized_scores) for n, c in made.items()}
    assert members.best_weight([turned["b"], turned["c"]], *members_of) == 0.0


def scored(count):
    values = {m: {"a": {}} for m in ("knn", "probe", "logme")}
    for i in range(count):
        quality = (i + 1) / 20
        values["knn"]["a"][f"e{i}"] = FACTS.chance + quality * (1 - FACTS.chance)
        values["probe"]["a"][f"e{i}"] = -FACTS.entropy * (1 - quality)
        values["logme"]["a"][f"e{i}"] = FACTS.null_logme - 0.5 * np.log(1 - quality**2)
    return score_cells.Scored(values, {}, {}, {}, {"a": FACTS}, {"a": 3}, {"a": 300})


def test_the_default_candidate_orders_as_the_package_does():
    found = scored(16)
    normalized_score = members.mean_normalized_score(found, "a", FACTS)
    scores = {e: {m: Score(found.values[m]["a"][e]) for m in found.values} for e in found.values["knn"]["a"]}
    assert normalized_score == pytest.approx([e.normalized_score for e in combine(scores, FACTS).values()])


def test_what_is_frozen_is_what_the_package_reads(tmp_path, monkeypatch):
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps({"version": 4, "normalized_score_per_deviation": 0.1, "sets": {}}))
    monkeypatch.setattr(members, "FROZEN", file)
    data = json.loads(members.frozen(scored(16)))
    made = Calibration(
        data["version"],
        data["normalized_score_per_deviation"],
        {k: CalibrationSet(**v) for k, v in data["sets"].items()},
    )
    assert (made.version, made.sets["a"].encoders, made.sets["a"].classes) == (5, 16, 3)
    normalized_score = members.mean_normalized_score(scored(16), "a", FACTS)
    assert made.sets["a"].best_normalized_score == pytest.approx(normalized_score.max(), abs=1e-4)
    uniform = (np.arange(1, 17) / 17 - 0.5) * np.sqrt(12)
    assert made.normalized_score_per_deviation == pytest.approx(
        np.cov(uniform, normalized_score)[0, 1] / uniform.var(ddof=1), abs=1e-3
    )
    file.write_text(json.dumps(data))
    assert json.loads(members.frozen(scored(16)))["version"] == 5  # nothing changed
