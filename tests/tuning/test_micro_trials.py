"""Micro trials: what a few steps of real fine-tuning say, on the CPU, with networks of a few thousand weights."""

from pathlib import Path

import numpy as np
import pytest

from selector import tasks
from selector.tuning import micro_trials as room
from selector.tuning.micro_trials import draw, micro_trials, steps_within
from tests.tuning.samples import MNIST, SVHN, PixelsOf, candidate, pixels_for, small_target

TASK = tasks.registry.get("classification")


def trials(folder: Path, target, specs=(MNIST, SVHN), share=50.0, read=None):
    return micro_trials([candidate(s) for s in specs], target, TASK, pixels_for(target, read), share=share,
                        device="cpu", folder=folder)  # fmt: skip


def test_the_network_learns_within_its_few_steps(tmp_path: Path) -> None:
    """Each batch is judged before its step, by a network that has not seen it."""
    (found,) = trials(tmp_path, small_target(train=500, val=60, test=30), (SVHN,))
    assert (found.status, found.steps, found.held_out, found.size) == ("ok", 24, 60, (32, 32))
    assert len(found.losses) == 24
    assert np.mean(found.losses[-6:]) < 0.7 * np.mean(found.losses[:6])
    assert found.after == found.stats.value("accuracy") != found.before


def test_no_test_item_is_read_and_the_same_items_judge_every_model(tmp_path: Path) -> None:
    read: set[int] = set()
    target = small_target(train=100, val=40, test=40)
    first, second = trials(tmp_path, target, read=read)
    assert not read & set(target.indices("test").tolist())
    assert (first.stats.arrays["label"] == second.stats.arrays["label"]).all()


def test_a_trial_is_repeatable_and_read_from_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = small_target()
    once = trials(tmp_path / "a", target, (MNIST,))[0]
    assert trials(tmp_path / "b", target, (MNIST,))[0].losses == once.losses
    monkeypatch.setattr(room, "_measure", lambda *_: pytest.fail("was run again"))
    assert trials(tmp_path / "a", target, (MNIST,))[0].after == once.after


def test_what_costs_more_than_its_share_of_the_extraction_is_not_run(tmp_path: Path) -> None:
    (found,) = trials(tmp_path, small_target(), (MNIST,), share=0.5)
    assert found.status == "not run"
    assert found.reason == "fewer than 8 steps cost as much as the extraction; raise trials"


def test_steps_are_counted_in_forward_passes(tmp_path: Path) -> None:
    """96 items at a share of 6 allow 576 passes; 32 for the probe and 64 for the judgement leave 10 steps of 48."""
    assert steps_within(6 * 96, 32 + 2 * 32) == 10
    (found,) = trials(tmp_path, small_target(train=64, val=32), (MNIST,), share=6.0)
    assert found.steps == 10


def test_a_model_that_fails_is_a_failed_trial_beside_the_others(tmp_path: Path) -> None:
    target = small_target()

    def broken(preprocess):
        if preprocess.input_size[1] == 28:
            raise OSError("the disk is gone")
        return PixelsOf(target, preprocess)

    found = micro_trials([candidate(MNIST), candidate(SVHN)], target, TASK, broken, share=50.0, device="cpu", folder=tmp_path)  # fmt: skip
    assert [t.status for t in found] == ["failed", "ok"]
    assert "the disk is gone" in found[0].reason


def test_items_are_drawn_by_the_seed() -> None:
    items = np.arange(100, 150)
    assert (draw(items, 10, 0) == draw(items, 10, 0)).all()
    assert set(draw(items, 10, 0)) != set(draw(items, 10, 1))
    assert set(draw(items, 99, 0)) == set(items)
