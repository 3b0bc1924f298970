"""What a budget for the scan costs in regret, by replay on stored features.

    SELECTOR_ASSETS=... python -m benchmarks.bench_scan_budget --store FOLDER [--extract] [--sets ...] [--out FILE]

Candidates are all encoders of the assets, each at its own layer and at the block at two thirds of its depth. Every image
set is ranked by them, from rows that the store has (``--extract`` only brings those, and goes on where it was stopped),
once whole and once for each budget, with the scan's own code. The price of a network is the forward seconds an image of
``results/bench_extract_models.csv``. A row holds the choice with and without the budget, and the regret: test accuracy
after fine-tuning (``results/suite/ground_truth.csv``, best strategy, mean over seeds) of the whole scan's choice less
that of the budget's, in points; negative where the budget chose better. A network is fine-tuned once, so its layers share
its accuracy.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import selector
from benchmarks.rows import facts, markdown_lines, options, read_rows, write_rows
from selector.core.contracts import Target
from selector.data import load_target, subsample
from selector.demo import photos as textile_folder
from selector.ranking.history import History
from selector.sources import registry as sources
from selector.store import FeatureStore
from selector.zoo import ModelSpec, load_zoo
from selector.zoo.spec import at_place, network_of

HERE = Path(__file__).parent
FORWARD = HERE / "results" / "bench_extract_models.csv"
SETS = ("flowers", "dtd10", "brainmri", "pneumoniamnist", "textile", "cifar10", "mnist", "digits")
OUT = HERE / "results" / "bench_scan_budget.csv"
TRUTH = HERE / "results" / "suite" / "ground_truth.csv"
SHARES = (5, 10, 20, 25, 50)
COLUMNS = (
    "set", "seed", "share", "rows", "models", "candidates", "spent", "looked_at", "finished", "finished_rows", "whole_choice",
    "choice", "regret", "whole_regret", "python", "selector", "cpu",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, write it, print the summary."""
    parser = options(__doc__, OUT, "one set and one seed")  # --seed is the first
    parser.add_argument("--store", required=True, help="feature store with rows of the sets")
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=SETS)
    parser.add_argument("--items", type=int, default=800, help="of a set, that are extracted")
    parser.add_argument("--seeds", type=int, default=3, help="subsamples of four fifths of them")
    parser.add_argument("--extract", action="store_true", help="bring the rows into the store, nothing else")
    args = parser.parse_args(argv)
    if args.quick:
        args.sets, args.seeds = args.sets[:1], 1
    rows = read_rows(args.out)
    made = {(row["set"], int(row["seed"])) for row in rows}
    truth = accuracies()
    for name in args.sets:
        pool = subsample(image_set(name), args.items)
        if args.extract:
            _rank(
                pool, candidates(truth[name]), FeatureStore(args.store), proxies=["knn"], prune="never", intervals=False
            )
            print(f"extracted {name}", file=sys.stderr, flush=True)
            continue
        for seed in range(args.seed, args.seed + args.seeds):
            if (name, seed) not in made:
                rows += replay(name, subsample(pool, round(0.8 * len(pool)), seed), args.store, truth[name], seed)
                write_rows(args.out, rows, COLUMNS)
    for line in [] if args.extract else summary(rows):
        print(line)
    return 0


DEPTH = 2 / 3


def candidates(truth: Mapping[str, float]) -> list[ModelSpec]:
    """The networks whose accuracy is known, each at its own layer and at an inner block."""
    found = []
    for spec in load_zoo(HERE / "assets-zoo.yaml", trust=True).models:
        if spec.name in truth:
            blocks = list(sources.get(spec.source_name).load(spec).blocks)
            inner = blocks[round(DEPTH * (len(blocks) - 1))]
            found += [spec, at_place(spec.model_copy(update={"name": f"{spec.name}@{inner}"}), inner, None)]
    return found


def _rank(target: Any, zoo: Sequence[ModelSpec], store: FeatureStore, **options: Any) -> Any:
    return selector.rank(target, zoo=zoo, store=store, backend="eager", measure_cost="never", **options)


