"""What a first day with the tool stumbled over, on the command line and in the library."""

import json
import os
import re
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import selector
from selector.cli import app
from selector.core.contracts import Progress
from selector.core.errors import ConfigError, OptionError, TargetError
from selector.core.progress import in_notebook
from selector.ranking.history import History
from selector.ranking.history import Result as Figure
from selector.results import best_folder
from selector.store import FeatureStore
from tests.scan.samples import TINY
from tests.support.commands import fails, ok, run

FAST = {"zoo": TINY, "proxies": ["knn"], "precision": "float32", "backend": "eager", "history": False}
TRAIN = {"confirm": True, "top_k": 1, "strategies": "frozen", "max_steps": 4, "resolution": 32}


@pytest.fixture(scope="module")
def confirmed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("confirmed")
    selector.rank(photos, **FAST, **TRAIN, store=folder / "store", out=folder / "run")
    return folder


@pytest.fixture
def copy(confirmed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(confirmed / "run", tmp_path / "run"))


def test_a_confirmed_run_is_replaced_only_when_asked(photos, confirmed, copy):
    asked = {**FAST, "store": confirmed / "store", "out": copy}
    before = (copy / "run.json").read_bytes()
    with pytest.raises(OptionError, match=r"out: .* holds a confirmed run, and this one, that is not confirmed"):
        selector.rank(photos, **asked)
    with pytest.raises(OptionError, match="holds a confirmed run"):
        selector.plan(photos, **asked)
    assert (copy / "run.json").read_bytes() == before
    again = selector.rank(photos, **asked, **TRAIN)  # the same scan goes on in its folder
    assert best_folder(again) == copy / "best"
    unconfirmed = selector.rank(photos, **asked, overwrite=True)
    assert (unconfirmed.path, best_folder(unconfirmed)) == (copy, None)
    assert not (copy / "best").exists()


def test_the_command_line_speaks_of_force_in_its_own_words(photos, copy, tmp_path):
    told = fails(2, "scan", photos, "--models", "digits*", "--no-confirm", "--out", copy, "--store", tmp_path / "s")
    assert f"error: --out: {copy} holds a confirmed run" in told
    assert "say --overwrite" in told


def test_a_model_of_another_run_is_not_taken_for_this_runs(photos, confirmed, copy):
    document = json.loads((copy / "run.json").read_text())
    assert selector.load_model(copy).path == copy / "best"
    for changed, message in (
        ({"confirmation": {}}, "is a run without its own confirmation"),
        ({"target": {**document["target"], "fingerprint": "0" * 32}}, f"{copy / 'best'} is another run's"),
    ):
        (copy / "run.json").write_text(json.dumps({**document, **changed}))
        assert best_folder(selector.load_ranking(copy)) is None
        with pytest.raises(ConfigError) as caught:
            selector.load_model(copy)
        assert message in str(caught.value)
        assert f"selector confirm {copy}" in str(caught.value)
    assert selector.load_model(copy / "best").path == copy / "best"  # named in full, it is what was asked for
    shutil.rmtree(copy / "best")
    assert f"holds no model yet; run: selector confirm {copy}" in fails(2, "predict", copy, photos)


def test_trust_is_checked_before_anything_is_loaded(confirmed, copy):
    document = json.loads((copy / "run.json").read_text())
    for model in document["models"]:
        model["spec"] = {**model["spec"], "source": "python:tests.support.networks:explodes"}
    document["target"]["origin"]["path"] = str(copy / "nowhere")  # would be the error if the target came first
    (copy / "run.json").write_text(json.dumps(document))
    with pytest.raises(OptionError, match=r"trust_zoo: .*runs code"):
        selector.confirm(copy)
    assert "--trust-zoo: " in run("confirm", copy).stderr


def test_what_is_not_trusted_is_told_before_anything_runs(photos, tmp_path, caplog):
    (tmp_path / "zoo.yaml").write_text(
        "version: 1\nmodels:\n- {name: known, source: 'timm:test_resnet', weights: none}\n"
        "- {name: foreign, source: 'python:tests.support.networks:explodes'}\n"
    )
    where = ["--zoo", tmp_path / "zoo.yaml", "--store", tmp_path / "store", "--out", tmp_path / "run"]
    told = fails(2, "scan", photos, *where, "--models", "foreign", "--no-confirm")
    assert "error: --trust-zoo: foreign: refused" in told
    assert "no other model is selected; read that code, then say --trust-zoo." in told
    assert not (tmp_path / "store").exists()
    told_at: list[int] = []
    ranking = selector.rank(
        photos, zoo=tmp_path / "zoo.yaml", store=tmp_path / "store", proxies="knn", intervals=False, measure_cost="never",
        history=False, progress=lambda step: told_at.append(len(caplog.records)),
    )  # fmt: skip
    assert [model.status for model in ranking] == ["ok", "failed"]
    assert told_at[0] == 1  # before the first step
    message = caplog.records[0].getMessage()
    assert message.startswith("foreign: refused, because building them runs code of a zoo that is not trusted")
    assert "say --trust-zoo (trust_zoo=True). The other models are ranked." in message


