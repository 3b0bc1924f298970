"""Trainings on an engine's workers: what one process finds, under one budget of the workers' time."""

from __future__ import annotations

import logging
import math
import os
import pickle
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selector.core.contracts import Encoder, Target
from selector.core.preprocess import Preprocess
from selector.run.executor import InProcess, Routed, WorkerExecutor
from selector.run.job import Answer, Needs, Shared, fetch_shared_with, pack, unpack
from selector.run.pool import Pool
from selector.run.worker import answer
from selector.tuning import trial as trial_room
from selector.tuning.clock import Clock
from selector.tuning.field import Configuration, Field, Run
from selector.tuning.heads import solve
from selector.tuning.job import EstimateJob, Kit, TrainingJob
from selector.tuning.journal import Journal
from selector.tuning.loading import load as load_candidate
from selector.tuning.loading import settle_precision
from selector.tuning.pilot_runs import pilot_runs
from selector.tuning.rounds import book
from selector.tuning.run import repeat_leaders, train_rivals
from selector.tuning.trial import Trial, run_trial
from tests.tuning.samples import MNIST, SVHN, PixelsOf, candidate, load, pixels_for, small_target
from tests.tuning.test_run import TASK, bench_of, confirmed, table

SPECS = {spec.name: spec for spec in (SVHN, MNIST)}


@dataclass(frozen=True)
class Samples:
    """Small real networks and images, wherever they are asked for."""

    target: Target
    root: Path
    lost: str = ""  # a network that cannot be loaded
    deadly: str = ""  # a file: the process that makes it dies in a training

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(SPECS)

    def load(self, name: str) -> Encoder:
        if name == self.lost:
            raise FileNotFoundError("its weights are gone")
        return load(SPECS[name])

    def inputs(self, preprocess: Preprocess) -> PixelsOf:
        return Deadly(self.target, preprocess, self.deadly) if self.deadly else PixelsOf(self.target, preprocess)

    def folder(self) -> Path:
        return self.root


class Deadly(PixelsOf):
    """Kills the process that trains with it, some steps on, once."""

    def __init__(self, target: Target, preprocess: Preprocess, mark: str) -> None:
        super().__init__(target, preprocess)
        self.mark, self.batches = Path(mark), 0

    def batch(self, indices: Any) -> Any:
        self.batches += 1
        if self.batches == 10 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(indices)


class Inline(WorkerExecutor):
    """Workers in this process: jobs and answers are pickled, and the last one that was handed over is done first."""

    width = 3

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.jobs: list[bytes] = []
        self.most = 0

    def _start(self, run: Any, job: Any, needs: Needs) -> int:
        content, shared = pack((run, job))
        self.values |= {each.key: pack(each.value)[0] for each in shared if each.key not in self.values}
        self.jobs.append(content)
        return len(self.jobs) - 1

    def _wait(self, tickets: Any) -> list[tuple[int, Answer]]:
        self.most = max(self.most, len(tickets))
        return [(max(tickets), pickle.loads(pickle.dumps(answer(self.jobs[max(tickets)]))))]  # noqa: S301

    def _stop(self, tickets: Any) -> None:
        pass

    def close(self) -> None:
        pass

    def asked(self, kind: type) -> list[Any]:
        return [job for job in (unpack(content)[1] for content in self.jobs) if isinstance(job, kind)]


@pytest.fixture
def inline() -> Iterator[Inline]:
    made = Inline()
    fetch_shared_with(lambda key: made.values[key])
    yield made
    fetch_shared_with(None)


def on(workers: WorkerExecutor) -> Routed:
    return Routed(workers, InProcess())


SETTINGS: dict[str, Any] = {"budget": None, "metric": "accuracy", "epsilon": 0.01, "seed": 0, "repeats": 0}
OPTIONS: dict[str, Any] = {"max_steps": 16, "strategies": ("frozen", "full"), "repeats": 1}


def told(result: Any) -> list[Any]:
    """The history without times."""
    return [{k: v for k, v in entry.items() if "seconds" not in k} for entry in result.history]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return confirmed(tmp_path_factory.mktemp("here"), **OPTIONS)


