"""The history around a scan: what enters its prior, what a confirmation adds, what is left out."""

import json
import shutil
from functools import partial

import numpy as np
import pytest

import selector
from selector.ranking.history import History, Result, default_path
from selector.ranking.prior import ModelFacts
from selector.scan.candidate import Candidate
from selector.scan.past import Knowledge, facts_of, facts_of_candidate, identity_of
from selector.store import FeatureStore
from selector.zoo import ModelSpec, WeightsFile
from tests.scan.test_scan import FAST, TINY
from tests.support.commands import run as command


def results_for(target, order, **changes):
    """One earlier target on which the models, by their identity, came out in this order."""
    return [
        Result(target, spec.name, "accuracy", 0.5 + i / 10, source=identity_of(spec), **changes)
        for i, spec in enumerate(order)
    ]


@pytest.fixture
def past():
    """The second of the tiny networks was better on eight targets."""
    history = History()
    for t in range(8):
        history.add(results_for(f"t{t}", TINY, run="r"))
    return history


def test_past_results_move_the_transferability_and_the_run_says_so(photos, tmp_path, past):
    alone = selector.rank(photos, **FAST, store=tmp_path / "store", history=False)
    assert (alone.prior["method"], alone.prior["history"], alone.prior["published"]) == ("facts", None, 0)
    assert all("earlier target" not in m.prior.origin for m in alone)
    before = selector.rank(photos, **FAST, store=tmp_path / "store", history=tmp_path / "empty.sqlite")
    ranking = selector.rank(photos, **FAST, store=tmp_path / "store", out=tmp_path / "run")
    moved = {name: ranking[name].prior.shift - before[name].prior.shift for name in ("tiny-vit", "tiny-resnet")}
    assert moved["tiny-vit"] > moved["tiny-resnet"]
    for name, shift in moved.items():
        open_half = (before[name].transferability_high - before[name].transferability_low) / 2
        assert abs(shift) <= open_half + 1e-9
    for model in ranking:
        assert model.normalized_score == alone[model.name].normalized_score
        assert model.transferability == pytest.approx(model.normalized_score + model.prior.shift)
        assert model.prior.origin == "mean rank on 8 earlier targets"
    assert (ranking.prior["method"], ranking.prior["history"]["rows"], ranking.prior["own"]) == ("mean rank", 16, 16)
    assert ranking.prior["published"] > 400
    assert selector.load_ranking(tmp_path / "run").prior == ranking.prior
    assert selector.load_ranking(tmp_path / "run")["tiny-vit"].prior == ranking["tiny-vit"].prior
    assert "measured on other targets; 16 past results of this machine entered" in str(ranking)
    frame = ranking.to_dataframe()
    assert list(frame["prior"]) == [m.prior.shift for m in ranking]


def test_results_of_the_same_target_do_not_enter(photos, tmp_path, past):
    plain = selector.rank(photos, **FAST, store=tmp_path / "store")
    past.add(results_for(plain.target["fingerprint"], TINY[::-1], run="earlier"))
    again = selector.rank(photos, **FAST, store=tmp_path / "store")
    assert again.prior["left_out"]["same target"] == 2
    assert again.prior["history"] == plain.prior["history"]
    assert [m.transferability for m in again] == [m.transferability for m in plain]


def test_a_confirmation_adds_what_was_measured_once(photos, tmp_path):
    ranking = selector.rank(photos, **FAST, store=tmp_path / "store")
    assert not default_path().exists()  # a scan without a confirmation measures nothing
    confirm = {"top_k": 2, "strategies": ["frozen"], "store": tmp_path / "store", "out": tmp_path / "run"}
    for unasked in ({}, {"history": False}):
        selector.confirm(ranking, **confirm, **unasked)
        assert not default_path().exists()  # a library call adds only when it is asked
    confirm["history"] = True
    done = selector.confirm(ranking, **confirm)
    kept = History().results()
    measured = {r.model: r.value for r in kept if r.kind == "measured"}
    assert measured == {m.name: m.best_measurement().val_value for m in done}
    how = {(r.strategy, r.metric, r.target_name) for r in kept if r.kind == "measured"}
    assert how == {("frozen", "accuracy", "photos")}
    predicted = {r.model: (r.metric, r.value) for r in kept if r.kind == "predicted"}
    assert predicted == {m.name: ("normalized_score:knn+logme", m.normalized_score) for m in done}
    assert kept[0].facts["pretraining_images"] == 0
    assert {r.items for r in kept} == {done.target["splits"]["val"]}
    selector.confirm(ranking, **confirm)
    assert len(History().results()) == len(kept)


