"""A cluster of two Ray nodes on this machine, one of which is killed while it works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SCRIPT = """
import logging, sys, threading, time
from pathlib import Path

import ray
import selector
from ray.cluster_utils import Cluster
from selector.zoo import ModelSpec
from tests.test_scan import table

photos, root = Path(sys.argv[1]), Path(sys.argv[2])
zoo = [ModelSpec(name=f"slow-{n}", source="python:tests.networks:slow", kwargs={}, preprocess={"input_size": [3, size, size]})
       for n, size in enumerate((32, 40, 48, 56))]
options = dict(zoo=zoo, proxies=["knn"], precision="float32", backend="eager", cost="off")
here = selector.rank(photos, **options, store=root / "here")

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
second = cluster.add_node(num_cpus=2)
cluster.wait_for_nodes()
print("nodes", len([n for n in cluster.list_all_nodes()]))
told = []

class Kept(logging.Handler):
    def emit(self, record):
        told.append(record.getMessage())

logging.getLogger("selector.core.fleet").addHandler(Kept())
logging.getLogger("selector.core.fleet").setLevel(logging.INFO)

def kill():
    while not list((root / "there" / "entries").glob("*/meta.json")):
        time.sleep(0.05)
    cluster.remove_node(second, allow_graceful=False)

killer = threading.Thread(target=kill)
killer.start()
there = selector.rank(photos, **options, store=root / "there", engine="ray", ray_address=cluster.address, workers=3)
killer.join()
assert table(there) == table(here), [(m.name, m.status, m.reason) for m in there]
assert any("it runs again" in line for line in told), told
print("same table;", sum("it runs again" in line for line in told), "jobs ran again")
cluster.shutdown()
"""


@pytest.mark.slow  # two nodes start, and one of them dies
def test_a_node_that_is_killed_costs_its_jobs_another_run_and_nothing_else(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    script = tmp_path / "nodes.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(photos), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "same table;" in done.stdout