@pytest.mark.parametrize("folder", ["driver", "worker"])
def test_workers_find_what_one_process_finds_whether_or_not_they_share_its_folder(
    folder: str, here: Any, inline: Inline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, original = [], trial_room._train
    monkeypatch.setattr(trial_room, "_train", lambda *args: trained.append(args[2]) or original(*args))
    there = Samples(small_target(), tmp_path / folder)
    found = confirmed(tmp_path / "driver", **OPTIONS, executor=on(inline), supplies=there)
    assert table(found) == table(here)
    assert told(found) == told(here)
    assert (found.best.name, found.best.strategy) == (here.best.name, here.best.strategy)
    assert inline.most > 1  # side by side
    if folder == "worker":  # what the driver has, no worker keeps
        assert not list((tmp_path / "worker").glob("*.safetensors"))
    asked = len(inline.jobs)
    assert len(trained) == len(found.history)  # nothing again for its weights
    again = confirmed(tmp_path / "driver", **OPTIONS, executor=on(inline), supplies=there)
    assert table(again) == table(found)
    assert told(again) == told(found)
    assert len(inline.jobs) == asked  # the journal answers


def test_a_network_that_only_fails_there_is_a_failed_measurement(inline: Inline, tmp_path: Path) -> None:
    there = Samples(small_target(), tmp_path, lost="svhn_cnn")
    found = confirmed(tmp_path, max_steps=4, executor=on(inline), supplies=there)
    lost = {m.strategy: m for m in found.measurements["svhn_cnn"]}
    assert lost["full"].status == "failed"
    assert "its weights are gone" in lost["full"].note
    assert {m.strategy: m.status for m in found.measurements["mnist_cnn"]} == {"frozen": "ok", "full": "ok"}


def test_networks_that_only_this_process_knows_are_trained_in_it(inline: Inline, tmp_path: Path) -> None:
    models = [replace(candidate(SVHN), name="own"), candidate(MNIST)]
    here = confirmed(tmp_path / "a", models, max_steps=4)
    there = Samples(small_target(), tmp_path / "b")
    found = confirmed(tmp_path / "b", models, max_steps=4, executor=on(inline), supplies=there)
    assert table(found) == table(here)
    assert {job.place.model for job in inline.asked(TrainingJob)} == {"mnist_cnn"}


def test_jobs_under_way_share_what_is_left_of_the_budget(inline: Inline, tmp_path: Path) -> None:
    there = Samples(small_target(), tmp_path)
    confirmed(tmp_path, max_steps=4, budget_seconds=400.0, executor=on(inline), supplies=there)
    first = [job for job in inline.asked(TrainingJob) if len(job.rates) > 1]
    assert len(first) == 2
    assert 0 < sum(job.seconds for job in first) <= 400
    assert all(job.seconds <= 400 for job in inline.asked(EstimateJob))


def test_the_clock_counts_the_time_of_workers_and_not_the_waiting(tmp_path: Path) -> None:
    """What a scan spent before is deducted once: the same call goes on with that of the first one."""
    now = [100.0]

    def begun(before: float) -> Clock:
        return Clock({"budget": 60.0}, Journal(tmp_path, TASK.stats_type), None, lambda: now[0], before)

    clock = begun(20.0)
    now[0] += 5  # this process at work
    with clock.of_workers():
        now[0] += 10  # three workers side by side
        for seconds in (9.0, 8.0, 7.0):
            clock.charge(seconds)
        assert clock.spent == pytest.approx(5 + 24)
        assert clock.deadline() - now[0] == pytest.approx(60 - 20 - 29 - clock.reserve)
    now[0] += 1
    clock.remember()
    again = begun(1.0)  # whatever the repeated scan took
    for each in (clock, again):
        assert each.spent == pytest.approx(30)
        assert each.left == pytest.approx(60 - 20 - 30 - clock.reserve)


@pytest.mark.parametrize("engine", ["processes", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_worker_that_is_killed_in_a_training_costs_its_job_another_run_and_nothing_else(
    engine: str, here: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    there = Samples(small_target(), tmp_path, deadly=str(tmp_path / "killed"))
    workers = Pool(2) if engine == "processes" else _ray()
    try:
        with caplog.at_level(logging.INFO, "selector.run.executor"):
            found = confirmed(tmp_path, **OPTIONS, executor=on(workers), supplies=there)
    finally:
        workers.close()
    assert (tmp_path / "killed").exists()
    assert len([line for line in caplog.messages if "it runs again" in line]) == 1
    assert table(found) == table(here)
    assert told(found) == told(here)


def _ray() -> Any:
    pytest.importorskip("ray")
    from selector.run.ray import RayCluster

    return RayCluster("local", workers=2)


def _field(tmp_path: Path, inline: Inline) -> Field:
    """A field after a short round: two configurations, one of which stopped; workers for both, and a budget."""
    bench = bench_of(tmp_path / "driver", "none")
    people = [candidate(spec) for spec in (SVHN, MNIST)]
    kit = Kit(bench, people, Samples(bench.target, tmp_path / "worker"), "cpu", SETTINGS)
    field = Field(bench, Clock(SETTINGS, bench.journal, None), SETTINGS, on(inline), Shared(kit))
    for one in people:
        loaded = kit.loaded[one.name] = load_candidate(bench, one)
        settle_precision(bench, loaded)
        solve(bench, loaded, math.inf)
        leads = one.name == SVHN.name
        found = Configuration(loaded, "full", step_seconds=0.01, rate=0.01, round=1, alive=leads)
        trial, steps = Trial(loaded.name, "full", 0.01, 0), 24 if leads else 6
        record = run_trial(bench, loaded, trial, steps)
        assert record is not None
        found.best = Run(trial, steps, record)
        book(field, found, found.best, 1)
        field.configurations.append(found)
    field.clock.budget = 3600.0
    return field


def test_rivals_are_trained_on_workers_as_long_as_the_leader(
    inline: Inline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = _field(tmp_path, inline)
    rival = field.configurations[1]
    own = run_trial(bench_of(tmp_path / "own", "none"), rival.loaded, Trial("mnist_cnn", "full", 0.01, 0), 24)
    assert own is not None  # as this process trains it
    monkeypatch.setattr("selector.tuning.run.far_behind", lambda *_: False)
    train_rivals(field)
    (job,) = inline.asked(TrainingJob)
    assert (job.place.model, job.strategy, job.rates, job.steps, job.seed) == ("mnist_cnn", "full", (0.01,), 24, 0)
    assert 0 < job.seconds <= 1.05 * 3600
    assert rival.alive
    assert rival.best is not None
    assert rival.best.steps == 24
    assert rival.best.record.stats is not None
    for name, value in own.stats.arrays.items():
        np.testing.assert_array_equal(rival.best.record.stats.arrays[name], value)
    assert [(e["model"], e["steps"], e["round"]) for e in field.history[2:]] == [("mnist_cnn", 24, 1)]
    assert field.bench.journal.weights(field.key(rival, rival.best)).is_file()  # they came with the answer
    assert field.clock.state["rivals"] == {"mnist_cnn full": 24}
    train_rivals(field)  # as a call that goes on: nothing is trained again
    assert len(inline.asked(TrainingJob)) == 1


def test_leaders_are_repeated_on_workers_with_other_seeds(
    inline: Inline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = _field(tmp_path, inline)
    field.settings = {**field.settings, "repeats": 2}
    for configuration in field.configurations:
        configuration.alive = True
    repeat_leaders(field)
    asked = sorted((job.place.model, job.steps, job.seed, job.rates) for job in inline.asked(TrainingJob))
    assert asked == [
        ("mnist_cnn", 6, 1, (0.01,)), ("mnist_cnn", 6, 2, (0.01,)),
        ("svhn_cnn", 24, 1, (0.01,)), ("svhn_cnn", 24, 2, (0.01,)),
    ]  # fmt: skip
    assert [[run.trial.seed for run in c.repeats] for c in field.configurations] == [[1, 2], [1, 2]]
    assert inline.most == 2  # side by side


def test_pilot_runs_on_workers_are_those_of_one_process(inline: Inline, tmp_path: Path) -> None:
    target = small_target()
    candidates, options = [candidate(SVHN), candidate(MNIST)], {"share": 50.0, "device": "cpu"}
    here = pilot_runs(candidates, target, TASK, pixels_for(target), folder=tmp_path / "here", **options)
    there = pilot_runs(
        candidates, target, TASK, pixels_for(target), folder=tmp_path / "there", **options,
        executor=on(inline), supplies=Samples(target, tmp_path / "worker"),
    )  # fmt: skip
    assert [(t.name, t.status, t.before, t.after, t.losses) for t in there] == [
        (t.name, t.status, t.before, t.after, t.losses) for t in here
    ]
    assert here[0].losses
    assert len(inline.jobs) == 2
