"""Between ranking and confirmation: who gets a pilot run, the order by both, and how many are confirmed."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import selector
from selector.core.stats import Metric
from selector.ranking.combination import agreeing
from selector.ranking.prior import PriorScore
from selector.ranking.second_stage import MARGIN, Scale, as_long_as, choose, combined, contenders, without_prior_against
from selector.report.html import write_report
from selector.report.ranking import load_ranking
from selector.results import ModelResult, PilotCell, PriorCell
from selector.scan.dataset_view import ordered


def model(name: str, score: float, p_top_k: float | None, shift: float = 0.0) -> ModelResult:
    return ModelResult(name, {}, transferability=score + shift, normalized_score=score, p_top_k=p_top_k)


def test_contenders_are_those_not_significantly_different_from_the_kth():
    models = [model("a", 0.9, 1.0), model("b", 0.8, 0.9), model("c", 0.7, 0.06), model("d", 0.6, 0.04)]
    assert [m.name for m in contenders(models, 2)] == ["a", "b", "c"]


def test_a_model_that_the_prior_pushed_behind_the_kth_is_a_contender():
    models = [model("a", 0.5, 1.0, 0.3), model("b", 0.5, 1.0, 0.2), model("c", 0.4, 0.0), model("d", 0.6, 0.0, -0.3)]
    assert [m.name for m in contenders(models, 2)] == ["a", "b", "d"]


def test_without_intervals_as_many_again_are_contenders():
    assert [m.name for m in contenders([model(n, 0.5, None) for n in "abcde"], 2)] == ["a", "b", "c", "d"]


def test_a_larger_k_has_more_trials():
    models = [model(f"m{i}", 0.5, 0.5) for i in range(20)]
    assert [len(contenders(models, k)) for k in (1, 3, 6, 8, 30)] == [6, 6, 12, 16, 20]


def test_a_model_whose_trial_was_not_run_counts_as_the_others_on_average():
    trials = {"a": PilotCell("ok", after=0.8), "b": PilotCell("ok", after=0.6), "c": PilotCell("not run")}
    found = combined({"a": 0.6, "b": 0.6, "c": 0.6}, trials)
    assert found == {"a": 0.7, "b": 0.6, "c": 0.65}


def test_what_trials_say_counts_as_far_as_their_errors_do_not_explain_it():
    known, after = {"a": 0.60, "b": 0.57, "c": 0.55}, {"a": 0.70, "b": 0.71, "c": 0.66}
    trials = {n: PilotCell("ok", after=value) for n, value in after.items()}
    usual = np.mean([after[n] - known[n] for n in known])
    variance = np.var([after[n] - known[n] for n in known], ddof=1)

    def order(values: dict[str, float]) -> list[str]:
        return sorted(values, key=lambda n: -values[n])

    exact = combined(known, trials)
    assert exact == pytest.approx({n: (known[n] + after[n]) / 2 for n in known})
    noisy = combined(known, trials, {"a": 0.08, "b": 0.0, "c": 0.08})  # more than lies between them
    assert noisy == pytest.approx({n: value + usual / 2 for n, value in known.items()})
    assert order(noisy) == ["a", "b", "c"]
    half = 1.645 * np.sqrt(variance)  # noise of a difference: half of it is that of one trial
    between = combined(known, trials, {"a": half, "b": 0.0, "c": half})
    assert between == pytest.approx({n: (exact[n] + noisy[n]) / 2 for n in known})


def test_where_frozen_is_a_choice_the_probe_of_a_trial_counts_as_much_as_what_training_reached():
    known = {"a": 0.5, "b": 0.5}
    trials = {"a": PilotCell("ok", before=0.9, after=0.6), "b": PilotCell("ok", before=0.7, after=0.7)}
    assert combined(known, trials) == {"a": 0.55, "b": 0.6}
    assert combined(known, trials, frozen_too=True) == {"a": 0.625, "b": 0.6}


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_a_model_that_cannot_be_trained_comes_last_and_is_confirmed_by_no_choice(status):
    known = {"a": 0.9, "b": 0.2, "c": 0.1}
    trials = {"a": PilotCell(status), "b": PilotCell("ok", after=0.3), "c": PilotCell("not run")}
    values = combined(known, trials)
    assert list(values) == ["b", "c"]
    tried = [
        replace(model(n, known[n], None), pilot=replace(cell, combined=values.get(n))) for n, cell in trials.items()
    ]
    untried, pruned = model("d", 0.05, None), ModelResult("e", {}, status="pruned", transferability=0.99)
    assert [m.name for m in ordered([*tried, untried, pruned])] == ["b", "c", "d", "a", "e"]
    assert choose({"b": 0.25}, {}, {}, None).names == ("b",)  # where b alone did not fail


def test_no_metric_outweighs_the_transferability():
    """R² far below 0 says no more than 0, and a loss is measured by that of the class shares."""
    known = {"a": 0.5, "b": 0.5}
    ended = {"a": PilotCell("ok", before=-80.0, after=-30.0), "b": PilotCell("ok", before=0.1, after=0.2)}
    assert combined(known, ended) == pytest.approx({"a": 0.25, "b": 0.35})
    assert combined(known, ended, frozen_too=True) == pytest.approx({"a": 0.25, "b": 0.325})
    loss = Scale.of(Metric(sign=-1, unit="nats"), trivial=2.0)
    losses = {"a": PilotCell("ok", before=9.0, after=1.0), "b": PilotCell("ok", before=2.0, after=0.5)}
    assert combined(known, losses, scale=loss) == pytest.approx({"a": 0.5, "b": 0.625})
    # errors are in the metric's unit: what is noise of a share of 0.1 is one of a loss of 0.2
    shares = {"a": PilotCell("ok", after=0.5), "b": PilotCell("ok", after=0.75)}
    assert combined(known, losses, {"a": 0.2, "b": 0.0}, scale=loss) == combined(known, shares, {"a": 0.1, "b": 0.0})
    assert Scale.of(Metric(sign=-1), trivial=None)(0.02) == 0.98  # a calibration error
    assert Scale.of(Metric(sign=-1, unit="target"), trivial=None) is None
    assert Scale.of(Metric(sign=-1, unit="nats"), trivial=0.0) is None
    assert Scale.of(Metric(), trivial=None)(0.731) == 0.731  # accuracy stays what it is, whatever its chance


def with_prior(name: str, score: float, shift: float) -> ModelResult:
    cell = PriorCell(shift, 4 * shift, "facts", weight=0.25)
    found = replace(model(name, score, 0.5, shift), prior=cell)
    return replace(found, transferability_low=score + shift - 0.1, transferability_high=score + shift + 0.1)


def test_a_prior_that_contradicts_the_trials_moves_nothing():
    shifts = dict(zip("abcdef", (0.2, 0.1, 0.0, -0.1, -0.2, 0.05), strict=True))
    models = [with_prior(n, 0.5, by) for n, by in shifts.items()]
    against = {n: 0.5 - by for n, by in shifts.items()}
    found = without_prior_against(models, against)
    assert [m.transferability for m in found] == pytest.approx([0.5] * 6)
    assert [(m.transferability_low, m.transferability_high) for m in found] == [pytest.approx((0.4, 0.6))] * 6
    assert {(m.prior.shift, m.prior.weight) for m in found} == {(0.0, 0.0)}
    assert found[0].prior.origin == "facts; left out, because it orders these models against their pilot runs"
    assert found[0].p_top_k == 0.5
    assert without_prior_against(models, {n: 0.5 + by for n, by in shifts.items()}) is None  # it agrees
    # of some that scores and prior chose together the prior says nothing: they are a selection
    assert without_prior_against(models, {n: against[n] for n in "abcde"}) is None
    assert without_prior_against(models[:4], {n: against[n] for n in "abcd"}) is None  # four say nothing
    assert without_prior_against([model(n, 0.5, 0.5) for n in shifts], against) is None  # there is none


def test_as_many_are_confirmed_as_may_be_the_best():
    values = {"a": 0.8, "b": 0.8 - 0.9 * MARGIN, "c": 0.8 - 0.95 * MARGIN, "d": 0.8 - 1.1 * MARGIN}
    found = choose(values, {}, {}, None)
    assert found.names == ("a", "b", "c")
    assert found.why == "Fine-tuned: 3 models, because 3 may be the best by scores and pilot runs (90%)."
    # a trial whose own interval is wide leaves its model open
    assert choose(values, {"d": 4 * MARGIN}, {}, None).names == ("a", "b", "c", "d")
    assert choose({"a": 0.9, "b": 0.1, "c": 0.0}, {}, {}, None).names == ("a", "b")  # two at least
    assert len(choose(dict.fromkeys("abcdefgh", 0.5), {}, {}, None).names) == 4


def test_a_model_within_its_margin_is_confirmed_before_one_outside():
    """c lies behind b, but its trial is too uncertain to exclude it; b's is not."""
    found = choose({"a": 0.80, "b": 0.765, "c": 0.76}, {"a": 0.0, "b": 0.0, "c": 0.12}, {}, None)
    assert found.names == ("a", "c")
    assert found.why == "Fine-tuned: 2 models, because 2 may be the best by scores and pilot runs (90%)."