def test_forget_takes_what_list_shows(tmp_path):
    history = History(tmp_path / "h.sqlite")
    starts = ("abcd1234", "abcd5678", "ffff0000")
    history.add([Figure(f"{start}{'0' * 24}", "net", "accuracy", 0.5) for start in starts])
    history.add([Figure(f"{'e' * 32}", "net", "accuracy", 0.5, run=f"of-{name}") for name in ("one", "two")])
    shown = run("history", "list", "--file", history.path).stdout
    assert "forgot 1 results" in run("history", "forget", "--target", "ffff0000", "--file", history.path).stderr
    for words, said in (
        (["--target", "abcd"], "'abcd' begins the fingerprints of 2 targets"),
        (["ffff0000"], "no result is of a run or target 'ffff0000'; 'selector history list' shows both"),
    ):
        assert said in fails(2, "history", "forget", *words, "--file", history.path)
    for name, left in (("of-one", 3), ("abcd1234", 2), ("eeeeeeee", 1)):
        assert name in shown
        assert "forgot 1 results" in run("history", "forget", name, "--file", history.path).stderr
        assert len(history.results()) == left


@pytest.mark.parametrize(
    ("option", "incomplete", "expected"),
    [
        ("--proxies", "knn,log", "knn,logme"),
        ("--tags", "offl", "offline"),
        ("--models", "efficientnet-lite0,digits", "efficientnet-lite0,digits-mnist"),
    ],
)
def test_the_shell_completes_words_of_lists(option, incomplete, expected):
    line = f"selector scan photos {option} {incomplete}"
    environment = {"_SELECTOR_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": "4"}
    done = CliRunner().invoke(app, [], prog_name="selector", env=environment)
    assert expected in done.stdout.split("\n")


def clusters(rows: int = 90, width: int = 8, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(rows) % 3
    noise = np.random.default_rng(0).standard_normal((rows, width))
    return noise + spread * np.eye(width)[labels], labels


def test_several_proxies_give_a_mapping_of_what_each_gives_alone():
    features, labels = clusters()
    found = selector.score(features, labels, ["logme", "knn"], intervals=True)
    assert list(found) == ["logme", "knn"]
    for name, score in found.items():
        alone = selector.score(features, labels, name, intervals=True)
        assert (score.value, score.low, score.high) == (alone.value, alone.low, alone.high)
    with pytest.raises(ConfigError, match="k: parameters are of one proxy"):
        selector.score(features, labels, ["logme", "knn"], k=3)  # type: ignore[call-overload]


def test_ready_features_are_compared_with_intervals_and_ties():
    good, labels = clusters(spread=3.0)
    bad, _ = clusters(spread=0.0)
    ranking = selector.rank_features({"bad": bad, "good": good, "same": good.copy()}, labels, proxies="knn,logme")
    assert [m.name for m in ranking][-1] == "bad"
    assert ranking["good"].tied
    assert ranking["same"].tied
    assert not ranking["bad"].tied
    assert ranking["good"].p_best == pytest.approx(0.5)
    cell = ranking["good"].scores["knn"]
    assert cell.low is not None
    assert cell.low <= cell.value <= cell.high
    # folds are drawn from the rows of all arrays, so that they are the same for each
    assert cell.value == pytest.approx(float(selector.score(good, labels, "knn")), abs=0.03)
    order = np.random.default_rng(1).permutation(len(labels))
    arrays = {"good": good[order], "bad": bad[order], "same": good[order]}
    assert selector.rank_features(arrays, labels[order], proxies="knn")["good"].scores["knn"].value == cell.value
    hidden = np.ma.masked_array(good, mask=np.arange(good.size).reshape(good.shape) == 7)
    for given, message in (
        ({"a": good, "b": good[:3]}, "'b' has 3 rows and 'a' 90"),
        ({"a": np.array(["x"])}, r"features: 'a': features are <U1 \(1,\); expected floats \(N, D\)"),
        ({"a": hidden}, r"features are a masked array in which 1 values are masked \(first: row"),
    ):
        with pytest.raises(TargetError, match=message):
            selector.rank_features(given, labels)
    with pytest.raises(OptionError, match=r"features must be a mapping of names to arrays"):
        selector.rank_features(good, labels)  # type: ignore[arg-type]


def test_progress_is_shown_when_asked(photos, confirmed, tmp_path, monkeypatch, capsys):
    asked = {**FAST, "store": confirmed / "store"}
    selector.rank(photos, **asked)
    assert capsys.readouterr().err == ""
    selector.rank(photos, **{**asked, "store": tmp_path / "cold"}, models="tiny-resnet", progress=True)
    assert "extract tiny-resnet, 51/51 images" in capsys.readouterr().err
    monkeypatch.setattr("selector.core.progress.in_notebook", lambda: True)
    selector.rank(photos, **asked, progress=False)
    assert capsys.readouterr().err == ""


def test_what_takes_seconds_before_the_first_row_is_named(photos, confirmed, tmp_path):
    told: list[tuple[str, str, str]] = []

    def progress(step: Progress) -> None:
        told.append((step.stage, step.model, step.note))

    asked = {**FAST, "models": "tiny-resnet"}
    selector.rank(photos, **{**asked, "store": tmp_path / "cold"}, progress=progress)
    choosing = told.index(("load", "tiny-resnet", "choosing a backend"))
    first_row = next(place for place, (stage, *_) in enumerate(told) if stage == "extract")
    assert told.index(("load", "tiny-resnet", "")) < choosing < first_row
    told.clear()
    selector.rank(photos, **{**asked, "store": confirmed / "store"}, progress=progress)
    assert not [note for *_, note in told if note == "choosing a backend"]  # the store knows it


def test_a_notebook_is_known_by_its_kernel(monkeypatch):
    class ZMQInteractiveShell: ...

    assert not in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=ZMQInteractiveShell))
    assert in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    assert not in_notebook()


