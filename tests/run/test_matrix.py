"""Four executors, three jobs: what is extracted, trained and saved is the same from each, to the byte."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import selector
from tests.scan.samples import of_torch_alone

EXECUTORS: dict[str, dict[str, Any]] = {
    "in process": {},
    "pool of one": {"isolate": "on"},
    "pool": {"engine": "processes", "workers": 2},
    "ray": {"engine": "ray", "workers": 2},
}
Found = dict[str, Any]


@pytest.fixture(scope="module")
def found(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Found]:
    """What a scan with a confirmation gives by an executor, once per executor."""
    known: dict[str, Found] = {}

    def run(executor: str) -> Found:
        if executor == "ray":
            pytest.importorskip("ray")
        if executor not in known:
            folder = tmp_path_factory.mktemp("run")
            ranking = selector.rank(
                photos, **of_torch_alone("bad"), **EXECUTORS[executor], store=folder / "store", out=folder / "run",
                confirm=True, strategies=["frozen", "full"], max_steps=8, history=False,
            )  # fmt: skip
            weights = folder / "run" / "best" / "model.safetensors"
            known[executor] = {
                "extraction": {
                    m.name: (m.status, {k: (c.value, c.low, c.high) for k, c in m.scores.items()}) for m in ranking
                },
                "training": {
                    m.name: [(x.strategy, x.status, dict(x.val), dict(x.test), x.steps) for x in m.measurements]
                    for m in ranking
                },
                "confirmation": ([m.name for m in ranking], hashlib.sha256(weights.read_bytes()).hexdigest()),
            }
        return known[executor]

    return run


@pytest.mark.slow  # a scan with a confirmation by each executor
@pytest.mark.parametrize("job", ["extraction", "training", "confirmation"])
@pytest.mark.parametrize("executor", [name for name in EXECUTORS if name != "in process"])
def test_every_executor_gives_the_same(executor: str, job: str, found: Callable[[str], Found]) -> None:
    expected = found("in process")[job]
    assert found(executor)[job] == expected
    if job == "training":
        assert all(status == "ok" for runs in expected.values() for _, status, *_ in runs)
        assert {strategy for runs in expected.values() for strategy, *_ in runs} == {"frozen", "full"}