def test_the_budget_bounds_how_many_are_confirmed():
    values, seconds = dict.fromkeys("abcd", 0.5), dict.fromkeys("abcd", 20.0)
    found = choose(values, {}, seconds, 120.0)  # half of it has room for three first rounds
    assert found.names == ("a", "b", "c")
    assert found.why.endswith(", and the budget has time for 3.")
    assert choose(values, {}, seconds, 1000.0).names == ("a", "b", "c", "d")


def test_trials_and_trainings_take_no_longer_than_the_usual_number_without_trials():
    values, seconds = {"a": 0.53, "b": 0.52, "c": 0.51, "d": 0.505}, {"a": 10.0, "b": 10.0, "c": 40.0, "d": 5.0}
    # whole trainings of a, b and d would take 5 x (10 + 10 + 5) s, the trials took 50 s of that
    allowed = as_long_as(["a", "b", "d"], seconds, 50.0, items=5000, items_of_round=1000)
    assert allowed == 15.0
    assert choose(values, {}, seconds, None, allowed=allowed).names == ("a", "b")  # two whatever they take
    found = choose(values, {}, seconds, 1000.0, allowed=25.0)
    assert found.names == ("a", "b", "d")  # c is passed over
    assert found.why.endswith(
        ", and pilot runs and 3 fine-tuned models take as long as the usual number without pilot runs."
    )
    assert choose(values, {}, seconds, 1000.0, allowed=65.0).names == ("a", "b", "c", "d")
    assert as_long_as(["a", "e"], {"a": 10.0, "b": 30.0}, 0.0, 100, 10) == 30.0  # e as the others on average
    assert as_long_as(["a"], {}, 5.0, 100, 10) == float("inf")


