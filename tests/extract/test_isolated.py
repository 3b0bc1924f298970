"""Networks that crash, hang, end the process or eat the memory: each costs its own row and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import selector
from selector.core.errors import OptionError
from selector.extract.deaths import Deaths, SetAside
from selector.extract.isolated import Isolation
from selector.tasks.classification import Classification
from selector.tuning import run_tournament
from selector.zoo import ModelSpec
from tests.tuning.samples import MNIST, SVHN, candidate, pixels_for, small_target

ROOT = Path(__file__).parents[2]
QUICK: dict[str, Any] = {"proxies": ["knn"], "precision": "float32", "backend": "eager", "measure_cost": "never"}
GOOD = {"name": "good", "source": "timm:test_resnet", "weights": "none"}
OWN = ModelSpec(
    name="own", source="python:tests.support.networks:Orientation"
)  # of torch alone: a child has nothing else to import


def zoo(folder: Path, *names: str) -> Path:
    """A zoo file with networks of ``tests.support.networks`` that behave badly, between two that do not."""
    bad = [{"name": name, "source": f"python:tests.support.networks:{name}"} for name in names]
    file = folder / "zoo.yaml"
    file.write_text(json.dumps({"models": [GOOD, *bad, {**GOOD, "name": "last", "source": "timm:test_vit"}]}))
    return file


def test_networks_that_take_the_process_with_them_cost_their_own_row(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = tmp_path / "hangs"
    monkeypatch.setenv("SELECTOR_TEST_HANGS", str(hangs))
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 7200 * hangs.exists())  # nobody waits for two hours
    monkeypatch.setattr("selector.extract.isolated.time", clock)
    ranking = selector.rank(
        photos,
        zoo=zoo(tmp_path, "Exits", "Segfaults", "Orientation", "Hangs", "Grows"),
        trust_zoo=True,
        store=tmp_path / "store",
        model_timeout="1h",
        model_memory="1.5GB",
        **QUICK,
    )
    assert {m.name for m in ranking if m.status == "ok"} == {"good", "last", "Orientation"}
    reasons = {m.name: m.reason for m in ranking.failures}
    assert reasons["Exits"] == "Exits: it called sys.exit(0)"
    assert reasons["Segfaults"] == "Segfaults: the process that ran this model was killed by SIGSEGV."
    assert reasons["Hangs"].startswith("Hangs: it took longer than 1 h 00 min for its rows and was ended")
    assert "of memory, more than 1.5 GB" in reasons["Grows"]


def test_features_of_the_child_process_are_those_of_this_one(photos: Path, tmp_path: Path) -> None:
    scores = []
    for mode in ("on", "off"):
        ranking = selector.rank(photos, zoo=[OWN], isolate=mode, store=tmp_path / mode, **QUICK)
        scores.append([(m.name, m.scores["knn"].value, m.scores["knn"].low) for m in ranking])
    assert scores[0] == scores[1]


def test_which_networks_are_isolated() -> None:
    code, graph, plain, own = (
        ModelSpec(source=s)
        for s in ("python:a:b", "onnx:a.onnx", "timm:resnet18", "python:selector.networks:mnist_cnn")
    )
    assert [Isolation("auto", from_file=True).concerns(s) for s in (code, graph, plain, own)] == [
        True,
        True,
        False,
        False,
    ]
    assert not any(Isolation("auto").concerns(s) for s in (code, graph, plain, own))
    assert all(Isolation("on").concerns(s) for s in (code, graph, plain, own))
    with pytest.raises(OptionError, match="model_timeout must be more than 0"):
        selector.rank("x", model_timeout=0)


SCAN = """
import selector
from selector.zoo import ModelSpec
zoo = [ModelSpec(name="good", source="timm:test_resnet", weights="none"),
       ModelSpec(name="bad", source="python:tests.support.networks:EndsAtOnce")]
