"""Runs that are reported to TensorBoard, MLflow and Weights & Biases, each the real library, without a server."""

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import selector
from selector.core.contracts import Progress
from selector.core.errors import ConfigError
from selector.loggers import ExperimentLog, registry
from selector.scan.pipeline import Logs, open_logs
from tests.report import samples
from tests.sources.samples import spec


class Kept:
    """A logger in memory."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.values: list[tuple[str, float, int]] = []
        self.files: list[str] = []
        self.figures: list[str] = []
        self.closed = 0

    def params(self, values: Any) -> None:
        self.settings |= values

    def metric(self, name: str, value: float, step: int) -> None:
        self.values.append((name, value, step))

    def figure(self, name: str, figure: Any) -> None:
        self.figures.append(name)

    def artifact(self, path: Path) -> None:
        self.files.append(path.name)

    def close(self) -> None:
        self.closed += 1


def test_a_run_reaches_every_logger(photos: Path, tmp_path: Path) -> None:
    """Losses while it trains, then settings, final metrics, figures, the table and the report."""
    kept = Kept()
    store = tmp_path / "mlflow.db"
    ranking = selector.rank(
        photos, zoo=[spec("timm:test_resnet", name="tiny/resnet é")], proxies="knn", measure_cost="never", history=False,
        confirm=True, top_k=1, max_steps=6, strategies=["full"], store=tmp_path / "store", out=tmp_path / "run",
        log=[f"tensorboard:{tmp_path / 'tb'}", f"mlflow:sqlite:///{store}", kept],
    )  # fmt: skip
    assert kept.closed == 1
    assert not Path("mlruns").exists(), "files lie beside the database"
    losses: dict[str, list[tuple[int, float]]] = {}
    for name, value, step in kept.values:
        if name.startswith("train/loss/"):
            losses.setdefault(name, []).append((step, pytest.approx(value, rel=1e-5)))
    assert [1, 2, 3, 4, 5, 6] in [[step for step, _ in points] for points in losses.values()]
    assert {"ranking.csv", "run.json", "report.html"} <= set(kept.files)
    assert kept.settings["target.items"] == 60
    test = dict(ranking.best.measurements[-1].test)
    assert (f"test/accuracy/tiny/resnet é {ranking.best.measurements[-1].strategy}", test["accuracy"]) in [
        (name, value) for name, value, _ in kept.values
    ]
    _in_tensorboard(tmp_path / "tb", losses)
    _in_mlflow(store, losses, test)


def _in_tensorboard(folder: Path, losses: dict[str, list[tuple[int, float]]]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (written,) = folder.iterdir()
    events = EventAccumulator(str(written))
    events.Reload()
    for name, points in losses.items():
        assert [(e.step, e.value) for e in events.Scalars(name)] == points
    assert any("ranking.csv" in tag for tag in events.Tags()["tensors"])


def _in_mlflow(store: Path, losses: dict[str, list[tuple[int, float]]], test: dict[str, float]) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{store}")
    experiment = client.get_experiment_by_name("selector")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.data.params["target.items"]) == ("FINISHED", "60")
    for name, points in losses.items():
        found = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
        assert sorted(found) == sorted(points, key=lambda point: point[0])
    (final,) = [v for n, v in run.data.metrics.items() if n.startswith("test/accuracy/") and n.endswith("full")]
    assert final == pytest.approx(test["accuracy"])
    assert "ranking.csv" in {file.path for file in client.list_artifacts(run.info.run_id)}


@pytest.mark.slow
def test_weights_and_biases_offline(tmp_path: Path) -> None:
    code = f"""
import os
os.environ |= {{"WANDB_MODE": "offline", "WANDB_DIR": {str(tmp_path)!r}, "WANDB_SILENT": "true"}}
from selector.scan.pipeline import open_logs
from tests.report import samples
with open_logs("wandb:try", "photos") as logs:
    logs.finish(samples.ranking())
    assert len(logs._loggers) == 1, "it failed"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200, env={**os.environ})
    (file,) = tmp_path.rglob("run-*.wandb")
    content = file.read_bytes()
    assert b"transferability/timm_network_0.in1k" in content
    assert b"test/accuracy" in content


def test_a_logger_that_fails_does_not_end_the_run(caplog: pytest.LogCaptureFixture) -> None:
    class Full(Kept):
        def metric(self, name: str, value: float, step: int) -> None:
            raise OSError(28, "No space left on device")

    full, fine = Full(), Kept()
    logs = Logs([full, fine])
    listen = logs.listening(lambda event: None)
    for step in (1, 2):
        listen(Progress("train", step, 2, "steps", "m", "full", {"loss": 0.5, "other": math.nan}))
    assert [value for _, value, _ in fine.values] == [0.5, 0.5]
    assert len([r for r in caplog.records if "left out: OSError: [Errno 28] No space left" in r.getMessage()]) == 1
    logs.finish(samples.ranking())
    assert "ranking.csv" in fine.files
    assert not full.files


def test_names_and_objects_are_checked() -> None:
    assert registry.names() == ["mlflow", "tensorboard", "trackio", "wandb"]
    assert isinstance(Kept(), ExperimentLog)
    for asked, message in (
        ("tensorbord", "unknown logger 'tensorbord'.*tensorboard"),
        ([3], "log must hold names .* Got int"),
    ):
        with pytest.raises(ConfigError, match=message), open_logs(asked, "x"):
            pass


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(ConfigError, match=r"pip install 'zoo-selector\[trackio\]'"), open_logs("trackio", "x"):
        pass


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    code = "import sys, selector.loggers, selector.cli; sys.exit(any(m.split('.')[0] in ('mlflow', 'wandb', 'tensorboard', 'torch') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], timeout=100).returncode == 0
