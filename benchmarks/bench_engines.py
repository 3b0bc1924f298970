"""What engines add to a small scan: the demo's images and networks in this process, in a pool of one, on Ray with one.

    python -m benchmarks.bench_engines [--engines local processes ray] [--max-samples 300] [--out FILE]

Each engine is a program of its own. It first opens the engine once for one job that imports what networks need and
closes it again: ``start_seconds``. Then comes the scan with an empty store, which starts the engine anew: ``seconds``.
Both are processor seconds of all processes that the program started, Ray's own among them, so that other work on the
machine does not count; one thread each. ``overhead`` is the scan less the start, over the last scan of the local engine.
Rows are added to the file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.rows import read_rows, write_rows
from selector.config import ScanConfig
from selector.core.contracts import no_progress
from selector.core.system import versions

HERE = Path(__file__).parent
OUT = HERE / "results" / "bench_engines.csv"
ENGINES = ("local", "processes", "ray")
COLUMNS = ("engine", "models", "items", "start_seconds", "seconds", "overhead", "wall_start", "wall", "python", "torch",
           "ray", "selector", "cpu", "cores")  # fmt: skip
OPTIONS: dict[str, Any] = {"precision": "float32", "backend": "eager", "isolate": "off", "history": False}


def main(argv: Sequence[str] | None = None) -> int:
    """A row an engine; the local one first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="*", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--max-samples", type=int, default=300, help="images of the demo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="60 images, in this process only")
    parser.add_argument("--one", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(argv)
    if args.quick:
        args.max_samples, args.engines = 60, ["local"]
    if args.one:
        print(json.dumps(measured(args.one, args.max_samples, args.seed)))
        return 0
    rows = read_rows(args.out)
    for engine in sorted(args.engines, key=ENGINES.index):
        words = ["--one", engine, "--max-samples", str(args.max_samples), "--seed", str(args.seed)]
        command = [sys.executable, "-m", "benchmarks.bench_engines", *words]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        local = next((float(row["seconds"]) for row in [found, *reversed(rows)] if row["engine"] == "local"), None)
        if local is not None:
            found["overhead"] = round((found["seconds"] - found["start_seconds"]) / local - 1, 4)
        rows.append(found)
        write_rows(args.out, rows, COLUMNS)
        print(found, file=sys.stderr, flush=True)
    return 0


def measured(engine: str, samples: int, seed: int) -> dict[str, Any]:
    """Start and scan of one engine, in this process and those below it."""
    import selector
    from selector.demo.photos import photos

    _libraries(0)  # of the driver: in no figure
    options = {**OPTIONS, **({} if engine == "local" else {"engine": engine, "workers": 1})}
    start, wall_start = (0.0, 0.0) if engine == "local" else _spent(lambda: _started(options))
    with tempfile.TemporaryDirectory() as folder:
        made: list[Any] = []
        seconds, wall = _spent(
            lambda: made.append(
                selector.rank(
                    photos(), models="*", tags="offline", store=folder, max_samples=samples, seed=seed, **options
                )
            )
        )
    (ranking,) = made
    assert all(m.status == "ok" for m in ranking), [(m.name, m.reason) for m in ranking if m.status != "ok"]
    told = versions()
    return {
        "engine": engine, "models": len(ranking), "items": samples, "start_seconds": round(start, 2),
        "seconds": round(seconds, 2), "wall_start": round(wall_start, 1), "wall": round(wall, 1),
        "ray": version("ray") if engine == "ray" else "",
        **{key: told.get(key, "") for key in ("python", "torch", "selector", "cpu", "cores")},
    }  # fmt: skip


def _started(options: dict[str, Any]) -> None:
    """Open the engine, run a first job, close it."""
    from benchmarks.bench_engines import _libraries  # a worker does not know this program's own ``__main__``
    from selector.scan.checks import open_executor

    with open_executor(ScanConfig.of(**options), no_progress) as executor:
        assert next(iter(executor.map(_libraries, [0]))).failure is None


def _libraries(_: int) -> int:
    import timm
    import torch

    import selector.extract.encode
    import selector.scan.scoring

    return len({timm, torch, selector})


class _Tree(threading.Thread):
    """Processor seconds of this process and of all below it, those that ended among them: the last that was seen. What
    the looking takes is left out: it would count by the time that passes, and busy machines have more of that."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: dict[tuple[int, float], float] = {}
        self.names: dict[tuple[int, float], str] = {}
        self.ended = threading.Event()
        self.own = 0.0
        self.look()

    def run(self) -> None:
        while not self.ended.wait(0.2):
            self.look()
            self.own = time.thread_time()

    def look(self) -> None:
        here = psutil.Process()
        for process in [here, *here.children(recursive=True)]:
            try:
                times = process.cpu_times()
                key = process.pid, process.create_time()
                self.seen[key] = times.user + times.system
                self.names[key] = " ".join(process.cmdline())[:60]
            except psutil.Error:  # it ended just now
                continue

    @property
    def total(self) -> float:
        self.look()
        return sum(self.seen.values()) - self.own


def _spent(work: Any) -> tuple[float, float]:
    """Processor and wall seconds of some work."""
    tree = _Tree()
    before, begun = tree.total, time.perf_counter()
    at_first = dict(tree.seen)
    tree.start()
    work()
    wall = time.perf_counter() - begun
    spent = tree.total - before
    tree.ended.set()
    tree.join()
    for key, seconds in sorted(tree.seen.items(), key=lambda item: -item[1]):
        if seconds - at_first.get(key, 0.0) > 0.5:
            print(f"  {seconds - at_first.get(key, 0.0):6.1f} s  {tree.names[key]}", file=sys.stderr)
    return spent, wall


if __name__ == "__main__":
    sys.exit(main())
