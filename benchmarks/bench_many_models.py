"""What all of timm costs beside forward passes and scores: list, plan, driver, store, history, table, report, run.json.

    python -m benchmarks.bench_many_models [--models 1500] [--profile FILE] [--out FILE]

The models are those of timm with their published facts; their features are drawn, with a class signal of its own for each,
and lie in the store, so that no model is built. Scores are computed for the first model only and shifted for the others:
``scan`` is the driver of a first scan, ``known`` finds everything in the store; ``list`` and ``plan`` are of all that timm has. Processor seconds of this process, since
other work shares the machine. Aims: driver 5 ms per model; report 3 MB and ``run.json`` 5 MB in all.
"""

from __future__ import annotations

import cProfile
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import selector
from benchmarks.rows import facts, options, read_rows, write_rows
from selector.extract.job import versioned, wanted_of
from selector.ranking.history import History
from selector.report.html import render_report
from selector.report.table import render_text
from selector.scan import scoring
from selector.scan.selection import choose_models
from selector.store import FeatureStore
from selector.zoo import ModelSpec

OUT = Path(__file__).parent / "results" / "bench_many_models.csv"
COLUMNS = ("what", "models", "seconds", "ms_per_model", "bytes", "python", "timm", "selector", "cpu")
ITEMS, WIDTH, CLASSES = 120, 32, 4


def main(argv: Sequence[str] | None = None) -> int:
    """A row a step."""
    parser = options(__doc__, OUT, "fewer models")
    parser.add_argument("--models", type=int, default=1500)
    parser.add_argument("--profile", type=Path, help="file for the profile of the first scan")
    args = parser.parse_args(argv)
    rows = read_rows(args.out)
    about = facts("python", "timm", "selector", "cpu")
    os.environ.pop("HF_HUB_OFFLINE", None)  # a plan of so many asks the hub for none
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        target = images(args.seed)
        specs = models(60 if args.quick else args.models)
        fill(FeatureStore(folder / "store"), target, specs, args.seed)
        asked: dict[str, Any] = {
            "zoo": specs, "store": folder / "store", "measure_cost": "never", "history": History(folder / "history"),
            "device": "cpu", "precision": "float32", "backend": "eager",
        }  # fmt: skip
        found: dict[str, Any] = {}

        def scan(out: str) -> Any:
            found["ranking"] = selector.rank(target, out=folder / out, **asked)
            return (folder / out / "run.json").read_text(encoding="utf-8")

        steps: dict[str, Callable[[], Any]] = {
            "list": lambda: choose_models(None, "timm:*"),
            "plan": lambda: selector.plan(target, models="timm:*", store=folder / "plans"),
            "scan": lambda: drawn_scores(args.seed, lambda: scan("first")),
            "known": lambda: scan("second"),
            "table": lambda: render_text(found["ranking"], width=200),
            "report": lambda: render_report(found["ranking"]),
            "load": lambda: selector.load_ranking(folder / "second"),
            "store list": lambda: FeatureStore(folder / "store").list_entries(),
        }
        for what, step in steps.items():
            profile = cProfile.Profile() if args.profile is not None and what == "scan" else None
            started = time.process_time()
            made = profile.runcall(step) if profile is not None else step()
            seconds = time.process_time() - started
            if profile is not None:
                profile.dump_stats(args.profile)
            count = len(choose_models(None, "timm:*")[0]) if what in ("list", "plan") else len(specs)
            size = len(made.encode()) if isinstance(made, str) else ""
            rows.append(
                {"what": what, "models": count, "seconds": round(seconds, 2),
                 "ms_per_model": round(1000 * seconds / count, 2), "bytes": size, **about}
            )  # fmt: skip
            print(rows[-1], file=sys.stderr, flush=True)
    write_rows(args.out, rows, COLUMNS)
    return 0


def drawn_scores(seed: int, run: Callable[[], Any]) -> Any:
    """Run with the scores of the first model for all of them, each shifted at random."""
    rng, known, own = np.random.default_rng(seed), dict[str, dict[str, Any]](), scoring.evaluate

    def evaluate(features: Any, proxy: Any, *rest: Any) -> dict[str, Any]:
        found = known[proxy] if proxy in known else known.setdefault(proxy, own(features, proxy, *rest))
        shift = rng.normal(0, 0.05)
        moved = {name: found[name] + shift for name in ("value", "low", "high") if found.get(name) is not None}
        return {**found, **moved}

    with mock.patch.object(scoring, "evaluate", evaluate):
        return run()


def images(seed: int) -> Any:
    """A target of noise: the features are drawn."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, 256, (ITEMS, 32, 32, 3), dtype=np.uint8)
    return selector.load_target((drawn, np.arange(ITEMS) % CLASSES), name="noise")


def models(count: int) -> list[ModelSpec]:
    """Models of timm, without their weights: facts go by the name."""
    listed, _ = choose_models(None, "timm:*")
    return [spec.model_copy(update={"weights": "none"}) for spec in listed[:count]]


def fill(store: FeatureStore, target: Any, specs: Sequence[ModelSpec], seed: int) -> None:
    """Give the store features of every model."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((CLASSES, WIDTH))
    labels = np.arange(ITEMS) % CLASSES
    for spec in specs:
        features = rng.standard_normal((ITEMS, WIDTH)) + rng.uniform(0, 1) * centers[labels]
        ran = {"backend": "eager", "precision": "float32"}
        preprocess = {"input_size": [3, 32, 32]}
        entry = store.remember(
            wanted_of(spec, "cpu", "float32", "eager"),
            versioned({"source": "timm", "model": spec.model_id, "preprocess": preprocess, **ran}),
            {"num_features": WIDTH, "num_parameters": spec.params or 1_000_000, "preprocess": preprocess, **ran},
        )
        entry.append(list(target.hashes), features.astype(np.float32))


if __name__ == "__main__":
    sys.exit(main())
