"""What a first day with the tool stumbled over, on the command line and in the library."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import selector
from selector.cli.app import app
from selector.core.errors import ConfigError, OptionError
from selector.ranking.history import History
from selector.ranking.history import Result as Figure
from selector.results import best_folder
from selector.zoo import ModelSpec

TINY = [
    ModelSpec(name="tiny-resnet", source="timm:test_resnet", weights="none"),
    ModelSpec(name="tiny-vit", source="timm:test_vit", weights="none"),
]
FAST = {"zoo": TINY, "proxies": ["knn"], "precision": "float32", "backend": "eager", "history": False}
TRAIN = {"confirm": True, "top_k": 1, "strategies": "frozen", "max_steps": 4, "resolution": 32}


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def confirmed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("confirmed")
    selector.rank(photos, **FAST, **TRAIN, store=folder / "store", out=folder / "run")
    return folder


@pytest.fixture
def copy(confirmed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(confirmed / "run", tmp_path / "run"))


def test_a_confirmed_run_is_replaced_only_when_asked(photos: Path, confirmed: Path, copy: Path) -> None:
    asked = {**FAST, "store": confirmed / "store", "out": copy}
    before = (copy / "run.json").read_bytes()
    with pytest.raises(OptionError, match=r"out: .* holds a confirmed run, and this one, that is not confirmed"):
        selector.rank(photos, **asked)
    with pytest.raises(OptionError, match="holds a confirmed run"):
        selector.plan(photos, **asked)
    assert (copy / "run.json").read_bytes() == before
    again = selector.rank(photos, **asked, **TRAIN)  # the same scan goes on in its folder
    assert best_folder(again) == copy / "best"
    unconfirmed = selector.rank(photos, **asked, force=True)
    assert unconfirmed.path == copy
    assert best_folder(unconfirmed) is None
    assert not (copy / "best").exists()


def test_the_command_line_speaks_of_force_in_its_own_words(photos: Path, copy: Path, tmp_path: Path) -> None:
    told = run("scan", photos, "--models", "digits*", "--no-confirm", "--out", copy, "--store", tmp_path / "s")
    assert told.exit_code == 2
    assert f"error: --out: {copy} holds a confirmed run" in told.stderr
    assert "say --force" in told.stderr


def test_a_model_of_another_run_is_not_taken_for_this_runs(photos: Path, confirmed: Path, copy: Path) -> None:
    document = json.loads((copy / "run.json").read_text())
    assert selector.load_model(copy).path == copy / "best"
    for changed, message in (
        ({"confirmation": {}}, "is a run without a confirmation of its own"),
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
    told = run("predict", copy, photos)
    assert told.exit_code == 2
    assert f"holds no model yet; run: selector confirm {copy}" in told.stderr


def test_trust_is_checked_before_anything_is_loaded(confirmed: Path, copy: Path) -> None:
    document = json.loads((copy / "run.json").read_text())
    for model in document["models"]:
        model["spec"] = {**model["spec"], "source": "python:tests.networks:explodes"}
    document["target"]["origin"]["path"] = str(copy / "nowhere")  # would be the error if the target came first
    (copy / "run.json").write_text(json.dumps(document))
    with pytest.raises(OptionError, match=r"trust_zoo: .*runs code"):
        selector.confirm(copy)
    assert "--trust-zoo: " in run("confirm", copy).stderr


def test_forget_takes_what_list_shows(tmp_path: Path) -> None:
    history = History(tmp_path / "h.sqlite")
    history.add(
        [Figure(f"{start}{'0' * 24}", "net", "accuracy", 0.5) for start in ("abcd1234", "abcd5678", "ffff0000")]
    )
    shown = run("history", "list", "--file", history.path).stdout
    assert "ffff0000" in shown
    assert "forgot 1 results" in run("history", "forget", "--target", "ffff0000", "--file", history.path).stderr
    told = run("history", "forget", "--target", "abcd", "--file", history.path)
    assert told.exit_code == 2
    assert "'abcd' begins the fingerprints of 2 targets" in told.stderr
    assert len(history.results()) == 2


@pytest.mark.parametrize(
    ("option", "incomplete", "expected"),
    [
        ("--proxies", "knn,log", "knn,logme"),
        ("--tags", "offl", "offline"),
        ("--models", "efficientnet-lite0,digits", "efficientnet-lite0,digits-mnist"),
    ],
)
def test_the_shell_completes_words_of_lists(option: str, incomplete: str, expected: str) -> None:
    line = f"selector scan photos {option} {incomplete}"
    done = CliRunner().invoke(
        app, [], prog_name="selector",
        env={"_SELECTOR_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": "4"},
    )  # fmt: skip
    assert expected in done.stdout.split("\n")


def test_license_is_a_second_spelling(photos: Path, tmp_path: Path) -> None:
    for spelling in ("--licence", "--license"):
        told = run("scan", photos, spelling, "mti", "--dry-run", "--store", tmp_path)
        assert told.exit_code == 2
        assert "licence 'mti' is no class" in told.stderr
