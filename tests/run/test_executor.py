"""Executors: failures are results, interrupts and fatal errors are not; a job goes where it may run."""

import gc
import os
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from selector.core.errors import OutOfMemory, SourceError, StoreError
from selector.run.executor import InProcess, Routed, WorkerExecutor
from selector.run.job import Answer, Needs, Shared, WorkerLimits, pack, unpack
from selector.run.worker import answer


def test_a_failing_job_is_a_result_and_the_others_go_on() -> None:
    def run(job: int) -> int:
        if job == 1:
            raise SourceError("no weights\nsecond line")
        if job == 2:
            return 10 // 0
        if job == 4:
            raise BaseExceptionGroup("no Exception", [KeyError("x")])
        return job * 2

    results = list(InProcess().map(run, range(6)))
    assert [r.value for r in results] == [0, None, None, 6, None, 10]
    assert results[1].failure is not None
    assert results[1].failure.reason == "no weights"
    assert results[2].failure is not None
    assert results[2].failure.reason.startswith("ZeroDivisionError: ")
    assert "10 // 0" in results[2].failure.traceback


@pytest.mark.parametrize("error", [StoreError("disk full"), KeyboardInterrupt()])
def test_fatal_errors_and_interrupts_end_the_run(error: BaseException) -> None:
    def run(job: int) -> None:
        raise error

    with pytest.raises(type(error)):
        list(InProcess().map(run, [1], fatal=(StoreError,)))


def test_jobs_are_taken_one_at_a_time() -> None:
    seen: list[int] = []

    def jobs() -> Iterator[int]:
        yield 1
        if seen == [1]:
            yield 2

    assert [r.job for r in InProcess().map(seen.append, jobs())] == [1, 2]


class _Big:
    """Stands for a model: the weak reference says whether it is still in memory."""


def test_a_failure_drops_the_frames_that_hold_a_model() -> None:
    held: list[weakref.ref[_Big]] = []

    def run(job: int) -> None:
        model = _Big()
        held.append(weakref.ref(model))
        try:
            raise ValueError("inner")
        except ValueError as error:
            raise SourceError(f"{job} failed") from error

    results = list(InProcess().map(run, [1, 2]))
    gc.collect()
    assert [ref() for ref in held] == [None, None]
    assert all(r.failure is not None and "inner" in r.failure.traceback for r in results)


def _spoil(job: str) -> str:
    """What third-party code does to a process."""
    import torch

    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.set_num_threads(3)
    os.chdir("/")
    if job == "raises":
        raise RuntimeError("and fails")
    return job


