"""The whole path on small images with real (untrained, tiny) networks: rank, resume, confirm."""

import base64
import io
import json
import logging
import multiprocessing
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import selector
from selector import scan
from selector.core.contracts import Progress, Score
from selector.core.errors import BadImagesError, ConfigError, OptionError, TargetError
from selector.report.ranking import Ranking, load_ranking
from selector.store import FeatureStore
from selector.zoo import ModelSpec, PreprocessOverrides
from tests.conftest import image_folder
from tests.scan.samples import TINY
from tests.support.commands import fails, ok

FAST = {"zoo": TINY, "proxies": ["knn", "logme"], "precision": "float32", "backend": "eager"}
ONE = {**FAST, "zoo": TINY[:1]}


def table(ranking: Ranking) -> str:
    """Everything but times, paths, what came from the store, and how models fit the memory that is free by now."""
    data = ranking.to_dict()
    for key in ("path", "settings"):
        data.pop(key)
    return json.dumps(
        without(data, {"seconds", "extract_seconds", "cached", "traceback", "cost", "fit"}), sort_keys=True
    )


def without(value, keys: set[str]):
    if isinstance(value, dict):
        return {k: without(v, keys) for k, v in value.items() if k not in keys}
    if isinstance(value, list):  # the line that says where the time went differs from run to run
        return [without(v, keys) for v in value if not (isinstance(v, str) and v.startswith("Time: "))]
    return value


@pytest.fixture(scope="module")
def first(photos, tmp_path_factory) -> Ranking:
    """A scan that many tests go on from; its store lies beside its run."""
    root = tmp_path_factory.mktemp("first")
    return selector.rank(photos, **FAST, store=root / "store", out=root / "run")


def test_rank_gives_a_row_a_model_with_scores_intervals_and_probabilities(first):
    assert {m.name for m in first} == {"tiny-resnet", "tiny-vit"}
    assert [m.rank for m in first] == [1, 2]
    for model in first:
        assert model.status == "ok"
        assert model.rows == 51  # train + val of 60
        assert (model.backend, model.precision) == ("eager", "float32")
        cell = model.scores["knn"]
        assert cell.low is not None
        assert cell.low <= cell.value <= cell.high
        assert model.transferability_low <= model.transferability <= model.transferability_high
    assert sum(m.p_best for m in first) == pytest.approx(1)
    assert first.target["classes"] == 3


def test_failing_models_are_rows_with_a_reason_and_the_run_goes_on(photos, tmp_path):
    own = {"crashes": "explodes", "nan": "gives_nan", "drops": "Drops", "widens": "Widens", "noisy": "Noisy"}
    zoo = [
        TINY[0],
        ModelSpec(name="no-such", source="timm:resnet_nope", weights="none"),
        ModelSpec(name="not-here", source="timm:resnet18.a1_in1k"),
        *(ModelSpec(name=name, source=f"python:tests.support.networks:{network}") for name, network in own.items()),
    ]
    ranking = selector.rank(photos, **{**FAST, "zoo": zoo}, store=tmp_path / "store", offline=True)
    assert [m.name for m in ranking if m.status == "ok"] == ["tiny-resnet"]
    reasons = {m.name: m.reason for m in ranking.failures}
    assert "resnet_nope" in reasons["no-such"]
    assert "offline" in reasons["not-here"].lower()
    assert "the factory exploded" in reasons["crashes"]
    assert "finite" in reasons["nan"].lower()
    assert "the model returns features of shape" in reasons["drops"]
    assert "the model returns features of shape" in reasons["widens"]
    assert "a model must be deterministic: is dropout on" in reasons["noisy"]
    assert all(m.rank is None and m.traceback and not m.rows for m in ranking.failures)
    assert "failed" in {c.code for c in ranking.caveats}