def test_what_a_notebook_shows_of_an_object_is_short(photos, confirmed):
    ranking = selector.load_ranking(confirmed / "run")
    assert re.fullmatch(r"Ranking\(photos: 60 items, 2 models, first tiny-\w+, measured\)", repr(ranking))
    assert re.fullmatch(r"ModelResult\(tiny-\w+: rank 1, frozen accuracy \d\.\d+ on val\)", repr(ranking.models[0]))
    target = selector.load_target(photos)
    assert repr(target) == "Target(photos: 60 items, 3 classes; train 42, val 9, test 9)"
    assert repr(selector.load_zoo(TINY)) == "Zoo(2 models: tiny-resnet, tiny-vit)"
    saved = selector.load_model(confirmed / "run")
    assert repr(saved).startswith("SavedModel(tiny-")
    assert repr(saved.predict(photos / "across" / "000.png")) == "Predictions(1 items, 3 classes)"


def test_the_short_table_holds_what_ranks_and_what_was_measured(confirmed):
    ranking = selector.load_ranking(confirmed / "run")
    short, whole = ranking.to_dataframe(short=True), ranking.to_dataframe()
    assert list(short)[:3] == ["rank", "model", "status"]
    assert {"p_best", "measured_frozen_val", "parameters"} <= set(short)
    assert len(list(short)) < 15 < len(list(whole))
    assert short["measured_frozen_val"].equals(whole["measured_frozen_val"])


def test_only_plots_are_completed_after_plot():
    assert dir(selector.plot) == ["agreement", "cost", "history", "intervals", "proxies"]
    assert all(callable(getattr(selector.plot, name)) for name in dir(selector.plot))


def dry(photos: Path, store: Path, *words: object) -> tuple[str, dict[str, Any]]:
    zoo = store.parent / "zoo.yaml"
    zoo.write_text(
        "models:\n"
        "- {name: tiny-resnet, source: 'timm:test_resnet', weights: none, params: 470000}\n"
        "- {name: other, source: 'timm:test_vit', weights: none, params: 370000}\n"
        "- {name: far, source: 'timm:resnet18.a1_in1k', params: 11700000}\n"
        "- {name: farther, source: 'timm:resnet34.a1_in1k', params: 21800000}\n"
    )
    asked = ["scan", photos, "--zoo", zoo, "--store", store, "--dry-run", "--offline", *words]
    return ok(*asked).stdout, json.loads(ok(*asked, "--json").stdout)


def test_a_dry_run_foresees_the_resolution_that_was_given(photos, tmp_path):
    words = ("--models", "tiny-resnet", "--budget", "10m", "--resolution", "64")
    assert "at 64 px" in dry(photos, tmp_path / "store", *words)[0]


