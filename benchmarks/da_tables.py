"""Tables from the rows of ``da.py``: agreement of measures and validators, the choice, gains, labels needed.

    python -m benchmarks.da_tables [--labels runs/da] [--out FILE]

``--labels`` names the folder of predictions that ``da.py`` left: with it, how many labels the choice needs.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from benchmarks.da import DETAILS, RESULTS, STRATEGIES, VALIDATORS
from selector.tuning.choice import COMBINED, combined_ranks, decided
from selector.tuning.labelling import Labelling

TABLES = Path(__file__).parent / "results" / "da_tables.csv"
MOST_LABELS, TURNS = 60, 5
FITTED = ("source_accuracy", "pas", "label_shift")
Row = dict[str, str]


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, default=RESULTS)
    parser.add_argument("--labels", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=TABLES)
    args = parser.parse_args(argv)
    with args.rows.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    pairs = list(dict.fromkeys(row["pair"] for row in rows))
    found: list[tuple[str, str, str, float]] = []  # table, pair, name, value
    for pair in pairs:
        own = [row for row in rows if row["pair"] == pair]
        found += [*_measures(pair, own), *_choice(pair, own), *_gains(pair, own)]
        if args.labels is not None and (args.labels / f"{pair}.npz").is_file():
            found += _labels(pair, args.labels / f"{pair}.npz")
    found += _prediction(rows, pairs)
    with args.out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("table", "pair", "name", "value"))
        writer.writerows((table, pair, name, f"{value:.4g}") for table, pair, name, value in found)
    for table in dict.fromkeys(line[0] for line in found):
        names = dict.fromkeys(line[2] for line in found if line[0] == table)
        print(f"\n{table}: mean over pairs (each pair)")
        for name in names:
            values = [line[3] for line in found if line[0] == table and line[2] == name]
            print(f"  {name:36s} {np.nanmean(values):6.3f}  ({', '.join(f'{value:.2f}' for value in values)})")
    return 0


def _of(rows: Sequence[Row], name: str) -> np.ndarray:
    return np.array([float(row[name]) for row in rows])


def _regret(score: np.ndarray, accuracy: np.ndarray) -> float:
    return 100 * float(accuracy.max() - accuracy[int(np.argmax(score))])


def _measures(pair: str, rows: Sequence[Row]) -> list[tuple[str, str, str, float]]:
    """Over encoders, against the accuracy of source-only."""
    own = [row for row in rows if row["strategy"] == "source-only"]
    accuracy, found = _of(own, "accuracy"), []
    for name in DETAILS:
        score = _of(own, name)
        found.append(("measures, Spearman", pair, name, float(spearmanr(score, accuracy).statistic)))
        found.append(("measures, regret in points", pair, name, _regret(score, accuracy)))
    error = np.abs(_of(own, "target_accuracy_predicted") - accuracy).mean()
    return [
        *found,
        ("prediction, mean absolute error in points", pair, "target_accuracy_predicted", 100 * float(error)),
    ]


def _prediction(rows: Sequence[Row], pairs: Sequence[str]) -> list[tuple[str, str, str, float]]:
    """The regression behind ``target-accuracy``: its coefficients, and how it does on pairs that were left out."""
    own = [row for row in rows if row["strategy"] == "source-only"]
    found, missed = [], []
    for pair in pairs:
        held = [row for row in own if row["pair"] == pair]
        weights = _ridge([row for row in own if row["pair"] != pair])
        predicted = np.clip(weights[0] + sum(w * _of(held, n) for n, w in zip(FITTED, weights[1:], strict=True)), 0, 1)
        accuracy = _of(held, "accuracy")
        missed += list(np.abs(predicted - accuracy))
        confidence = np.abs((_of(held, "confidence") + _of(held, "thresholded_confidence")) / 2 - accuracy).mean()
        table = "prediction of left-out pairs"
        found += [
            (table, pair, "mean absolute error in points", 100 * float(np.abs(predicted - accuracy).mean())),
            (table, pair, "of confidence, likewise", 100 * float(confidence)),
            (table, pair, "Spearman", float(spearmanr(predicted, accuracy).statistic)),
            (table, pair, "regret in points", _regret(predicted, accuracy)),
        ]
    names = ("intercept", *FITTED)
    found += [("regression", "all", name, w) for name, w in zip(names, _ridge(own), strict=True)]
    return [*found, ("regression", "all", "90 % of what is missed, points", 100 * float(np.quantile(missed, 0.9)))]


def _ridge(rows: Sequence[Row]) -> list[float]:
    """Intercept and weights of ``FITTED``, penalty 2 on standardised columns."""
    x, y = np.stack([_of(rows, name) for name in FITTED], axis=1), _of(rows, "accuracy")
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    z = np.c_[np.ones(len(x)), (x - mean) / deviation]
    solved = np.linalg.solve(z.T @ z + np.diag([0.0] + [2.0] * len(FITTED)), z.T @ y)
    weights = solved[1:] / deviation
    return [float(solved[0] - weights @ mean), *map(float, weights)]


def _choice(pair: str, rows: Sequence[Row]) -> list[tuple[str, str, str, float]]:
    """Over candidates (encoder, strategy)."""
    accuracy = _of(rows, "accuracy")
    table = np.stack([_of(rows, name) for name in VALIDATORS], axis=1)
    used = table[:, [VALIDATORS.index(name) for name in COMBINED]]
    found = []
    ranks = [("all seven combined", combined_ranks(table)), (" and ".join(COMBINED), combined_ranks(used))]
    for name, score in [*zip(VALIDATORS, table.T, strict=True), *ranks]:
        found.append(("validators, Spearman", pair, name, float(spearmanr(score, accuracy).statistic)))
        found.append(("validators, regret in points", pair, name, _regret(score, accuracy)))
    keys = [(row["model"], row["strategy"]) for row in rows]
    name, first, agreement = decided(keys, used)
    handed = accuracy[keys.index(name)]
    source_only = accuracy[keys.index((first[0], "source-only"))]
    return [
        *found,
        ("choice", pair, "regret in points", 100 * float(accuracy.max() - handed)),
        ("choice", pair, "below source-only of its model, points", 100 * float(source_only - handed)),
        ("choice", pair, "agreement of validators", agreement),
        ("choice", pair, "best in the pool", float(accuracy.max())),
        ("choice", pair, "handed over", float(handed)),
    ]


def _gains(pair: str, rows: Sequence[Row]) -> list[tuple[str, str, str, float]]:
    """Points over source-only, mean over encoders."""
    by = {(row["model"], row["strategy"]): float(row["accuracy"]) for row in rows}
    models = dict.fromkeys(row["model"] for row in rows)
    return [
        ("gain in points", pair, name, 100 * float(np.mean([by[m, name] - by[m, "source-only"] for m in models])))
        for name in STRATEGIES[1:]
    ]


def _labels(pair: str, path: Path) -> list[tuple[str, str, str, float]]:
    """The first number of labels from which on the regret stays within a point; ``MOST_LABELS`` + 1 where it never does."""
    with np.load(path, allow_pickle=False) as kept:
        probabilities, labels = kept["probabilities"], kept["labels"]
    right = (probabilities.argmax(axis=2) == labels).mean(axis=1)
    asked = _needed(probabilities, labels, right, None)
    drawn = [_needed(probabilities, labels, right, np.random.default_rng(turn)) for turn in range(TURNS)]
    return [
        ("labels for regret <= 1 point", pair, "label", asked),
        ("labels for regret <= 1 point", pair, "random", float(np.mean(drawn))),
    ]


def _needed(probabilities: np.ndarray, labels: np.ndarray, right: np.ndarray, rng: np.random.Generator | None) -> float:
    labelling = Labelling(probabilities)
    order = None if rng is None else rng.permutation(len(labels))
    within = []
    for step in range(MOST_LABELS):
        item = labelling.next() if order is None else int(order[step])
        labelling.label(item, int(labels[item]))
        within.append(right.max() - right[labelling.standing().leader] <= 0.01)
    last_miss = max((step for step, fine in enumerate(within) if not fine), default=-1)
    return float(last_miss + 2)


if __name__ == "__main__":
    sys.exit(main())