def test_confirm_does_not_believe_the_trust_that_a_run_claims_for_itself(first, tmp_path):
    run, ran = shutil.copytree(first.path, tmp_path / "run"), tmp_path / "ran"
    package = tmp_path / "stranger.py"
    package.write_text(f"open({str(ran)!r}, 'w').close()\n")
    data = json.loads((run / "run.json").read_text())
    assert "trusted" not in data  # the object's own trust stays in its process
    for model in data["models"]:
        model["spec"] = {"name": model["name"], "source": "python:stranger:make"}
    data["settings"]["trusted"] = True
    (run / "run.json").write_text(json.dumps(data))
    command = [sys.executable, "-m", "selector", "confirm", str(run), "--strategies", "frozen", "--max-steps", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "the zoo or run that names it is not trusted; read the code, then pass --trust-zoo" in done.stderr
    assert done.returncode == 2  # nothing was loaded to find out
    assert not ran.exists()
    assert first.trusted
    assert not load_ranking(run).trusted


def test_bad_images_fail_with_the_full_list_or_are_left_out(tmp_path):
    root = image_folder(tmp_path / "photos", per_class=12)
    (root / "across" / "003.png").write_bytes(b"")
    whole = (root / "upright" / "005.png").read_bytes()
    (root / "upright" / "005.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadImagesError) as caught:
        selector.rank(root, **ONE, store=tmp_path / "store", on_invalid="raise")
    assert sorted(name for name, _ in caught.value.bad) == ["across/003.png", "upright/005.png"]
    ranking = selector.rank(root, **ONE, store=tmp_path / "store", on_invalid="skip")
    assert ranking.target["items"] == 34
    assert any("005.png" in w or "2 image" in w for w in ranking.warnings)
    again = selector.rank(root, **ONE, store=tmp_path / "store", on_invalid="skip")
    assert table(again) == table(ranking)


def test_a_bad_image_of_the_test_split_stops_a_warm_scan_too(tmp_path):
    """The proxies read train and val only: a warm scan decodes nothing and would not come across it."""
    for split, count in (("train", 12), ("val", 4), ("test", 4)):
        image_folder(tmp_path / "photos" / split, per_class=count)
    (tmp_path / "photos" / "test" / "across" / "003.png").write_bytes(b"")
    skipped = selector.rank(tmp_path / "photos", **ONE, store=tmp_path / "store", on_invalid="skip")
    assert skipped.target["items"] == 59
    with pytest.raises(BadImagesError, match=r"test/across/003\.png"):
        selector.rank(tmp_path / "photos", **ONE, store=tmp_path / "store", on_invalid="raise")


def test_one_changed_image_is_the_only_one_extracted_again(tmp_path):
    root = image_folder(tmp_path / "photos", per_class=12)
    store = FeatureStore(tmp_path / "store")
    before = selector.rank(root, **ONE, store=store)
    root = root.rename(tmp_path / "elsewhere")  # moving the folder changes nothing
    moved = selector.rank(root, **ONE, store=store)
    assert moved.target["fingerprint"] == before.target["fingerprint"]
    assert all(m.cached for m in moved)
    Image.new("RGB", (40, 40), "red").save(root / "across" / "003.png")
    rows: list[int] = []
    selector.rank(root, **ONE, store=store, progress=lambda p: rows.append(p.total) if p.stage == "extract" else None)
    assert set(rows) <= {1, 2}  # the image itself, and at most one that the new split brings from test
    assert rows


def test_rows_of_an_older_extractor_are_extracted_again(photos, tmp_path, monkeypatch):
    asked = {**ONE, "store": tmp_path / "store"}
    assert not selector.rank(photos, **asked).best.cached
    assert selector.rank(photos, **asked).best.cached
    monkeypatch.setattr("selector.extract.job.EXTRACTOR_VERSION", 10**6)
    assert not selector.rank(photos, **asked).best.cached


def test_dropping_stops_hopeless_models_and_says_so(tmp_path, monkeypatch):
    root = image_folder(tmp_path / "photos", per_class=60)
    zoo = [
        ModelSpec(name="sees", source="python:tests.support.networks:orientation"),
        ModelSpec(name="blind", source="python:tests.support.networks:blind"),
    ]
    ranking = selector.rank(root, **{**FAST, "zoo": zoo}, store=tmp_path / "store", prune="always", top_k=1)
    assert [m.name for m in ranking] == ["sees", "blind"]
    assert ranking["blind"].status == "pruned"
    assert "among the first 1 after training with a probability below 2" in ranking["blind"].reason
    (told,) = [c.text for c in ranking.caveats if c.code == "pruned"]
    rows = ranking["blind"].rows
    assert f"after {rows} rows" in told
    assert f"{50 * (153 - rows) / 153:.0f}" in told  # per cent of the forward passes
    assert ranking["blind"].rows < ranking["sees"].rows == 153
    off = selector.rank(root, **{**FAST, "zoo": zoo}, store=tmp_path / "store", prune="never", top_k=1)
    assert not [c for c in off.caveats if c.code == "pruned"]
    assert off["blind"].status == "ok"
    monkeypatch.setattr(scan.target_scan, "DROP_FROM", 2)
    seen: list[Progress] = []
    unsure = selector.rank(
        root, **{**FAST, "zoo": zoo}, store=tmp_path / "store", intervals=False, top_k=1, progress=seen.append
    )
    assert [m.status for m in unsure] == ["ok", "ok"]
    assert sum(p.stage == "score" for p in seen) == 4  # no rounds: two models, two proxies
    sure = selector.rank(root, **{**FAST, "zoo": zoo}, store=tmp_path / "store", top_k=1)
    assert sure["blind"].status == "pruned"


def test_a_round_that_stops_no_model_is_followed_by_the_last(tmp_path):
    root = image_folder(tmp_path / "photos", per_class=60)
    zoo = [ModelSpec(name=name, source="python:tests.support.networks:orientation") for name in ("one", "other")]
    seen: list[Progress] = []
    ranking = selector.rank(
        root, **{**FAST, "zoo": zoo}, store=tmp_path / "store", prune="always", top_k=1, progress=seen.append
    )
    assert [model.rows for model in ranking] == [153, 153]
    assert sum(event.stage == "score" for event in seen) == 2 * 4  # a quarter and all: two models, two proxies


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"confirm": True, "top_k": 3}, r"top_k is 3, but only 2 model\(s\) are selected"),
        ({"proxies": ["knnn"]}, "unknown proxy 'knnn'; did you mean 'knn'"),
        ({"models": "tiny-resnit"}, "no model of the zoo matches 'tiny-resnit'; did you mean 'tiny-resnet'"),
        ({"max_params": "30X"}, r"A count must be a number with a unit out of K, M, B, such as 30M. Got '30X'"),
        ({"max_memory": "4 apples"}, r"A size must be a number with a unit .* such as 20GB. Got '4 apples'"),
        ({"license": "permisive"}, r"license 'permisive' is no class .*did you mean 'permissive'"),
        ({"license": " ,"}, r"license names none; give 'permissive'"),
    ],
)
def test_wrong_arguments_are_named_before_any_work(photos, tmp_path, changes, text):
    with pytest.raises(ConfigError, match=text):
        selector.rank(photos, **{**FAST, **changes}, store=tmp_path / "store")
    assert not (tmp_path / "store" / "entries").exists()


