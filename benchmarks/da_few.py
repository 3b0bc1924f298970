"""Few labels of the target to learn from: what heads on frozen features gain, by how much such a label counts.

    SELECTOR_ASSETS=... python -m benchmarks.da_few [--pairs a,b] [--models x,y] [--draws 2] [--out FILE]

Of each pair (700 items of each part) some items of the target are drawn and learned from with their labels; accuracy is
that of the others. ``source`` takes them for items of the source, as they once were taken (``coral`` then moves them as well);
a number is the weight of each beside a source item, ``half`` what makes all of them count as much as the source; ``none``
learns from no label. Features are those of ``benchmarks.da``, extracted where they are not kept.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

import selector
from benchmarks import da, da_pairs
from benchmarks.assets import assets_folder
from selector.core.system import versions
from selector.tasks.adaptation import Adaptation
from selector.tuning import strategies
from selector.tuning.adapt import domains_of
from selector.tuning.domains import Domains
from selector.tuning.strategies._heads import HeadStrategy
from selector.zoo import load_zoo, select

RESULTS = Path(__file__).parent / "results" / "da_few.csv"
PAIRS = ("mnist-digits", "digits-mnist", "mnist-mnistm", "cifar10-blur", "cifar10-fog")
MODELS = ("mlc_resnet8", "mnv1_025", "usps_cnn")
COUNTS = (10, 30, 100)
WEIGHTS = ("none", "source", "1", "4", "16", "half")
FIELDS = ("pair", "model", "strategy", "labels", "weight", "accuracy", "draws", "versions")


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", default=",".join(PAIRS))
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    assets = assets_folder("pairs of domains and encoders")
    if assets is None:
        return 0
    zoo = load_zoo(Path(__file__).parent / "assets-zoo.yaml", trust=True)
    for name in args.pairs.split(","):
        target, hidden = da.target_of(da_pairs.load(name, assets), 700)
        for spec in select(zoo, models=args.models.split(",")):
            if (name, spec.name) in {(row["pair"], row["model"]) for row in da.read_rows(args.out)}:
                continue
            plain = domains_of(target, Adaptation(), da.features_of(target, spec))
            said = f"selector {selector.__version__}, numpy {versions().get('numpy', '')}, {versions().get('cpu', '')}"
            found = [
                {"pair": name, "model": spec.name, "strategy": strategy, "labels": count, "weight": weight,
                 "accuracy": float(np.mean([gained(plain, hidden, strategy, count, weight, seed) for seed in range(args.draws)])),
                 "draws": args.draws, "versions": said}
                for strategy in ("source-only", "coral") for count in COUNTS for weight in WEIGHTS
            ]  # fmt: skip
            da.write_rows(args.out, found, FIELDS)
            print(name, spec.name, flush=True)
    print(markdown(da.read_rows(args.out)))
    return 0


def gained(plain: Domains, hidden: np.ndarray, strategy: str, count: int, weight: str, seed: int) -> float:
    """Accuracy on the items that were not drawn."""
    order = np.random.default_rng((count, seed)).permutation(len(hidden))
    drawn, rest = order[:count], order[count:]
    shots, labels = plain.target[drawn], hidden[drawn]
    each = {"half": len(plain.train) / count}.get(weight) or (float(weight) if weight.isdigit() else 1.0)
    if weight == "none":
        seen = plain
    elif weight == "source":
        seen = replace(plain, train=np.concatenate([plain.train, shots]), labels=np.concatenate([plain.labels, labels]))
    else:
        seen = replace(plain, shots=shots, shot_labels=labels, shot_weight=each)
    head = cast(HeadStrategy, strategies.registry.get(strategy)).solve(seen)
    return float((head.outputs(plain.target[rest]).argmax(axis=1) == hidden[rest]).mean())


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """The table of the docs: means over pairs and encoders, in per cent."""
    said = [f"| strategy, labels | {' | '.join(WEIGHTS)} |", "|---" * (len(WEIGHTS) + 1) + "|"]
    for strategy in ("source-only", "coral"):
        for count in COUNTS:
            own = [r for r in rows if r["strategy"] == strategy and r["labels"] == str(count)]
            means = [np.mean([float(r["accuracy"]) for r in own if r["weight"] == weight]) for weight in WEIGHTS]
            said.append(f"| `{strategy}`, {count} | {' | '.join(f'{100 * mean:.1f}' for mean in means)} |")
    return "\n".join(said)


if __name__ == "__main__":
    sys.exit(main())