def test_a_dry_run_gives_a_range_of_time_on_first_use(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("selector.scan.planning.arithmetic_rate", lambda: 1e10)
    shown, plan = dry(photos, tmp_path / "store", "--models", "tiny-resnet,other", "--device", "cpu")
    # 840 thousand parameters, 51 images of 224 x 224: operations by operations a second, loading and decoding
    low = 2 * 0.5 + 51 * 840_000 * 40 / (0.8 * 1e10) + 51 * 0.002
    high = 2 * 5.0 + 51 * 840_000 * 350 / (0.1 * 1e10) + 51 * 0.03
    assert (plan["seconds_low"], plan["seconds_high"]) == pytest.approx((low, high))
    assert plan["seconds"] is None
    assert re.search(r"time: 1\.\d s to 2\d\.\d s, estimated", shown)
    assert (plan["pixel_bytes"], plan["compiled_bytes"]) == (51 * 3 * 224 * 224, 4 * 840_000)
    assert "of decoded images" in shown
    assert "fine-tuning comes on top: at most 20 min" in shown
    shown, _ = dry(photos, tmp_path / "store", "--models", "other", "--budget", "90s")
    assert "scan and fine-tuning together: at most 1 min 30 s" in shown


def test_a_dry_run_knows_the_time_of_what_has_run(photos, tmp_path):
    asked = {**FAST, "store": tmp_path / "store", "device": "cpu"}
    selector.rank(photos, **asked)
    again = selector.plan(photos, **{**asked, "backend": "auto"})  # other rows of the same networks
    assert again.seconds is not None
    assert again.seconds_low < again.seconds < again.seconds_high
    assert selector.plan(photos, **asked).seconds == 0  # nothing is missing


def test_a_dry_run_groups_reasons(photos, tmp_path):
    shown, plan = dry(photos, tmp_path / "store")
    assert "2 of 4 models usable, 51 images" in shown
    assert re.search(r"not usable: far, farther: the weights of hub repository .* are not on this machine", shown)
    assert [list(names) for names in plan["unusable"].values()] == [["far", "farther"]]


def test_a_dry_run_counts_what_would_be_fetched(photos, tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    facts = types.SimpleNamespace(size=46_800_000, etag="abc")
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_: facts)
    monkeypatch.setattr("selector.sources._hub.no_answer", lambda *_: "")  # the hub answers
    plan = selector.plan(photos, zoo=["timm:resnet18.a1_in1k"], store=tmp_path / "store")
    assert plan.fetch_bytes == 46_800_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metric", "f1"], "--metric must be one of accuracy, balanced_accuracy, macro_f1"),
        (["--strategies", "lora2"], "unknown strategy 'lora2'; did you mean 'lora'?"),
        (["--backend", "eagr"], "unknown backend 'eagr'; did you mean 'eager'?"),
        (["--device", "gpu"], "--device must be auto, cpu, cuda, cuda:N or mps. Got 'gpu'."),
        (["--resolution", "64", "--task", "clasification"], "clasification"),
        (["--top-k", "9"], "--top-k is 9, but only"),
    ],
)
def test_a_dry_run_checks_every_option(photos, tmp_path, words, message):
    told = fails(2, "scan", photos, "--models", "*lite*", "--store", tmp_path / "store", "--dry-run", *words)
    assert message in told


def test_compiled_networks_are_trimmed_the_least_recently_used_first(tmp_path, monkeypatch):
    monkeypatch.setenv("SELECTOR_STORE_CACHE_SIZE", "4kB")  # of which compiled networks may take a quarter
    store = FeatureStore(tmp_path / "store")
    folder = store.compiled_folder / "openvino"
    folder.mkdir(parents=True)
    for age, name in enumerate(("new", "used", "old")):
        (folder / f"{name}.blob").write_bytes(b"x" * 500)
        os.utime(folder / f"{name}.blob", (1e9 - age, 1e9 - age))
    os.utime(folder / "used.blob", (2e9, 5e8))  # written long ago, read lately
    assert store.trim() == 500
    assert sorted(p.stem for p in folder.iterdir()) == ["new", "used"]
    assert store.pixels_ceiling == 3000
    monkeypatch.delenv("SELECTOR_STORE_CACHE_SIZE")
    assert 0 < store.cache_ceiling <= 20 * 10**9  # there is a ceiling when nothing is said


def test_a_scan_keeps_its_caches_below_the_ceiling(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("SELECTOR_STORE_CACHE_SIZE", "1MB")
    store = FeatureStore(tmp_path / "store")
    store.compiled_folder.mkdir(parents=True)
    (store.compiled_folder / "of-another-scan").write_bytes(b"x" * 400_000)
    selector.rank(photos, **{**FAST, "zoo": TINY[:1]}, store=store)
    assert store.parts()["pixels"] + store.parts()["compiled"] <= 1_000_000
    assert store.parts()["compiled"] == 0


def test_store_info_tells_what_takes_the_space(confirmed):
    shown = run("store", "info", "--store", confirmed / "store").stdout
    for words in ("features", "cache: decoded images", "cache: compiled models", "SELECTOR_STORE_CACHE_SIZE"):
        assert words in shown
    facts = json.loads(run("store", "info", "--store", confirmed / "store", "--json").stdout)
    assert facts["bytes"]["features"] > 0
    assert facts["bytes"]["pixels"] > 0
    assert sum(facts["bytes"].values()) == FeatureStore(confirmed / "store").size()
    assert facts["cache_ceiling"] > 0
