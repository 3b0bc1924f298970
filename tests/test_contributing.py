"""The examples of docs/contributing work as they are printed."""

import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import selector
from selector import proxies, sources, tasks
from selector.data import load_target
from selector.tuning import run_fine_tuning
from selector.zoo import ModelSpec
from tests.tuning.samples import MNIST, candidate, pixels_for, small_target

PAGES = Path(__file__).parent.parent / "docs" / "contributing"
EXAMPLES = {
    "proxy": ("add-a-metric", "my_metric.py"),
    "source": ("add-a-source", "lab.py"),
    "task": ("add-a-task", "grades.py"),
    "dense": ("add-a-task", "patches.py"),
}

Install = Callable[[ModuleType, str, str], str]


def example(name: str) -> str:
    page, file = EXAMPLES[name]
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- file: {re.escape(file)} -->\n```python\n(.*?)```", text, re.S)
    assert found, f"{page}.md has no example '{file}'"
    return found[1]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts an example into a room as a file, the way a contributor would, and takes it out again."""
    added: list[tuple[ModuleType, str]] = []

    def put(room: ModuleType, name: str, code: str) -> str:
        file = tmp_path / f"{name.replace('-', '_')}.py"
        file.write_text(code)
        monkeypatch.setattr(room, "__path__", [*room.__path__, str(tmp_path)])
        importlib.invalidate_caches()
        added.append((room, name))
        return name

    yield put
    for room, name in added:
        room.registry._objects.pop(name, None)


def test_examples_are_short() -> None:
    for name, most in (("proxy", 13), ("source", 13), ("task", 24), ("dense", 18)):
        lines = [line for line in example(name).splitlines() if line.strip()]
        assert len(lines) <= most, name


def test_proxy(install: Install) -> None:
    name = install(proxies, "between-share", example("proxy"))
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 40)
    features = rng.normal(size=(120, 8)) + labels[:, None]
    value = float(selector.score(features, labels, name))
    total = ((features - features.mean(0)) ** 2).sum()
    within = sum(((features[labels == c] - features[labels == c].mean(0)) ** 2).sum() for c in range(3))
    assert value == pytest.approx(1 - within / total, abs=1e-5)
    assert "Share of the variance" in proxies.registry.get(name).explanation


def test_source(install: Install) -> None:
    import torch

    install(sources, "lab", example("source"))
    weights = {"package": "ccexam", "file": "weights/mnist.pth", "mapping": "by_position"}
    changes = {"input_size": [3, 28, 28]}
    spec = ModelSpec.model_validate(
        {"name": "digits", "source": "lab:mnist_cnn", "weights": weights, "preprocess": changes}
    )
    source = sources.registry.get("lab")
    assert source.expand("mnist_cnn") == ["mnist_cnn"]
    encoder = source.load(spec)
    features = encoder.encode(torch.zeros(2, *encoder.preprocess.input_size))
    assert features.shape == (2, encoder.num_features)
    assert source.identify(spec)["source"] == "python"


def test_task(install: Install, tmp_path: Path) -> None:
    """The example decides a confirmation: its metric, its direction, its part of the report."""
    install(tasks, "grades", example("task"))
    task: Any = tasks.registry.get("grades")
    labels = np.array([0, 1, 2, 2])
    stats = task.stats(np.eye(3)[[0, 2, 0, 2]], labels)
    assert stats.value("grades_off") == pytest.approx(3 / 4)
    assert stats.value("accuracy") == pytest.approx(1 / 2)
    assert stats[np.array([2, 2])].value("grades_off") == 2
    target = small_target()
    features = np.random.default_rng(0).normal(size=(len(target), 128)).astype(np.float32)
    features[np.arange(len(target)), target.labels] += 2
    result = run_fine_tuning(
        [candidate(MNIST)],
        target,
        task,
        pixels_for(target),
        strategies=("frozen",),
        features_for=lambda _, indices: features[indices],
        checkpoint_folder=tmp_path,
    )
    (measured,) = result.measurements["mnist_cnn"]
    assert measured.metric == "grades_off"
    assert measured.merit == -measured.val["grades_off"]
    counts = measured.extra["error_analysis"]["tables"]["grades"]
    assert sum(row["grades off"] * row["items"] for row in counts) / 32 == pytest.approx(measured.test_value)


def test_dense_task(install: Install, tmp_path: Path) -> None:
    """Rows come from the places of the plan: nine an image, of the class of their image, scored by a scan."""
    from PIL import Image

    install(tasks, "patches", example("dense"))
    rng = np.random.default_rng(0)
    for number in range(16):
        path = tmp_path / "pictures" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 120 + 120 * (number % 2), (48, 48, 3)).astype(np.uint8)).save(path)
    target = replace(load_target(tmp_path / "pictures"), task="patches")
    plan = tasks.registry.get("patches").rows(target, np.array([3, 0]))
    assert plan.item.tolist() == [3] * 9 + [0] * 9
    assert plan.facets["class"].labels.tolist() == [target.labels[3]] * 9 + [target.labels[0]] * 9
    zoo = [ModelSpec(name="resnet", source="timm:test_resnet", weights="none")]
    ranking = selector.rank(
        target, zoo=zoo, proxies=["knn"], measure_cost="never", history=False, store=tmp_path / "store"
    )
    (model,) = ranking
    assert model.status == "ok"
    assert model.rows == 9 * (target.splits == "train").sum() + 9 * (target.splits == "val").sum()