ranking = selector.rank({photos!r}, zoo=zoo, store={store!r}, proxies=["knn"], precision="float32", backend="eager", measure_cost="never")
print({{m.name: m.reason or m.status for m in ranking}})
"""


@pytest.mark.slow  # three processes
@pytest.mark.timeout(1200)
def test_a_network_that_two_runs_died_of_is_set_aside(photos: Path, tmp_path: Path) -> None:
    code = SCAN.format(photos=str(photos), store=str(tmp_path / "store"))
    runs = [
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
        for _ in range(3)
    ]
    assert [(run.returncode, run.stdout) for run in runs[:2]] == [(0, "")] * 2  # it ends the process: no word possible
    assert "bad: an earlier run ended while working on this model" in runs[1].stderr
    assert "'good': 'ok'" in runs[2].stdout
    assert "set aside, because 2 runs ended while they worked on this model" in runs[2].stdout
    assert "--isolate on" in runs[2].stdout


def died(at: Deaths, folder: Path, work: dict[str, Any], part: str = "", left: int = 10, **more: Any) -> None:
    """What a process that ended in the middle of some work leaves."""
    with contextlib.suppress(SystemExit), at.working_on("a", work, part, left):
        (file,) = folder.glob("*.json")
        record = json.loads(file.read_text())
        raise SystemExit
    file.write_text(json.dumps(record | {"now": record["now"] | {"started": 1.0}} | more))


def test_deaths_count_only_what_did_not_get_on_and_is_not_running(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deaths, work = Deaths(tmp_path), {"spec": "a"}
    with deaths.working_on("a", work, left=10), Deaths(tmp_path).working_on("a", work, left=10):
        assert not caplog.records  # this process is alive: nothing died
    assert not list(tmp_path.glob("*.json"))
    died(deaths, tmp_path, work)
    with deaths.working_on("a", work, left=10):
        assert "a: an earlier run ended while working on this model" in caplog.text
    died(deaths, tmp_path, work, deaths={"": 1})
    with deaths.working_on("a", work, left=4):  # rows were stored meanwhile: a long job that was killed
        pass
    died(deaths, tmp_path, work, deaths={"": 1})
    told = r"^a: set aside, because 2 runs ended .* leave it out, or remove .*json to try"
    with pytest.raises(SetAside, match=told), deaths.working_on("a", work, left=10):
        pytest.fail("it is not worked on")
    (file,) = tmp_path.glob("*.json")  # it stays set aside
    with pytest.raises(SetAside), deaths.working_on("a", work, "another part"):
        pytest.fail("it is not worked on")
    for damage in ("[1, ", '{"deaths": 2, "now": {"pid": "x"}}', '{"deaths": {"": "2"}, "now": [1]}'):
        file.write_text(damage)  # half a record counts as none
        with deaths.working_on("a", work, left=10):
            pass


def test_a_death_is_known_until_the_network_got_through(tmp_path: Path) -> None:
    deaths, work = Deaths(tmp_path), {"spec": "a"}
    assert not deaths.known(work)
    with deaths.working_on("a", work):
        assert not deaths.known(work)  # this process is alive
    died(deaths, tmp_path, work)
    assert deaths.known(work)
    with deaths.working_on("a", work):
        assert deaths.known(work)
    assert not deaths.known(work)


def test_deaths_count_by_part_and_one_part_inside_another_leaves_the_outer_on_record(tmp_path: Path) -> None:
    deaths, work = Deaths(tmp_path), {"spec": "a"}
    died(deaths, tmp_path, work, "load")
    with deaths.working_on("a", work, "load"):  # it got past this part
        pass
    died(deaths, tmp_path, work, "train")
    with deaths.working_on("a", work, "load"), deaths.working_on("a", work, "look"):
        pass
    (file,) = tmp_path.glob("*.json")
    assert json.loads(file.read_text())["deaths"] == {"train": 1}
    with deaths.working_on("a", work, "outer"):
        with deaths.working_on("a", work, "inner"):
            pass
        assert deaths.blame(os.getpid(), "it fell") == "a"
        died_now = file.read_text()
    assert deaths.blame(os.getpid(), "nothing is worked on") is None
    now = {"part": "train", "left": 0, "pid": 1, "started": 1.0}
    file.write_text(json.dumps(json.loads(died_now) | {"now": now}))
    told = r"2 runs ended while they worked on this model \(it fell\)"
    with pytest.raises(SetAside, match=told), deaths.working_on("a", work, "load"):
        pytest.fail("it is not worked on")


def test_an_interrupt_is_no_death(tmp_path: Path) -> None:
    deaths, work = Deaths(tmp_path), {"spec": "a"}
    for _ in range(3):
        with contextlib.suppress(SystemExit), deaths.working_on("a", work):
            deaths.forgive(os.getpid())
            (file,) = tmp_path.glob("*.json")
            left = file.read_text()
            raise SystemExit
        file.write_text(left)
    with deaths.working_on("a", work):
        pass


def test_a_network_that_runs_died_of_while_it_was_trained_is_set_aside_in_all_its_trainings(tmp_path: Path) -> None:
    target = small_target()
    people = [candidate(spec) for spec in (MNIST, SVHN)]
    about = {"candidate": dict(people[0].identity), "target": target.fingerprint}
    step = "training: a step of full"
    died(Deaths(tmp_path / "working"), tmp_path / "working", about, step, 0, deaths={step: 1})
    result = run_tournament(
        people, target, Classification(), pixels_for(target), strategies=("frozen", "full", "partial"), max_steps=4,
        repeats=0, checkpoint_folder=tmp_path,
    )  # fmt: skip
    reasons = {m.strategy: (m.status, m.note) for m in result.measurements["mnist_cnn"]}
    for strategy in ("full", "partial"):
        assert reasons[strategy][0] == "failed"
        assert "mnist_cnn: set aside, because 2 runs ended while they worked" in reasons[strategy][1]
    assert reasons["frozen"][0] == "ok"
    assert all(m.status == "ok" for m in result.measurements["svhn_cnn"])


TRAINING = """
import selector
from selector.zoo import ModelSpec
zoo = [ModelSpec(name="good", source="python:tests.support.networks:Orientation"),
       ModelSpec(name="bad", source="python:tests.support.networks:EndsWhenTrained")]
