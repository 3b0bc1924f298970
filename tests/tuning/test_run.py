"""The fine-tuning stage on small real networks; its plan, its statistics and its journal on their own."""

from __future__ import annotations

import functools
import itertools
import json
import logging
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from selector import tasks
from selector.core.contracts import Encoder, Target
from selector.core.errors import ConfigError, SourceError, StoreError, TargetError
from selector.core.preprocess import Preprocess
from selector.core.task import Stats
from selector.extract.inputs import ready
from selector.ranking.outlook import expected_gain, spread
from selector.results import Measurement
from selector.run.executor import InProcess
from selector.run.job import Shared
from selector.tuning import FineTuningResult, run_fine_tuning
from selector.tuning import job as costs_room
from selector.tuning import trial as trial_room
from selector.tuning.clock import Clock
from selector.tuning.compare import Standing
from selector.tuning.field import Configuration, Field, Run, _beyond_the_worse
from selector.tuning.heads import prepare_start, solve
from selector.tuning.job import Kit
from selector.tuning.journal import Journal, Record
from selector.tuning.loading import load as load_candidate
from selector.tuning.loading import settle_precision
from selector.tuning.plan import (
    GOOD_EPOCHS,
    MIN_STEPS,
    Round,
    StrategyCost,
    TrainingPlan,
    fit_rest,
    make_plan,
    rounds_of,
    seconds_of,
)
from selector.tuning.rounds import _halve, stop_if_settled, take
from selector.tuning.run import train_rivals
from selector.tuning.strategies import _loop
from selector.tuning.training import Planned
from selector.tuning.trial import RATES, Trial, key_of, module_of, run_trial
from selector.tuning.workbench import Workbench
from tests.tuning.samples import MNIST, SVHN, VIT, candidate, load, pixels_for, small_target, spec_of

TASK: Any = tasks.registry.get("classification")


def confirmed(folder: Path, candidates: Any = None, target: Any = None, **options: Any) -> FineTuningResult:
    target = target or small_target()
    return run_fine_tuning(
        candidates or [candidate(SVHN), candidate(MNIST)],
        target,
        TASK,
        options.pop("pixels", pixels_for(target)),
        **{"max_steps": 8, "batch_size": 16, "repeats": 0, "device": "cpu", "checkpoint_folder": folder, **options},
    )


def table(result: FineTuningResult) -> list[Any]:
    """What must be equal between two runs: everything but times."""
    return [
        (n, m.strategy, dict(m.val), dict(m.test), m.steps, m.learning_rate)
        for n, ms in result.measurements.items()
        for m in ms
    ]


def of_best(result: FineTuningResult) -> Measurement:
    """What was measured of the model that is saved."""
    assert result.best is not None
    return next(m for m in result.measurements[result.best.name] if m.strategy == result.best.strategy)


def telling_features(target: Target, by: float) -> np.ndarray:
    """Features (N, 128) of which the first columns say the class."""
    features = np.random.default_rng(0).normal(size=(len(target), 128)).astype(np.float32)
    features[np.arange(len(target)), target.labels] += by
    return features


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FineTuningResult:
    return confirmed(tmp_path_factory.mktemp("run"), max_steps=60)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> tuple[FineTuningResult, Path]:
    """A run of a few steps and its folder; copy the folder before going on in it."""
    folder = tmp_path_factory.mktemp("short")
    return confirmed(folder), folder


# ---------------------------------------------------------------------------- the whole


def test_measures_every_strategy_and_names_the_best(finished: FineTuningResult) -> None:
    assert {name: [m.strategy for m in ms] for name, ms in finished.measurements.items()} == {
        "svhn_cnn": ["frozen", "full"],
        "mnist_cnn": ["frozen", "full"],
    }
    figures = [m for ms in finished.measurements.values() for m in ms]
    assert max(m.merit for m in figures) == of_best(finished).merit
    assert max(m.val_value for m in figures) > 0.6  # chance is 0.33
    assert all(m.metric == "accuracy" and m.status == "ok" for m in figures)
    assert finished.p_best is not None
    assert 0 < finished.p_best <= 1


def test_a_gain_on_few_items_counts_half_way_to_that_of_other_datasets(finished: FineTuningResult) -> None:
    usual = spread().gain["image"][0]
    (frozen, full), (_, short) = finished.measurements["svhn_cnn"], finished.measurements["mnist_cnn"]
    assert (full.steps, short.steps) == (60, 15)
    assert full.val_value < full.merit < frozen.val_value + usual
    assert frozen.merit == frozen.val_value
    assert short.merit == short.val_value  # too short to gain what trainings usually gain


def test_texts_are_trained_where_few_items_tell_nothing() -> None:
    """Against a conjugate normal model, integrated on a grid."""
    gain = np.linspace(-0.5, 0.5, 20_001)
    for kind, (mean, deviation) in spread().gain.items():
        for observed, error in ((0.0, 0.1), (-0.06, 0.09), (0.08, 0.04)):
            density = stats.norm.pdf(gain, mean, deviation) * stats.norm.pdf(observed, gain, error)
            expected = float((gain * density).sum() / density.sum())
            assert expected_gain(observed, error, kind) == pytest.approx(expected, abs=1e-4)
    assert (
        expected_gain(0.0, 0.1, "text", room=0.01) < 0.006
    )  # two thirds of what is left to gain are not to be expected


def test_full_measurements_say_how_they_came_about(finished: FineTuningResult) -> None:
    full = finished.measurements["mnist_cnn"][1]
    assert full.resolution == (28, 28)
    assert not full.reduced
    assert full.learning_rate in RATES["sgd"]
    assert full.trained_parameters > 50_000
    assert full.seconds > 0
    assert full.extra["optimizer"] == "sgd"
    frozen = finished.measurements["mnist_cnn"][0]
    assert frozen.trained_parameters == 3 * 129
    assert [n for n, _ in frozen.extra["learning_curve"]] == [16, 32, 64]


def test_rates_are_tried_in_the_first_round_and_one_goes_on(finished: FineTuningResult) -> None:
    first = [h for h in finished.history if h["round"] == 1]
    later = [h for h in finished.history if h["round"] > 1]
    for model in ("svhn_cnn", "mnist_cnn"):
        assert tuple(h["rate"] for h in first if h["model"] == model) in (RATES["sgd"], RATES["sgd"][:2])
    assert len({h["steps"] for h in first}) == 1
    assert {h["steps"] for h in first} == {15}
    assert {h["steps"] for h in later} == {60}  # all of them: training starts anew
    assert len({h["model"] for h in later}) == len(later)


def bench_of(folder: Path, augment: str = "light", **sizes: int) -> Workbench:
    target = small_target(**sizes)
    return Workbench(target, TASK, pixels_for(target), Journal(folder, TASK.stats_type), "cpu", 16, augment)


def searching(folder: Path, start: float) -> tuple[Field, Configuration]:
    """A field with one configuration whose frozen head is right on the given share of the validation images."""
    bench = bench_of(folder, val=200)
    settings = {"metric": "accuracy", "epsilon": 0.01, "seed": 0, "budget": None}
    kit = Shared(Kit(bench, [candidate(MNIST)], None, "cpu", settings))
    field = Field(bench, Clock(settings, bench.journal, None), settings, InProcess(), kit)
    loaded = load_candidate(bench, candidate(MNIST))
    loaded.start = right_on(start, labels_of(bench))
    return field, Configuration(loaded, "full")


def labels_of(bench: Workbench) -> np.ndarray:
    return bench.target.labels_of(bench.indices["val"])


def right_on(share: float, labels: np.ndarray, shift: int = 0) -> Stats:
    right = np.roll(np.arange(len(labels)) < share * len(labels), shift)
    guess = np.where(right, labels, (labels + 1) % 3)
    return TASK.stats(5 * np.eye(3, dtype=np.float32)[guess], labels)