def test_confirm_measures_reorders_and_saves_a_model_that_predicts(first, photos, tmp_path):
    confirmed = selector.confirm(first, top_k=2, max_steps=6, budget="30m", out=tmp_path / "run")
    assert {m.strategy for m in confirmed.best.measurements} >= {"frozen"}
    leading, second = (m.best_measurement().val_value for m in confirmed.models[:2])
    assert leading >= second
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()
    model = selector.load_model(tmp_path / "run" / "best")
    predictions = model.predict([photos / "across" / "000.png", photos / "upright" / "001.png"])
    assert len(predictions) == 2
    loaded = selector.load_ranking(tmp_path / "run")
    assert table(loaded) == table(confirmed)
    assert confirmed.confirmation["tuning_log"][0].startswith("Planned: ")
    assert not any("Planned" in warning for warning in confirmed.warnings)
    (outcome,) = [m.extra["error_analysis"] for m in confirmed.best.measurements if "error_analysis" in m.extra]
    for shown in outcome["samples"]:
        picture = Image.open(io.BytesIO(base64.b64decode(shown["thumbnail"].removeprefix("data:image/jpeg;base64,"))))
        assert max(picture.size) <= 112
        assert (photos / shown["name"]).is_file()
    again = selector.confirm(loaded, top_k=2, max_steps=6, budget="30m")  # from the saved run, from disk
    assert table(again) == table(confirmed)


