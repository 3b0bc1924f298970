"""Pilot runs: what a few steps of real fine-tuning say, on the CPU, with networks of a few thousand weights."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from selector import tasks
from selector.core.task import Stats
from selector.extract.inputs import ready
from selector.tuning import pilot_runs as room
from selector.tuning.compare import standings
from selector.tuning.pilot_runs import LEAST_STEPS, draw, pilot_runs, steps_within
from selector.tuning.strategies._loop import as_batch
from tests.tuning.samples import MNIST, SVHN, VIT, PixelsOf, candidate, load, pixels_for, small_target

TASK = tasks.registry.get("classification")


def trials(folder: Path, target, specs=(MNIST, SVHN), share=50.0, read=None, **options):
    return pilot_runs([candidate(s) for s in specs], target, TASK, pixels_for(target, read), share=share,
                        device="cpu", folder=folder, **options)  # fmt: skip


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
    assert found.status == "not run"  # 96 items: 32 and 32 for the probe, 32 judged, 8 x 16 x 3 for the steps
    assert found.reason == "8 steps cost 5 times the extraction and 0.5 is allowed; raise pilot_cost to 5"
    assert trials(tmp_path, small_target(), (MNIST,), share=5.0)[0].steps == 8
    assert trials(tmp_path, small_target(), (MNIST,), share=4.9)[0].status == "not run"


def test_steps_are_counted_in_forward_passes(tmp_path: Path) -> None:
    """96 items at a share of 6 allow 576 passes; 32 for the probe and 64 for the judgment leave 10 steps of 48."""
    assert steps_within(6 * 96, 32 + 2 * 32) == 10
    (found,) = trials(tmp_path, small_target(train=64, val=32), (MNIST,), share=6.0)
    assert found.steps == 10


def native_features(target, spec, asked: list[np.ndarray]):
    """As a scan has them: of the network itself, at its own size."""
    encoder = load(spec)
    learner = TASK.learner(encoder, target).eval()
    images = pixels_for(target)(encoder.preprocess).batch(np.arange(len(target)))
    with torch.inference_mode():
        rows = learner.rows(ready(as_batch(images), encoder.preprocess, "cpu"), [None] * len(target)).float().numpy()

    def features_for(name: str, items: np.ndarray) -> np.ndarray:
        assert name == spec.name
        asked.append(items)
        return rows[items]

    return features_for


def test_a_network_that_cannot_be_reduced_is_tried_on_the_features_that_the_scan_has(tmp_path: Path) -> None:
    """460 items: passes for 200 + 2 x 60 items leave 2 steps, for the 60 that are judged 8."""
    target, asked = small_target(train=400, val=60, test=20), []
    alone = trials(tmp_path / "alone", target, (SVHN,), share=1.0)[0]
    assert (alone.status, alone.reason) == (
        "not run", "8 steps cost 1.6 times the extraction and 1 is allowed; raise pilot_cost to 1.6",
    )  # fmt: skip
    features_for = native_features(target, SVHN, asked)
    found = trials(tmp_path / "a", target, (SVHN,), share=1.0, features_for=features_for)[0]
    assert (found.status, found.steps) == ("ok", 8)
    assert not set(np.concatenate(asked).tolist()) & set(target.indices("test").tolist())
    # it starts from the same probe as one that makes its features itself
    paid = trials(tmp_path / "b", target, (SVHN,), share=1.6)[0]
    assert paid.steps == 8
    assert found.losses[0] == pytest.approx(paid.losses[0], rel=0.1)  # its own are in another precision
    # each stands in the journal by itself
    assert trials(tmp_path / "a", target, (SVHN,), share=1.6)[0].seconds != found.seconds
    asked.clear()
    assert trials(tmp_path / "a", target, (SVHN,), share=1.0, features_for=features_for)[0].losses == found.losses
    assert not asked


def test_a_trial_below_the_networks_size_makes_its_own_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "SIDE", 32)
    refused = lambda *_: pytest.fail("features of another resolution")  # noqa: E731
    found = trials(tmp_path, small_target(train=130, val=20, test=0), (VIT,), share=1.0, features_for=refused)[0]
    assert (found.status, found.size, found.steps) == ("ok", (32, 32), 10)  # (4 x 150 - 65 - 2 x 20) / 48


def test_a_named_metric_judges_and_the_statistics_of_the_probe_are_kept(tmp_path: Path) -> None:
    target = small_target(train=100, val=40, test=0)
    by_accuracy = trials(tmp_path, target, (SVHN,))[0]
    found = trials(tmp_path, target, (SVHN,), metric="log_loss")[0]  # the same trial, from the journal
    assert found.seconds == by_accuracy.seconds
    assert found.after == found.stats.value("log_loss")
    assert found.before == found.probe_stats.value("log_loss")
    assert by_accuracy.before == found.probe_stats.value("accuracy")
    assert (found.probe_stats.arrays["label"] == found.stats.arrays["label"]).all()
    assert found.judged(probe_too=True) == [found.stats, found.probe_stats]
    assert found.judged(probe_too=False) == [found.stats]


def test_half_widths_are_of_the_mean_that_counts() -> None:
    """Two trials whose changes by training cancel those of the other's probe: the means are equal on every item."""
    target = small_target(train=10, val=40, test=0)
    items = target.indices("val")
    rng = np.random.default_rng(0)
    labels = target.labels_of(items)

    def stats(right: np.ndarray) -> Stats:
        outputs = np.full((len(items), 3), -5.0)
        outputs[np.arange(len(items)), (labels + ~right) % 3] = 5.0
        evaluator = TASK.evaluator(target)
        evaluator.update(outputs, items)
        return evaluator.stats()

    one, other = rng.random((2, len(items))) < 0.6
    accuracy = TASK.metrics["accuracy"]
    means = {"a": [stats(one), stats(other)], "b": [stats(other), stats(one)]}
    after = standings({"a": [stats(one)], "b": [stats(other)]}, "accuracy", accuracy)
    both = standings(means, "accuracy", accuracy, repeats=False)
    half = max((s.high - s.low) / 2 for s in after.values())
    assert half == pytest.approx(1.645 * np.std(one.astype(float) - other) / np.sqrt(len(items)), rel=0.1)
    assert max((s.high - s.low) / 2 for s in both.values()) < half / 2  # what further items may add alone
    assert {s.difference for s in both.values()} == {0.0}