@pytest.fixture(scope="module")
def squares():
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    pictures = rng.integers(0, 160, (120, 32, 32, 3)).astype(np.uint8)
    for picture, label in zip(pictures, labels, strict=True):
        picture[8:24, 8:24, label] += 60
    return selector.load_target((list(pictures), [f"class {label}" for label in labels]))


def entries(count: int) -> list[dict]:
    """One untrained network behind different normalizations: features and trainings of their own."""
    return [
        {
            "name": f"net{i}",
            "source": "python:selector.networks:mnist_cnn",
            "weights": "none",
            "preprocess": {"input_size": [3, 28, 28], "mean": [mean] * 3, "std": [0.2 + mean] * 3},
        }
        for i, mean in enumerate((0.5, 0.4, 0.3, 0.2)[:count])
    ]


STAGED: dict[str, Any] = {"history": False, "trust_zoo": True}
SCANNED: dict[str, Any] = {**STAGED, "proxies": ["knn", "logme"], "intervals": False, "measure_cost": "never"}


@pytest.fixture(scope="module")
def ranked(squares, tmp_path_factory):
    """A scan without a confirmation."""
    root = tmp_path_factory.mktemp("ranked")
    return selector.rank(squares, zoo=entries(4), store=root / "store", out=root / "run", **SCANNED)


@pytest.mark.timeout(300)
def test_trials_choose_what_is_confirmed_and_the_report_shows_them(squares, tmp_path):
    ranking = selector.rank(
        squares, zoo=entries(4), store=tmp_path / "store", out=tmp_path / "run", confirm=True, max_steps=2,
        strategies=("full",), pilot_cost=8, budget="1h", **SCANNED,
    )  # fmt: skip
    log = ranking.confirmation["tuning_log"]
    tried = [m for m in ranking if m.pilot is not None]
    assert len(tried) == 4
    assert log[0].startswith("Pilot runs of 4 models took ")
    # with a budget no more than take as long as the first three, and trials take longer than three trainings of two steps
    assert log[1].startswith("Fine-tuned: 2 models, because ")
    confirmed = {m.name for m in ranking if m.measurements}
    by_both = sorted(tried, key=lambda m: -m.pilot.combined)
    assert confirmed == {m.name for m in by_both[: len(confirmed)]}
    assert ranking.settings["confirm"]["confirmed"] == len(confirmed) == 2
    # unmeasured models with a trial stand by both
    rest = [m for m in ranking if not m.measurements]
    assert [m.name for m in rest] == [m.name for m in by_both[len(confirmed) :]]
    kept = load_ranking(tmp_path / "run")
    assert [m.pilot for m in kept] == [m.pilot for m in ranking]
    assert "pilot run" in write_report(kept).read_text()


