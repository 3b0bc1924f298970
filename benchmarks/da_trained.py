"""Adaptation that trains the network, on 8 small encoders and the pairs of ``da_pairs``: what it gains.

    SELECTOR_ASSETS=... python -m benchmarks.da_trained [--pairs a,b] [--models x,y] [--minutes 8] [--out FILE]
    python -m benchmarks.da_trained --tables

A row is a (pair, encoder, strategy); ``full`` is the same training without a look at the target, ``source-only`` the
head on frozen features that every training starts from. Items, splits, loop and rates are those of the package,
images at most 64 pixels wide and not augmented (a digit has no mirror image). Rows that the file holds are not computed
again, and a training that was cut off goes on from its checkpoint. Labels of the target are read for the accuracies
and for ``right`` alone: a bit for each of its items (hexadecimal), which tables resample.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import selector
from benchmarks import da_pairs
from benchmarks.assets import assets_folder
from benchmarks.da import read_rows, target_of, write_rows
from benchmarks.rows import packed, unpacked
from selector.core.contracts import UNLABELED, Target, no_progress
from selector.core.system import versions
from selector.scan.extraction import Extraction
from selector.store import FeatureStore
from selector.tasks.adaptation import Adaptation
from selector.tuning import TuningCandidate, model_selection
from selector.tuning.adapt import Adapted, adapted_by, better_head, domains_of, network_heads
from selector.tuning.adapted_networks import started
from selector.tuning.domains import Domains, beyond_class_shares
from selector.tuning.journal import Journal
from selector.tuning.workbench import Loaded, Workbench
from selector.zoo import ModelSpec, load_zoo, select

RESULTS = Path(__file__).parent / "results" / "da_trained.csv"
FURTHER = RESULTS.with_name("da_trained_further.csv")
"""Of further encoders and of texts, with fewer and smaller steps: ``--out`` of these rows."""
MODELS = ("usps_cnn", "mnist_cnn", "mlc_resnet8", "svhn_cnn", "tiniest", "mnv1_025", "cifar_resnet20", "mnv2_coral")
TEXT_MODELS = ("minilm-l6-3-layers", "sre-minilm-l6", "minilm-l6", "minilm-untrained")  # those with a torch network
PAIRS = (
    "mnist-mnistm", "mnist-digits", "digits-mnist", "cifar10-noise", "cifar10-blur", "cifar10-fog", "cifar10-label-shift",
    "sst2-emotion",
)  # fmt: skip
STRATEGIES = ("source-only", "coral", "full", "deep-coral", "dann", "cdan", "mcc")
WIDEST = 64  # pixels
DRAWS = 500
MEAN = "mean over pairs"
ALONE = ("bnm", "class-ami", "dev", "im", "snd", "source-validation")  # validators that need no pool
FIELDS = (
    "pair", "model", "strategy", "steps", "batch_size", "rate", "head", "seed", "accuracy", "accuracy, as trained", "accuracy, coral", *ALONE, "source_items",
    "target_items", "seconds", "right", "versions",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", default=",".join(PAIRS))
    parser.add_argument("--models", default=None, help="encoders; those of the pair's modality when not given")
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--items", type=int, default=700, help="of each part of a pair at most")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch-size", type=int, default=32, help="of each domain")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no training begins after them")
    parser.add_argument("--tables", action="store_true", help="of the rows that are there")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    if args.tables:
        return tables(args.out)
    assets = assets_folder("pairs of domains and encoders")
    if assets is None:
        return 0
    ends = time.monotonic() + 60 * args.minutes
    strategies, wanted = args.strategies.split(","), args.pairs.split(",")
    loaded_pairs: dict[str, tuple[Target, np.ndarray]] = {}
    jobs = [
        (name, spec)
        for texts in (False, True)
        for spec in _specs(args.models, texts)
        for name in wanted
        if (name in da_pairs.TEXTS) == texts
    ]
    for name, spec in jobs:
        done = {(row["pair"], row["model"], row["strategy"], row["seed"]) for row in read_rows(args.out)}
        left = [s for s in strategies if (name, spec.name, s, str(args.seed)) not in done]
        if not left:
            continue
        if name not in loaded_pairs:
            loaded_pairs[name] = pair_of(name, assets, args.items)
        target, hidden = loaded_pairs[name]
        trainer = Trainer(target, spec, args.batch_size)
        for strategy in left:
            if time.monotonic() > ends:
                return 124
            row = {"pair": name, "model": spec.name, "batch_size": args.batch_size}
            row |= trainer.row(name, strategy, args.steps, args.seed, hidden)
            write_rows(args.out, [row], FIELDS)
            print(name, spec.name, strategy, f"{row['accuracy']:.3f}", row["seconds"], flush=True)
    return 0


def _specs(models: str | None, texts: bool) -> list[ModelSpec]:
    """Encoders of a modality, the cheapest first."""
    usual = TEXT_MODELS if texts else MODELS
    names = [name for name in usual if models is None or name in models.split(",")]
    zoo = load_zoo() if texts else load_zoo(Path(__file__).parent / "assets-zoo.yaml", trust=True)
    found = {spec.name: spec for spec in select(zoo, models=names)} if names else {}
    return [found[name] if texts else _small(found[name]) for name in names]


def _small(spec: ModelSpec) -> ModelSpec:
    """The same at no more than ``WIDEST`` pixels."""
    height, width = spec.preprocess.input_size[1:] if spec.preprocess.input_size else (0, 0)
    if max(height, width) <= WIDEST:
        return spec
    small = spec.preprocess.model_copy(update={"input_size": (3, WIDEST, WIDEST)})
    return spec.model_copy(update={"preprocess": small})


def pair_of(name: str, assets: Path, most: int) -> tuple[Target, np.ndarray]:
    """Both domains of a pair, and the labels of the target's items, which nothing but the figure may see."""
    return target_of(da_pairs.load(name, assets), most)