ranking = selector.rank({photos!r}, zoo=zoo, store={store!r}, proxies=["knn"], precision="float32", backend="eager",
                        measure_cost="never", confirm=True, strategies="full", max_steps=4, out={out!r})
print({{m.name: [(x.status, x.note) for x in m.measurements] for m in ranking}})
"""


@pytest.mark.slow  # three processes
@pytest.mark.timeout(1200)
def test_a_network_that_ends_its_process_in_training_is_named_and_then_set_aside(photos: Path, tmp_path: Path) -> None:
    code = TRAINING.format(photos=str(photos), store=str(tmp_path / "store"), out=str(tmp_path / "run"))
    runs = [
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
        for _ in range(3)
    ]
    assert [(run.returncode, run.stdout) for run in runs[:2]] == [(0, "")] * 2
    assert "bad: an earlier run ended while working on this model" in runs[1].stderr
    assert "bad: set aside, because 2 runs ended while they worked on this model" in runs[2].stdout
    assert "'good': [('ok', '')" in runs[2].stdout  # and it is saved


def test_a_print_leaves_json_alone_and_a_chdir_leaves_the_run_where_it_was_asked_for(
    photos: Path, tmp_path: Path
) -> None:
    file = tmp_path / "zoo.yaml"
    networks = [{"name": n, "source": f"python:tests.support.networks:{n}"} for n in ("Prints", "Moves", "Orientation")]
    file.write_text(json.dumps({"models": networks}))
    words = ["scan", str(photos), "--zoo", str(file), "--trust-zoo", "--isolate", "off"]
    words += ["--no-confirm", "--json", "--out", "run", "--proxies", "knn", "--store", str(tmp_path / "store")]
    words += ["--measure-cost", "never", "--precision", "float32", "--backend", "eager"]
    done = subprocess.run(
        [sys.executable, "-m", "selector", *words],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert {m["name"]: m["status"] for m in json.loads(done.stdout)["models"]} == dict.fromkeys(
        ("Prints", "Moves", "Orientation"), "ok"
    )
    assert "printed by a network" in done.stderr
    assert "printed past python" in done.stderr
    assert (tmp_path / "run" / "run.json").is_file()


@pytest.mark.slow
def test_the_child_ends_with_its_parent(photos: Path, tmp_path: Path) -> None:
    code = SCAN.replace("zoo=zoo", "zoo=zoo, isolate='on'").replace("EndsAtOnce", "Hangs")
    code = code.format(photos=str(photos), store=str(tmp_path / "store"))
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL)
    import psutil

    child: list[psutil.Process] = []
    deadline = time.monotonic() + 90
    while not child and time.monotonic() < deadline:
        child = [p for p in psutil.Process(parent.pid).children() if "selector.core.child" in " ".join(p.cmdline())]
        time.sleep(0.1)
    assert child
    parent.kill()
    parent.wait()
    assert not psutil.wait_procs(child, timeout=30)[1]


@pytest.mark.slow  # several child processes, each of which imports torch
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["EndsWhenTrained", "EndsWhenSaved"])
def test_a_network_that_ends_its_process_in_a_confirmation_costs_its_own_trainings(
    name: str, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "zoo.yaml"
    networks = ["Orientation", name] if name == "EndsWhenTrained" else [name, "Blind"]
    file.write_text(
        json.dumps({"models": [{"name": n, "source": f"python:tests.support.networks:{n}"} for n in networks]})
    )
    ranking = selector.rank(
        photos, zoo=file, trust_zoo=True, store=tmp_path / "store", out=tmp_path / "run", confirm=True, pilot_cost=0,
        strategies=["full"] if name == "EndsWhenTrained" else ["frozen"], max_steps=4, history=False, **QUICK,
    )  # fmt: skip
    assert f"{name}: its process ended itself with exit code 0; the confirmation goes on in another" in caplog.text
    found = {m.strategy: m for m in ranking[name].measurements}
    told = f"{name}: set aside, because 2 runs ended while they worked on this model (its process ended itself with"
    assert any(m.status == "failed" and told in m.note for m in found.values()), found
    other = next(n for n in networks if n != name)
    assert any(m.status == "ok" for m in ranking[other].measurements)
    assert json.loads((tmp_path / "run" / "best" / "config.json").read_text())["name"] == other
    assert selector.load_ranking(tmp_path / "run").confirmation
    assert ranking.loaded_target is not None


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ctrl_c_ends_a_confirmation_in_its_child_and_is_no_death(photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "zoo.yaml"
    file.write_text(
        json.dumps(
            {"models": [{"name": n, "source": f"python:tests.support.networks:{n}"} for n in ("Orientation", "Blind")]}
        )
    )
    words = [
        "scan", str(photos), "--zoo", str(file), "--trust-zoo", "--store", str(tmp_path / "store"), "--proxies", "knn",
        "--measure-cost", "never", "--precision", "float32", "--backend", "eager", "--strategies", "full", "--max-steps", "100000",
        "--pilot-cost", "0", "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    run = subprocess.Popen(
        [sys.executable, "-m", "selector", *words], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a run in the background ignores it
    )  # fmt: skip
    assert run.stderr is not None
    for line in run.stderr:
        if line.startswith("train "):
            break
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=120)
    assert run.returncode == 130, said
    assert "the same command goes on where it stopped" in said
    assert "Traceback" not in said
    for record in (tmp_path / "store").rglob("working/*.json"):
        assert not json.loads(record.read_text()).get("deaths")
