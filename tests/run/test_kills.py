"""Kills at random places: of the driver, and of the worker that runs a model. What is found in the end is the same table.

The place is the number of an event of progress, drawn from a seed, so that a case can be made again; the two die in turn.
A driver that was killed is followed by the same call, which goes on; a worker's model runs again within the call.
"""

import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
KILLS = 20

CALL = """
import json, os, sys
import psutil
import selector
from selector.zoo import ModelSpec

given = json.loads(sys.argv[1])
seen, killed = 0, []

def workers():
    return [p for p in psutil.Process().children() if "selector.run.worker" in p.cmdline()]

def die(progress):
    global seen
    seen += 1
    if killed or given["kill"] is None or seen < given["kill"]:
        return
    if given["who"] == "driver":
        os.kill(os.getpid(), 9)
    if found := workers():  # none has been started yet: at a later event
        killed.append(found[seen % len(found)].pid)
        os.kill(killed[0], 9)

zoo = [ModelSpec(name=name, source="python:tests.support.networks:" + name) for name in ("Orientation", "Blind")]
found = selector.rank(given["targets"], zoo=zoo, store=given["store"], proxies=["knn"], precision="float32", backend="eager",
                      measure_cost="never", isolate="on", history=False, progress=die, **given["options"])
table = []
for ranking in found if isinstance(given["targets"], list) else [found]:
    for row in ranking:
        trained = [(m.strategy, m.status, m.val, m.test, m.steps, m.note) for m in row.measurements]
        table.append([row.name, row.status, row.scores["knn"].value, row.scores["knn"].low, trained])
    table.append([[caveat.code for caveat in ranking.caveats], ranking.confirmation is not None])
print(json.dumps({"table": table, "events": seen, "killed": len(killed)}))
"""


def call(folder: Path, targets: Any, options: dict[str, Any], kill: int | None = None, who: str = "") -> Any:
    """What a call of its own process prints, or None when it was killed."""
    given = {"targets": targets, "store": str(folder / "store"), "options": options, "kill": kill, "who": who}
    done = subprocess.run(
        [sys.executable, "-c", CALL, json.dumps(given)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode == -signal.SIGKILL:
        return None
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow  # twenty kills, each with one or two calls
@pytest.mark.timeout(0)
@pytest.mark.parametrize("kind", ["confirmation", "two targets"])
def test_kills_leave_the_table_as_it_is(kind: str, photos: Path, tmp_path: Path) -> None:
    draw = random.Random(f"kills of a {kind}")
    second = tmp_path / "second"
    shutil.copytree(photos, second)
    next(iter(second.rglob("*.png"))).unlink()

    def run(folder: Path, **more: Any) -> Any:
        if kind == "two targets":
            return call(folder, [str(photos), str(second)], {}, **more)
        options = {"confirm": True, "out": str(folder / "run"), "pilot_cost": 0, "strategies": ["frozen", "full"]}
        return call(folder, str(photos), {**options, "max_steps": 4}, **more)

    undisturbed = run(tmp_path / "undisturbed")
    lost = {"driver": 0, "worker": 0}
    for number in range(KILLS):
        folder = tmp_path / str(number)
        kill, who = draw.randrange(1, undisturbed["events"] + 1), ("driver", "worker")[number % 2]
        found = run(folder, kill=kill, who=who)
        if found is None or found["killed"]:
            lost[who] += 1
        if found is None:
            found = run(folder)
        assert found["table"] == undisturbed["table"], f"{who} killed at event {kill} of {undisturbed['events']}"
        shutil.rmtree(folder)
    assert min(lost.values()) >= 5, lost