class Trainer:
    """One encoder on one pair."""

    def __init__(self, target: Target, spec: ModelSpec, batch_size: int) -> None:
        self.bench = bench_of(target, batch_size)
        extraction = Extraction(target, FeatureStore(None), "cpu", "auto", "auto", "skip", True, no_progress)
        self.loaded: Loaded = started(
            self.bench, TuningCandidate(spec.name, partial(extraction.load, spec), spec.feature_settings())
        )
        task, rows = self.bench.task, self._rows()
        assert isinstance(task, Adaptation)
        self.domains = domains_of(target, task, rows)
        self.shift = beyond_class_shares(self.domains)

    def adapted(self, strategy: str, steps: int, seed: int) -> tuple[Adapted, dict[str, Any], dict[str, Adapted]]:
        """The encoder adapted by a strategy, what was done, and, of a trained one, what either head says."""
        begun, task = time.perf_counter(), self.bench.task
        assert isinstance(task, Adaptation)
        heads: dict[str, Adapted] = {}
        if strategy in ("source-only", "coral"):
            adapted, steps = adapted_by(strategy, self.domains, task), 0
        else:
            trained, moved = network_heads(
                self.bench, self.loaded, strategy, self.domains, task, steps, float("inf"), seed
            )
            heads = {"as trained": trained, "coral": moved}
            adapted = trained if strategy == "full" else better_head(trained, moved, self.shift)
        head = next((name for name, made in heads.items() if made is adapted), "")
        facts = {
            "steps": steps, "rate": adapted.head.facts.get("learning_rate", ""), "head": head,
            "seconds": round(time.perf_counter() - begun, 1),
        }  # fmt: skip
        return adapted, facts, heads

    def row(self, pair: str, strategy: str, steps: int, seed: int, hidden: np.ndarray) -> dict[str, Any]:
        """Of the table.

        Args:
            hidden: the target's labels, which nothing but the accuracies and ``right`` sees.
        """
        adapted, facts, heads = self.adapted(strategy, steps, seed)
        by_head = {f"accuracy, {name}": accuracy(made, hidden) for name, made in heads.items()}
        return {
            "strategy": strategy,
            **by_head,
            **facts,
            **finding(adapted, hidden),
            **_sizes(self.domains),
            "seed": seed,
        }

    def _rows(self) -> dict[str, np.ndarray]:
        """Features of the pretrained network by split."""
        module = self.bench.task.learner(self.loaded.encoder, self.bench.target, self.loaded.probe)
        feed, found = self.bench.feed(self.loaded.preprocess), {}
        for split in ("train", "val", UNLABELED):
            items = self.bench.target.indices(split)
            rows = self.bench.rows_of(module, feed, items, bf16=False)[1]
            assert rows is not None
            found[split] = rows
        return found


def bench_of(target: Target, batch_size: int, notify: Any = no_progress) -> Workbench:
    """What trains on both domains of a target; trainings are kept in the user's store."""
    task, store = Adaptation(), FeatureStore(None)
    extraction = Extraction(target, store, "cpu", "auto", "auto", "skip", True, no_progress)
    journal = Journal(store.trainings_folder, task.stats_type)
    return Workbench(target, task, extraction.inputs, journal, "cpu", batch_size, False, notify=notify)


def finding(adapted: Adapted, hidden: np.ndarray) -> dict[str, Any]:
    """Validators' values and, last, the accuracy on the target."""
    view = adapted.view.beside(adapted.view.target)
    found: dict[str, Any] = {name: model_selection.VALIDATORS[name](view) for name in ALONE}
    return {**found, "accuracy": accuracy(adapted, hidden), "right": packed(hits(adapted, hidden))}


def accuracy(adapted: Adapted, hidden: np.ndarray) -> float:
    """On the target's items."""
    return float(hits(adapted, hidden).mean())