@pytest.mark.parametrize(
    ("start", "rates", "values", "third", "skipped"),
    [
        (0.5, (0.003, 0.03), (0.5, 0.7), 0.0003, True),  # figures fall towards the smaller rates
        (0.5, (0.003, 0.03), (0.7, 0.5), 0.0003, False),
        (0.5, (1e-4, 3e-4), (0.7, 0.5), 1e-3, True),
        (0.5, (1e-4, 3e-4), (0.5, 0.7), 1e-3, False),
        (0.9, (0.003, 0.03), (0.5, 0.7), 0.0003, False),  # both spoil the head: their order says nothing
        (0.9, (0.003, 0.03), (0.5, 0.89), 0.0003, True),  # a little below it is noise
    ],
)
def test_a_rate_beyond_the_worse_of_two_is_left_out(
    tmp_path: Path, start: float, rates: tuple[float, ...], values: tuple[float, ...], third: float, skipped: bool
) -> None:
    field, configuration = searching(tmp_path, start)
    runs = [
        Run(Trial("m", "full", rate, 0), 8, Record({"status": "ok"}, right_on(v, labels_of(field.bench))))
        for rate, v in zip(rates, values, strict=True)
    ]
    assert _beyond_the_worse(field, configuration, runs, third) is skipped
    assert not _beyond_the_worse(field, configuration, runs[:1], third)
    diverged = replace(runs[1], record=Record({"status": "diverged"}))
    assert not _beyond_the_worse(field, configuration, [runs[0], diverged], third)


@pytest.mark.parametrize(("later", "kept"), [(0.68, 1), (0.75, 1), (0.4, 0)])
def test_the_longer_training_counts_unless_it_is_demonstrably_worse(tmp_path: Path, later: float, kept: int) -> None:
    field, configuration = searching(tmp_path, 0.5)
    trial = Trial("m", "full", 0.003, 0)
    facts = {"status": "ok", "notes": []}
    runs = [
        Run(trial, steps, Record(facts, right_on(value, labels_of(field.bench), shift)))
        for steps, value, shift in ((8, 0.7, 0), (16, later, 40))  # both are right where the other is not
    ]
    for number, run in enumerate(runs):
        take(field, configuration, [run], number)
    assert configuration.best is runs[kept]


def test_a_settled_leader_goes_on_in_one_cycle(tmp_path: Path) -> None:
    rivals = [candidate(MNIST), candidate(SVHN), replace(candidate(MNIST), name="twin", identity={"twin": 1})]
    result = confirmed(tmp_path, rivals, max_steps=24, epsilon=1.0)  # nobody can gain that much
    assert result.settled
    assert any("stopped after round 1: it is the best with" in line for line in result.tuning_log)
    assert [h["steps"] for h in result.history if h["round"] > 1] == [24]
    again = confirmed(tmp_path, rivals, max_steps=24, epsilon=1.0)
    assert table(again) == table(result)
    assert again.tuning_log == result.tuning_log


def configurations_after_a_round(
    field: Field, configuration: Configuration, figures: dict[str, tuple[float, float]]
) -> dict[str, Configuration]:
    """A configuration a name, with (validation accuracy at the start, after the first round); enters them into the field."""
    labels = labels_of(field.bench)
    for name, (start, value) in figures.items():
        loaded = replace(
            configuration.loaded,
            candidate=replace(configuration.loaded.candidate, name=name),
            start=right_on(start, labels),
        )
        field.configurations.append(Configuration(loaded, "full"))
        run = Run(Trial(name, "full", 0.003, 0), 8, Record({"status": "ok", "notes": []}, right_on(value, labels)))
        take(field, field.configurations[-1], [run], 0)
    return {one.loaded.name: one for one in field.configurations}


def test_a_configuration_whose_head_was_spoiled_stands_where_it_started(tmp_path: Path) -> None:
    field, configuration = searching(tmp_path, 0.5)
    configurations = configurations_after_a_round(
        field, configuration, {"spoiled": (0.8, 0.6), "steady": (0.76, 0.76), "weak": (0.4, 0.5)}
    )
    _halve(field, 2)
    assert [name for name, one in configurations.items() if one.alive] == ["spoiled", "steady"]
    assert field.configuration_order(configurations["spoiled"])[0] == pytest.approx(0.8)
    assert field.configuration_order(configurations["weak"])[0] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("second", "shift", "goes_on"),
    [
        (0.76, 0, True),  # demonstrably worse, but within five points
        (0.70, 0, False),
        (0.74, 100, True),  # six points behind, right on other images: chance may be what tells them apart
    ],
)
def test_a_configuration_that_is_far_and_demonstrably_behind_goes_no_further(
    tmp_path: Path, second: float, shift: int, goes_on: bool
) -> None:
    field, configuration = searching(tmp_path, 0.5)
    configurations = configurations_after_a_round(field, configuration, {"first": (0.5, 0.8), "second": (0.5, second)})
    outputs = right_on(second, labels_of(field.bench), shift)
    configurations["second"].best = replace(
        configurations["second"].best, record=Record({"status": "ok", "notes": []}, outputs)
    )
    _halve(field, 2)
    assert configurations["first"].alive
    assert configurations["second"].alive is goes_on
    told = [line for line in field.clock.tuning_log if "second full was pruned: after round 1 it was 0.1" in line]
    assert len(told) == (not goes_on)


def test_what_is_left_of_a_budget_trains_rivals_as_long_as_the_leader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    field, configuration = searching(tmp_path, 0.5)
    names = {"first": (0.5, 0.8), "near": (0.5, 0.78), "slow": (0.5, 0.77), "far": (0.5, 0.6)}
    found = configurations_after_a_round(field, configuration, names)
    _halve(field, 1)
    leader = found["first"]
    assert leader.best is not None
    leader.best = replace(leader.best, steps=64)
    for one in found.values():
        one.step_seconds = 10.0 if one.loaded.name == "slow" else 0.1
    asked: list[tuple[str, int]] = []

    def trained(field: Field, entries: Sequence[Planned]) -> Iterator[tuple[Configuration, list[Run]]]:
        for entry in entries:
            name = entry.configuration.loaded.name
            asked.append((name, entry.steps))
            facts = {"status": "ok", "notes": [], "steps": 0, "seconds": 0.0}
            record = Record(facts, right_on(0.9, labels_of(field.bench)))
            yield entry.configuration, [Run(Trial(name, "full", entry.rates[0], 0), entry.steps, record)]

    monkeypatch.setattr("selector.tuning.rounds.train_configurations", trained)
    train_rivals(field)
    assert not asked  # without a budget nothing is left
    field.clock.budget = 60.0
    train_rivals(field)
    assert asked == [("near", 64)]  # 10 s a step do not fit, and the last one is out of reach
    assert [one.loaded.name for one in field.alive()] == ["first", "near"]
    found["near"].best = replace(found["near"].best, steps=8)  # as a call that goes on begins
    found["near"].alive = False
    field.clock.budget = 0.0
    train_rivals(field)
    assert asked == [("near", 64)] * 2  # what was begun is done again, whatever is left


