"""Ranking: saved and loaded without loss, failures last, NaN as null, never half a file."""

import json
import math
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from selector.core.atomic import write_atomic
from selector.core.errors import ConfigError
from selector.report.html import write_report
from selector.report.ranking import Ranking, load_ranking
from selector.results import Measurement, ModelResult, ScoreCell
from tests.report import samples


def ranking() -> Ranking:
    knn, leep = ScoreCell(0.7, 0.6, 0.8, {"accuracy@5": 0.75}), ScoreCell(None, reason="no source head")
    frozen = Measurement("frozen", "accuracy", {"accuracy": 0.8, "auroc": math.nan}, {"accuracy": 0.79})
    full = Measurement("full", "accuracy", {}, status="diverged", resolution=(96, 96))
    good = ModelResult(
        "good", {"source": "timm:resnet18"}, rank=1, transferability=0.5,
        scores={"knn": knn, "leep": leep}, measurements=(frozen, full),
    )  # fmt: skip
    bad = ModelResult("bad <b>", {"source": "timm:nope"}, status="failed", reason="no weights", traceback="Trace")
    target, settings = {"name": "t", "fingerprint": "f"}, {"proxies": ["knn", "leep"]}
    return Ranking(target, settings, {"python": "3"}, (good, bad), ("careful",), {"total": 1.0})


def test_round_trip(tmp_path):
    saved = ranking().save(tmp_path / "run")
    loaded = load_ranking(tmp_path / "run")
    assert loaded.to_dict() == saved.to_dict()
    assert loaded.models[0].measurements[1].resolution == (96, 96)
    assert math.isnan(loaded.models[0].measurements[1].val_value)
    assert loaded.best.name == "good"
    assert [m.name for m in loaded.failures] == ["bad <b>"]


def test_json_is_strict(tmp_path):
    def refuse(token: str) -> None:
        raise AssertionError(token)

    text = ranking().to_json()
    data = json.loads(text, parse_constant=refuse)
    assert data["models"][0]["measurements"][0]["val"]["auroc"] is None


def test_a_run_that_is_none_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"is not a run: it has no run.json"):
        load_ranking(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ConfigError, match=r"cannot be read.*run the scan again, its features are kept"):
        load_ranking(tmp_path)


def test_no_model_finished():
    failed = Ranking({}, {}, {}, (ModelResult("m", {}, status="failed"),))
    with pytest.raises(ConfigError, match="no model of this run finished"):
        _ = failed.best


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path):
    file = tmp_path / "run.json"
    write_atomic(file, b"old")
    with pytest.raises(TypeError):
        write_atomic(file, "not bytes")  # type: ignore[arg-type]
    assert file.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_run_names_the_libraries_of_every_source_without_importing_them():
    code = "import json, sys; from selector.core.system import versions; print(json.dumps([versions(), list(sys.modules)]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found, loaded = json.loads(done.stdout)
    for name in ("torch", "timm", "transformers", "tokenizers"):
        assert found[name] == metadata.version(name)
        assert name not in loaded


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models": [{"name": 3}]}, r"run\.json: models\.0\.name: input should be a valid string, found 3"),
        ({"target": {"name": "x"}}, r"run\.json: target\.fingerprint: field required"),
        ({"models": None}, r"run\.json: models: input should be a valid tuple, found None"),
        ({"format": 99}, r"has another format"),
    ],
)
def test_a_changed_run_is_named_by_file_and_field(tmp_path, change, said):
    samples.ranking().save(tmp_path)
    file = tmp_path / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ConfigError, match=said):
        load_ranking(tmp_path)


def test_what_a_later_version_adds_is_left_out(tmp_path):
    samples.ranking().save(tmp_path)
    file = tmp_path / "run.json"
    data = json.loads(file.read_text())
    data["later"] = data["models"][0]["later"] = {"a": 1}
    file.write_text(json.dumps(data))
    assert len(load_ranking(tmp_path)) == len(samples.ranking())


def test_a_name_that_is_no_utf8_does_not_cost_the_table(tmp_path):
    ranking = samples.ranking(target={**samples.ranking().target, "name": "caf\udce9"})
    ranking.save(tmp_path)
    assert load_ranking(tmp_path).target["name"] == "caf\udce9"
    assert "caf" in write_report(load_ranking(tmp_path)).read_text()


def test_a_run_of_an_earlier_version_is_read_under_the_names_of_today():
    """``old/run.json`` was written by the version before transferability had its name."""
    old = json.loads((Path(__file__).parent / "old" / "run.json").read_text())
    loaded = load_ranking(Path(__file__).parent / "old")
    for model, was in zip(loaded, old["models"], strict=True):
        found = (model.transferability, model.transferability_low, model.transferability_high)
        assert found == (was["evidence"], was["evidence_low"], was["evidence_high"])
        assert (model.normalized_score, dict(model.members)) == (was["skill"], was["members"])
    assert (loaded.models[0].normalized_score, loaded.models[0].members) == (0.7, {"knn": 0.6, "logme": 0.8})
    assert "transferability" in loaded.to_dataframe()
    assert loaded.confirmation["tuning_log"] == old["confirmation"]["course"]
    assert [h["round"] for h in loaded.confirmation["history"]] == [h["rung"] for h in old["confirmation"]["history"]]
    assert loaded.models[0].spec["license"] == "apache-2.0"
    assert (loaded.settings["prune"], loaded.settings["on_invalid"]) == ("auto", "skip")
    assert json.loads(loaded.to_json())["format"] == 3
    assert "0.800" in str(loaded)
