"""A run keeps to the threads and the memory that it was given, and its workers do."""

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from selector.config import MachineOptions
from selector.core.errors import ConfigError, OptionError
from selector.core.resources import memory_limit, resource_limits, thread_limit, threads_for
from selector.run.pool import Pool
from selector.tuning.strategies._loop import Feed, Settings, predict, train
from selector.tuning.strategies._parts import Group

ROOT = Path(__file__).parents[2]


def seen(_: Any) -> tuple[int, str | None, int | None]:
    """What a worker was given."""
    return torch.get_num_threads(), os.environ.get("OPENBLAS_NUM_THREADS"), memory_limit()


def test_threads_and_memory_hold_for_a_run_and_no_longer() -> None:
    before = torch.get_num_threads(), os.environ.get("RAYON_NUM_THREADS")
    torch.set_num_threads(2)
    with resource_limits(1, "2GB"):
        assert (torch.get_num_threads(), thread_limit(), memory_limit()) == (1, 1, 2_000_000_000)
        assert os.environ["RAYON_NUM_THREADS"] == "1"
        with threads_for(4, "test") as pool:  # no thread beside the caller's
            assert pool.submit(threading.current_thread).result() is threading.current_thread()
            with pytest.raises(ZeroDivisionError):
                pool.submit(lambda: 1 / 0).result()
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before[0])
    assert os.environ.get("RAYON_NUM_THREADS") == before[1]
    assert memory_limit() is None


def test_variables_of_the_environment_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELECTOR_THREADS", "none")
    with pytest.raises(ConfigError, match=r"SELECTOR_THREADS must be a number of threads, at least 1\. Got 'none'"):
        thread_limit()
    monkeypatch.setenv("SELECTOR_THREADS", "3")
    with resource_limits(None):
        assert os.environ["OMP_NUM_THREADS"] == "3"
    monkeypatch.setenv("SELECTOR_MAX_MEMORY", "much")
    with pytest.raises(ConfigError, match="SELECTOR_MAX_MEMORY: A size"):
        memory_limit()


def test_more_workers_than_threads_are_refused() -> None:
    with pytest.raises(OptionError, match="workers must be at most threads"):
        MachineOptions.of(engine="processes", workers=3, threads=2)


@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_workers_share_the_threads_of_a_run(engine: str) -> None:
    made: Any
    with resource_limits(2, "1GB"):
        if engine == "processes":
            made = Pool(2, threads=2)
        else:
            pytest.importorskip("ray")
            from selector.run.ray import RayCluster

            made = RayCluster("local", workers=2)
        with contextlib.closing(made) as workers:
            found = {result.value for result in workers.map(seen, range(4))}
    assert found == {(1, "1", 1_000_000_000)}


MEASURED = """
import sys, threading, time, os
import numpy as np, psutil, torch
from torch import nn
import selector

class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*[nn.Conv2d(3 if k == 0 else 24, 24, 1) for k in range(3)])
        self.head = nn.Linear(24, 2)
    def forward(self, x):
        seen.add((torch.get_num_threads(), len([t for t in threading.enumerate() if t.name.startswith("selector-")])))
        if x.device.type == "cpu" and type(x) is torch.Tensor:  # an estimate runs it without any memory
            batches.append(len(x))
        return self.head(self.layers(x).mean((2, 3)))

seen, batches, peak, done = set(), [], [0], threading.Event()
torch.manual_seed(0)
rng = np.random.default_rng(0)
images = [rng.integers(0, 256, (256, 256, 3), dtype=np.uint8) for _ in range(32)]
limit = sys.argv[1] or None
model = selector.Model(Wide().eval(), name="wide", preprocess={"input_size": [3, 256, 256]})

def held():
    found = psutil.Process().memory_full_info()
    return found.uss
def watch():
    while not done.is_set():
        peak[0] = max(peak[0], held())
        time.sleep(0.002)

import sklearn.linear_model, selector.proxies  # what Python takes is no model's
before = held()
threading.Thread(target=watch, daemon=True).start()
ranking = selector.rank((images, [i % 2 for i in range(32)]), models=[model], store=sys.argv[2], proxies="hscore",
                        backend="eager", precision="float32", threads=1, max_memory=limit)
done.set()
print(ranking.models[0].status, (peak[0] - before) // 2**20, max(batches), sorted(seen), ranking.models[0].reason, sep="|")
"""


def measured(limit: str, store: Path) -> tuple[str, int, int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, limit, str(store)],
        capture_output=True, text=True, check=True, cwd=store.parent,
        env={k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    status, grown, batch, threads, reason = done.stdout.strip().splitlines()[-1].split("|")
    return status, int(grown), int(batch), threads, reason


def test_memory_and_threads_of_an_extraction_are_measured(tmp_path: Path) -> None:
    status, free, batch, threads, _ = measured("", tmp_path / "free")
    assert (status, batch, threads) == ("ok", 16, "[(1, 0)]")  # torch has one thread, and there is no other beside it
    status, least, _, _, reason = measured("1MB", tmp_path / "none")
    assert status == "excluded"
    assert "of memory at its peak, more than 1" in reason
    status, kept, batch, _, _ = measured("60MB", tmp_path / "kept")
    assert status == "ok"
    assert 1 < batch < 8
    assert kept - least < 60 + 30 < free - least  # what a run takes without its model, and what a batch does beside


class Learner(nn.Module):
    """Many activations for few weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Conv2d(3, 32, 1), nn.Linear(32, 2)
        self.batches: list[int] = []

    def predict(self, batch: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(batch))
        found: torch.Tensor = self.head(self.layer(batch).relu().mean((2, 3)))
        return found

    def loss(self, batch: torch.Tensor, known: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(self.predict(batch), torch.as_tensor(known))

    def weight(self, known: Any) -> float:
        return float(len(known))


class Items:
    def batch(self, indices: Any) -> Any:
        return torch.ones(len(indices), 3, 64, 64)


def trained() -> tuple[list[int], list[float], torch.Tensor]:
    torch.manual_seed(0)
    module = Learner()
    feed = Feed(Items(), lambda batch: batch, lambda items: [int(i) % 2 for i in items])

    fit = train(
        module,
        [Group(tuple(n for n, _ in module.named_parameters()))],
        feed,
        np.arange(32),
        Settings(4, 16, 0.1, "sgd"),
    )
    predict(module, feed, np.arange(32), lambda outputs, items: None)
    return module.batches, fit.losses, module.head.weight.detach()


def test_trainings_take_pieces_that_fit() -> None:
    batches, losses, weights = trained()
    assert max(batches) == 32
    with resource_limits(None, "12MB"):
        fewer, same, equal = trained()
    assert 1 < max(fewer) < 16
    assert same == pytest.approx(losses, abs=1e-5)
    torch.testing.assert_close(equal, weights, atol=1e-5, rtol=1e-5)
