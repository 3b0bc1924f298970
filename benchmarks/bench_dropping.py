"""What stopping hopeless models early saves, and whether the best one survives it.

    SELECTOR_ASSETS=... python -m benchmarks.bench_dropping [--quick] [--seeds 5] [--sets ...] [--out FILE]

Every image set is scanned once without dropping by all 19 encoders of the assets. Then, for each
seed, a subsample is drawn and scanned twice from the stored features, with the scan's own code:
without dropping and with ``prune="always"``, k = 3. A row holds, for a set and a seed, how many rows
each model was looked at, which model leads without dropping, and whether it finished with dropping.

``saved`` is the share of forward seconds that the stopped models did not need: rows that were left
out, weighted with the seconds an image that ``bench_extract`` measured for each network
(``results/bench_extract_models.csv``); without that file, with the rate of this run's extraction.

Rows are written as they are made, and those that are in the file already are not made again.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import selector
from benchmarks.rows import markdown_lines, read_rows, write_rows
from selector.core.contracts import Target
from selector.core.system import versions
from selector.data import load_target, subsample
from selector.demo.photos import photos as textile_folder
from selector.store import FeatureStore
from selector.zoo import ModelSpec, load_zoo
from selector.zoo.spec import network_of

HERE = Path(__file__).parent
OUT = HERE / "results" / "bench_dropping.csv"
FORWARD = HERE / "results" / "bench_extract_models.csv"
SETS = ("flowers", "dtd10", "brainmri", "pneumoniamnist", "textile", "cifar10", "mnist", "digits")
TOP_K = 3
POOL, DRAWN = 1000, 700  # images that are extracted, and of those the ones that a seed draws
COLUMNS = (
    "set", "seed", "rows", "models", "stopped", "best", "best_kept", "top_kept", "saved_rows", "saved", "looked_at",
    "seconds", "python", "torch", "selector", "cpu",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, write it, print the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one set, one seed, networks for small images")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=SETS)
    parser.add_argument("--store", default=None, help="feature store; None for the default one")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(argv)
    if not os.environ.get("SELECTOR_ASSETS"):
        sys.exit("SELECTOR_ASSETS is not set: this benchmark needs the real encoders and image sets.")
    models = list(load_zoo(HERE / "assets-zoo.yaml", trust=True).models)
    if args.quick:
        args.sets, args.seeds = args.sets[:1], 1
        models = [spec for spec in models if spec.preprocess.changes()["input_size"][1] <= 32]
    rows = read_rows(args.out)
    made = {(row["set"], int(row["seed"])) for row in rows}
    seeds = range(args.seed, args.seed + args.seeds)
    store = FeatureStore(args.store)
    for name in args.sets:
        if all((name, seed) in made for seed in seeds):
            continue
        pool = subsample(image_set(name), 200 if args.quick else POOL)
        settings: dict[str, Any] = {"zoo": models, "store": store, "top_k": TOP_K}
        selector.rank(pool, **settings, proxies=["knn"], prune="never", intervals=False)
        for seed in seeds:
            if (name, seed) not in made:
                drawn = subsample(pool, min(DRAWN, round(0.8 * len(pool))), seed)
                rows.append({"set": name, "seed": seed, **replay(drawn, models, settings, store, seed)})
                write_rows(args.out, rows, COLUMNS)
                print({k: v for k, v in rows[-1].items() if k != "looked_at"}, file=sys.stderr, flush=True)
    for line in summary(rows):
        print(line)
    return 0


def replay(
    target: Target, models: Sequence[ModelSpec], settings: Mapping[str, Any], store: FeatureStore, seed: int
) -> dict[str, Any]:
    """One target scanned without and with dropping, from stored features."""
    started = time.perf_counter()
    whole = selector.rank(target, **settings, prune="never", seed=seed)
    dropped = selector.rank(target, **settings, prune="always", seed=seed)
    assert all(model.cached for model in (*whole, *dropped))
    full = whole.best.rows
    cost = forward_seconds(models, store)
    finished = {model.name for model in dropped if model.status == "ok"}
    looked_at = {model.name: model.rows for model in dropped}
    leading = [model.name for model in whole][:TOP_K]
    told = versions()
    return {
        "rows": full,
        "models": len(models),
        "stopped": len(models) - len(finished),
        "best": whole.best.name,
        "best_kept": int(whole.best.name in finished),
        "top_kept": sum(name in finished for name in leading),
        "saved_rows": round(1 - sum(looked_at.values()) / (full * len(models)), 4),
        "saved": round(1 - sum(cost[n] * r for n, r in looked_at.items()) / (full * sum(cost.values())), 4),
        "looked_at": " ".join(f"{name}:{count}" for name, count in sorted(looked_at.items())),
        "seconds": round(time.perf_counter() - started, 1),
        **{key: told.get(key, "") for key in ("python", "torch", "selector", "cpu")},
    }


def forward_seconds(models: Sequence[ModelSpec], store: FeatureStore) -> dict[str, float]:
    """Seconds an image of each network's forward pass."""
    if FORWARD.is_file():
        bare = [row for row in read_rows(FORWARD) if row["stage"] == "forward"]
        measured = {row["model"]: float(row["seconds"]) / float(row["images"]) for row in bare}
        if {spec.name for spec in models} <= set(measured):
            return {spec.name: measured[spec.name] for spec in models}
    rates = {spec.name: store.get("rate", {"network": network_of(spec)}) for spec in models}
    return {name: 1 / rate["rows_per_second"] if rate else 0.0 for name, rate in rates.items()}


def image_set(name: str) -> Target:
    """A labeled image set, with its own splits where it has them."""
    if name == "textile":
        return load_target(textile_folder())
    if name == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        return load_target(((digits.images * 255 / 16).round().astype("uint8"), digits.target), name="digits")
    return load_target(Path(os.environ["SELECTOR_ASSETS"]) / "data" / name)


def summary(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line a set, and one for all of them."""
    lines = []
    for name in (*dict.fromkeys(str(row["set"]) for row in rows), "all"):
        mine = [row for row in rows if name in ("all", row["set"])]
        saved = statistics.median(float(row["saved"]) for row in mine)
        kept = sum(int(row["best_kept"]) for row in mine)
        top = sum(int(row["top_kept"]) for row in mine)
        counts = sorted({int(row["rows"]) for row in mine})
        size = str(counts[0]) if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
        saves = f"{100 * saved:.0f}%"
        lines.append([name, size, len(mine), saves, f"{kept} of {len(mine)}", f"{top} of {TOP_K * len(mine)}"])
    header = ("set", "rows", "seeds", "saved (median)", "best kept", f"of the first {TOP_K} kept")
    return markdown_lines(header, lines)


if __name__ == "__main__":
    sys.exit(main())