def test_a_metric_that_these_items_leave_undefined_is_no_value(tmp_path: Path) -> None:
    target = small_target(train=100, val=40, test=0)
    target.labels[target.indices("val")] = 1
    found = trials(tmp_path, target, (SVHN,), metric="auroc")[0]
    assert (found.status, found.before, found.after) == ("failed", None, None)
    assert found.reason == "auroc is undefined on these items"


def test_a_model_that_fails_is_a_failed_trial_beside_the_others(tmp_path: Path) -> None:
    target = small_target()

    def broken(preprocess):
        if preprocess.input_size[1] == 28:
            raise OSError("the disk is gone")
        return PixelsOf(target, preprocess)

    found = pilot_runs([candidate(MNIST), candidate(SVHN)], target, TASK, broken, share=50.0, device="cpu", folder=tmp_path)  # fmt: skip
    assert [t.status for t in found] == ["failed", "ok"]
    assert "the disk is gone" in found[0].reason


def test_items_are_sampling_weights_the_seed() -> None:
    items = np.arange(100, 150)
    assert (draw(items, 10, 0) == draw(items, 10, 0)).all()
    assert set(draw(items, 10, 0)) != set(draw(items, 10, 1))
    assert set(draw(items, 99, 0)) == set(items)


class Clock:
    """Seconds that pass at each look, so that the machine's load decides nothing."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 1.0
        return self.seconds


def test_pilot_runs_end_within_their_share_of_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(room, "Workbench", partial(room.Workbench, now=clock))
    target = small_target(train=500, val=60, test=30)
    found = trials(tmp_path, target, budget_seconds=60.0)
    assert clock.seconds < 75  # what a judgment looks at the clock comes on top
    assert found[0].status == "ok"
    assert LEAST_STEPS <= found[0].steps < 24
    clock.seconds = 0.0
    short = trials(tmp_path, target, budget_seconds=10.0)
    assert [found.status for found in short] == ["not run", "not run"]
    assert all("raise budget" in found.reason for found in short)
    assert clock.seconds < 75
    full = trials(tmp_path, target)  # what was cut short is not read as a whole one
    assert [found.steps for found in full] == [24, 24]