def test_confirm_goes_on_with_named_models(first, tmp_path):
    run, asked = tmp_path / "run", {"strategies": ("full",), "budget": "30m"}
    confirmed = selector.confirm(first, top_k=2, max_steps=4, out=run, **asked)
    winner, other = (model.name for model in confirmed.models[:2])
    weights = (run / "best" / "model.safetensors").read_bytes()

    with pytest.raises(OptionError) as unknown:
        selector.confirm(run, models="nothing*")
    assert unknown.value.names == ("models",)

    kept = selector.confirm(run, models=other, max_steps=4, **asked)
    assert any("stays the saved model" in warning for warning in kept.warnings)
    assert kept.best.name == winner
    assert [m.measurements for m in kept] == [m.measurements for m in selector.load_ranking(run)]
    assert kept[other].best_measurement() == confirmed[other].best_measurement()
    assert (run / "best" / "model.safetensors").read_bytes() == weights

    longer = selector.confirm(run, models=winner, max_steps=24, **asked)
    before, after = confirmed.best.best_measurement(), longer.best.best_measurement()
    if after.steps == before.steps:  # no better, and the run says so
        assert any("stays the saved model" in warning for warning in longer.warnings)
    else:
        assert after.steps > before.steps
        assert after.val_value > before.val_value
        assert longer.confirmation["history"][0]["rate"] == before.learning_rate
    assert {m.name for m in longer if m.best_measurement()} == {winner, other}

    more = selector.confirm(run, models=other, max_steps=24, **asked)
    assert 24 in {m.steps for m in more[other].measurements}  # shown, also where it is not the one that is saved
    assert more[winner].measurements == longer[winner].measurements


def test_where_less_is_better_the_least_comes_first(first, tmp_path):
    confirmed = selector.confirm(
        first, top_k=2, max_steps=6, metric="log_loss", strategies=("frozen",), out=tmp_path / "run"
    )
    leading, second = (m.best_measurement() for m in confirmed.models[:2])
    assert leading.val["log_loss"] < second.val["log_loss"]
    assert selector.load_model(tmp_path / "run").config["name"] == confirmed.best.name


def test_one_pixel_gray_and_rgba_images_are_trained_on(tmp_path):
    root = image_folder(tmp_path / "photos", per_class=8)
    for label, folder in enumerate(sorted(root.iterdir())):
        Image.new("RGB", (1, 1), (80 * label, 0, 0)).save(folder / "pixel.png")
        Image.new("L", (30, 20), 80 * label).save(folder / "gray.png")
        Image.new("RGBA", (20, 30), (0, 80 * label, 0, 128)).save(folder / "rgba.png")
    confirmed = selector.rank(
        root, **ONE, store=tmp_path / "store", out=tmp_path / "run", confirm=True, top_k=1, max_steps=4
    )
    assert {(m.strategy, m.status) for m in confirmed.best.measurements} == {("frozen", "ok"), ("full", "ok")}
    assert len(selector.load_model(tmp_path / "run").predict(root)) == 33


def test_confirming_a_changed_target_is_refused(tmp_path):
    root = image_folder(tmp_path / "photos", per_class=10)
    selector.rank(root, **ONE, store=tmp_path / "store", out=tmp_path / "run")
    Image.new("RGB", (40, 40), "red").save(root / "across" / "003.png")
    with pytest.raises(TargetError, match="has changed since this run"):
        selector.confirm(tmp_path / "run", top_k=1, max_steps=2)


