"""Files of earlier versions are read under the names of today."""

import json
from pathlib import Path

from selector.core.old_names import translate_metric, translate_options, translate_run
from selector.report.ranking import load_ranking

OLD = Path(__file__).parents[1] / "old" / "run.json"


def test_recorded_options_and_values() -> None:
    settings = {
        "labelled_target": 5, "on_bad_image": "fail", "trust": "stat", "cost": "again", "drop": "force", "licence": "mit",
        "trials": 2.0, "task": None, "confirm": {"loss": "squared", "trials": 0.0},
    }  # fmt: skip
    assert translate_options(settings) == {
        "num_target_labels": 5, "on_invalid": "raise", "hash_mode": "mtime", "measure_cost": "always", "prune": "always",
        "license": "mit", "pilot_cost": 2.0, "task": None, "confirm": {"loss": "mse", "pilot_cost": 0.0},
    }  # fmt: skip


def test_a_run_of_format_two(tmp_path: Path) -> None:
    data = json.loads(OLD.read_text())
    data["format"] = 2
    data["models"][0] |= {"normalised_score": 0.7, "trial": {"status": "ok", "after": 0.5}, "status": "stopped"}
    data["models"][0].pop("skill")
    data["caveats"] = [{"code": "too-small", "text": "few", "numbers": {"best_normalised_score": 0.1}}]
    data["confirmation"]["adaptation"] = {"handed over": ["m", "full"], "chosen by": ["im"], "labelled": {"items": 1}}
    data["target"] |= {"unlabelled": 4, "origin": {"kind": "folder", "path": "x", "options": {"labelled_target": 3}}}
    (tmp_path / "run.json").write_text(json.dumps(data))
    found = load_ranking(tmp_path)
    first = found.models[0]
    assert (first.status, first.normalized_score, first.pilot and first.pilot.after) == ("pruned", 0.7, 0.5)
    assert first.spec["license"] == "apache-2.0"
    assert [(c.code, dict(c.numbers)) for c in found.caveats] == [("too-few-examples", {"best_normalized_score": 0.1})]
    assert found.confirmation["adaptation"] == {"selected": ["m", "full"], "chosen_by": ["im"], "labeled": {"items": 1}}
    assert (found.target["unlabeled"], found.target["origin"]["options"]) == (4, {"num_target_labels": 3})
    assert load_ranking(found.save(tmp_path / "again").path or "").models[0].status == "pruned"


def test_what_is_malformed_stays_as_it_is() -> None:
    assert translate_run({"models": 3, "caveats": [1], "settings": [], "target": None}, 2)["models"] == 3


def test_metrics_of_predicted_rows() -> None:
    found = [translate_metric(name, "normalized_score:") for name in ("skill:knn", "normalised_score:knn", "accuracy")]
    assert found == ["normalized_score:knn", "normalized_score:knn", "accuracy"]