def replay(name: str, target: Any, store: str, truth: Mapping[str, float], seed: int) -> list[dict[str, Any]]:
    """One target, whole and within each budget."""
    opened = FeatureStore(store)
    zoo = candidates(truth)
    networks = [spec for spec in zoo if spec.name in truth]
    price = forward_seconds(networks)
    for spec in networks:
        opened.put(
            "rate", {"network": network_of(spec)}, {"rows_per_second": 1 / price[spec.name], "num_features": 512}
        )
    with tempfile.TemporaryDirectory() as folder:
        history = History(Path(folder) / "empty.sqlite")
        whole = _rank(target, zoo, opened, seed=seed, history=history, prune="never")
        ranked = {
            share: _rank(target, zoo, opened, seed=seed, history=history, scan_budget=f"{share}%") for share in SHARES
        }
    best = max(truth[spec.name] for spec in networks)
    about = facts("python", "selector", "cpu")
    cost = whole.best.rows * sum(price.values())
    found = []
    for share, ranking in ranked.items():
        finished = [m for m in ranking if m.status == "ok"]
        choice, first = ranking.best.name, whole.best.name
        rows = {spec.name: max(m.rows for m in ranking if _network(m.name) == spec.name) for spec in networks}
        found.append({
            "set": name, "seed": seed, "share": share, "rows": whole.best.rows, "models": len(networks), "candidates": len(zoo),
            "spent": round(sum(price[name] * count for name, count in rows.items()) / cost, 4),
            "looked_at": sum(count > 0 for count in rows.values()), "finished": len({_network(m.name) for m in finished}),
            "finished_rows": finished[0].rows, "whole_choice": first, "choice": choice,
            "regret": round(100 * (truth[_network(first)] - truth[_network(choice)]), 2),
            "whole_regret": round(100 * (best - truth[_network(first)]), 2), **about,
        })  # fmt: skip
        print({k: v for k, v in found[-1].items() if k not in ("python", "cpu")}, file=sys.stderr, flush=True)
    return found


def forward_seconds(models: Sequence[ModelSpec]) -> dict[str, float]:
    """Seconds an image of each network's forward pass, as ``bench_extract`` measured it."""
    bare = [row for row in read_rows(FORWARD) if row["stage"] == "forward"]
    measured = {row["model"]: float(row["seconds"]) / float(row["images"]) for row in bare}
    return {spec.name: measured[spec.name] for spec in models}


def image_set(name: str) -> Target:
    """A labeled image set, with its own splits where it has them."""
    if name == "textile":
        return load_target(textile_folder())
    if name == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        return load_target(((digits.images * 255 / 16).round().astype("uint8"), digits.target), name="digits")
    return load_target(Path(os.environ["SELECTOR_ASSETS"]) / "data" / name)


def _network(candidate: str) -> str:
    return candidate.partition("@")[0]


def accuracies() -> dict[str, dict[str, float]]:
    """Test accuracy by set and encoder: of the best strategy, mean over seeds."""
    cells: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    for row in read_rows(TRUTH):
        if row["status"] == "ok":
            cells[row["set"], row["encoder"], row["strategy"]][row["seed"]] = float(row["test_accuracy"])
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for (name, encoder, _), values in cells.items():
        found[name][encoder] = max(found[name].get(encoder, 0.0), statistics.mean(values.values()))
    return found


def summary(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line a share: regret against the whole scan's choice over sets and seeds."""
    lines = []
    for share in SHARES:
        mine = [row for row in rows if int(row["share"]) == share]
        if not mine:
            continue
        spent = statistics.mean(float(row["spent"]) for row in mine)
        looked = statistics.mean(int(row["looked_at"]) / int(row["models"]) for row in mine)
        same = sum(row["choice"] == row["whole_choice"] for row in mine)
        regrets = [float(row["regret"]) for row in mine]
        parts = f"{share}%", f"{100 * spent:.1f}%", f"{100 * looked:.0f}%", f"{same} of {len(mine)}"
        lines.append((*parts, f"{statistics.mean(regrets):+.2f}", f"{max(regrets):+.2f}"))
    return markdown_lines(
        ("budget", "spent (mean)", "looked at", "same choice", "regret, mean", "regret, worst"), lines
    )


if __name__ == "__main__":
    sys.exit(main())