def test_nothing_of_an_untrusted_zoo_is_imported_by_a_plan_or_a_budget(photos, tmp_path, monkeypatch):
    package = tmp_path / "hostile"
    package.mkdir()
    (package / "__init__.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit('it ran')")
    (package / "nets.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "zoo.yaml"
    known = "- {name: known, source: 'timm:test_resnet', weights: none}\n"
    file.write_text(f"version: 1\nmodels:\n{known}- {{name: p, source: 'python:hostile.nets:make'}}\n")
    plan = selector.plan(photos, zoo=file, store=tmp_path / "store")
    assert {model["name"]: "not trusted" in model["note"] for model in plan.models} == {"known": False, "p": True}
    asked = {**FAST, "zoo": file, "store": tmp_path / "store", "scan_budget": "5m", "measure_cost": "never"}
    assert {m.name: m.status for m in selector.rank(photos, **asked).models} == {"known": "ok", "p": "failed"}
    assert not (tmp_path / "ran").exists()


# ---------------------------------------------------------------------------- kills and company

WARM = multiprocessing.get_context("forkserver")  # scans in processes of their own, forked from one with these imports
WARM.set_forkserver_preload(
    ["tests.scan.test_scan", "tests.support.networks", "selector.data.readers", "selector.scan.pipeline", "selector.extract.workspace",
     "selector.extract.encode", "selector.extract.backends.eager", "selector.sources.python", "selector.tasks.detection",
     "selector.proxies.knn", "selector.proxies.logme", "selector.features.jackknife", "selector.report.html"]
)  # fmt: skip


def _scan(environment: dict[str, str], photos: Path, store: Path, out: Path) -> None:
    import torch

    os.environ.clear()
    os.environ.update(environment)
    with Path(f"{out}.log").open("ab") as log:
        os.dup2(log.fileno(), 2)
    torch.set_num_threads(1)
    zoo = [ModelSpec(name=name, source=f"python:tests.support.networks:{name}") for name in ("Orientation", "Blind")]
    selector.rank(photos, **{**FAST, "zoo": zoo}, store=store, out=out, measure_cost="never")


def run_scan(photos: Path, store: Path, out: Path) -> BaseProcess:
    process = WARM.Process(target=_scan, args=(dict(os.environ), photos, store, out))
    process.start()
    return process


def ends_well(process: BaseProcess, out: Path) -> Ranking:
    process.join(200)
    assert process.exitcode == 0, Path(f"{out}.log").read_text()
    return selector.load_ranking(out)


@pytest.mark.parametrize("kills", [3, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_a_scan_killed_again_and_again_gives_the_same_table(photos, tmp_path, kills):
    run_scan(photos, tmp_path / "first", tmp_path / "first-run").join(200)  # the server is up
    started = time.perf_counter()
    expected = table(ends_well(run_scan(photos, tmp_path / "calm", tmp_path / "calm-run"), tmp_path / "calm-run"))
    whole = time.perf_counter() - started
    rng = random.Random(0)
    store = tmp_path / "stormy store é"
    for attempt in range(kills):
        process = run_scan(photos, store, tmp_path / "stormy-run")
        process.join(rng.uniform(0.1, 1.0) * whole)
        process.kill()
        process.join()
        if attempt % 5 == 4:  # start over, so that later kills also hit early work
            store = tmp_path / f"stormy store {attempt}"
    # two kills at one network look as if it had killed the process: it would be set aside, which is tried elsewhere
    shutil.rmtree(store / "working", ignore_errors=True)
    process = run_scan(photos, store, tmp_path / "stormy-run")
    assert table(ends_well(process, tmp_path / "stormy-run")) == expected


def test_scans_into_one_store_at_once_extract_each_model_once(photos, tmp_path):
    processes = [run_scan(photos, tmp_path / "store", tmp_path / f"run{i}") for i in range(3)]
    rankings = [ends_well(process, tmp_path / f"run{i}") for i, process in enumerate(processes)]
    assert len({table(ranking) for ranking in rankings}) == 1
    store = FeatureStore(tmp_path / "store")
    assert store.verify().damaged == ()
    for entry in (tmp_path / "store" / "entries").iterdir():
        assert sum(1 for _ in entry.glob("0*.safetensors")) == 1  # nobody wrote the rows of another once more


@pytest.mark.usefixtures("own_logging")
def test_a_scan_meets_a_full_disk_and_goes_on_when_there_is_room(photos, small_disk):
    scan = ["scan", photos, "--no-confirm", "--store", small_disk / "store", "--zoo", small_disk / "zoo.yaml",
            "--out", small_disk / "run", "--proxies", "knn", "--backend", "eager", "--precision", "float32"]  # fmt: skip
    models = "".join(f"- {{name: {net}, source: 'timm:{net}', weights: none}}\n" for net in ("test_resnet", "test_vit"))
    (small_disk / "zoo.yaml").write_text(f"version: 1\nmodels:\n{models}")
    free = shutil.disk_usage(small_disk).free
    (small_disk / "ballast").write_bytes(b"x" * (free - 24_576))  # room for the documents, not for the rows
    told = fails(1, *scan)
    assert "is full (No space left on device" in told
    assert "Traceback" not in told
    assert FeatureStore(small_disk / "store").verify().damaged == ()
    (small_disk / "ballast").unlink()
    assert "test_vit" in ok(*scan).stdout


def test_the_next_network_loads_while_one_runs_and_its_error_is_its_own_row(first, photos, tmp_path, monkeypatch):
    from selector.extract import prefetch_model as ahead

    threads: dict[str, str] = {}
    load = ahead._Loading._run

    def spied(self, loading, opening) -> None:
        threads[self.spec.name] = threading.current_thread().name
        load(self, loading, opening)

    monkeypatch.setattr(ahead._Loading, "_run", spied)
    exploding = ModelSpec(name="code", source="python:tests.support.networks:explodes")
    zoo = [TINY[0], ModelSpec(name="no-such", source="timm:resnet_nope", weights="none"), TINY[1], exploding]
    ranking = selector.rank(photos, **{**FAST, "zoo": zoo}, store=tmp_path / "store")
    assert threads["no-such"] == "selector-load"
    assert "resnet_nope" in ranking["no-such"].reason
    assert threads["code"] == "selector-load"
    assert "the factory exploded" in ranking["code"].reason
    assert ranking["tiny-vit"].status == "ok"
    assert {m.name: m.transferability for m in ranking if m.status == "ok"} == {
        m.name: m.transferability for m in first
    }


def test_images_are_decoded_once_for_all_sizes_that_are_known_beforehand(photos, tmp_path):
    def sized(side: int) -> ModelSpec:
        said = {"input_size": [3, side, side], "interpolation": "bilinear", "crop_pct": 1.0}
        return TINY[0].model_copy(update={"name": f"at{side}", "preprocess": PreprocessOverrides(**said)})

    decoded: list[int] = []
    told = lambda p: decoded.append(p.done) if p.stage == "decode" and p.done == p.total else None  # noqa: E731
    zoo = [sized(32), sized(64), sized(96)]
    selector.rank(photos, **{**FAST, "zoo": zoo}, store=tmp_path / "store", progress=told)
    assert decoded == [60]


def test_costs_are_measured_once_and_remembered(first, photos, tmp_path):
    store = first.settings["store"]
    for model in first:
        cost = model.cost
        assert cost.flops > 1e6
        assert 0 < cost.image_seconds <= cost.latency
        assert cost.memory > cost.disk > 4 * model.num_parameters
    assert first.seconds["cost"] > 0
    again = selector.rank(photos, **FAST, store=store)
    assert table(again) == table(first)
    assert again.path is None  # nothing is written beside the store
    assert [m.cost for m in again] == [m.cost for m in first]  # a time measured anew would differ
    anew = selector.rank(photos, **FAST, store=store, measure_cost="always")
    assert all(a.cost.latency != b.cost.latency for a, b in zip(anew, first, strict=True))
    assert all(m.cached for m in anew)  # its rows were not extracted again
    off = selector.rank(photos, **FAST, store=tmp_path / "other", measure_cost="never")
    assert all(m.cost is None for m in off)
    late = selector.rank(photos, **FAST, store=tmp_path / "other", max_latency="1h")
    assert all(m.cost is not None for m in late)  # asked for by the limit, although all rows are stored
    # scores and transferability are what they are, whatever was measured beside them; the count of operations is a fact
    facts = {"facts", "origin"}
    assert without(json.loads(table(off)), facts) == without(json.loads(table(first)), facts)


def test_limits_exclude_with_a_reason_before_anything_is_run(photos, tmp_path):
    zoo = [
        TINY[0].model_copy(update={"license": "apache-2.0"}),
        TINY[1].model_copy(update={"license": "cc-by-nc-4.0"}),
        ModelSpec(name="unknown", source="timm:test_byobnet", weights="none"),
        ModelSpec(name="large", source="timm:vit_large_patch16_224", weights="none", params=303_000_000, license="mit"),
        ModelSpec(name="sees", source="python:tests.support.networks:orientation", license="MIT"),
    ]
    loaded = set()
    ranking = selector.rank(
        photos,
        **{**FAST, "zoo": zoo},
        store=tmp_path / "store",
        max_params="1M",
        license="permissive",
        progress=lambda p: loaded.add(p.model) if p.stage == "load" else None,
    )
    assert loaded == {"tiny-resnet", "sees"}
    reasons = {m.name: m.reason for m in ranking if m.status == "excluded"}
    assert reasons["tiny-vit"] == "its license is cc-by-nc-4.0, not permissive."
    assert reasons["unknown"].startswith("its license is not known, so it cannot be shown to be permissive")
    assert reasons["large"] == "303.0M parameters, more than 1.0M."
    assert [(m.name, m.rank) for m in ranking][2:] == [(name, None) for name in ("tiny-vit", "unknown", "large")]
    assert ranking["large"].num_parameters == 303_000_000
    assert not ranking.failures
    assert [len(c.numbers["models"]) for c in ranking.caveats if c.code == "excluded"] == [3]
    assert ranking.settings["max_params"] == "1M"
    plan = selector.plan(photos, zoo=zoo, store=tmp_path / "store", license="permissive", max_params="1M")
    assert plan.models[3]["note"] == "excluded: 303.0M parameters, more than 1.0M."
    assert plan.models[3]["missing"] == 0


def test_what_was_measured_excludes_too_before_the_rows_are_extracted(first, photos, tmp_path):
    memory = sorted(m.cost.memory for m in first)
    extracted = set()
    ranking = selector.rank(
        photos,
        **FAST,
        store=tmp_path / "other",
        max_memory=sum(memory) / 2,
        progress=lambda p: extracted.add(p.model) if p.stage == "extract" else None,
    )
    ok, out = ranking.models
    assert (ok.status, out.status) == ("ok", "excluded")
    assert "of memory at its peak, more than" in out.reason
    assert extracted == {ok.name}
    assert out.cost.memory == memory[1]  # the row says what it would take
    again = selector.rank(photos, **FAST, store=tmp_path / "other", max_memory=sum(memory) / 2)
    assert table(again) == table(ranking)
    none = selector.rank(
        photos, **FAST, store=tmp_path / "other", max_latency="1us", confirm=True, top_k=1, out=tmp_path
    )
    assert {m.status for m in none} == {"excluded"}
    assert re.match(r"an image takes \d.* \(.* in \d+ passes\), more than 0\.00 ms\.", none.models[0].reason)
    with pytest.raises(ConfigError, match=r"no model of this run finished.*2 model\(s\) were excluded by the limits"):
        _ = none.best


def test_what_a_proxy_warns_of_is_said_once_a_model_with_its_name(photos, tmp_path, monkeypatch, caplog):
    import selector.proxies.logme as module

    monkeypatch.setattr(module, "MAX_ITERATIONS", 2)
    with caplog.at_level(logging.WARNING):  # three rounds, and ten blocks in each
        selector.rank(photos, **FAST, store=tmp_path, prune="always", top_k=1, history=False)
        selector.rank((np.random.default_rng(0).random((60, 5)), [0, 1, 2] * 20), proxies=["logme"])
    told = [text for text in caplog.messages if "did not settle" in text]
    assert [text.partition(": ")[0] for text in told] == ["tiny-resnet", "tiny-vit", "features"]
    assert "logme: 3 of 3 label columns did not settle within 2 steps" in told[0]
    assert logging.getLogger("selector.proxies").propagate


def test_rows_that_vanish_beside_a_scan_are_told_and_extracted_again(first, photos, tmp_path, monkeypatch, caplog):
    run, removed = scan.scoring.Scoring.run, []

    def vanishing(self, candidate, rows):
        if not removed:
            for file in (tmp_path / "store").rglob("0*.safetensors"):
                file.unlink()
            removed.append(candidate.spec.name)
        return run(self, candidate, rows)

    monkeypatch.setattr(scan.scoring.Scoring, "run", vanishing)
    ranking = selector.rank(photos, **FAST, store=tmp_path / "store")
    assert [(m.name, m.transferability) for m in ranking] == [(m.name, m.transferability) for m in first]
    assert f"{removed[0]}: 51 of its rows vanished from the store while this scan ran" in caplog.text


def test_a_callable_is_a_proxy_and_one_that_raises_is_an_empty_cell(photos, tmp_path):
    def width(features) -> Score:
        return Score(float(features.rows.shape[1]))

    def broken(features):
        raise TypeError("no such thing")

    def leaves(features):
        raise SystemExit(0)

    ranking = selector.rank(photos, **{**FAST, "proxies": ["knn", width, broken, leaves]}, store=tmp_path / "store")
    assert ranking.proxies == ["knn", "width", "broken", "leaves"]
    assert [m.status for m in ranking] == ["ok", "ok"]
    assert all(m.scores["width"].value == m.num_features for m in ranking)
    assert all(m.scores["leaves"].reason == "proxy 'leaves' raised SystemExit: 0" for m in ranking)
    assert all(m.scores["broken"].reason == "proxy 'broken' raised TypeError: no such thing" for m in ranking)
    assert all(m.transferability is not None for m in ranking)