def test_a_damaged_history_is_set_aside_and_the_scan_goes_on(photos, tmp_path):
    default_path().write_bytes(b"this is no database" * 100)
    ranking = selector.rank(photos, **FAST, store=tmp_path / "store")
    assert any("no past results were used" in w and "set aside" in w for w in ranking.warnings)
    assert len(ranking.failures) == 0


def test_models_are_known_by_what_they_are_not_by_their_name():
    plain = ModelSpec(name="mine", source="timm:resnet50.tv_in1k")
    assert identity_of(plain) == identity_of(ModelSpec(source="torchvision:resnet50.IMAGENET1K_V1"))
    file = WeightsFile(package="pack", file="w.pth")
    others = [
        {"weights": "none"}, {"weights": file}, {"kwargs": {"depth": 2}}, {"layer": "blocks.3"},
    ]  # fmt: skip
    assert len({identity_of(plain), *(identity_of(plain.model_copy(update=o)) for o in others)}) == 5
    assert identity_of(plain.model_copy(update={"pooling": "max"})) == identity_of(plain)


def test_published_results_rank_networks_of_any_name(photos):
    specs = [
        ModelSpec(name="weak", source="timm:resnet18.tv_in1k"),
        ModelSpec(name="strong", source="torchvision:resnet152.IMAGENET1K_V1"),
        ModelSpec(name="mine", source="onnx:own.onnx"),
    ]
    prior = Knowledge(History(), selector.load_target(photos)).prior([Candidate(spec) for spec in specs])
    assert prior.scores["strong"].value > 0.5 > prior.scores["weak"].value
    assert prior.scores["strong"].weight > 0.25
    assert (prior.scores["weak"].targets, prior.scores["mine"].value) == (11, 0)


def test_facts_come_from_the_zoo_then_from_what_was_extracted():
    spec = ModelSpec(source="timm:vit_small.augreg_in21k", upstream_accuracy=80.0)
    meta = {"num_parameters": 22_000_000, "preprocess": {"input_size": [3, 224, 224]}}
    assert facts_of(spec, meta) == ModelFacts(2.2e7, 80.0, 1.42e7, None, 224.0)
    assert facts_of(spec.model_copy(update={"params": 5}), meta).parameters == 5
    assert facts_of(spec.model_copy(update={"weights": "none"}), {}).pretraining_images == 0
    stated = spec.model_copy(update={"pretraining": "CLIP, LAION-2B"})
    assert facts_of(stated, {}).pretraining_images == 2.3e9


def test_the_shipped_zoo_says_how_many_images_every_image_model_saw():
    from selector.zoo import load_zoo

    images = [s for s in load_zoo().models if s.source_name in ("timm", "torchvision", "python")]
    assert len(images) > 40
    assert [s.name for s in images if facts_of(s, {}).pretraining_images is None] == []


def test_history_on_the_command_line(tmp_path, past):
    run = partial(command, "history")
    listed = json.loads(run("list", "--json", "--model", "tiny-vit").stdout)
    assert {r["model"] for r in listed} == {"tiny-vit"}
    assert len(listed) == 8
    assert run("list", "--target", "t3").stdout.count("tiny-") == 2
    assert run("export", tmp_path / "h.jsonl").exit_code == 0
    refused = run("forget")
    assert refused.exit_code == 2
    assert "forget needs a target, a model or a run" in refused.output
    assert json.loads(run("forget", "--target", "t0", "--json").stdout)["results"] == 2
    assert json.loads(run("forget", "--all", "--json").stdout)["results"] == 14
    assert "no results in" in run("list").output
    assert json.loads(run("import", tmp_path / "h.jsonl", "--json").stdout)["results"] == 16
    assert json.loads(run("list", "--json", "--file", tmp_path / "other.sqlite").stdout) == []


def test_facts_of_a_model_survive_the_removal_of_its_rows(tmp_path):
    store = FeatureStore(tmp_path / "store")
    entry = store.remember({"spec": 1}, {"entry": 1}, {"num_parameters": 1234, "num_features": 2})
    candidate = Candidate(TINY[0], entry=entry)
    entry.append(["00" * 16], np.ones((1, 2), np.float32))
    before = facts_of_candidate(candidate)
    shutil.rmtree(tmp_path / "store" / "entries")
    assert facts_of_candidate(candidate) == before
    assert before.parameters == 1234


def test_results_that_did_not_enter_are_not_said_to_have_entered(photos, tmp_path):
    history = History(tmp_path / "history.sqlite")
    history.add(results_for("t0", TINY, run="r"))
    ranking = selector.rank(photos, **FAST, store=tmp_path / "store", history=tmp_path / "history.sqlite")
    assert ranking.prior["history"]["rows"] == 2
    assert ranking.prior["own"] == 0  # one target is fewer than three
    assert "of this machine entered" not in str(ranking)
