"""Networks that crash, hang, end the process or eat the memory: each costs its own row and nothing else."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import selector
from selector.core.errors import OptionError
from selector.extract.job import Isolation
from selector.run.pool import Pool
from selector.zoo import ModelSpec

ROOT = Path(__file__).parents[2]
QUICK: dict[str, Any] = {"proxies": ["knn"], "precision": "float32", "backend": "eager", "measure_cost": "never"}
GOOD = {"name": "good", "source": "timm:test_resnet", "weights": "none"}
OWN = "python:tests.support.networks:"  # of torch alone: a child has nothing else to import


def zoo(folder: Path, *names: str, between: bool = False) -> Path:
    """A zoo file with networks of ``tests.support.networks``, many of which behave badly; ``between`` two of timm."""
    own = [{"name": name, "source": f"{OWN}{name}"} for name in names]
    file = folder / "zoo.yaml"
    others = [{**GOOD, "name": "last", "source": "timm:test_vit"}]
    file.write_text(json.dumps({"models": [GOOD, *own, *others] if between else own}))
    return file


def scan(folder: Path, photos: Path, *names: str, **options: Any) -> Any:
    asked = {"store": folder / "store", "trust_zoo": True, "history": False, **QUICK}
    return selector.rank(photos, zoo=zoo(folder, *names, between=True), **{**asked, **options})


def test_a_model_that_takes_its_process_along_costs_one_row(photos, tmp_path, monkeypatch):
    hangs = tmp_path / "hangs"
    monkeypatch.setenv("SELECTOR_TEST_HANGS", str(hangs))
    monkeypatch.setattr(  # nobody waits for two hours
        "selector.scan.checks.Pool",
        lambda *args, **more: Pool(*args, **more, now=lambda: time.monotonic() + 7200 * hangs.exists()),
    )
    names = ("Exits", "Segfaults", "Orientation", "Hangs", "Grows")
    ranking = scan(tmp_path, photos, *names, model_timeout="1h", model_memory="1.5GB")
    assert {m.name for m in ranking if m.status == "ok"} == {"good", "last", "Orientation"}
    reasons = {m.name: m.reason for m in ranking.failures}
    assert reasons["Exits"] == "it called sys.exit(0)"
    assert reasons["Segfaults"] == "Segfaults: the process that ran this model was killed by SIGSEGV (second attempt)."
    assert "took longer than 1 h 00 min for its rows and was ended" in reasons["Hangs"]
    assert "of memory, more than 1.5 GB" in reasons["Grows"]
    own = [ModelSpec(name="own", source=f"{OWN}Orientation")]
    here = selector.rank(photos, zoo=own, isolate="off", store=tmp_path / "here", history=False, **QUICK)
    of_a_child, of_this = (found.scores["knn"] for found in (ranking["Orientation"], here["own"]))
    assert (of_a_child.value, of_a_child.low) == (of_this.value, of_this.low)


def processes_of(folder: Path) -> list[psutil.Process]:
    """Processes with a variable that names this folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("SELECTOR_TEST_FORKS") == str(folder):
                found.append(process)
    return [process for process in found if process.pid != os.getpid()]


