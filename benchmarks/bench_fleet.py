"""How well a fleet of Ray workers is kept busy, and what that costs the driver: real scheduling, simulated networks.

    python -m benchmarks.bench_fleet [--workers 2 8 32 64] [--models 1000] [--targets 50] [--seconds 60] [--out FILE]

A job is a network that reads all targets. Its time is drawn from the recorded seconds an image of
``results/bench_extract_models.csv`` (times between the lightest and the largest network, log-uniform), scaled so that
a run takes about ``--seconds`` on its workers; a worker sleeps for it. As in a scan the driver hands the dear networks over
first, by prices that are off by a factor of 1.6 (one standard deviation). Jobs carry what real ones carry: shared rows a
target, handed over once, and keys back. Rows that the file has are not made again. ``efficiency`` is the sum of the jobs' times over workers × time from the first
job handed over to the last result, the start of worker processes left out (a first job a worker, which ends when all of them have begun). ``driver_growth`` is
the driver's resident memory at the end less that after a tenth of the jobs. ``bound`` is the efficiency of a scheduling that
loses no time, in this order and in that of the zoo.
"""

from __future__ import annotations

import argparse
import heapq
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from benchmarks.rows import read_rows, write_rows
from selector.core.answers import opened
from selector.core.engine import Needs, Shared
from selector.core.fleet import Fleet
from selector.core.ray_workers import RayWorkers
from selector.core.system import versions

HERE = Path(__file__).parent
OUT = HERE / "results" / "bench_fleet.csv"
COLUMNS = ("workers", "models", "targets", "job_seconds", "bound", "bound_zoo_order", "wall", "efficiency", "driver_mb", "driver_growth_mb",
           "ray", "selector", "cpu", "cores")  # fmt: skip
ROWS = 2000  # of a target
PRICE_ERROR = 0.5  # standard deviation of the logarithm of what the driver thinks that a network takes


@dataclass(frozen=True)
class Job:
    """A network that reads all targets."""

    name: str
    seconds: float
    targets: tuple[Shared, ...]


def work(job: Job) -> dict[str, str]:
    """Take the time that the network would, and hand keys back."""
    for target in job.targets:
        opened(target)
    time.sleep(job.seconds)
    return {target.key: f"{job.name}-{target.key}" for target in job.targets}


@dataclass(frozen=True)
class First:
    """A job that ends when so many of them have begun: then every worker is there, with the shared values."""

    name: str
    folder: str
    count: int
    targets: tuple[Shared, ...]


def begin(job: First) -> None:
    """Wait for the others."""
    for target in job.targets:
        opened(target)
    (Path(job.folder) / job.name).touch()
    while len(list(Path(job.folder).iterdir())) < job.count:
        time.sleep(0.2)


def main(argv: Sequence[str] | None = None) -> int:
    """A row a number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="*", default=[2, 8, 32, 64])
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--targets", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="two workers, 40 models")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(argv)
    if args.quick:
        args.workers, args.models, args.seconds = [2], 40, 4.0
    os.environ.setdefault("RAY_worker_niceness", "0")  # at Ray's 15 the workers wait for whatever else the machine does
    rows = read_rows(args.out)
    made = {(int(row["workers"]), int(row["models"]), int(row["targets"])) for row in rows}
    for workers in args.workers:
        if (workers, args.models, args.targets) in made:
            continue
        rows.append(run(workers, args.models, args.targets, args.seconds, args.seed))
        write_rows(args.out, rows, COLUMNS)
        print(rows[-1], file=sys.stderr, flush=True)
    return 0


def times(models: int, total: float, seed: int) -> np.ndarray:
    """Seconds of each network, ``total`` in all."""
    recorded = [
        float(row["seconds"]) / float(row["images"])
        for row in read_rows(HERE / "results" / "bench_extract_models.csv")
        if row["stage"] == "forward"
    ]
    low, high = np.log(min(recorded)), np.log(max(recorded))
    drawn = np.exp(np.random.default_rng(seed).uniform(low, high, models))
    return drawn * total / drawn.sum()


def bound(spent: np.ndarray, workers: int) -> float:
    """Efficiency of workers that take the next job the moment they are free, and lose no time.

    >>> bound(np.array([4.0, 1.0, 1.0, 1.0, 1.0]), 2), bound(np.array([1.0, 1.0, 1.0, 1.0, 4.0]), 2)
    (1.0, 0.6666666666666666)
    """
    free = [0.0] * workers
    for seconds in spent:
        heapq.heapreplace(free, free[0] + float(seconds))
    return float(spent.sum()) / (workers * max(free))


def run(workers: int, models: int, targets: int, seconds: float, seed: int) -> dict[str, object]:
    """One size of the fleet."""
    import ray

    ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
    fleet = Fleet(lambda: RayWorkers(workers=workers))
    try:
        rng = np.random.default_rng(seed)
        shared = tuple(fleet.share(rng.random(ROWS)) for _ in range(targets))
        with tempfile.TemporaryDirectory() as folder:
            first = [First(str(i), folder, workers, shared) for i in range(workers)]
            assert not any(outcome.failure for outcome in fleet.map(begin, first, needs=_needs))
        spent = times(models, workers * seconds, seed)
        prices = spent * np.exp(rng.normal(0, PRICE_ERROR, models))
        order = np.argsort(-prices)
        jobs = (Job(f"model-{i}", float(spent[i]), shared) for i in order)
        process, early = psutil.Process(), 0
        started = time.perf_counter()
        for done, outcome in enumerate(fleet.map(work, jobs, needs=_needs), 1):
            assert outcome.failure is None, outcome.failure
            if done == models // 10:
                early = process.memory_info().rss
        wall = time.perf_counter() - started
        late = process.memory_info().rss
    finally:
        fleet.close()
        ray.shutdown()
    told = versions()
    return {
        "workers": workers, "models": models, "targets": targets, "job_seconds": round(float(spent.mean()), 3),
        "bound": round(bound(spent[order], workers), 4), "bound_zoo_order": round(bound(spent, workers), 4),
        "wall": round(wall, 1), "efficiency": round(float(spent.sum()) / (workers * wall), 4),
        "driver_mb": round(late / 2**20), "driver_growth_mb": round((late - early) / 2**20, 1), "ray": ray.__version__,
        **{key: told.get(key, "") for key in ("selector", "cpu", "cores")},
    }  # fmt: skip


def _needs(job: Job | First) -> Needs:
    return Needs(shared=job.targets)


if __name__ == "__main__":
    sys.exit(main())
