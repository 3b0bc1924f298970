"""Executors with workers: the same table as in one process, and what a death, an interrupt or a full memory costs."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import selector
from selector.core.errors import BadImagesError, OptionError, SourceError, StoreError
from selector.core.system import visible_cards
from selector.data import load_target
from selector.extract.job import ExtractSettings
from selector.extract.workspace import Workspace
from selector.run.executor import InProcess, WorkerExecutor
from selector.run.job import Failure, JobResult, Shared
from selector.run.pool import Pool, _place
from selector.scan.candidate import Candidate
from selector.scan.extraction import Extraction
from selector.scan.selection import SameNetwork
from selector.sources import registry as sources
from selector.store import FeatureStore
from selector.zoo import ModelSpec
from tests.run.test_isolation import command
from tests.scan.samples import of_torch_alone
from tests.scan.test_scan import table

ROOT = Path(__file__).parents[2]
FAST = of_torch_alone("no-such")
ZOO = FAST["zoo"]


class Odd(BaseException):
    """What a network may raise as well."""


def misbehave(item: tuple[str, Any]) -> Any:
    """A job that does as it is told."""
    what, value = item
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "die once":
        try:
            Path(value).touch(exist_ok=False)
        except FileExistsError:
            return "second time"
        os._exit(0)
    if what == "raise":
        raise value
    if what == "unpicklable":
        return threading.Lock()
    if what == "odd":
        raise Odd("no Exception")
    if what == "bad":
        raise BadImagesError("two", [("a", "b")])
    if what == "log":
        logging.getLogger("selector.far").warning("%s from afar", value)
    if what == "shared":
        return value.value[1]
    if what == "touch":
        Path(value).touch()
    if what == "wait for":
        deadline = time.monotonic() + 60
        while not Path(value).exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.5)  # until the other job's answer is there
    return value


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """A cluster of this machine for all tests here: it takes seconds to start."""
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


@pytest.fixture(params=["processes", "ray"])
def workers(request: pytest.FixtureRequest) -> Iterator[WorkerExecutor]:
    made: WorkerExecutor
    if request.param == "processes":
        made = Pool(2)
    else:
        request.getfixturevalue("ray_here")
        from selector.run.ray import RayCluster

        made = RayCluster(workers=2)
    yield made
    made.close()


def test_results_come_as_they_finish_and_a_death_is_tried_again(workers, tmp_path, caplog):
    caplog.set_level(logging.INFO, "selector.run.executor")
    items = {"die": 0, "die once": str(tmp_path / "begun"), "value": 7, "raise": ValueError("odd"), "odd": 0}
    found = {r.job[0]: r for r in workers.map(misbehave, [*items.items(), ("unpicklable", 0)])}
    assert (found["value"].value, found["die once"].value) == (7, "second time")
    if isinstance(workers, Pool):
        assert "tuple: its worker ended itself with exit code 0; it runs again" in caplog.messages
    assert found["raise"].failure.reason == "ValueError: odd"
    assert "raise value" in found["raise"].failure.traceback
    assert found["odd"].failure.reason == "Odd: no Exception"
    assert "cannot pickle '_thread.lock' object" in found["unpicklable"].failure.reason
    assert found["die"].failure.reason.startswith("tuple: the process that ran this model ")
    assert found["die"].failure.reason.endswith(" (second attempt).")
    file = str(tmp_path / "second")
    order = [r.job[0] for r in workers.map(misbehave, [("wait for", file), ("touch", file)])]
    assert order == ["touch", "wait for"]


def test_shared_values_logs_and_fatal_errors_travel(workers, caplog):
    shared = Shared(["a", "b"])
    assert [r.value for r in workers.map(misbehave, [("shared", shared), ("shared", shared)])] == ["b", "b"]
    list(workers.map(misbehave, [("log", "a word")]))
    assert "a word from afar" in caplog.messages
    with pytest.raises(StoreError, match="disk full"):
        list(workers.map(misbehave, [("raise", StoreError("disk full"))], fatal=(StoreError,)))
    with pytest.raises(BadImagesError) as bad:
        list(workers.map(misbehave, [("bad", 0)], fatal=(BadImagesError,)))
    assert bad.value.bad == [("a", "b")]


def test_what_cannot_be_pickled_says_what_to_do():
    with contextlib.closing(Pool(1)) as pool:
        (result,) = pool.map(misbehave, [("value", lambda: 0)])
    assert "run with isolate='off' (--isolate off) and engine='local'" in result.failure.reason


@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_the_table_is_that_of_one_process(engine, photos, tmp_path, request):
    if engine == "ray":
        request.getfixturevalue("ray_here")
    here = selector.rank(photos, **FAST, store=tmp_path / "here")
    there = selector.rank(photos, **FAST, store=tmp_path / "there", engine=engine, workers=2)
    assert table(there) == table(here)
    assert [m.name for m in there.failures] == ["no-such"]
    assert not any(m.cached for m in there if m.status == "ok")


class _Names(InProcess):
    """An executor of several that keeps the names of what it was handed, and does nothing."""

    width = 2

    def __init__(self) -> None:
        self.names: list[str] = []

    def map(self, run: Any, jobs: Any, *_: Any, **__: Any) -> Iterator[JobResult[Any, Any]]:
        for job in jobs:
            self.names.append(job.name)
            yield JobResult(job, failure=Failure.of(SourceError("not here")))


def test_expensive_models_are_handed_over_first(photos, tmp_path):
    names, notes = _Names(), []
    zoo = [
        ModelSpec(name=name, source="timm:test_resnet", weights="none", params=params)
        for name, params in (("small", 11_000_000), ("large", 44_000_000), ("middling", 25_000_000))
    ]
    extraction = Extraction(
        load_target(photos),
        FeatureStore(tmp_path),
        ExtractSettings("cpu", "float32", "eager"),
        lambda p: notes.append((p.stage, p.done, p.total, p.note)),
        executor=names,
    )
    extraction.run([SameNetwork((Candidate(spec),)) for spec in zoo], 1.0)
    assert names.names == ["large", "middling", "small"]
    assert notes[:2] == [("extract", 0, 3, "1 under way: large"), ("extract", 1, 3, "")]
    assert notes[-1] == ("extract", 3, 3, "")


def test_weights_are_fetched_once_a_machine(photos, tmp_path, monkeypatch):
    fetched: list[str] = []
    original = sources.get("python").load

    def load(spec: ModelSpec) -> Any:
        if not (tmp_path / spec.name).exists():  # as a library that looks into its cache, and keeps no lock
            time.sleep(0.2)
            (tmp_path / spec.name).touch()
            fetched.append(spec.name)
        return original(spec)

    monkeypatch.setattr(sources.get("python"), "load", load)
    store, target = FeatureStore(tmp_path / "store"), load_target(photos)
    workers = [Workspace(target, store, ExtractSettings(device="cpu", trusted=True)) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda worker: worker.load(ZOO[0]), workers))
    assert len(made) == 3
    assert fetched == [ZOO[0].name]


def test_own_modules_and_own_proxies_are_computed_where_they_are(photos, tmp_path):
    from tests.support.networks import Orientation

    def width(features: Any) -> float:
        return float(features.rows.shape[1])

    options = {**FAST, "zoo": [*ZOO[:1], selector.Model(Orientation(), name="own")], "proxies": [width, "knn"]}
    ranking = selector.rank(photos, **options, store=tmp_path / "s", engine="processes", workers=1)
    assert {m.name: m.status for m in ranking} == {"sees": "ok", "own": "ok"}
    assert ranking["own"].scores["width"].value == 4


def test_settings_of_engines(tmp_path, monkeypatch):
    with pytest.raises(OptionError, match="ray_address needs engine='ray'"):
        selector.rank("x", ray_address="auto")
    with pytest.raises(OptionError, match=r"device='cuda:1' cannot be used with engine='ray'"):
        selector.rank("x", engine="ray", device="cuda:1")
    with pytest.raises(OptionError, match=r"engine must be 'local', 'processes' or 'ray'\. Got 'cluster'"):
        selector.rank("x", engine="cluster")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OptionError, match="needs the package ray, which is not installed; pip install"):
        selector.rank("x", engine="ray")


@pytest.mark.parametrize(
    "visible", [None, "", "0", "2,0", "1,7,0", "-1", "0,0", " 3 , 1", "GPU-8932f937", "MIG-GPU-8932f937/1/2", "all"]
)
def test_a_pool_shares_out_the_cards_that_cuda_would_show(visible, monkeypatch):
    from torch.cuda import _parse_visible_devices  # torch's own reading of the variable

    monkeypatch.setattr("selector.core.system.graphics_cards", lambda: ["a card"] * 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    expected = []
    for each in _parse_visible_devices()[:4]:
        if isinstance(each, int) and not 0 <= each < 4:
            break
        expected.append(str(each))
    assert visible_cards() == expected
    places = [_place(k, 4, visible_cards(), [0])[0].get("CUDA_VISIBLE_DEVICES") for k in range(4)]
    assert places[: len(expected)] == (expected or places[:0])
    assert all((place is None) == (not expected) for place in places)


@pytest.mark.slow  # a scan in a process of its own, and its cluster
@pytest.mark.parametrize(
    ("engine", "sent"), [("processes", signal.SIGINT), ("ray", signal.SIGINT), ("ray", signal.SIGTERM)]
)
def test_an_interrupt_ends_the_workers_and_the_same_command_goes_on(engine, sent, photos, tmp_path):
    import psutil

    zoo = tmp_path / "zoo.yaml"
    slow = {"name": "slow", "source": "python:tests.support.networks:slow"}
    zoo.write_text(json.dumps({"models": [{"name": "good", "source": "timm:test_resnet", "weights": "none"}, slow]}))
    words = command(photos, zoo, tmp_path / "store")
    words += ["--engine", engine, "--workers", "2", "--isolate", "off", "--no-confirm", "--out", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a run in the background ignores it
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list((tmp_path / "store" / "entries").glob("*/0*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.1)
    children = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(sent)  # SIGTERM is what stopping a job of the cluster sends
    _, messages = run.communicate(timeout=60)
    assert run.returncode == 130, messages
    assert "interrupted; the same command goes on" in messages
    assert not psutil.wait_procs(children, timeout=30)[1]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