def hits(adapted: Adapted, hidden: np.ndarray) -> np.ndarray:
    """(M,) whether the target's items are predicted rightly."""
    return np.asarray(adapted.target.argmax(axis=1) == hidden)


def _sizes(domains: Domains) -> dict[str, Any]:
    return {
        "source_items": len(domains.train), "target_items": len(domains.target),
        "versions": f"selector {selector.__version__}, torch {versions().get('torch', '')}, {versions().get('cpu', '')}",
    }  # fmt: skip


# ---------------------------------------------------------------------------- tables


Line = tuple[str, str, int, float, float, float, float]
"""Pair, strategy, encoders, mean gain, its interval, and the gain with the head as trained; in points."""


def tables(path: Path) -> int:
    """Gain in points over source-only, a line a pair and strategy, with the 90% interval of resampled items and encoders;
    ``as trained``: without a head that ``coral`` solved. An encoder counts on a pair once every strategy that the pair has
    is there, so that a pair's lines rest on the same encoders."""
    rows = read_rows(path)
    known = {(r["pair"], r["model"], r["strategy"]): r for r in rows}
    found: list[Line] = []
    every: dict[str, list[np.ndarray]] = {}
    for pair in dict.fromkeys(r["pair"] for r in rows):
        own = [r for r in rows if r["pair"] == pair]
        names = [s for s in STRATEGIES if any(r["strategy"] == s for r in own)]
        models = [m for m in dict.fromkeys(r["model"] for r in own) if all((pair, m, s) in known for s in names)]
        for name in names[1:] if models else ():
            gains = [hits_of(known[pair, m, name]) - hits_of(known[pair, m, "source-only"]) for m in models]
            plain = [
                float(known[pair, m, name]["accuracy, as trained"]) - float(known[pair, m, "source-only"]["accuracy"])
                for m in models
                if known[pair, m, name]["accuracy, as trained"]
            ]
            resampled = _resampled(np.stack(gains))
            every.setdefault(name, []).append(resampled)
            low, high = np.quantile(resampled, [0.05, 0.95])
            mean, as_trained = float(np.mean(gains)), float(np.mean(plain)) if plain else float("nan")
            found.append((pair, name, len(models), *(100 * float(v) for v in (mean, low, high, as_trained))))
    for name, draws in every.items():
        own_lines = [line for line in found if line[1] == name]
        low, high = 100 * np.quantile(np.mean(draws, axis=0), [0.05, 0.95])
        mean, as_trained = (float(np.mean([line[i] for line in own_lines])) for i in (3, 6))
        found.append((MEAN, name, sum(line[2] for line in own_lines), mean, float(low), float(high), as_trained))
    with tables_of(path).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("pair", "strategy", "encoders", "gain", "low", "high", "as_trained"))
        writer.writerows((*line[:3], *(f"{v:.4g}" for v in line[3:])) for line in found)
    print(markdown(found))
    return 0


def tables_of(path: Path) -> Path:
    """Where the table of some rows lies."""
    return path.with_name(f"{path.stem}_tables.csv")


def markdown(lines: Sequence[Line]) -> str:
    """The table of the docs."""
    by = {(line[0], line[1]): line for line in lines}
    names = [s for s in STRATEGIES if any(line[1] == s for line in lines)]
    pairs = list(dict.fromkeys(line[0] for line in lines))
    said = [f"| pair (encoders) | {' | '.join(f'`{name}`' for name in names)} |", "|---" * (len(names) + 1) + "|"]
    for pair in pairs:
        own = [by.get((pair, name)) for name in names]
        cells = ["" if line is None else "{} ({} to {})".format(*map(_minus, line[3:6])) for line in own]
        count = next(line[2] for line in own if line is not None)
        said.append(f"| {pair.replace('-', ' → ', 1)} ({count}) | {' | '.join(cells)} |")
    last = [by.get((MEAN, name)) for name in names]
    cells = ["" if line is None or np.isnan(line[6]) else _minus(line[6]) for line in last]
    return "\n".join([*said, f"| mean, head as trained | {' | '.join(cells)} |"])


def _minus(value: float) -> str:
    return f"{value:.1f}".replace("-", "−")


def hits_of(row: dict[str, str]) -> np.ndarray:
    """(M,) whether the target's items were predicted rightly, 0 or 1, of a row that was read."""
    return unpacked(row["right"], int(row["target_items"]))


def _resampled(gains: np.ndarray) -> np.ndarray:
    """(DRAWS,) means of gains (K, M) over encoders and items that are drawn with replacement; seeded, so that strategies of
    a pair see the same draws."""
    rng = np.random.default_rng(0)
    count, items = gains.shape
    found = [gains[rng.integers(count, size=count)][:, rng.integers(items, size=items)].mean() for _ in range(DRAWS)]
    return np.array(found)


if __name__ == "__main__":
    sys.exit(main())