@pytest.mark.parametrize(("seconds_an_item", "allotted"), [(0.004, 30.0), (0.0672, 10.0), (1.0, 30.0)])
def test_pilot_runs_leave_the_first_its_training(squares, ranked, tmp_path, monkeypatch, seconds_an_item, allotted):
    """Of 120 seconds a quarter, less where the leading model could not be trained whole after it: (1 + 18 p + 60 x 24 p) / 0.9."""
    asked: list[float] = []

    def pilots(*_: object, budget_seconds: float, **__: object) -> list[object]:
        asked.append(budget_seconds)
        return []

    monkeypatch.setattr("selector.tuning.pilot_runs.pilot_runs", pilots)
    monkeypatch.setattr("selector.scan.extraction.Extraction.estimate", lambda _, __, items: items * seconds_an_item)
    selector.confirm(
        ranked, max_steps=2, strategies=("full",), budget=120, out=tmp_path / "run", target=squares, **STAGED
    )
    assert asked == [pytest.approx(allotted, abs=0.5)]


@pytest.mark.timeout(300)
def test_top_k_fixes_the_number_and_trials_0_leaves_them_out(squares, ranked, tmp_path):
    options = {"max_steps": 2, "strategies": ("full",), "out": tmp_path / "run", "target": squares, **STAGED}
    without = selector.confirm(ranked, pilot_cost=0, **options)
    assert sum(bool(m.measurements) for m in without) == 3
    assert all(m.pilot is None for m in without)
    fixed = selector.confirm(ranked, top_k=1, pilot_cost=8, metric="log_loss", **options)
    assert sum(bool(m.measurements) for m in fixed) == 1
    tried = [m.pilot for m in fixed if m.pilot is not None]
    assert len(tried) >= 2
    # the metric that decides judges the trials, on the scale of the transferability
    assert {t.metric for t in tried} == {"log_loss"}
    # a loss as high as that of the class shares counts 0
    assert all(t.combined < 0.25 < 1 < t.after for t in tried)
    assert all(len(t.losses) == t.steps for t in tried)
    best = max((m for m in fixed if m.pilot), key=lambda m: m.pilot.combined)
    assert best.measurements
    few = selector.confirm(ranked, pilot_cost=0.1, **{**options, "strategies": ("frozen", "full")})
    assert {m.pilot.status for m in few if m.pilot} == {"not run"}
    assert few.confirmation["tuning_log"][0].startswith("No pilot run could be run, so the first 3 are confirmed (net")
    assert sum(bool(m.measurements) for m in few) == 3
    frozen = selector.confirm(ranked, pilot_cost=8, **{**options, "strategies": ("frozen",)})
    assert all(m.pilot is None for m in frozen)  # nothing is trained, so that no trial could tell
    assert sum(bool(m.measurements) for m in frozen) == 3


def test_a_prior_that_contradicts_the_targets_own_scores_has_no_weight():
    own = dict(zip("abcde", (0.9, 0.8, 0.6, 0.4, 0.2), strict=True))
    against = {name: PriorScore(-score, "facts", weight=0.25) for name, score in own.items()}
    found = agreeing(against, own)
    assert {p.effect for p in found.values()} == {0.0}
    assert found["a"].origin == "facts; left out, because it orders these models against the target's own scores"
    agreed = {name: PriorScore(score, "facts", weight=0.25) for name, score in own.items()}
    assert agreeing(agreed, own) == agreed
    few = {name: against[name] for name in "abcd"}
    assert agreeing(few, own) == few  # four models say nothing against a prior
    assert agreeing({n: PriorScore(1.0, "facts", weight=0.25) for n in own}, own)["a"].weight == 0.25  # orders nothing
