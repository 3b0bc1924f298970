"""A scan of a target without labels from beginning to end: order, adaptation, choice, model, and sealed labels."""

import itertools
import json
from dataclasses import replace
from functools import wraps

import numpy as np
import pytest
import torch
from torch import nn

import selector
from selector import proxies
from selector.core.contracts import UNLABELED
from selector.core.errors import ConfigError
from selector.core.held_out_labels import Decision, LabelsSealed
from selector.data import load_target
from selector.report.html import write_report
from selector.scan import adapting
from selector.scan.adapting import PREDICTIONS

CLASSES = ("across", "down", "plain")


class Tiny(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Sequential(nn.Conv2d(3, 10, 5, 2), nn.ReLU(), nn.Conv2d(10, 16, 3, 2), nn.ReLU())
        self.last = nn.Linear(16, 5)

    def forward(self, batch):
        return self.last(self.stem(batch).amax((2, 3)))


def pictures(count, seed, low=0, high=200):
    """Stripes across, stripes down, or none, with noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = []
    for label in labels:
        image = np.full((24, 24), (low + high) / 2)
        if label == 0:
            image[:, rng.integers(0, 3) :: 4] = high
        elif label == 1:
            image[rng.integers(0, 3) :: 4] = high
        images.append(np.clip(image[..., None] + rng.normal(0, 8, (24, 24, 3)), 0, 255))
    return np.array(images).astype(np.uint8), labels


@pytest.fixture(scope="module")
def zoo():
    return {
        name: selector.Model(Tiny(seed).eval(), transform={"input_size": (3, 24, 24)})
        for name, seed in (("a", 0), ("b", 1))
    }


def run(zoo, folder, target, **options):
    images, labels = pictures(90, 0)
    asked = {
        "precision": "float32", "backend": "eager", "history": False, "measure_cost": "never", "confirm": True,
        "store": folder / "store", "out": folder / "run", "proxies": ["target-accuracy", "pas"], "top_k": 2,
    }  # fmt: skip
    asked["source_domain"] = (images, np.array(CLASSES)[labels])
    return selector.rank(target, zoo=zoo, **{**asked, **options})


def without_figures(ranking):
    """Everything but the final metrics, times and places."""
    found = json.loads(json.dumps(ranking.to_dict(), default=str))
    for model in found["models"]:
        for key in ("extract_seconds", "cached"):
            model.pop(key, None)
        for measurement in model["measurements"]:
            measurement.pop("test")
            measurement.pop("seconds")
        for score in model["scores"].values():
            score.pop("seconds", None)
    for key in ("seconds", "settings", "versions", "path", "warnings", "created"):
        found.pop(key, None)
    found["confirmation"].pop("seconds")
    return found


def test_from_features_to_a_model(zoo, tmp_path):
    images, labels = pictures(60, 7, low=60, high=255)
    ranking = run(zoo, tmp_path, (images, np.array(CLASSES)[labels]))
    assert not ranking.failures
    assert ranking.target["unlabeled"] == 60
    assert ranking.best.scores["target-accuracy"].details["source_accuracy"] > 0.6
    assert ranking.best.transferability == ranking.best.normalized_score  # no prior
    section = ranking.confirmation["adaptation"]
    model, strategy = section["selected"]
    assert ranking.best.name == model
    assert len(section["candidates"]) == 8
    assert {c["strategy"] for c in section["candidates"]} == {"source-only", "coral", "reweight", "label-shift"}
    assert all(len(c["validators"]) == 7 for c in section["candidates"])
    assert next(c for c in section["candidates"] if c["strategy"] == "reweight")["effective_sample_size"] > 1
    assert (len(section["projection"]["target"]), len(section["uncertain"])) == (60, 12)
    handed = next(m for m in ranking.best.measurements if m.strategy == strategy)
    loaded = selector.load_model(tmp_path / "run")
    assert loaded.class_names == CLASSES
    page = write_report(ranking).read_text()
    assert "Adaptation from arrays to arrays" in page
    assert "this prediction was within 21 percentage points in nine of ten cases" in page
    assert not any("on which the default score was calibrated" in text for text in ranking.warnings)
    assert page.count('class="domain hue-') == len(section["projection"]["source"]) + 60
    assert "effective sample size" in page
    assert " / 60 without labels), 3 classes" in page
    assert "Final metric, on labeled items of the target that chose nothing: accuracy" in page
    assert page.count("data:image/jpeg") >= 12
    kept = np.load(tmp_path / "run" / PREDICTIONS, allow_pickle=False)
    place = list(zip(kept["models"], kept["strategies"], strict=True)).index((model, strategy))
    predicted = np.array(CLASSES)[kept["probabilities"][place].argmax(axis=1)]
    assert handed.test["accuracy"] == pytest.approx((predicted == np.array(CLASSES)[labels]).mean())
    found = loaded.predict(list(images[:9]))
    assert [p.label for p in found] == predicted[:9].tolist()


def test_labels_of_the_target_change_nothing_but_the_final_figures(zoo, tmp_path):
    images, labels = pictures(45, 8, low=40, high=240)
    names = np.array(CLASSES)[labels]
    right = run(zoo, tmp_path / "right", (images, names))
    wrong = run(zoo, tmp_path / "wrong", (images, np.roll(names, 1)))
    none = run(zoo, tmp_path / "none", images)
    assert without_figures(right) == without_figures(wrong) == without_figures(none)
    figures = [{m.strategy: dict(m.test) for m in ranking.best.measurements} for ranking in (right, wrong, none)]
    assert figures[0] != figures[1]
    assert not any(figures[2].values())


def test_labels_stay_sealed_in_every_phase(zoo, tmp_path, monkeypatch):
    """Proxies, strategies of heads and of networks, and validators each try to read them, with a Decision of their own."""
    images, labels = pictures(45, 8, low=40, high=240)
    source, classes = pictures(60, 0)
    names = np.array(CLASSES)
    target = load_target((images, names[labels]), source_domain=(source, names[classes]))
    tried = []

    def burgle(phase):
        for sealed in (target.annotations.sealed, target.annotations.take(target.indices(UNLABELED)).sealed):
            with pytest.raises(LabelsSealed):
                sealed.open(Decision("a", "coral"))
        tried.append(phase)

    def burgled(original, phase):
        @wraps(original)
        def call(*args, **options):
            burgle(phase)
            return original(*args, **options)

        return call

    def wrapped(owner, name, phase):
        monkeypatch.setattr(owner, name, burgled(getattr(owner, name), phase))

    from selector.scan import target_scan
    from selector.tuning import model_selection, strategies

    wrapped(target_scan, "ordered", "order of the models")
    for name in ("target-accuracy", "pas"):
        found = proxies.registry.get(name)
        monkeypatch.setitem(proxies.registry._objects, name, replace(found, function=burgled(found.function, name)))
    for name in ("source-only", "coral"):
        wrapped(type(strategies.registry.get(name)), "solve", name)
    wrapped(type(strategies.registry.get("dann")), "alignment", "dann")
    for name, found in model_selection.VALIDATORS.items():
        monkeypatch.setitem(model_selection.VALIDATORS, name, burgled(found, name))
    ranking = run(zoo, tmp_path, target, source_domain=None, strategies="coral,dann", max_steps=2, top_k=1)
    assert set(tried) == {
        "order of the models", "target-accuracy", "pas", "source-only", "coral", "dann", *model_selection.VALIDATORS
    }  # fmt: skip
    assert all(m.status == "ok" and m.test for m in ranking.best.measurements)
    burgle("afterwards")


def test_strategies_that_need_labels_are_refused_and_the_other_way_round(zoo, tmp_path):
    images, labels = pictures(30, 9)
    with pytest.raises(
        ConfigError,
        match="strategies: 'full' learns from labels, and this target has none; use one of cdan, coral, dann",
    ):
        run(zoo, tmp_path, images + 1, strategies="full")
    with pytest.raises(ConfigError, match="strategies: 'coral' adapts to a target without labels; give source_domain"):
        selector.rank(
            (images, labels), zoo=zoo, strategies="coral", confirm=True, out=tmp_path / "x", store=tmp_path / "store",
            history=False,
        )  # fmt: skip


def test_ready_features_are_compared_without_a_network():
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    rows = np.eye(3)[labels] * 3 + rng.standard_normal((120, 3))
    ranking = selector.rank(rows[60:] + 0.2, source_domain=(rows[:60], labels[:60]))
    details = ranking.best.scores["target-accuracy"].details
    assert details["source_accuracy"] > 0.7
    assert ranking.best.transferability is not None


def test_networks_are_trained_for_the_target(zoo, tmp_path):
    images, labels = pictures(45, 7, low=60, high=255)
    options = {"strategies": "deep-coral,dann,cdan,mcc", "max_steps": 3, "top_k": 1}
    ranking = run(zoo, tmp_path, (images, np.array(CLASSES)[labels]), **options)
    found = {m.strategy: m for m in ranking.best.measurements}
    assert set(found) == {"source-only", "deep-coral", "dann", "cdan", "mcc"}
    assert all(m.status == "ok" for m in found.values()), [m.note for m in found.values()]
    assert all(found[name].steps == 3 for name in ("deep-coral", "dann", "cdan", "mcc"))
    assert found["dann"].trained_parameters > 1000
    assert 0 <= found["dann"].test["accuracy"] <= 1
    again = run(zoo, tmp_path, (images, np.array(CLASSES)[labels]), **options, overwrite=True)
    same = {m.strategy: m for m in again.best.measurements}
    parts = ranking.confirmation["seconds"]  # every second is accounted for
    assert parts["optimizer steps"] > 0
    assert 0.5 * ranking.seconds["confirm"] < sum(parts.values()) <= ranking.seconds["confirm"]
    assert "of it optimizer steps" in write_report(ranking).read_text()
    assert same["mcc"].val == found["mcc"].val  # from the journal
    assert same["mcc"].seconds < found["mcc"].seconds


def test_heads_count_against_the_budget_of_adaptation(zoo, tmp_path, monkeypatch):
    images, labels = pictures(45, 7, low=60, high=255)
    clock = itertools.count(step=40.0)  # every look at it is 40 s later than the one before
    original = adapting._bench
    monkeypatch.setattr(adapting, "_bench", lambda *args: replace(original(*args), now=lambda: float(next(clock))))
    ranking = run(zoo, tmp_path, (images, np.array(CLASSES)[labels]), strategies="mcc", budget=30, max_steps=3, top_k=1)
    found = {m.strategy: m for m in ranking.best.measurements}
    assert (found["source-only"].status, found["mcc"].status) == ("ok", "failed")
    assert "budget" in found["mcc"].note


class Placed(nn.Module):
    """Sees where something is, as ``Tiny`` does not."""

    def __init__(self):
        super().__init__()
        self.stem = nn.AvgPool2d(8)
        self.body = nn.Linear(27, 27)
        self.last = nn.Linear(27, 5)

    def forward(self, batch):
        return self.last(self.body(self.stem(batch).flatten(1)))


@pytest.mark.parametrize(("half", "mirrored"), [("left", 0.0), ("upper", 1.0)])
def test_mirror_images_are_learned_from_where_they_show_the_same_class(tmp_path, half, mirrored):
    """A bright half: left or right is another class in the mirror, upper or lower is not."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 90, (60, 24, 24, 3), dtype=np.uint8)
    images[::2, :, :12] += 120
    images[1::2, :, 12:] += 120
    if half == "upper":
        images = images.transpose(0, 2, 1, 3)
    torch.manual_seed(0)
    zoo = {"placed": selector.Model(Placed().eval(), transform={"input_size": (3, 24, 24)})}
    ranking = selector.rank(
        images[40:] // 2, source_domain=(images[:40], np.array(["a", "b"] * 20)), zoo=zoo, confirm=True, strategies="dann",
        max_steps=1, top_k=1, precision="float32", backend="eager", history=False, measure_cost="never", proxies=["pas"],
        store=tmp_path / "store", out=tmp_path / "run",
    )  # fmt: skip
    found = next(m for m in ranking.best.measurements if m.strategy == "dann")
    assert found.status == "ok", found.note
    assert found.extra["mirror_images"] == mirrored


@pytest.mark.parametrize("solved", [True, False], ids=["coral's head", "head as trained"])
def test_a_trained_network_is_saved_as_it_was_judged(zoo, tmp_path, monkeypatch, solved):
    images, _ = pictures(30, 7, low=60, high=255)
    from selector.tuning import adapt
    from selector.tuning.strategies import _loop

    choose = adapt.choose
    monkeypatch.setattr(adapt, "expected_to_win", lambda *_: solved)
    monkeypatch.setattr(
        adapt, "choose", lambda views, shifts: adapt.replace(choose(views, shifts), name=(next(iter(views))[0], "dann"))
    )
    monkeypatch.setattr(
        _loop, "_cool_down", lambda step, *_: (step, step + 1)
    )  # the budget is over after the first step
    ranking = run(zoo, tmp_path, images, strategies="dann", max_steps=4, top_k=1, budget=1e6)
    assert ranking.confirmation["adaptation"]["selected"][1] == "dann"
    measured = next(m for m in ranking.best.measurements if m.strategy == "dann")
    assert ("coral_head" in measured.extra) == solved
    assert measured.steps == 2
    assert measured.note == (
        "cooled down after 2 of 4 steps: the time for it was over; the strength of the domain classifier had risen to 0.85 of 1"
    )
    assert f"{ranking.best.name} dann: {measured.note}." in ranking.warnings
    kept = np.load(tmp_path / "run" / PREDICTIONS, allow_pickle=False)
    place = kept["strategies"].tolist().index("dann")
    predicted = np.array(CLASSES)[kept["probabilities"][place].argmax(axis=1)]
    found = selector.load_model(tmp_path / "run").predict(list(images))
    assert [p.label for p in found] == predicted.tolist()
