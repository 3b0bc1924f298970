"""Scans in processes of their own that are killed while they train."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from selector.report.ranking import load_ranking


def begun(module: str, target: Path, store: Path, out: Path) -> subprocess.Popen[str]:
    """A scan of what ``zoo()`` and ``OPTIONS`` of a test module say."""
    scan = (
        f"import sys, selector; from {module} import OPTIONS, zoo; "
        "selector.rank(sys.argv[1], zoo=zoo(), store=sys.argv[2], out=sys.argv[3], **OPTIONS)"
    )
    command = [sys.executable, "-c", scan, str(target), str(store), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def killed_in_training(process: subprocess.Popen[str], store: Path, out: Path) -> dict[str, bytes]:
    """Kill the scan as soon as its first training is in the journal; the files that it left there."""
    trainings = store / "trainings"
    while process.poll() is None and not list(trainings.rglob("*.npz")):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    assert (out / "run.json").exists(), "the table was saved before the confirmation"
    assert not (out / "best").exists()
    return {file.name: file.read_bytes() for file in trainings.rglob("*.npz")}


def figures(run: Path) -> list[Any]:
    """What two runs of the same must have in common."""
    return [
        (m.name, m.transferability, [(x.strategy, dict(x.val), dict(x.test)) for x in m.measurements])
        for m in load_ranking(run)
    ]
