"""The engine: failures are outcomes, interrupts and fatal errors are not."""

import gc
import os
import weakref
from pathlib import Path

import pytest

from selector.core.answers import answered, packed
from selector.core.engine import LocalEngine
from selector.core.errors import SourceError, StoreError


def test_a_failing_item_is_an_outcome_and_the_others_go_on():
    def job(item: int) -> int:
        if item == 1:
            raise SourceError("no weights\nsecond line")
        if item == 2:
            return 10 // 0
        if item == 4:
            raise BaseExceptionGroup("no Exception", [KeyError("x")])
        return item * 2

    outcomes = list(LocalEngine().map(job, range(6)))
    assert [o.result for o in outcomes] == [0, None, None, 6, None, 10]
    assert outcomes[1].failure.reason == "no weights"
    assert outcomes[2].failure.reason.startswith("ZeroDivisionError: ")
    assert "10 // 0" in outcomes[2].failure.traceback


@pytest.mark.parametrize("error", [StoreError("disk full"), KeyboardInterrupt()])
def test_fatal_errors_and_interrupts_end_the_run(error):
    def job(item: int) -> None:
        raise error

    with pytest.raises(type(error)):
        list(LocalEngine().map(job, [1], fatal=(StoreError,)))


def test_items_are_taken_one_at_a_time_so_that_results_can_steer_what_follows():
    seen: list[int] = []

    def items():
        yield 1
        if seen == [1]:
            yield 2

    assert [o.item for o in LocalEngine().map(seen.append, items())] == [1, 2]


class _Big:
    """Stands for a network: the weak reference says whether it is still in memory."""


def test_a_failure_lets_go_of_what_failed() -> None:
    held: list[weakref.ref[_Big]] = []

    def job(item: int) -> None:
        network = _Big()
        held.append(weakref.ref(network))
        try:
            raise ValueError("inner")
        except ValueError as error:
            raise SourceError(f"{item} failed") from error

    outcomes = list(LocalEngine().map(job, [1, 2]))
    gc.collect()
    assert [ref() for ref in held] == [None, None]
    assert all("inner" in outcome.failure.traceback for outcome in outcomes)


def _spoils(item: str) -> str:
    """What code of others does to a process."""
    import torch

    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.set_num_threads(3)
    os.chdir("/")
    if item == "raises":
        raise RuntimeError("and fails")
    return item


@pytest.mark.parametrize("item", ["returns", "raises"])
@pytest.mark.parametrize("where", ["here", "worker"])
def test_a_network_leaves_the_process_as_it_was_to_the_next_one(item: str, where: str, tmp_path: Path) -> None:
    import torch

    before = Path.cwd(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
    if where == "here":
        (outcome,) = LocalEngine().map(_spoils, [item])
        assert (outcome.failure is None) == (item == "returns")
    else:
        assert answered(packed(_spoils, item)).kind == ("result" if item == "returns" else "model")
    assert before == (Path.cwd(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads())


def test_a_working_folder_that_is_removed_ends_no_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert [o.result for o in LocalEngine().map(lambda item: folder.rmdir() if item else item, [1, 0])] == [None, 0]
