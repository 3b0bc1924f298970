"""Ranking: saved and loaded without loss, failures last, NaN as null, never half a file."""

import json
import math
import subprocess
import sys
from importlib import metadata

import pytest

from selector.core.errors import ConfigError
from selector.results import Measurement, ModelResult, Ranking, ScoreCell, load_ranking, write_atomic


def ranking() -> Ranking:
    good = ModelResult(
        "good",
        {"source": "timm:resnet18"},
        rank=1,
        evidence=0.5,
        scores={
            "knn": ScoreCell(0.7, 0.6, 0.8, {"accuracy@5": 0.75}),
            "leep": ScoreCell(None, reason="no source head"),
        },
        measurements=(
            Measurement("frozen", "accuracy", {"accuracy": 0.8, "auroc": math.nan}, {"accuracy": 0.79}),
            Measurement("full", "accuracy", {}, status="diverged", resolution=(96, 96)),
        ),
    )
    bad = ModelResult("bad <b>", {"source": "timm:nope"}, status="failed", reason="no weights", traceback="Trace")
    return Ranking(
        {"name": "t", "fingerprint": "f"},
        {"proxies": ["knn", "leep"]},
        {"python": "3"},
        (good, bad),
        ("careful",),
        {"total": 1.0},
    )


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


def test_dataframe_keeps_predicted_and_measured_apart():
    frame = ranking().to_dataframe()
    assert list(frame["model"]) == ["good", "bad <b>"]
    assert frame.loc[0, "knn"] == 0.7
    assert frame.loc[0, "measured_frozen_test"] == 0.79
    assert frame.loc[0, "knn_accuracy@5"] == 0.75


def test_a_run_that_is_none_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"is not a run: it has no run.json"):
        load_ranking(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ConfigError, match=r"cannot be read.*run the scan again, its features are kept"):
        load_ranking(tmp_path)
    (tmp_path / "run.json").write_text('{"format": 99}')
    with pytest.raises(ConfigError, match="another format"):
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