@pytest.mark.parametrize(
    ("figures", "settled"),
    [
        # ten points ahead on 200 images: by the images alone the best with more than 95% ...
        ({"a": (0.6, 0.8), "b": (0.5, 0.7), "c": (0.4, 0.6)}, True),  # ... and all were moved alike
        ({"a": (0.6, 0.8), "b": (0.65, 0.7), "c": (0.3, 0.6)}, False),  # the next round may turn that round
        ({"a": (0.2, 0.95), "b": (0.2, 0.4), "c": (0.2, 0.5)}, False),  # the first round made all of the lead
        ({"a": (0.8, 0.95), "b": (0.2, 0.3), "c": (0.2, 0.4)}, True),  # a lead beyond all that a round moves
    ],
)
def test_settled_needs_a_lead_that_the_rounds_left_would_not_turn_round(
    tmp_path: Path, figures: dict[str, tuple[float, float]], settled: bool
) -> None:
    field, configuration = searching(tmp_path, 0.5)
    configurations = configurations_after_a_round(field, configuration, figures)
    by_images = field.standings({n: [field.standing(one)] for n, one in configurations.items()})
    assert by_images["a"].p_best > 0.95
    assert stop_if_settled(field, doublings=3) is settled
    assert field.settled is settled
    assert [name for name, one in configurations.items() if one.alive] == (["a"] if settled else list(figures))


