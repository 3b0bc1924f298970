"""A cluster of two Ray nodes on this machine, started by hand, one of which is killed while it works."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
PLAIN = {"RAY_AUTH_MODE": "disabled", "RAY_DISABLE_MEMORY_MONITOR": "1", "PYTHONPATH": str(ROOT)}

SCRIPT = """
import logging, os, sys, threading, time
from pathlib import Path

import psutil
import ray
import selector
from selector.zoo import ModelSpec
from tests.scan.test_scan import table

photos, root, address, node = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
zoo = [ModelSpec(name=f"slow-{n}", source="python:tests.support.networks:slow", preprocess={"input_size": [3, size, size]})
       for n, size in enumerate((32, 40, 48, 56))]
options = dict(zoo=zoo, proxies=["knn"], precision="float32", backend="eager", measure_cost="never", isolate="off")
here = selector.rank(photos, **options, store=root / "here")

ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
while sum(n["Alive"] for n in ray.nodes()) < 2:
    time.sleep(0.2)
told = []

class Kept(logging.Handler):
    def emit(self, record):
        told.append(record.getMessage())

logging.getLogger("selector.run.executor").addHandler(Kept())
logging.getLogger("selector.run.executor").setLevel(logging.INFO)

def kill():
    while not list((root / "there" / "entries").glob("*/meta.json")):
        time.sleep(0.05)
    for process in psutil.Process(node).children(recursive=True):
        process.kill()  # raylet and workers at once, as when the machine loses its power

killer = threading.Thread(target=kill)
killer.start()
there = selector.rank(photos, **options, store=root / "there", engine="ray", workers=3)
killer.join()
while sum(n["Alive"] for n in ray.nodes()) > 1:
    time.sleep(0.5)
assert table(there) == table(here), [(m.name, m.status, m.reason) for m in there]
assert any("it runs again" in line for line in told), told
print("same table;", sum("it runs again" in line for line in told), "jobs ran again")
"""


def _start(*words: str) -> subprocess.Popen[bytes]:
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--object-store-memory=80000000", *words]
    return subprocess.Popen(
        command,
        env={**os.environ, **PLAIN},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@pytest.fixture
def two_nodes() -> Iterator[tuple[str, int]]:
    """The cluster's address, and the process whose children are the second node."""
    pytest.importorskip("ray")
    if not shutil.which("ray", path=str(Path(sys.executable).parent)):
        pytest.skip("the command ray is not beside this Python")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    try:
        started.append(
            _start(
                "--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=1", "--include-dashboard=false"
            )
        )
        _until_listening(port, started[0])
        started.append(_start(f"--address=127.0.0.1:{port}", "--num-cpus=2"))
        yield f"127.0.0.1:{port}", started[1].pid
    finally:
        for node in reversed(started):
            children = psutil.Process(node.pid).children(recursive=True) if node.poll() is None else []
            for process in [*children, node]:
                process.kill()
            node.wait()


def _until_listening(port: int, head: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and head.poll() is None:
        with socket.socket() as link:
            if link.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    pytest.fail("the head of the cluster does not listen")


@pytest.mark.slow  # two nodes start, and one of them dies
def test_a_node_that_is_killed_costs_its_jobs_another_run_and_nothing_else(two_nodes, photos, tmp_path):
    address, node = two_nodes
    script = tmp_path / "scan.py"
    script.write_text(SCRIPT)
    words = [sys.executable, str(script), str(photos), str(tmp_path), address, str(node)]
    done = subprocess.run(words, env={**os.environ, **PLAIN}, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "same table;" in done.stdout


OWN_CLUSTER = """
import os
import psutil
from selector.run.ray import RayCluster
from tests.run.test_ray import joined

cluster = RayCluster(workers=1)
print("width", cluster.width)
(result,) = cluster.map(abs, [-3])
assert result.value == 3
import ray
address = ray.get_runtime_context().gcs_address
me = psutil.Process()
heard = {link.laddr.ip for one in [me, *me.children(recursive=True)] for link in one.net_connections("inet")
         if link.status == "LISTEN"}
print("listens", sorted(heard))
assert heard <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}, heard
assert joined(address, {name: os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")})
assert not joined(address, {"RAY_AUTH_MODE": "disabled"})
assert not joined(address, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64})
cluster.close()
print("nobody joined")
"""

JOIN = """
import sys, ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
print("ran", ray.get(ray.put(7)))
"""


def joined(address: str, environment: dict[str, str]) -> bool:
    """Whether a second process gets into a cluster."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    plain["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # it looks for the node at 127.0.0.1
    try:
        done = subprocess.run(
            [sys.executable, "-c", JOIN, address],
            env={**plain, **environment}, capture_output=True, text=True, check=False, timeout=40,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False
    return "ran" in done.stdout


@pytest.mark.slow  # a cluster, and two processes that try to join it
def test_a_cluster_of_a_run_is_closed_to_others(tmp_path):
    pytest.importorskip("ray")
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", OWN_CLUSTER],
        cwd=ROOT, env={**plain, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "nobody joined" in done.stdout
    assert not (tmp_path / ".ray" / "auth_token").exists()  # others may read what lies there
