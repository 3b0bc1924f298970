"""The command line: output, exit codes, one document for --json, and a --help that does not make one wait."""

import http.server
import io
import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import Result

from selector.core.contracts import Progress
from selector.core.errors import ConfigError
from selector.core.progress import ProgressView, line
from selector.report.ranking import load_ranking
from tests.support.commands import fails, ok, run

HEAVY = ("torch", "torchvision", "timm", "pandas", "pydantic", "numpy", "scipy", "sklearn", "faiss", "jinja2", "yaml")
ZOO = """\
version: 1
models:
- {name: tiny-resnet, source: "timm:test_resnet", weights: none, license: apache-2.0, tags: [tiny]}
- {name: tiny-vit, source: "timm:test_vit", weights: none, tags: [tiny, vit]}
"""
pytestmark = pytest.mark.usefixtures("own_logging")
FAST = ["--precision", "float32", "--backend", "eager", "--proxies", "knn,logme"]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("zoo") / "zoo.yaml"
    path.write_text(ZOO)
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli") / "store"


@pytest.fixture(scope="module")
def confirmed(photos: Path, zoo: Path, store: Path) -> tuple[Path, Result]:
    """A scan as a person runs it, on two tiny networks."""
    out = store.parent / "run"
    training = ["--top-k", 1, "--max-steps", 8, "--strategies", "frozen", "--resolution", 32]
    result = ok("scan", photos, "--zoo", zoo, "--store", store, "--out", out, *training, *FAST)
    return out, result


def test_a_scan_that_the_store_answers_imports_nothing_that_it_does_not_need(confirmed, photos, zoo, store):
    scan = ["scan", photos, "--zoo", zoo, "--store", store, "--out", store.parent / "again", "--no-confirm", *FAST]
    code = (
        "import sys\n"
        "from selector.cli import app\n"
        f"try: app({[str(word) for word in scan]!r}, prog_name='selector')\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'timm', 'torchmetrics', 'pandas', 'sklearn', 'matplotlib'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "report: " in done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from selector.cli import app\n"
        "try: app(['--help'], prog_name='selector')\n"
        "except SystemExit: pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)\n"
    )
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # the processor's time, not the clock's: other work on the machine must not decide a test
        spent.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
        assert done.stderr.strip() == "[]"
        assert "Rank the models of a zoo" in done.stdout
    assert min(spent) < 0.5, spent


@pytest.mark.parametrize("words", [
    "scan", "confirm", "report", "compare", "predict", "export", "proxies", "doctor", "demo", "zoo", "store",
    "zoo list", "zoo check", "store path", "store list", "store size", "store verify", "store prune",
])  # fmt: skip
def test_every_command_has_help(words):
    assert "Usage:" in ok(*words.split(), "--help").stdout