def test_nothing_is_settled_where_a_rival_that_may_gain_is_the_more_probable_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gaps are measured from the first by value: from any other, the first itself can gain nothing."""
    field, configuration = searching(tmp_path, 0.5)
    configurations_after_a_round(field, configuration, {"a": (0.7, 0.8), "b": (0.7, 0.79)})
    table = {"a full": Standing(0.8, 0.0, 0.0, 0.0, 0.45), "b full": Standing(0.79, 0.01, -0.05, 0.07, 0.55)}
    real = Field.standings
    monkeypatch.setattr(Field, "standings", lambda s, e, **more: table if "a full" in e else real(s, e, **more))
    assert not stop_if_settled(field, doublings=2)
    assert len(field.alive()) == 2


def test_the_epsilon_best_set_holds_the_best_and_starts_with_the_cheapest(finished: FineTuningResult) -> None:
    assert finished.best is not None
    members = [(m.name, m.strategy) for m in finished.epsilon_best]
    assert (finished.best.name, finished.best.strategy) in members
    assert [m.parameters for m in finished.epsilon_best] == sorted(m.parameters for m in finished.epsilon_best)
    best = next(
        m for m in finished.epsilon_best if (m.name, m.strategy) == (finished.best.name, finished.best.strategy)
    )
    assert (best.difference, best.low, best.high) == (0, 0, 0)
    for name, measurements in finished.measurements.items():
        for m in measurements:
            assert m.extra["epsilon_best"] == ((name, m.strategy) in members)
            assert m.extra["difference_low"] <= m.extra["difference"] <= m.extra["difference_high"]


def test_known_latency_comes_before_parameters(tmp_path: Path) -> None:
    slow, fast = candidate(MNIST, latency=0.2), candidate(SVHN, latency=0.1)
    result = confirmed(tmp_path, [slow, fast], strategies=("frozen",), epsilon=1.0)
    assert [m.name for m in result.epsilon_best] == ["svhn_cnn", "mnist_cnn"]


def test_the_same_seed_gives_the_same_table_and_another_seed_another(
    tmp_path: Path, short: tuple[FineTuningResult, Path]
) -> None:
    first, _ = short
    assert table(confirmed(tmp_path / "again")) == table(first)
    other = confirmed(tmp_path / "other", seed=1)
    assert [h["value"] for h in other.history] != [h["value"] for h in first.history]


def test_the_test_split_is_read_after_the_last_training_and_of_finalists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = small_target()
    test = set(target.indices("test").tolist())
    widths = {spec.name: load(spec).num_features for spec in (SVHN, MNIST)}
    read: set[int] = set()
    seen: list[bool] = []
    asked: set[str] = set()

    def run(*args: Any, original: Any = trial_room.run_trial, **options: Any) -> Any:
        record = original(*args, **options)
        seen.append(bool(read & test or asked))
        return record

    def features(name: str, items: np.ndarray) -> np.ndarray:
        if test & set(items.tolist()):
            asked.add(name)
        return np.random.default_rng(0).normal(size=(len(target), widths[name]))[items]

    monkeypatch.setattr("selector.tuning.job.run_trial", run)
    result = confirmed(tmp_path, target=target, pixels=pixels_for(target, read), features_for=features, repeats=1)
    assert len(seen) > 6
    assert not any(seen)
    assert test <= read
    assert asked <= {name for name, ms in result.measurements.items() if any(m.test for m in ms)}
    assert of_best(result).test


def test_the_handed_over_model_gives_the_figures_that_were_measured(finished: FineTuningResult) -> None:
    best = finished.best
    assert best is not None
    target = small_target()
    bf16 = any(
        h["precision"] == "bfloat16"
        for h in finished.history
        if (h["model"], h["strategy"]) == (best.name, best.strategy)
    )
    test = target.indices("test")
    images = ready(pixels_for(target)(best.preprocess).batch(test), best.preprocess)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        outputs = best.module(images).float().numpy()
    stats = TASK.stats(outputs, target.labels[test], best.context["temperature"])
    figures = stats.values(TASK.metrics)
    measured = of_best(finished)
    assert figures["accuracy"] == pytest.approx(measured.test_value, abs=0.022)
    assert figures["log_loss"] == pytest.approx(measured.test["log_loss"], abs=0.02)


def test_the_outcome_of_the_best_model_agrees_with_its_test_figures(finished: FineTuningResult) -> None:
    measured = of_best(finished)
    assert [m for ms in finished.measurements.values() for m in ms if "error_analysis" in m.extra] == [measured]
    found = measured.extra["error_analysis"]
    assert found["split"] == "test"
    confusion = np.array(found["figures"]["confusion"])
    target = small_target()
    test = target.indices("test")
    assert confusion.sum(axis=1).tolist() == np.bincount(target.labels[test]).tolist()
    assert np.trace(confusion) / confusion.sum() == pytest.approx(measured.test_value)
    assert np.mean([line["recall"] for line in found["tables"]["classes"]]) == pytest.approx(
        measured.test["balanced_accuracy"], abs=1e-4
    )
    for s in found["samples"]:
        assert s["index"] in test
        assert s["name"] == f"{s['index']}.png"
        assert s["label"] == target.class_names[target.labels[s["index"]]]


def test_another_metric_decides(tmp_path: Path) -> None:
    result = confirmed(tmp_path, metric="log_loss", max_steps=8)
    figures = [m.val["log_loss"] for ms in result.measurements.values() for m in ms if m.status == "ok"]
    assert of_best(result).val["log_loss"] == min(figures)


def test_cached_features_are_used_for_the_frozen_head(tmp_path: Path) -> None:
    target = small_target()
    asked: list[tuple[str, int]] = []

    def features_for(name: str, indices: np.ndarray) -> np.ndarray:
        asked.append((name, len(indices)))
        rows = np.random.default_rng(0).normal(size=(len(indices), 128)).astype(np.float32)
        rows[:, :126] += np.repeat(3 * np.eye(3, dtype=np.float32)[target.labels[indices]], 42, axis=1)
        return rows

    result = confirmed(tmp_path, [candidate(MNIST)], target, strategies=("frozen",), features_for=features_for)
    assert asked[:2] == [("mnist_cnn", 64), ("mnist_cnn", 32)]
    assert result.measurements["mnist_cnn"][0].val_value == 1.0


@pytest.mark.parametrize("rounded", [True, False])
def test_rounded_features_give_no_figure_of_a_saved_frozen_model(tmp_path: Path, rounded: bool) -> None:
    target, read = small_target(), set[int]()
    features = telling_features(target, 9)  # by them the head is right nearly everywhere
    result = confirmed(
        tmp_path, [candidate(MNIST, rounded=rounded)], target, pixels=pixels_for(target, read),
        strategies=("frozen",), features_for=lambda _, items: features[items],
    )  # fmt: skip
    test = target.indices("test")
    assert (set(test.tolist()) <= read) == rounded
    measured = result.measurements["mnist_cnn"][0].test["accuracy"]
    assert result.best is not None
    with torch.no_grad():
        images = ready(pixels_for(target)(result.best.preprocess).batch(test), result.best.preprocess)
        said = result.best.module(images)
    right = (said.argmax(1).numpy() == target.labels[test]).mean()
    assert right < 0.6  # the features say nothing about these pictures
    assert measured == pytest.approx(right) if rounded else measured > 0.8


def test_the_latency_of_a_single_item_keeps_no_time_for_test_items(tmp_path: Path) -> None:
    target, ticks = small_target(), itertools.count(0.0, 0.001)
    features = np.random.default_rng(0).normal(size=(len(target), 128)).astype(np.float32)
    slow = candidate(MNIST, rounded=True, latency=10.0)  # by it, reading the test items would take the whole budget
    result = confirmed(
        tmp_path, [slow], target, budget_seconds=60.0, now=lambda: next(ticks), max_steps=30,
        features_for=lambda _, items: features[items],
    )  # fmt: skip
    assert [(m.strategy, m.status, m.steps) for m in result.measurements["mnist_cnn"][1:]] == [("full", "ok", 30)]


@pytest.mark.parametrize(("side", "reduced"), [(32, True), (96, False)])
def test_another_resolution_is_trained_at_and_a_reduced_one_marked(tmp_path: Path, side: int, reduced: bool) -> None:
    result = confirmed(tmp_path, [candidate(VIT)], resolution=side, max_steps=4)
    frozen, full = result.measurements["test_vit"]
    assert (frozen.resolution, frozen.reduced) == ((64, 64), False)
    assert (full.resolution, full.reduced) == ((side, side), reduced)


def test_a_network_of_fixed_size_keeps_it_and_the_notes_say_so(tmp_path: Path) -> None:
    result = confirmed(tmp_path, [candidate(MNIST)], resolution=16, max_steps=4)
    assert result.measurements["mnist_cnn"][1].resolution == (28, 28)
    told = "mnist_cnn stays at 28 x 28: its architecture does not allow 16 x 16 ("
    assert any(told in note for note in result.notes)


def test_repeats_with_other_seeds(tmp_path: Path) -> None:
    twin = replace(candidate(MNIST), name="twin", identity={"twin": 1})  # equal models: nothing is settled
    result = confirmed(tmp_path, [candidate(MNIST), twin], repeats=2, epsilon=0.0)
    assert {h["seed"] for h in result.history} == {0, 1, 2}
    values = [m.extra["seed_values"] for ms in result.measurements.values() for m in ms if m.strategy == "full"]
    assert [len(v) for v in values] == [3, 3]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_on_a_gpu_the_model_comes_back_to_the_cpu(tmp_path: Path) -> None:
    result = confirmed(tmp_path, max_steps=60, device="cuda")
    figures = [m for ms in result.measurements.values() for m in ms]
    assert max(m.val_value for m in figures) > 0.6
    assert result.best is not None
    assert {p.device.type for p in result.best.module.parameters()} == {"cpu"}
    assert all(m.extra["memory_bytes"] > 0 for m in figures if m.strategy == "full")


# ---------------------------------------------------------------------------- faults


def test_a_failing_candidate_is_a_failed_measurement(tmp_path: Path) -> None:
    broken = candidate(spec_of("timm:no_such_model"))
    result = confirmed(tmp_path, [broken, candidate(MNIST)], max_steps=4)
    (failed,) = result.measurements["no_such_model"]
    assert failed.status == "failed"
    assert "no_such_model" in failed.note
    assert result.best is not None
    assert result.best.name == "mnist_cnn"


def test_a_candidate_that_fails_while_training_keeps_its_frozen_figure(tmp_path: Path) -> None:
    class Broken(Exception):
        pass

    def breaks(spec: Any) -> Encoder:
        encoder = load(spec)
        original = encoder.with_head

        def with_head(outputs: int, size: Any = None) -> Any:
            module = original(outputs, size)
            module.register_forward_pre_hook(_raise_in_training)
            return module

        encoder.with_head = with_head  # type: ignore[method-assign]
        return encoder

    def _raise_in_training(module: Any, _: Any) -> None:
        if module.training:
            raise Broken("the GPU fell out")

    result = confirmed(tmp_path, [candidate(SVHN, breaks), candidate(MNIST)], max_steps=4)
    frozen, full = result.measurements["svhn_cnn"]
    assert frozen.status == "ok"
    assert full.status == "failed"
    assert full.note == "Broken: the GPU fell out"
    assert {m.status for m in result.measurements["mnist_cnn"]} == {"ok"}


def test_a_network_that_cannot_be_trained_has_a_frozen_figure_only(tmp_path: Path) -> None:
    class Fixed(Encoder):
        name, module, preprocess = "fixed", None, Preprocess(input_size=(3, 32, 32))
        identity, num_features, num_parameters = {"source": "onnx"}, 4, 10

        def encode(self, batch: Any) -> Any:
            raise NotImplementedError

        def with_head(self, num_outputs: int, input_size: Any = None) -> Any:
            raise SourceError("fixed: an ONNX network cannot be trained")

    features = np.random.default_rng(0).normal(size=(128, 4)).astype(np.float32)
    target = small_target()
    result = confirmed(
        tmp_path,
        [candidate(spec_of("onnx:fixed.onnx"), lambda _: Fixed())],
        target,
        features_for=lambda _, indices: features[indices],
    )
    assert [m.strategy for m in result.measurements["fixed.onnx"]] == ["frozen"]
    assert result.best is None
    assert any("fixed.onnx cannot be trained" in note for note in result.notes)


def test_rates_that_diverge_do_not_condemn_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RATES, "sgd", (1e30, 0.01, 1e29))  # type: ignore[index]
    result = confirmed(tmp_path, [candidate(SVHN)], max_steps=8)
    full = result.measurements["svhn_cnn"][1]
    assert full.status == "ok"
    assert full.learning_rate == 0.01
    assert "rate 1e+30 diverged" in full.note
    assert {h["status"] for h in result.history} == {"ok", "diverged"}


def test_a_model_that_diverges_at_every_rate_is_marked_and_the_frozen_one_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RATES, "sgd", (1e30, 1e29, 1e28))  # type: ignore[index]
    result = confirmed(tmp_path, [candidate(SVHN)], max_steps=8)
    assert result.measurements["svhn_cnn"][1].status == "diverged"
    assert [h["rate"] for h in result.history] == [1e30, 1e29, 1e28, pytest.approx(1e27)]
    assert result.best is not None
    assert result.best.strategy == "frozen"


@pytest.mark.parametrize(
    ("split", "elsewhere", "note"),
    [
        ("val", "train", "1 class(es) without images in val count in no metric on val: blue."),
        ("train", "test", "1 class(es) without images in train cannot be learned: blue."),
    ],
)
def test_a_class_absent_from_a_split_is_noted(tmp_path: Path, split: str, elsewhere: str, note: str) -> None:
    target = small_target()
    splits = target.splits.copy()
    splits[(target.labels == 2) & (splits == split)] = elsewhere
    result = confirmed(tmp_path, [candidate(MNIST)], replace(target, splits=splits), max_steps=4)
    assert note in result.notes
    assert result.measurements["mnist_cnn"][1].status == "ok"


def test_two_images_a_class(tmp_path: Path) -> None:
    result = confirmed(tmp_path, [candidate(MNIST)], small_target(train=6, val=6, test=6), max_steps=4)
    assert result.measurements["mnist_cnn"][1].status == "ok"


def test_extreme_imbalance(tmp_path: Path) -> None:
    target = small_target(train=400, val=60, test=60)
    labels = target.labels.copy()
    labels[:400] = 0
    labels[:4] = [1, 2, 1, 2]  # two images each of two classes beside 396 of the third
    skewed = replace(target, labels=labels, fingerprint="skewed")
    result = confirmed(tmp_path, [candidate(MNIST)], skewed, max_steps=8, metric="balanced_accuracy")
    frozen, full = result.measurements["mnist_cnn"]
    assert (frozen.status, full.status) == ("ok", "ok")
    assert full.val["balanced_accuracy"] >= 1 / 3
    outcome = of_best(result).extra["error_analysis"]
    assert [line["items"] for line in outcome["tables"]["classes"]] == [20, 20, 20]


def test_without_a_test_split_the_notes_say_so(tmp_path: Path) -> None:
    target = small_target()
    splits = np.where(target.splits == "test", "val", target.splits)
    result = confirmed(tmp_path, [candidate(MNIST)], replace(target, splits=splits), max_steps=4)
    assert any("there is no test split" in note for note in result.notes)
    assert of_best(result).extra["error_analysis"]["split"] == "val"


def test_a_thousand_classes(tmp_path: Path) -> None:
    target = small_target(train=1000, val=200, test=1000)
    labels = np.concatenate([np.arange(1000), np.arange(200), np.arange(1000)])
    many = replace(target, labels=labels, class_names=tuple(f"c{i}" for i in range(1000)), fingerprint="many")
    result = confirmed(tmp_path, [candidate(MNIST)], many, max_steps=4)
    frozen, full = result.measurements["mnist_cnn"]
    assert (frozen.status, full.status) == ("ok", "ok")
    assert full.trained_parameters > 100_000 + 1000 * 129
    assert result.best is not None
    assert len(result.best.class_names) == 1000
    outcome = of_best(result).extra["error_analysis"]
    assert "confusion" not in outcome["figures"]
    assert len(json.dumps(outcome)) < 40_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategies": ("ful",)}, "unknown strategy 'ful'; did you mean 'full'"),
        ({"strategies": ()}, "name at least one strategy out of "),
        ({"metric": "acuracy"}, "unknown metric 'acuracy'; did you mean 'accuracy'"),
        ({"budget_seconds": -1.0}, r"budget must be a number in the range \[0, inf\). Got -1.0"),
        ({"max_steps": 0}, r"max_steps must be a number in the range \[1, inf\). Got 0"),
        ({"resolution": 4}, r"resolution must be a number in the range \[16, inf\). Got 4"),
        ({"batch_size": 1}, r"batch_size must be a number in the range \[2, inf\). Got 1"),
        ({"epsilon": float("nan")}, "epsilon must be a number"),
        ({"device": "tpu9"}, "device must be auto, cpu, cuda or cuda:N. Got 'tpu9'"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        confirmed(tmp_path, **options)


def test_wrong_candidates_and_targets_are_named(tmp_path: Path) -> None:
    target = small_target()
    with pytest.raises(ConfigError, match=r"at least one candidate\. Got none"):
        run_fine_tuning([], target, TASK, pixels_for(target), checkpoint_folder=tmp_path)
    with pytest.raises(ConfigError, match=r"must have different names\. Got mnist_cnn, mnist_cnn"):
        confirmed(tmp_path, [candidate(MNIST), candidate(MNIST)])
    with pytest.raises(TargetError, match="'squares' has no images in val"):
        confirmed(tmp_path, target=replace(target, splits=np.full(len(target), "train")))
    with pytest.raises(TargetError, match="are all of one class"):
        confirmed(tmp_path, target=replace(target, labels=np.zeros(len(target), dtype=int)))


# ---------------------------------------------------------------------------- budget


class Machine:
    """A clock that only work moves: so many seconds an item that a network reads, times what else is running."""

    def __init__(self, target: Any, seconds: float = 0.02, slower: Any = lambda _: 1.0) -> None:
        self.now, self._target, self._seconds, self._slower = 0.0, target, seconds, slower

    def clock(self) -> float:
        return self.now

    def pixels(self, preprocess: Any) -> Any:
        machine, inner = self, pixels_for(self._target)(preprocess)
        area = preprocess.input_size[1] * preprocess.input_size[2] / 32**2

        class Timed:
            def batch(self, indices: np.ndarray) -> np.ndarray:
                machine.now += machine._seconds * area * len(indices) * machine._slower(machine.now)
                return inner.batch(indices)

        return Timed()


def budgeted(
    folder: Path, budget: float, seconds: float = 0.02, slower: Any = lambda _: 1.0, **options: Any
) -> tuple[FineTuningResult, Machine]:
    target = small_target()
    machine = Machine(target, seconds, slower)
    widths = {spec.name: load(spec).num_features for spec in (SVHN, MNIST)}
    features = {name: np.random.default_rng(0).normal(size=(len(target), width)) for name, width in widths.items()}
    options = {"max_steps": None, "repeats": 1, "features_for": lambda name, items: features[name][items], **options}
    result = confirmed(
        folder, target=target, pixels=machine.pixels, budget_seconds=budget, now=machine.clock, **options
    )
    return result, machine


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[FineTuningResult, Machine]]:
    """What a machine of even speed makes of a budget; the same run for all who ask."""
    return functools.cache(lambda budget, steps: budgeted(tmp_path_factory.mktemp("quiet"), budget, max_steps=steps))


def slow_after(seconds: float, times: float) -> Callable[[float], float]:
    return lambda now: 1.0 if now < seconds else times


@pytest.mark.parametrize(("budget", "steps"), [(15.0, None), (60.0, None), (150.0, 40)])
@pytest.mark.parametrize("even", [True, False], ids=["even", "five times slower"])
def test_a_budget_is_kept_and_what_was_begun_is_measured(
    tmp_path: Path, quiet: Any, even: bool, budget: float, steps: int | None
) -> None:
    slower = slow_after(6, 5.0)
    result, machine = quiet(budget, steps) if even else budgeted(tmp_path, budget, slower=slower, max_steps=steps)
    assert machine.now <= budget  # the pass over the test split included
    assert result.tuning_log[0].startswith("Planned: ")
    assert not any("Planned" in note for note in result.notes)  # a plan is no caveat
    assert result.history
    assert {h["status"] for h in result.history} == {"ok"}
    assert all(h["value"] is not None and h["steps_done"] > 0 for h in result.history)
    trained = [m for ms in result.measurements.values() for m in ms if m.strategy == "full" and m.status == "ok"]
    assert trained
    assert of_best(result).test


def test_what_metrics_import_is_paid_before_the_last_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machines: list[Machine] = []
    real, imported = Machine, []

    def machine(*args: Any) -> Machine:
        machines.append(real(*args))
        return machines[-1]

    def slow_the_first_time(confidence: np.ndarray, correct: np.ndarray) -> float:
        machines[0].now += 0.0 if imported else 9.0
        imported.append(True)
        return 0.1

    monkeypatch.setitem(globals(), "Machine", machine)
    monkeypatch.setattr("selector.tasks.classification.calibration_error", slow_the_first_time)
    result, fake = budgeted(tmp_path, 25.0)
    assert result.history
    assert fake.now <= 25.0


def test_every_second_of_a_budget_is_accounted_for(tmp_path: Path) -> None:
    result, machine = budgeted(tmp_path, 15.0)
    assert sum(result.seconds.values()) == pytest.approx(machine.now, abs=0.01)
    assert result.seconds["optimizer steps"] == pytest.approx(sum(h["seconds"] for h in result.history))
    again, machine = budgeted(tmp_path, 15.0)
    assert again.seconds["optimizer steps"] == 0  # read from the journal
    assert sum(again.seconds.values()) == pytest.approx(machine.now, abs=0.01)


def test_at_a_given_resolution_a_head_is_solved_when_its_training_fits(tmp_path: Path) -> None:
    """It takes a pass over train and val, which of a model that is not reached is lost: 20 seconds trained nothing."""
    target, others = small_target(), spec_of("timm:test_vit2", **VIT.model_dump(include={"kwargs", "preprocess"}))
    features = np.random.default_rng(0).normal(size=(len(target), load(VIT).num_features)).astype(np.float32)
    a_head = 0.02 * len(target.indices("train", "val"))
    for budget, heads, trained in ((12.0, 1, 0), (20.0, 2, 2)):
        machine = Machine(target)
        result = confirmed(
            tmp_path / str(budget), [candidate(VIT), candidate(others)], target, pixels=machine.pixels, resolution=32,
            max_steps=None, budget_seconds=budget, features_for=lambda _, items: features[items], now=machine.clock,
        )  # fmt: skip
        assert len(result.history) == trained
        assert result.seconds["heads at the size of the training"] == pytest.approx(heads * a_head)
        assert machine.now <= budget


def test_less_than_an_epoch_is_incomplete_and_chooses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps are half an epoch: whatever they reach, the solved head is handed over."""
    real = trial_room.train

    def two_steps(module: Any, groups: Any, feed: Any, items: Any, settings: Any, **options: Any) -> Any:
        return real(module, groups, feed, items, replace(settings, steps=2), **options)

    monkeypatch.setattr(trial_room, "train", two_steps)
    result, _ = budgeted(tmp_path, 40.0)
    assert result.best is not None
    assert result.best.strategy == "frozen"
    trained = [m for found in result.measurements.values() for m in found if m.strategy == "full"]
    assert {m.status for m in trained} == {"incomplete"}
    assert all("less than one epoch" in m.note and not m.val for m in trained)
    assert {member.strategy for member in result.epsilon_best} == {"frozen"}
    assert any("does not speak against a complete training" in line for line in result.advice)