@pytest.mark.parametrize("job", ["returns", "raises"])
@pytest.mark.parametrize("where", ["in process", "worker"])
def test_a_model_leaves_the_process_as_it_was(job: str, where: str) -> None:
    import torch

    before = Path.cwd(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
    if where == "in process":
        (result,) = InProcess().map(_spoil, [job])
        assert (result.failure is None) == (job == "returns")
    else:
        assert answer(pack((_spoil, job))[0]).kind == ("value" if job == "returns" else "model")
    assert before == (Path.cwd(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads())


def test_a_working_folder_that_is_removed_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert [r.value for r in InProcess().map(lambda job: folder.rmdir() if job else job, [1, 0])] == [None, 0]


def test_a_copy_that_a_model_forked_does_not_go_on_with_the_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    def run(job: int) -> int:
        return os.fork()

    for result in InProcess().map(run, [0]):
        with mark.open("a") as file:
            file.write(f"{result.value == 0}\n")
        assert result.value
        os.waitpid(result.value, 0)
    assert mark.read_text() == "False\n"


class _Scripted(WorkerExecutor):
    """Workers that answer at once, as they are told by ``how``, and keep what they were asked for."""

    width = 2

    def __init__(self, how: Callable[[Any, Needs], Answer]) -> None:
        self.how = how
        self.asked: list[tuple[Any, Needs]] = []
        self.most = 0

    def _start(self, run: Any, job: Any, needs: Needs) -> int:
        self.asked.append((job, needs))
        return len(self.asked) - 1

    def _wait(self, tickets: Any) -> list[tuple[int, Answer]]:
        self.most = max(self.most, len(tickets))
        return [(tickets[0], self.how(*self.asked[tickets[0]]))]

    def _stop(self, tickets: Any) -> None:
        self.given_up = list(tickets)

    def close(self) -> None:
        pass


def test_a_job_without_memory_goes_again_with_a_whole_device() -> None:
    def how(job: Any, needs: Needs) -> Answer:
        return Answer("memory", reason="too small") if job == "large" and not needs.alone else Answer("value", job)

    workers, taken = _Scripted(how), []

    def jobs() -> Iterator[Any]:
        yield "large"
        for number in range(5):
            taken.append(number)
            yield number

    results = workers.map(str, jobs())
    first = next(results)
    assert first.failure is None
    assert len(taken) <= 2  # taken when there is room
    assert {first.value, *(r.value for r in results)} == {"large", 0, 1, 2, 3, 4}
    assert [needs.alone for job, needs in workers.asked if job == "large"] == [False, True]
    assert workers.most == 2


@dataclass(frozen=True)
class _OfParts:
    name: str = "the whole"
    lost: tuple[str, ...] = ()

    def without(self, part: str, reason: str) -> "_OfParts | None":
        return None if part in self.lost else replace(self, lost=(*self.lost, part))


@pytest.mark.parametrize(("kind", "attempts"), [("died", 3), ("timeout", 2)])
def test_a_job_goes_on_without_the_part_that_workers_died_of(kind: Any, attempts: int) -> None:
    workers = _Scripted(lambda job, _: Answer("value", job.lost) if job.lost else Answer(kind, reason="x", part="bad"))
    (result,) = workers.map(str, [_OfParts()])
    assert result.value == ("bad",)
    assert len(workers.asked) == attempts


def test_a_job_that_workers_die_of_is_tried_once_more() -> None:
    workers = _Scripted(lambda job, _: Answer("died", reason="was killed"))
    (result,) = workers.map(str, [_OfParts()])  # nothing was under way: nothing to go on without
    assert result.failure is not None
    assert result.failure.reason == "the whole: the process that ran this model was killed (second attempt)."
    assert len(workers.asked) == 2
    with pytest.raises(SourceError):
        list(workers.map(str, [_OfParts()], fatal=(Exception,)))


@pytest.mark.parametrize(
    ("needs", "main", "where"),
    [
        (Needs(), "workers", "main"),
        (Needs(local=True), "workers", "here"),
        (Needs(limits=WorkerLimits()), "workers", "main"),
        (Needs(drives=True, limits=WorkerLimits()), "workers", "here"),
        (Needs(), "process", "here"),
        (Needs(local=True, limits=WorkerLimits()), "process", "here"),
        (Needs(drives=True, limits=WorkerLimits()), "process", "isolated"),
    ],
)
def test_a_job_runs_where_it_may(needs: Needs, main: str, where: str) -> None:
    workers = _Scripted(lambda *_: Answer("value", "main"))
    isolated = _Scripted(lambda *_: Answer("value", "isolated"))
    executor = Routed(workers if main == "workers" else InProcess(), isolated)
    (result,) = executor.map(lambda _: "here", ["job"], needs=lambda _: needs)
    assert result.value == where


def test_errors_of_an_answer_keep_their_kind() -> None:
    from selector.core.errors import ConfigError

    for error, kind in (
        (StoreError("a"), StoreError), (OutOfMemory("b"), OutOfMemory), (SourceError("c"), SourceError),
        (ConfigError("d"), ConfigError),
    ):  # fmt: skip
        found = Answer.of_error(error).failure().error
        assert type(found) is kind
        assert str(found) == str(error)


def test_a_shared_value_travels_by_its_key() -> None:
    value = ["large"]
    content, shared = pack({"job": Shared(value)})
    assert b"large" not in content
    assert [each.value for each in shared] == [value]
    assert unpack(content)["job"].key == shared[0].key
