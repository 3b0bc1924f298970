"""What the package carries of the suite."""

import json

import numpy as np
import pytest

from benchmarks.suite import calibration, score_cells
from selector.core.contracts import LabelKind, Score
from selector.ranking.agreement import Calibration, CalibrationSet
from selector.ranking.combination import LabelFacts, combine

FACTS = LabelFacts.of(np.arange(300) % 3, LabelKind.CLASSES)


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
    normalized_score = calibration.mean_normalized_score(found, "a", FACTS)
    scores = {e: {m: Score(found.values[m]["a"][e]) for m in found.values} for e in found.values["knn"]["a"]}
    assert normalized_score == pytest.approx([e.normalized_score for e in combine(scores, FACTS).values()])


def test_what_is_frozen_is_what_the_package_reads(tmp_path, monkeypatch):
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps({"version": 4, "normalized_score_per_deviation": 0.1, "sets": {}}))
    monkeypatch.setattr(calibration, "FROZEN", file)
    data = json.loads(calibration.frozen(scored(16)))
    sets = {name: CalibrationSet(**facts) for name, facts in data["sets"].items()}
    made = Calibration(data["version"], data["normalized_score_per_deviation"], sets)
    assert (made.version, made.sets["a"].encoders, made.sets["a"].classes) == (5, 16, 3)
    normalized_score = calibration.mean_normalized_score(scored(16), "a", FACTS)
    assert made.sets["a"].best_normalized_score == pytest.approx(normalized_score.max(), abs=1e-4)
    uniform = (np.arange(1, 17) / 17 - 0.5) * np.sqrt(12)
    slope = np.cov(uniform, normalized_score)[0, 1] / uniform.var(ddof=1)
    assert made.normalized_score_per_deviation == pytest.approx(slope, abs=1e-3)
    file.write_text(json.dumps(data))
    assert json.loads(calibration.frozen(scored(16)))["version"] == 5  # nothing changed


def test_the_file_of_the_package_is_current():
    scores = score_cells.read(calibration.SUITE.table("scores"))
    assert calibration.frozen(scores) == calibration.FROZEN.read_text(encoding="utf-8")