def test_what_estimates_kept_back_trains_the_leader_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pass is estimated at five times what it takes, so that the plan is far too short."""
    real = costs_room._forward_seconds
    monkeypatch.setattr(costs_room, "_forward_seconds", lambda *a: 5 * real(*a))
    result, machine = budgeted(tmp_path, 60.0)
    assert result.best is not None
    assert result.history[0]["steps"] < 20
    assert max(h["steps"] for h in result.history) == 100  # all that so few images are worth
    assert machine.now <= 60.0
    again, _ = budgeted(tmp_path, 60.0)
    assert table(again) == table(result)


def test_rounds_grow_into_the_time_that_cheap_survivors_leave(quiet: Any) -> None:
    result, _ = quiet(60.0, None)
    planned = int(re.findall(r"x (\d+) steps", result.tuning_log[0])[-1])
    (grown,) = (line for line in result.tuning_log if "grew to" in line)
    steps = int(re.findall(r"grew to (\d+) steps", grown)[0])
    assert steps > planned
    assert max(h["steps"] for h in result.history) == steps
    assert sum(h["seconds"] for h in result.history) > 0.7 * 60  # most of the budget


def test_a_slow_machine_cools_trainings_down_and_the_notes_say_so(tmp_path: Path) -> None:
    result, _ = budgeted(tmp_path, 60.0, slower=slow_after(10, 8.0))
    cut = [h for h in result.history if h["steps_done"] < h["steps"]]
    assert cut
    assert all(any("cooled down after" in note for note in h["notes"]) for h in cut)
    for name, measurements in result.measurements.items():
        for m in measurements:
            if m.strategy == "full" and m.status == "ok":
                assert m.steps in [h["steps_done"] for h in result.history if h["model"] == name]


def test_cheap_configurations_come_first(quiet: Any) -> None:
    result, _ = quiet(150.0, 40)
    first = list(dict.fromkeys(h["model"] for h in result.history if h["round"] == 1))
    assert first == ["mnist_cnn", "svhn_cnn"]  # 28 and 32 pixels, given the other way round


def test_timings_are_kept_for_the_next_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budgeted(tmp_path, 15.0)
    measured: list[str] = []
    monkeypatch.setattr(costs_room, "_forward_seconds", lambda _, loaded, *__: measured.append(loaded.name) or 0.3)
    again, _ = budgeted(tmp_path, 17.0)
    assert again.history
    assert measured == []


def test_no_step_is_taken_before_the_first_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    real = trial_room.train
    monkeypatch.setattr(_loop, "_accumulate", lambda *a, inner=_loop._accumulate: trained.append("step") or inner(*a))
    monkeypatch.setattr(trial_room, "train", lambda *a, **o: trained.append("training") or real(*a, **o))
    budgeted(tmp_path, 15.0)
    assert trained[:2] == ["training", "step"]


def test_a_waiting_configuration_takes_the_time_that_is_left(quiet: Any) -> None:
    """The estimate of a step is three passes, and a step of this machine takes one: the plan has room for one model only."""
    result, _ = quiet(15.0, None)
    assert "1 configuration x 1 rate" in result.tuning_log[0]
    assert {h["model"] for h in result.history} == {"mnist_cnn", "svhn_cnn"}
    assert not any("not trained" in note for note in result.notes)


def test_without_time_for_a_step_the_frozen_encoder_is_handed_over(tmp_path: Path) -> None:
    target = small_target()
    features = telling_features(target, 3)
    told: list[str] = []
    result = confirmed(
        tmp_path, [candidate(MNIST)], target, max_steps=None, budget_seconds=0.0, features_for=lambda _, i: features[i],
        progress=lambda step: told.append(step.note),
    )  # fmt: skip
    assert result.best is not None
    assert result.best.strategy == "frozen"
    for said in (told, result.notes):  # not only in the report
        assert any("too short for fine-tuning" in note for note in said)


@pytest.mark.parametrize("budget", [0.0, 1.0, 20.0])
def test_a_budget_ends_with_a_model_without_a_solved_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: float
) -> None:
    """As in detection, where no linear layer starts the heads: two models, two strategies, and no time for all."""
    monkeypatch.setattr(type(TASK), "probe_rows", 0)
    target = small_target()
    machine = Machine(target)
    result = confirmed(
        tmp_path, target=target, pixels=machine.pixels, max_steps=None, budget_seconds=budget, now=machine.clock,
        strategies=("full", "partial"),
    )  # fmt: skip
    assert result.best is not None
    assert result.best.steps >= 3
    if budget == 20.0:
        assert machine.now <= budget
        assert result.history[0]["steps"] * 16 >= 64  # an epoch
    if budget:
        assert len([note for note in result.notes if "not trained" in note]) == 1


costs_of_some = st.lists(
    st.builds(StrategyCost, st.floats(0.001, 5), st.floats(0, 10), st.floats(0, 5)), min_size=1, max_size=9
)


@given(costs_of_some, st.floats(0, 20_000), st.integers(1, 3000), st.integers(1, 300))
def test_a_plan_fits_its_budget_with_and_without_a_last_training(
    costs: list[StrategyCost], budget: float, max_steps: int, epoch: int
) -> None:
    plan = make_plan(costs, budget=budget, max_steps=max_steps, steps_an_epoch=epoch, again=1.25)
    without = make_plan(costs, budget=budget, max_steps=max_steps, steps_an_epoch=epoch)
    assert (plan is None) == (without is None)
    if plan is None or without is None:
        return
    for each in (plan, without):
        assert each.seconds <= 0.9 * budget + 1e-6
        assert each.steps <= max_steps
        assert each.rounds[0].configurations == len(costs)
        alive = [this.configurations for this in each.rounds]
        assert alive == sorted(alive, reverse=True)
        assert 1 <= alive[-1] <= 2 or len(alive) == 1
    assert plan.seconds == seconds_of(plan.rounds, costs, plan.again)
    if plan.again:
        assert plan.steps >= min(GOOD_EPOCHS * epoch, max_steps)
        assert plan.seconds > seconds_of(plan.rounds, costs)
    else:
        assert plan == without
    rest = fit_rest(plan.rounds, costs, budget, most=max_steps, again=plan.again)
    assert seconds_of(rest, costs, plan.again) <= budget + 1e-6


def test_a_round_that_is_no_longer_than_the_one_before_is_left_out() -> None:
    """Training starts anew in every round, so a round as short as the last one would tell nothing new."""
    rounds, costs = [Round(40, 4, 1), Round(100, 2, 1)], [StrategyCost(1.0, 0.0)] * 4
    assert fit_rest(rounds, costs, 360.0, done=20) == tuple(rounds)
    assert fit_rest(rounds, costs, 216.0, done=20) == (Round(24, 4, 1), Round(60, 2, 1))
    assert fit_rest(rounds, costs, 144.0, done=20) == (Round(72, 2, 1),)
    assert fit_rest(rounds, costs, 40.0, done=20) == ()
    assert fit_rest(rounds, costs, 720.0, done=20, most=150) == (Round(60, 4, 1), Round(150, 2, 1))
    assert fit_rest(rounds, costs, 500.0, done=20, most=150) == (Round(50, 4, 1), Round(125, 2, 1))
    assert fit_rest(rounds, costs, 360.0 / 0.9 + 1, done=20, most=150) == tuple(rounds)


@given(costs_of_some, st.integers(50, 3000), st.floats(0, 10_000))
def test_rounds_that_are_cut_fit_what_is_left(costs: list[StrategyCost], total: int, budget: float) -> None:
    rounds = rounds_of(total, len(costs), 3)
    rest = fit_rest(rounds, costs, budget)
    if rest:
        assert seconds_of(rest, costs) <= budget
        assert all(a.steps <= b.steps for a, b in zip(rest, rounds, strict=True))
        assert rest[-1].steps >= min(MIN_STEPS, rounds[-1].steps)


def test_a_larger_budget_buys_rates_before_steps() -> None:
    costs = [StrategyCost(0.1, 1.0, 0.5)] * 2
    plans = [make_plan(costs, budget=b, max_steps=2000, steps_an_epoch=40) for b in (5, 30, 60, 120, 100_000)]
    assert plans[0] is None
    found = [p for p in plans if isinstance(p, TrainingPlan)]
    assert [p.rounds[0].rates for p in found] == sorted(p.rounds[0].rates for p in found)
    assert found[-1].steps == 2000
    assert make_plan(costs, budget=None, max_steps=80, steps_an_epoch=40) == make_plan(
        costs, budget=1e9, max_steps=80, steps_an_epoch=40
    )


def test_seconds_assume_that_the_most_expensive_configurations_go_on() -> None:
    assert seconds_of(
        [Round(10, 2, 3), Round(20, 1, 1)], [StrategyCost(1.0, 2.0, 3.0), StrategyCost(0.1, 0.2, 0.3)]
    ) == pytest.approx(3 * (10 + 2 + 3 + 1 + 0.2 + 0.3) + (20 + 2 + 3))


# ---------------------------------------------------------------------------- going on


class Killed(KeyboardInterrupt):
    """Stands for a kill: nothing may catch it. (What a network raises else is that network's failure, whatever its class.)"""


def test_a_killed_stage_goes_on_and_gives_the_same_table(
    tmp_path: Path,
    short: tuple[FineTuningResult, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever the kill left: here a checkpoint that is cut off in the middle."""
    whole, _ = short
    trained: list[str] = []
    original = trial_room._train

    def counting(bench: Workbench, loaded: Any, trial: Any, steps: int, *rest: Any) -> Any:
        trained.append(f"{trial} {steps}")
        return original(bench, loaded, trial, steps, *rest)

    def progress(step: Any) -> None:
        if step.stage == "train" and len(trained) == 2 and step.done == 2:
            raise Killed

    monkeypatch.setattr(trial_room, "_train", counting)
    monkeypatch.setattr(_loop, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(Killed):
        confirmed(tmp_path, progress=progress)
    (checkpoint,) = tmp_path.glob("*.checkpoint.pt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:500])
    with caplog.at_level(logging.WARNING):
        resumed = confirmed(tmp_path)
    assert "checkpoint" in caplog.text
    assert "is damaged" in caplog.text
    assert not list(tmp_path.glob("*.checkpoint.pt"))
    assert table(resumed) == table(whole)
    measured = ("seconds", "evaluate_seconds", "processor_seconds", "notes")
    assert [{k: v for k, v in h.items() if k not in measured} for h in resumed.history] == [
        {k: v for k, v in h.items() if k not in measured} for h in whole.history
    ]
    assert len(trained) == len(set(trained)) + 1  # only what was under way ran twice


def test_a_second_run_trains_nothing(
    tmp_path: Path, short: tuple[FineTuningResult, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, folder = short
    for module, name in ((trial_room, "_train"), (costs_room, "_forward_seconds")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("worked again"))
    second = confirmed(shutil.copytree(folder, tmp_path / "copy"))
    assert second.measurements == first.measurements
    assert second.best is not None


def test_a_second_call_does_not_train_again_for_a_test_metric(
    tmp_path: Path, short: tuple[FineTuningResult, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the weights of the best model are kept: of another finalist whose test metric was not read there are none."""
    first, folder = short
    own = shutil.copytree(folder, tmp_path / "copy")
    journal = Journal(own, TASK.stats_type)
    for path in own.glob("*.npz"):
        record = journal.read(path.stem)
        if record is not None and set(record.facts) == {"status"}:  # of the test split, as where the budget ended first
            path.unlink()
    monkeypatch.setattr(trial_room, "train", lambda *_, **__: pytest.fail("trained again"))
    again = confirmed(own)
    assert (again.best.name, again.best.strategy) == (first.best.name, first.best.strategy)
    assert any("weights were not kept" in note for note in again.notes)


@pytest.mark.parametrize(
    ("spec", "bf16", "chosen"),
    [
        (MNIST, True, True),
        (MNIST, False, False),
        (spec_of("timm:mobilenetv2_035", preprocess={"input_size": [3, 64, 64]}), True, False),
        (spec_of("timm:mobileone_s0", preprocess={"input_size": [3, 64, 64]}), True, False),
        (VIT, True, True),
    ],
)
def test_the_precision_of_a_training_is_decided_by_the_network_and_not_by_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: Any, bf16: bool, chosen: bool
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("timed")

    bench = bench_of(tmp_path)
    bench.bf16 = bf16
    loaded = load_candidate(bench, candidate(spec))
    with monkeypatch.context() as patch:
        patch.setattr(costs_room, "_forward_seconds", never)
        settle_precision(bench, loaded)
    assert loaded.bf16 is chosen
    if spec is MNIST:
        solve(bench, loaded, math.inf)
        prepare_start(bench, loaded)
        record = run_trial(bench, loaded, Trial("mnist_cnn", "full", 0.003, 0), 2)
        assert record is not None
        assert record.facts["precision"] == ("bfloat16" if chosen else "float32")


def test_a_configuration_that_the_budget_left_out_stays_out_when_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        costs_room, "_forward_seconds", lambda _, loaded, *__: 0.02 if loaded.name == "mnist_cnn" else 0.2
    )
    first, _ = budgeted(tmp_path, 30.0)
    assert len([note for note in first.notes if "1 of 2 configurations not trained" in note]) == 1
    trained = {h["model"] for h in first.history}
    assert len(trained) == 1
    second, _ = budgeted(tmp_path, 30.0)
    assert table(second) == table(first)
    assert {h["model"] for h in second.history} == trained
    assert second.notes == first.notes


def test_the_plan_of_a_budget_survives_a_kill_and_another_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates of steps differ from call to call; what was planned with the first ones stays."""

    def progress(step: Any) -> None:
        if step.stage == "train" and step.done == 2 and step.total > 3:
            raise Killed

    with pytest.raises(Killed):
        confirmed(tmp_path, max_steps=24, budget_seconds=300.0, progress=progress)
    (state,) = [json.loads(path.read_text()) for path in tmp_path.glob("tournament-*.json")]
    monkeypatch.setattr(costs_room, "_forward_seconds", lambda *_: 0.1)  # as slow as a machine may become
    resumed = confirmed(tmp_path, max_steps=24, budget_seconds=300.0)
    planned = [line for line in resumed.tuning_log if line.startswith("Planned: ")]
    assert planned == state["tuning_log"]
    first = {h["steps"] for h in resumed.history if h["round"] == 1}
    assert first == {state["rounds"][0][0]}
    assert len([h for h in resumed.history if h["round"] == 1]) >= 2 * 2


def test_damaged_weights_and_records_are_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bench = bench_of(tmp_path)
    loaded = load_candidate(bench, candidate(MNIST))
    solve(bench, loaded, math.inf)
    prepare_start(bench, loaded)
    trial = Trial(loaded.name, "full", 0.003, 0)
    record = run_trial(bench, loaded, trial, 6)
    whole = module_of(bench, loaded, trial, 6).state_dict()
    key = key_of(bench, loaded, trial, 6)
    weights = bench.journal.weights(key)
    weights.write_bytes(weights.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        again = module_of(bench, loaded, trial, 6).state_dict()
    assert f"weights {weights} are damaged" in caplog.text
    assert all(torch.equal(again[name], value) for name, value in whole.items())
    (tmp_path / f"{key}.npz").write_bytes(b"PK not a record")
    with caplog.at_level(logging.WARNING):
        repeated = run_trial(bench, loaded, trial, 6)
    assert "this training runs again" in caplog.text
    assert record is not None
    assert repeated is not None
    assert repeated.stats is not None
    assert record.stats is not None
    assert set(repeated.stats.arrays) == set(record.stats.arrays)
    assert all(np.array_equal(repeated.stats.arrays[name], array) for name, array in record.stats.arrays.items())
    assert repeated.stats.summary == record.stats.summary


LIMITED = """
import resource, signal, sys
from pathlib import Path
from tests.tuning.test_run import MNIST, candidate, confirmed, small_target
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # no file may grow beyond: as a full disk
confirmed(Path(sys.argv[1]), [candidate(MNIST)], max_steps=4)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX limit of file sizes")
def test_a_disk_that_takes_no_more_is_named_and_leaves_nothing_half(tmp_path: Path) -> None:
    """The operating system itself refuses to write on, in the middle of the weights."""
    done = subprocess.run([sys.executable, "-c", LIMITED, tmp_path], capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "StoreError: weights cannot be written to" in last
    assert "File too large" in last
    assert last.endswith("free some space and run the same command again: finished trainings are kept.")
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name or path.suffix == ".safetensors"]
    assert list(tmp_path.glob("*.npz"))  # the linear-probe initialization is kept
    assert confirmed(tmp_path, [candidate(MNIST)]).best is not None


@pytest.mark.parametrize(
    ("error", "raised"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "No space left on device"), StoreError)],
)
def test_what_ends_while_weights_are_written_leaves_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, raised: Any
) -> None:
    from selector.tuning import weights

    original = weights.save_file

    def interrupted(state: Any, path: Path, metadata: Any = None) -> None:
        original(dict(list(state.items())[:1]), path, metadata)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(weights, "save_file", interrupted)
        with pytest.raises(raised):
            confirmed(tmp_path, [candidate(MNIST)], max_steps=4)
    assert not list(tmp_path.glob("*.safetensors*")) + list(tmp_path.glob(".*"))
    assert confirmed(tmp_path, [candidate(MNIST)], max_steps=4).best is not None


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"the folder for checkpoints .* cannot be made"):
        Journal(tmp_path / "file" / "deeper", TASK.stats_type)