def test_a_model_that_forks_answers_for_itself_alone(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("SELECTOR_TEST_FORKS", str(tmp_path))
    monkeypatch.setattr("selector.run.pool.MOST_PROCESSES", 12)
    ranking = scan(tmp_path, photos, "ForksAndDies", "Orientation", "Forks", "Blind", "Multiplies")
    found = {m.name: (m.status, m.reason) for m in ranking}
    died = "the process that ran this model was killed by SIGKILL (has the system run out of memory?) (second attempt)."
    assert found["ForksAndDies"] == ("failed", f"ForksAndDies: {died}")
    assert found["Multiplies"][0] == "failed"
    assert "processes, more than 11, and was ended" in found["Multiplies"][1]
    assert {name for name, (status, _) in found.items() if status == "ok"} == {
        "good", "last", "Orientation", "Forks", "Blind",
    }  # fmt: skip
    alone = scan(tmp_path, photos, "Orientation", "Blind", store=tmp_path / "alone")
    for name in ("Orientation", "Blind", "last"):
        assert ranking[name].scores["knn"].value == alone[name].scores["knn"].value
    assert not processes_of(tmp_path)


KILLED = """
import os, sys
from pathlib import Path
import selector
from selector.zoo import ModelSpec
targets, store, kill = sys.argv[1].split(","), Path(sys.argv[2]), sys.argv[3]
zoo = [ModelSpec(name="sees", source="python:tests.support.networks:Orientation"),
       ModelSpec(name="slow", source="python:tests.support.networks:Slow"),
       ModelSpec(name="blind", source="python:tests.support.networks:Blind")]
def die(progress):
    if progress.stage == "extract" and progress.model == kill:
        os.kill(os.getpid(), 9)  # the driver, while it works on this model
found = selector.rank(targets, zoo=zoo, store=store, proxies=["knn"], precision="float32", backend="eager", measure_cost="never",
                      isolate=sys.argv[4], history=False, progress=die if kill else False)
print([[(m.name, m.status, m.scores["knn"].value) for m in ranking] for ranking in found])
"""


@pytest.mark.slow  # four processes for each
@pytest.mark.parametrize("isolate", ["off", "on"])
def test_a_killed_driver_blames_no_model(isolate, photos, tmp_path):
    second = tmp_path / "second"
    shutil.copytree(photos, second)
    next(iter(second.rglob("*.png"))).unlink()

    def run(store: Path, kill: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", KILLED, f"{photos},{second}", str(store), kill, isolate]
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)

    undisturbed = run(tmp_path / "a", "")
    assert undisturbed.returncode == 0, undisturbed.stderr
    for _ in range(3):  # each time while it works on one and the same model
        assert run(tmp_path / "b", "slow").returncode == -signal.SIGKILL
    after = run(tmp_path / "b", "")
    assert after.stdout == undisturbed.stdout
    assert "earlier" not in after.stderr


def test_which_networks_are_isolated():
    sources = ("python:a:b", "onnx:a.onnx", "timm:resnet18", "python:selector.networks:mnist_cnn")
    specs = [ModelSpec(source=source) for source in sources]
    assert [s for s in specs if Isolation("auto", from_file=True).concerns(s)] == specs[:2]  # code, and a graph
    assert not any(Isolation("auto").concerns(s) for s in specs)
    assert all(Isolation("on").concerns(s) for s in specs)
    with pytest.raises(OptionError, match="model_timeout must be more than 0"):
        selector.rank("x", model_timeout=0)


def command(photos: Path, zoo: Path, store: Path) -> list[str]:
    return [
        sys.executable, "-m", "selector", "scan", str(photos), "--zoo", str(zoo), "--store", str(store), "--trust-zoo",
        "--proxies", "knn", "--measure-cost", "never", "--precision", "float32", "--backend", "eager",
    ]  # fmt: skip


def test_prints_and_a_chdir_of_models_leave_the_run_alone(photos, tmp_path):
    names = ("Prints", "Moves", "Orientation")
    words = [*command(photos, zoo(tmp_path, *names), tmp_path / "store"), "--isolate", "off", "--no-confirm", "--json"]
    done = subprocess.run(
        [*words, "--out", "run"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert {m["name"]: m["status"] for m in json.loads(done.stdout)["models"]} == dict.fromkeys(names, "ok")
    assert "printed by a network" in done.stderr
    assert "printed past python" in done.stderr
    assert (tmp_path / "run" / "run.json").is_file()


@pytest.mark.slow
def test_a_worker_and_its_copies_end_with_their_driver(photos, tmp_path):
    code = (
        "import selector\nfrom selector.zoo import ModelSpec\n"
        "selector.rank({photos!r}, zoo=[ModelSpec(name='a', source='python:tests.support.networks:HangsWithACopy')], store={store!r}, "
        "proxies=['knn'], precision='float32', backend='eager', measure_cost='never', isolate='on')"
    ).format(photos=str(photos), store=str(tmp_path / "store"))
    mark = tmp_path / "hangs"
    environment = {**os.environ, "SELECTOR_TEST_FORKS": str(tmp_path), "SELECTOR_TEST_HANGS": str(mark)}
    driver = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    left = [process for process in processes_of(tmp_path) if process.pid != driver.pid]
    assert len(left) >= 2
    driver.kill()
    driver.wait()
    assert not psutil.wait_procs(left, timeout=30)[1]


@pytest.mark.slow  # several child processes, each of which imports torch
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["EndsWhenTrained", "EndsWhenSaved"])
def test_a_model_that_dies_in_training_costs_its_trainings(name, photos, tmp_path, caplog):
    caplog.set_level("INFO", "selector.run.executor")
    networks = ["Orientation", name] if name == "EndsWhenTrained" else [name, "Blind"]
    ranking = selector.rank(
        photos, zoo=zoo(tmp_path, *networks), trust_zoo=True, store=tmp_path / "store", out=tmp_path / "run",
        confirm=True, pilot_cost=0, strategies=["full"] if name == "EndsWhenTrained" else ["frozen"], max_steps=4,
        history=False, **QUICK,
    )  # fmt: skip
    assert f"{name}: its worker ended itself with exit code 0; it runs again" in caplog.text
    found = {m.strategy: m for m in ranking[name].measurements}
    told = f"{name}: given up, because its process ended itself with exit code 0, also in a second attempt"
    assert any(m.status == "failed" and told in m.note for m in found.values()), found
    other = next(n for n in networks if n != name)
    assert any(m.status == "ok" for m in ranking[other].measurements)
    assert json.loads((tmp_path / "run" / "best" / "config.json").read_text())["name"] == other
    assert selector.load_ranking(tmp_path / "run").confirmation
    assert ranking.loaded_target is not None


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ctrl_c_ends_a_confirmation_in_its_worker(photos, tmp_path):
    words = command(photos, zoo(tmp_path, "Orientation", "Blind"), tmp_path / "store")
    words += ["--out", str(tmp_path / "run"), *["--strategies", "full", "--max-steps", "100000", "--pilot-cost", "0"]]
    run = subprocess.Popen(
        words, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
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