def test_version_and_module():
    done = subprocess.run([sys.executable, "-m", "selector", "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"selector \d+\.\d+\.\d+\n", done.stdout)


def test_scan_prints_the_table_and_says_where_things_lie(confirmed):
    out, result = confirmed
    assert re.search(r"1\s+tiny-", result.stdout)
    for word in ("photos, 60 items", "linear", "knn"):
        assert word in result.stdout
    assert "\x1b" not in result.output  # no colors and no bars without a terminal
    assert f"report: {out / 'report.html'}" in result.stderr
    assert f"model:  {out / 'best'}" in result.stderr
    assert re.search(r"extract tiny-resnet, 51/51 images", result.stderr)
    assert load_ranking(out).best.best_measurement() is not None
    assert {"run.json", "report.html", "best"} <= {p.name for p in out.iterdir()}


def test_after_a_confirmation_the_terminal_says_what_to_take_and_why(confirmed):
    out, result = confirmed
    ranking = load_ranking(out)
    best = ranking.models[0].best_measurement()
    assert best is not None
    assert f"Start from {ranking.models[0].name} and " in result.stdout
    assert f"Measured: accuracy {best.test_value:.3f} on the test split" in result.stdout
    for sentence in [*ranking.confirmation["advice"], *ranking.confirmation["tuning_log"]]:
        assert sentence in result.stdout


def test_scan_again_answers_from_the_store_as_one_document(photos, zoo, store, confirmed, tmp_path):
    result = ok("scan", photos, "--zoo", zoo, "--store", store, "--out", tmp_path, "--no-confirm", "--json", *FAST)
    document = json.loads(result.stdout)
    assert [m["cached"] for m in document["models"]] == [True, True]
    assert "extract" not in result.stderr
    assert all(not m["measurements"] for m in document["models"])


def test_the_reports_command_repeats_the_run(confirmed, tmp_path):
    from selector.report.html import command

    out, _ = confirmed
    words = shlex.split(command(load_ranking(out)) or "")
    result = ok(*words[1:-1], tmp_path / "again", "--store", out.parent / "store")
    first, second = load_ranking(out), load_ranking(tmp_path / "again")
    assert [m.name for m in second] == [m.name for m in first]
    assert np.isfinite([m.transferability for m in first]).all()
    assert [m.transferability for m in second] == [m.transferability for m in first]
    assert "linear" in result.stdout


def test_a_scan_without_out_names_its_folder_by_the_target(photos, zoo, store, confirmed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ok("scan", photos, "--zoo", zoo, "--store", store, "--no-confirm", *FAST)
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("photos-")
    assert (folder / "report.html").is_file()


def test_dry_run_does_nothing_and_knows_what_is_cached(photos, zoo, store, confirmed, tmp_path):
    words = ["scan", photos, "--zoo", zoo, "--out", tmp_path / "run", "--dry-run", *FAST, "--store"]
    shown = ok(*words, tmp_path / "store").stdout
    assert "tiny-resnet" in shown
    assert "2 of 2 models usable, 51 images" in shown
    for place, counts in ((tmp_path / "store", (0, 51)), (store, (51, 0))):
        plan = json.loads(ok(*words, place, "--json").stdout)
        assert [(m["cached"], m["missing"]) for m in plan["models"]] == [counts, counts]
        assert (plan["disk_bytes"] == 0) == (place == store)
    assert not (tmp_path / "run").exists()
    assert not list((tmp_path / "store").glob("entries/*"))


def test_failed_models_are_exit_code_3_and_all_failed_is_1(photos, store, tmp_path):
    zoo = tmp_path / "zoo.yaml"
    zoo.write_text(ZOO + '- {name: absent, source: "timm:resnet18.a1_in1k"}\n')
    words = ["scan", photos, "--zoo", zoo, "--store", store, "--no-confirm", "--offline", "--out", tmp_path / "run"]
    result = run(*words, *FAST)
    assert result.exit_code == 3, result.output
    assert "Failed: absent:" in result.stdout
    assert "absent" in (tmp_path / "run" / "report.html").read_text()
    assert run(*words, *FAST, "--models", "absent").exit_code == 1


def test_no_model_within_the_limits_is_exit_code_1_as_when_all_failed(photos, zoo, store, tmp_path):
    words = ["scan", photos, "--zoo", zoo, "--store", store, "--no-confirm", "--out", tmp_path / "run", *FAST]
    told = fails(1, *words, "--max-params", "1")
    assert "error: no model was ranked; the table says why each one failed or which limit it exceeds." in told
    assert "report:" in told


WRONG = {
    "scan x --frobnicate": "No such option",
    "scan": "Missing argument",
    "scan NOWHERE": "nowhere",
    "scan @x\0": r"the list of targets x\x00 cannot be read",
    "scan PHOTOS --top-k 3": "--top-k is 3, but only 2 model(s) are selected; lower it to at most 2 or select more models.",
    "scan PHOTOS --top-k 0": "Invalid value for '--top-k'",
    "scan PHOTOS --tags tinny": "unknown tag 'tinny'; did you mean 'tiny'?",
    f"scan PHOTOS --max-params {'9' * 5000}": "--max-params: A count must be finite, such as 30M",
    f"scan PHOTOS --max-pixels {'9' * 5000}": "--max-pixels: A count must be finite",
    "scan PHOTOS --store s\0": r"the store 's\x00' holds a NUL character",
    "confirm NOWHERE": "is not a run: it has no run.json",
    "confirm RUN --top-k 9": "--top-k must be an int in the range [1, 2]",
    "export RUN": "Missing option '--onnx'",
    "predict RUN NOWHERE/none.png": "no image matches",
    "predict NOWHERE PHOTOS": "holds no saved model",
    "proxies lgme": "unknown proxy 'lgme'; did you mean 'logme'?",
    "proxies --plugin NOWHERE/none.py": "there is no such file",
    "proxies --plugin no_such_module": "--plugin no_such_module: no such module",
    "zoo list --license permisive": "did you mean 'permissive'?",
    "store prune": "nothing selects what to remove",
}


@pytest.mark.parametrize("line", WRONG, ids=lambda line: line[:40].replace("\0", "NUL"))
def test_what_is_wrong_is_exit_code_2_with_a_reason(line, confirmed, photos, zoo, tmp_path):
    places = {"PHOTOS": photos, "NOWHERE": tmp_path / "nowhere", "RUN": confirmed[0]}
    words = [re.sub("^[A-Z]+", lambda found: str(places[found[0]]), word) for word in line.split(" ")]
    if "PHOTOS" in line and words[0] == "scan":
        words += ["--zoo", zoo]
    assert WRONG[line] in fails(2, *words)


def test_an_error_with_json_is_one_document_too(tmp_path):
    result = run("scan", tmp_path / "nowhere", "--json")
    assert result.exit_code == 2
    error = json.loads(result.stdout)["error"]
    assert error["type"] == "TargetError"
    assert error["message"] in result.stderr


def test_debug_shows_the_traceback(tmp_path):
    assert "Traceback" not in fails(2, "report", tmp_path)
    told = fails(2, "report", tmp_path, "--debug")
    assert "Traceback" in told
    assert f"error: {tmp_path} is not a run: it has no run.json" in told


def test_a_plugin_brings_a_proxy(photos, zoo, store, confirmed, tmp_path):
    plugin = tmp_path / "my_proxies.py"
    plugin.write_text(
        "from selector.proxies import proxy\n"
        "@proxy('mean-size', summary='Mean absolute feature.')\n"
        "def mean_size(features):\n"
        "    return float(abs(features.rows).mean())\n"
    )
    words = ["scan", photos, "--zoo", zoo, "--store", store, "--no-confirm", "--out", tmp_path / "run"]
    try:
        shown = ok(*words, "--plugin", plugin, *FAST[:4], "--proxies", "mean-size,knn").stdout
        assert "mean-size" in shown
    finally:
        from selector.proxies import registry

        registry._objects.pop("mean-size", None)


def test_confirm_measures_more(photos, confirmed, store, tmp_path):
    out, _ = confirmed
    words = ["--max-steps", 8, "--strategies", "frozen", "--resolution", 32]
    result = ok("confirm", out, "--top-k", 2, *words, "--store", store, "--out", tmp_path / "more")
    assert sum(bool(m.measurements) for m in load_ranking(tmp_path / "more")) == 2
    assert "report:" in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_ctrl_c_is_exit_code_130_and_the_same_command_goes_on(photos, tmp_path):
    zoo = tmp_path / "zoo.yaml"
    zoo.write_text('models:\n- {name: slow, source: "python:tests.support.networks:slow"}\n')
    words = [sys.executable, "-m", "selector", "scan", str(photos), "--zoo", str(zoo), "--store", str(tmp_path / "s")]
    words += ["--no-confirm", "--trust-zoo", "--out", str(tmp_path / "run"), *FAST]
    with subprocess.Popen(
        words,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        # where the tests run in the background of a shell, interrupts are ignored and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        first = process.stderr.readline()  # the first finished step
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(60) == 130, first + rest
    assert "interrupted; the same command goes on where it stopped." in rest
    assert "Traceback" not in rest
    ok(*words[3:], "--isolate", "off")  # in this process, which has all libraries at hand


def test_report_is_written_again(confirmed):
    out, _ = confirmed
    (out / "report.html").unlink()
    assert ok("report", out).stdout.strip() == str(out / "report.html")
    assert json.loads(ok("report", out, "--json").stdout) == {"report": str(out / "report.html")}
    assert "tiny-" in (out / "report.html").read_text()


def test_predict(confirmed, photos, tmp_path):
    out, _ = confirmed
    images = [photos / "across" / "000.png", photos / "upright" / "001.png"]
    shown = ok("predict", out, *images).stdout
    assert "000.png" in shown
    assert "%" in shown
    document = json.loads(ok("predict", out, *images, "--json", "--top", 2).stdout)
    assert [len(row["top"]) for row in document] == [2, 2]
    assert document[0]["label"] in {"across", "leaning", "upright"}
    assert ok("predict", out, *images, "--csv").stdout.startswith("item,label,probability")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    result = run("predict", out, images[0], broken)
    assert result.exit_code == 3
    assert str(broken) in result.stderr


def test_zoo_list_and_check(zoo, tmp_path):
    assert re.search(r"tiny-vit\s+timm:test_vit .* tiny, vit", ok("zoo", "list", "--zoo", zoo).stdout)
    tagged = json.loads(ok("zoo", "list", "--zoo", zoo, "--tags", "vit", "--json").stdout)
    assert [m["name"] for m in tagged] == ["tiny-vit"]
    allowed = json.loads(ok("zoo", "list", "--zoo", zoo, "--license", "permissive", "--json").stdout)
    assert [m["name"] for m in allowed] == ["tiny-resnet"]
    shipped = {m["name"] for m in json.loads(ok("zoo", "list", "--tags", "offline", "--json").stdout)}
    assert {"efficientnet-lite0", "digits-mnist", "resnet18-untrained"} <= shipped
    checked = json.loads(ok("zoo", "check", "--zoo", zoo, "--json").stdout)
    assert [(m["name"], m["usable"]) for m in checked] == [("tiny-resnet", True), ("tiny-vit", True)]
    other = tmp_path / "other.yaml"
    other.write_text(ZOO + '- {name: absent, source: "timm:resnet18.a1_in1k"}\n- {name: code, source: "python:a:b"}\n')
    result = run("zoo", "check", "--zoo", other, "--offline")
    assert result.exit_code == 3
    assert re.search(r"absent\s+no\s+\S+", result.stdout)
    assert re.search(
        r"code\s+no\s+code: 'python:a:b' runs code, and the zoo or run that names it is not", result.stdout
    )


def test_proxies():
    shown = ok("proxies").stdout
    for name in ("logme", "hscore", "knn", "probe"):
        assert re.search(rf"^ *{name} .*\n *\(default\)", shown, re.M)
    assert "source head" in next(line for line in shown.splitlines() if line.strip().startswith("leep"))
    assert "Good: Classes: 1 is perfect" in shown
    assert "Cost: O(N²·D) multiplications in float32." in shown
    assert "Source: You et al." in ok("proxies", "logme").stdout
    cards = json.loads(ok("proxies", "--json").stdout)
    assert {"name", "summary", "cost", "bounds"} <= set(cards[0])
    assert json.loads(ok("proxies", "knn", "--json").stdout)["name"] == "knn"


def test_store_upkeep(store, confirmed, tmp_path):
    assert ok("store", "path", "--store", store).stdout.strip() == str(store)
    entries = json.loads(ok("store", "list", "--store", store, "--json").stdout)
    assert len(entries) == 2
    assert all(entry["rows"] >= 51 for entry in entries)
    assert re.search(r"test_vit\s+\d+", ok("store", "list", "--store", store).stdout)
    assert json.loads(ok("store", "size", "--store", store, "--json").stdout)["bytes"] > 10_000
    assert "0 damaged" in ok("store", "verify", "--store", store).stdout
    other = shutil.copytree(store, tmp_path / "other")  # copying the folder takes features to another machine
    assert len(json.loads(ok("store", "list", "--store", other, "--json").stdout)) == len(entries)
    assert re.search(r"removed \d+ entries", ok("store", "prune", "--max-size", "0", "--store", other).stdout)
    assert "the store is empty" in ok("store", "list", "--store", other).stderr


def test_store_verify_finds_damage(store, confirmed, tmp_path):
    copy = shutil.copytree(store, tmp_path / "copy")
    rows = next(copy.glob("entries/*/0*.safetensors"))
    data = bytearray(rows.read_bytes())
    data[-5] ^= 0xFF
    rows.write_bytes(data)
    result = run("store", "verify", "--store", copy)
    assert result.exit_code == 1
    assert "1 damaged" in result.stdout
    assert f"removed: entries/{rows.parent.name}" in result.stdout


def test_threads_wait_asleep_beside_other_programs(monkeypatch, tmp_path):
    from selector import cli

    asked = ("OMP_WAIT_POLICY", "KMP_BLOCKTIME")
    for text, before, expected in (
        ("0.0 0.0 0.0 1/300 5", None, None),
        ("3.0 2.0 1.0 4/300 5", None, "PASSIVE"),
        ("3.0 2.0 1.0 4/300 5", "ACTIVE", "ACTIVE"),
        ("no such thing", None, None),
    ):
        for name in asked:
            monkeypatch.delenv(name, raising=False)
        if before:
            monkeypatch.setenv(asked[0], before)
        (tmp_path / "loadavg").write_text(text, encoding="ascii")
        cli._wait_asleep(tmp_path / "loadavg")
        assert os.environ.get(asked[0]) == expected
        for name in asked:  # what was set is not monkeypatch's to undo
            os.environ.pop(name, None)


def test_doctor_says_what_openvino_would_save(monkeypatch):
    from selector.cli import doctor
    from selector.extract import backend_table

    for gains, fine in (((0.9, 1.82), False), ((0.9, 1.1), None), (None, None)):
        monkeypatch.setattr(backend_table, "speedups", lambda _name, gains=gains: gains)
        found = doctor._without_openvino("faster extraction")
        assert found.ok is fine
        assert ("1.8 times" in found.value) == (fine is False)


def test_doctor_offline(tmp_path):
    findings = json.loads(ok("doctor", "--offline", "--json", "--store", tmp_path / "store").stdout)
    by_name = {f["name"]: f for f in findings}
    assert by_name["cpu"]["topic"] == "devices"
    assert {"selector", "torch", "timm", "threads", "compiler", "memory"} <= set(by_name)
    assert by_name["hub"]["value"] == "not asked (offline)"
    assert str(tmp_path / "store") in by_name["store"]["value"]
    assert "devices" in ok("doctor", "--offline").stdout


def test_doctor_asks_the_hub_and_does_not_wait_for_ever(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    over = threading.Event()

    class Quiet(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            if self.path == "/slow":
                over.wait(120)  # far longer than anything that is measured here, also on a busy machine
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", place)
        assert f"{place} answers" in ok("doctor").stdout
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"{place}/slow")
        waits: list[float] = []

        def recorded(request: Any, *, timeout: float) -> Any:
            waits.append(timeout)
            return urlopen(request, timeout=timeout)

        urlopen = urllib.request.urlopen
        monkeypatch.setattr(urllib.request, "urlopen", recorded)
        started = time.monotonic()
        assert "does not answer" in ok("doctor", "--timeout", 0.3).stdout
        assert time.monotonic() - started < 60
        assert waits == [0.3]
        over.set()
        server.shutdown()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", place)
    monkeypatch.setattr("selector.sources._hub._asked", {})  # as a new process: an answer is kept
    assert "--offline" in re.sub(r"\s+", " ", ok("doctor").stdout)


def test_progress_without_a_terminal_is_a_line_now_and_then(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    with ProgressView(stream) as view:
        for done in range(0, 101, 10):
            view(Progress("extract", done, 100, "images", "net"))
            now[0] += 3.0
    assert stream.getvalue().splitlines() == [
        "extract net, 40/100 images, 3.33 images/s, 18.0 s left",
        "extract net, 80/100 images, 3.33 images/s, 6.0 s left",
        "extract net, 100/100 images, 3.33 images/s, took 30.0 s",
    ]


def test_progress_counts_from_where_a_resumed_job_starts():
    assert line(Progress("train", 60, 100, "steps", "net", "rung 2"), 10.0, first=40) == (
        "train net, 60/100 steps, 2 steps/s, 20.0 s left, rung 2"
    )


def test_progress_on_a_terminal_draws_bars_and_leaves_lines():
    stream = io.StringIO()
    with ProgressView(stream, bars=True) as view:
        view(Progress("extract", 1, 2, "images", "net[red]"))
        view(Progress("extract", 2, 2, "images", "net[red]"))
        view(Progress("score", 0, 4, "proxies", "net[red]"))
    assert "extract net[red], 2/2 images" in stream.getvalue()


def test_out_that_is_a_file_is_told_before_the_scan(zoo, photos, tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        told = fails(2, "scan", photos, "--zoo", zoo, "--no-confirm", "--out", out, *FAST)
        assert f"{tmp_path / 'file'} is a file, expected a folder; name another one." in told
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_under_the_run_names_the_file_and_costs_no_table(zoo, photos, small_disk):
    (small_disk / "ballast").write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 4096))
    words = ["scan", photos, "--zoo", zoo, "--no-confirm", "--out", small_disk / "run", *FAST]
    result = run(*words)
    assert result.exit_code == 1
    assert f"error: {small_disk / 'run' / 'run.json'} cannot be written (No space left on device)" in result.stderr
    assert "transferability" in result.stdout  # the table
    assert list((small_disk / "run").iterdir()) == []
    document = json.loads(run(*words, "--json").stdout)
    assert document["error"]["type"] == "StoreError"
    assert document["ranking"]["models"]


def test_a_plugin_that_fails_is_named_and_its_working_folder_is_undone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moves.py").write_text("import os\nos.chdir('/')\n1 / 0\n")
    told = fails(2, "scan", "photos", "--plugin", "moves.py")
    assert "error: --plugin moves.py: it cannot be imported: ZeroDivisionError: division by zero" in told
    assert Path.cwd() == tmp_path


def test_a_device_is_not_replaced_by_a_file(tmp_path):
    """``export --onnx /dev/full`` made a file of it."""
    from selector.core.atomic import write_atomic
    from selector.deploy.export import _check_place

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PermissionError, match="it is not a regular file") as caught:
        write_atomic(tmp_path / "pipe", b"x")
    assert caught.value.filename == str(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="pipe is a device or a pipe; name the file to write"):
        _check_place(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


def test_what_others_called_things_does_not_reach_the_terminal(capsys):
    from selector.cli.output import print_rows, say

    say("a \x1b[31mred\x9b2J")
    print_rows(["model"], [["\u202efdp.exe"]])
    shown = capsys.readouterr()
    assert shown.err == "a \\x1b[31mred\\x9b2J\n"
    assert "\\u202efdp.exe" in shown.out


def test_closed_streams_do_not_cost_the_run(confirmed, photos, zoo, store, tmp_path):
    words = ["scan", photos, "--zoo", zoo, "--store", store, "--no-confirm", *FAST, "--out", tmp_path / "run"]
    command = f"{shlex.join([sys.executable, '-m', 'selector', *map(str, words)])} >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], check=False).returncode == 0
    assert (tmp_path / "run" / "run.json").is_file()