def test_the_cache_keeps_the_plan_for_another_folder(tmp_path: Path) -> None:
    class Dictionary:
        def __init__(self) -> None:
            self.kept: dict[str, Any] = {}

        def get(self, kind: str, key: Any) -> Any:
            return self.kept.get(kind + json.dumps(key, sort_keys=True))

        def put(self, kind: str, key: Any, value: Any) -> None:
            self.kept[kind + json.dumps(key, sort_keys=True)] = json.loads(json.dumps(value))

    cache = Dictionary()
    options = {"max_steps": 8, "repeats": 0, "refit": False, "cache": cache}
    first, _ = budgeted(tmp_path / "a", 60.0, **options)
    assert len(cache.kept) == 1
    second, _ = budgeted(tmp_path / "b", 60.0, seconds=0.03, **options)
    assert second.tuning_log[0] == first.tuning_log[0]  # the time of it as well, although this machine is slower
    assert [m.steps for ms in second.measurements.values() for m in ms] == [
        m.steps for ms in first.measurements.values() for m in ms
    ]


def test_what_the_budget_ended_before_is_not_run_and_did_not_fail(tmp_path: Path) -> None:
    times = iter(range(0, 100_000, 50))
    result = confirmed(tmp_path, max_steps=None, budget_seconds=60.0, now=lambda: float(next(times)))
    first, second = result.measurements.values()
    assert [(m.status, m.strategy) for m in first] == [("ok", "frozen")]
    assert [(m.status, m.strategy) for m in second] == [("not run", "frozen")]
    assert result.best is not None


def test_the_head_of_a_frozen_winner_is_solved_again_on_all_labels(tmp_path: Path) -> None:
    target = small_target()
    features = telling_features(target, 1)
    found = {
        refit: confirmed(
            tmp_path / str(refit), [candidate(MNIST)], target, max_steps=None, budget_seconds=0.0,
            features_for=lambda _, i: features[i], refit=refit,
        )
        for refit in (True, False)
    }  # fmt: skip
    again, before = (found[refit].measurements["mnist_cnn"][0] for refit in (True, False))
    assert again.val == before.val  # validation chose, before it was learned from
    assert "solved again on train and validation" in again.note
    assert not before.note
    weights = [found[refit].best.module.state_dict() for refit in (True, False)]  # type: ignore[union-attr]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    logits = torch.from_numpy(features[target.indices("test")]) @ next(
        w for n, w in weights[0].items() if w.shape == (3, 128)
    ).T + next(w for n, w in weights[0].items() if w.shape == (3,))
    right = (logits.argmax(1).numpy() == target.labels[target.indices("test")]).mean()
    assert again.test["accuracy"] == pytest.approx(right)


def test_the_training_that_was_chosen_learns_from_all_labels(tmp_path: Path) -> None:
    target = small_target()
    found = {
        refit: confirmed(tmp_path / str(refit), [candidate(MNIST)], target, max_steps=60, refit=refit)
        for refit in (True, False)
    }
    assert [result.best.strategy for result in found.values()] == ["full", "full"]  # type: ignore[union-attr]
    again, before = (result.measurements["mnist_cnn"][1] for result in found.values())
    assert (again.val, again.steps, again.learning_rate) == (before.val, before.steps, before.learning_rate)
    assert "once more" in again.note
    assert "once more" not in before.note
    train, val = (len(target.indices(split)) for split in ("train", "val"))
    saved = found[True].best
    assert saved is not None
    assert saved.steps == round(before.steps * (train + val) / train)
    assert len(found[True].history) == len(found[False].history)
    modules = [result.best.module for result in found.values()]  # type: ignore[union-attr]
    assert any(not torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for m in modules), strict=True))
    repeated = confirmed(tmp_path / "True", [candidate(MNIST)], target, max_steps=60)
    assert table(repeated) == table(found[True])


def test_an_earlier_rate_is_tried_first(tmp_path: Path) -> None:
    result = confirmed(tmp_path, [candidate(MNIST)], max_steps=8, rates={"mnist_cnn full": 0.01})
    assert result.history[0]["rate"] == 0.01
