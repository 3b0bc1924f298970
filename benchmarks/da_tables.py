"""Tables from the rows of ``da.py``: agreement of measures and validators, the choice, gains, labels needed.

    python -m benchmarks.da_tables [--labels runs/da] [--out FILE]

``--labels`` names the folder of predictions that ``da.py`` left: with it, how many labels the choice needs.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from benchmarks import da_pairs
from benchmarks.da import DETAILS, RESULTS, STRATEGIES, VALIDATORS
from benchmarks.rows import options, read_rows, write_rows
from selector.tuning.labeling import Labeling
from selector.tuning.model_selection import BEYOND, COMBINED, SOURCE_ONLY, agreement_of, combined_ranks, decided, suited

TABLES = Path(__file__).parent / "results" / "da_tables.csv"
MOST_LABELS, TURNS = 60, 10
FROM_CHOICE = "label, from the run's choice"
ASKED = ("label", FROM_CHOICE, "label, ten at a time", "random", "random, believed as in label")
FITTED = ("source_accuracy", "pas", "label_shift")
Row = dict[str, str]


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = options(__doc__, TABLES)
    parser.add_argument("--rows", type=Path, default=RESULTS)
    parser.add_argument("--labels", type=Path, default=None)
    args = parser.parse_args(argv)
    rows = read_rows(args.rows)
    pairs = list(dict.fromkeys(row["pair"] for row in rows))
    found: list[tuple[str, str, str, float]] = []  # table, pair, name, value
    for pair in pairs:
        own = [row for row in rows if row["pair"] == pair]
        found += [*_measures(pair, own), *_choice(pair, own), *_gains(pair, own)]
    if args.labels is not None:
        # pools of one size: that of the texts is smaller
        kept = {pair: args.labels / f"{pair}.npz" for pair in pairs if pair not in da_pairs.TEXTS}
        asked = {
            pair: _regret_curves(path, " ".join(_handed_over([row for row in rows if row["pair"] == pair])))
            for pair, path in kept.items()
            if path.is_file()
        }
        found += _labels({pair: curves for pair, (curves, _) in asked.items()})
        for pair, (_, stops) in asked.items():
            for name, (count, behind) in stops.items():
                found += [("labels when label expects to be within a point", pair, name, count),
                          ("regret in points when label expects to be within one", pair, name, behind)]  # fmt: skip
    found += [*_prediction(rows, pairs), *_within_models(rows)]
    found += _rules_of_other_pairs(
        {p: [row for row in rows if row["pair"] == p] for p in pairs if p not in da_pairs.TEXTS}
    )
    columns = ("table", "pair", "name", "value")
    write_rows(args.out, [dict(zip(columns, (*line[:3], f"{line[3]:.4g}"), strict=True)) for line in found])
    for table in dict.fromkeys(line[0] for line in found):
        names = dict.fromkeys(line[2] for line in found if line[0] == table)
        print(f"\n{table}: mean over pairs (each pair)")
        for name in names:
            values = [line[3] for line in found if line[0] == table and line[2] == name]
            print(f"  {name:36s} {np.nanmean(values):6.3f}  ({', '.join(f'{value:.2f}' for value in values)})")
    return 0


def _safe(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["strategy"] == SOURCE_ONLY]


def _of(rows: Sequence[Row], name: str) -> np.ndarray:
    return np.array([float(row[name]) for row in rows])


def _regret(score: np.ndarray, accuracy: np.ndarray) -> float:
    return 100 * float(accuracy.max() - accuracy[int(np.argmax(score))])


def _measures(pair: str, rows: Sequence[Row]) -> list[tuple[str, str, str, float]]:
    """Over encoders, against the accuracy of source-only."""
    own = _safe(rows)
    accuracy, found = _of(own, "accuracy"), []
    for name in DETAILS:
        score = _of(own, name)
        found.append(("measures, Spearman", pair, name, float(spearmanr(score, accuracy).statistic)))
        found.append(("measures, regret in points", pair, name, _regret(score, accuracy)))
    name = "target_accuracy_predicted"
    error = 100 * float(np.abs(_of(own, name) - accuracy).mean())
    return [*found, ("prediction, mean absolute error in points", pair, name, error)]


def _prediction(rows: Sequence[Row], pairs: Sequence[str]) -> list[tuple[str, str, str, float]]:
    """The regression behind ``target-accuracy``: its coefficients, and how it does on pairs that were left out."""
    own = _safe(rows)
    table, found, missed = "prediction of left-out pairs", [], []
    for pair in pairs:
        held = [row for row in own if row["pair"] == pair]
        weights = _ridge([row for row in own if row["pair"] != pair])
        chance = _chance(held)
        way = weights[0] + sum(w * _of(held, n) for n, w in zip(FITTED, weights[1:], strict=True))
        predicted = np.clip(chance + (1 - chance) * way, 0, 1)
        accuracy = _of(held, "accuracy")
        missed.append(np.abs(predicted - accuracy))
        confidence = np.abs((_of(held, "confidence") + _of(held, "thresholded_confidence")) / 2 - accuracy).mean()
        found += [
            (table, pair, "mean absolute error in points", 100 * float(missed[-1].mean())),
            (table, pair, "of confidence, likewise", 100 * float(confidence)),
            (table, pair, "Spearman", float(spearmanr(predicted, accuracy).statistic)),
            (table, pair, "regret in points", _regret(predicted, accuracy)),
        ]
    # an interval's width from the pairs but one, and whether it holds for that one
    for i, pair in enumerate(pairs):
        width = np.quantile(np.concatenate([m for j, m in enumerate(missed) if j != i]), 0.9)
        found.append((table, pair, "within the interval of the other pairs", float((missed[i] <= width).mean())))
    names = ("intercept", *FITTED)
    found += [("regression", "all", name, w) for name, w in zip(names, _ridge(own), strict=True)]
    every = np.concatenate(missed)
    return [*found, ("regression", "all", "90% of what is missed, points", 100 * float(np.quantile(every, 0.9)))]


def _chance(rows: Sequence[Row]) -> np.ndarray:
    return 1 / _of(rows, "classes")


def _ridge(rows: Sequence[Row]) -> list[float]:
    """Intercept and weights of ``FITTED`` for the way from chance to 1, penalty 2 on standardized columns."""
    chance = _chance(rows)
    x, y = np.stack([_of(rows, name) for name in FITTED], axis=1), (_of(rows, "accuracy") - chance) / (1 - chance)
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
    name = _handed_over(rows)
    handed = accuracy[keys.index(name)]
    source_only = accuracy[keys.index((name[0], "source-only"))]
    by_validators, _ = decided(keys, used, {key: int(row["preferred_by"]) for key, row in zip(keys, rows, strict=True)})
    safest, alone = _of(_safe(rows), "accuracy").max(), accuracy[keys.index(by_validators)]
    return [
        *found,
        ("choice", pair, "regret in points", 100 * float(accuracy.max() - handed)),
        ("choice", pair, "below source-only of its model, points", 100 * float(source_only - handed)),
        ("choice", pair, "below the best source-only, points", 100 * float(safest - handed)),
        ("choice", pair, "regret in points, validators alone", 100 * float(accuracy.max() - alone)),
        ("choice", pair, "agreement of validators", agreement_of(used)),
        ("choice", pair, "best in the pool", float(accuracy.max())),
        ("choice", pair, "selected", float(handed)),
    ]


def _rules_of_other_pairs(rows: Mapping[str, Sequence[Row]]) -> list[tuple[str, str, str, float]]:
    """What the choice would be worth if all that it rests on had been chosen without the pair that it is judged on.

    Of a pair the mean regret of those rules that are best, by their mean regret, on all other pairs: ``constants`` have the
    package's two validators and choose from when on more than class shares differs, how many votes are needed and
    whether a preference must exceed its error; ``constants and validators`` choose the two validators as well (only for
    the package's own are errors in the rows).
    """
    own = tuple(VALIDATORS.index(name) for name in COMBINED)
    rules = [(v, b, need, error) for v in itertools.combinations(range(len(VALIDATORS)), 2) for b in (1.0, BEYOND, 5.0)
             for need in (1, 2, 3) for error in ((False, True) if v == own else (False,))]  # fmt: skip
    pairs, regrets = list(rows), np.array([[_regret_of_rule(part, *rule) for rule in rules] for part in rows.values()])
    scopes = {
        "constants": [i for i, rule in enumerate(rules) if rule[0] == own],
        "constants and validators": range(len(rules)),
    }
    found = []
    for name, some in scopes.items():
        for i, pair in enumerate(pairs):
            others = np.delete(regrets[:, some], i, axis=0).mean(axis=0)
            best = others <= others.min() + 1e-9
            found.append(
                ("choice, rule of the other pairs, regret in points", pair, name, float(regrets[i, some][best].mean()))
            )
    return found


def _regret_of_rule(rows: Sequence[Row], judges: tuple[int, int], beyond: float, need: int, error: bool) -> float:
    keys, accuracy = [(row["model"], row["strategy"]) for row in rows], _of(rows, "accuracy")
    table = np.stack([_of(rows, VALIDATORS[i]) for i in judges], axis=1)
    safe = table[[keys.index((model, SOURCE_ONLY)) for model, _ in keys]]
    prefer = _of(rows, "preferred_by") if error else (table > safe).sum(axis=1)
    votes = prefer + [suited(row["strategy"], float(row["beyond_class_shares"]), beyond) for row in rows]
    most = table.shape[1] + 1  # a majority, as ``decided`` asks for it
    name, _ = decided(keys, table, {key: most if count >= need else 0 for key, count in zip(keys, votes, strict=True)})
    return 100 * float(accuracy.max() - accuracy[keys.index(name)])


def _suits(row: Row) -> bool:
    """Rows of before the column was there have no such vote."""
    return row["beyond_class_shares"] != "" and suited(row["strategy"], float(row["beyond_class_shares"]))


def _within_models(rows: Sequence[Row]) -> list[tuple[str, str, str, float]]:
    """Whether a model gains by ``coral``: what a rule that takes it or leaves source-only gains on average, and at worst,
    over all models and pairs."""
    by = {(row["pair"], row["model"], row["strategy"]): row for row in rows}
    found: dict[str, list[float]] = {}
    for (pair, model, strategy), row in by.items():
        if strategy != "coral":
            continue
        safe = by[pair, model, "source-only"]
        gain = 100 * (float(row["accuracy"]) - float(safe["accuracy"]))
        prefers = {name: float(row[name]) > float(safe[name]) for name in VALIDATORS}
        suits = _suits(row)
        rules = {
            **prefers, "always": True, "more than class shares differs": suits, "the better of both": gain > 0,
            "two of three": int(row["preferred_by"]) + suits > 1,
        }  # fmt: skip
        for name, taken in rules.items():
            found.setdefault(name, []).append(gain if taken else 0.0)
    return [
        (table, "all", name, float(worked_out(values)))
        for name, values in found.items()
        for table, worked_out in (("coral or source-only, mean gain", np.mean), ("coral or source-only, worst", np.min))
    ]


def _gains(pair: str, rows: Sequence[Row]) -> list[tuple[str, str, str, float]]:
    """Points over source-only, mean over encoders."""
    by = {(row["model"], row["strategy"]): float(row["accuracy"]) for row in rows}
    models = dict.fromkeys(row["model"] for row in rows)
    return [
        ("gain in points", pair, name, 100 * float(np.mean([by[m, name] - by[m, "source-only"] for m in models])))
        for name in STRATEGIES[1:]
    ]


def _handed_over(rows: Sequence[Row]) -> tuple[str, str]:
    """Model and strategy that a run chooses without labels."""
    keys = [(row["model"], row["strategy"]) for row in rows]
    votes = {key: int(row["preferred_by"]) + _suits(row) for key, row in zip(keys, rows, strict=True)}
    return decided(keys, np.stack([_of(rows, name) for name in COMBINED], axis=1), votes)[0]


def _regret_curves(path: Path, handed: str = "") -> tuple[dict[str, np.ndarray], dict[str, tuple[float, float]]]:
    """By way of asking, (MOST_LABELS,) mean regret in points of the leader after so many labels, over ``TURNS`` random
    80% of the target's items; and, for ``label``, labels and regret where it expects for the first time to be within a
    point of the best: what a person sees, who knows no regret.

    Args:
        handed: the candidate that was chosen without labels, from which ``FROM_CHOICE`` starts.
    """
    with np.load(path, allow_pickle=False) as kept:
        every, truth, merits = kept["probabilities"].astype(np.float64), kept["labels"], kept["merits"]
        keys = kept["keys"].tolist() if "keys" in kept else []
    first = keys.index(handed) if handed else None
    found: dict[str, list[list[float]]] = {name: [] for name in ASKED}
    stops: dict[str, list[tuple[float, float]]] = {name: [] for name in ASKED if name.startswith("label")}
    for turn in range(TURNS):
        rng = np.random.default_rng(turn)
        some = rng.permutation(len(truth))[: int(0.8 * len(truth))]
        probabilities, labels = every[:, some], truth[some]
        hits = probabilities.argmax(axis=2) == labels
        behind = 100 * (hits.mean(axis=1).max() - hits.mean(axis=1))
        order = rng.permutation(len(labels))
        for name in ASKED:
            labeling, curve = Labeling(probabilities, merits, turn, first=first if name == FROM_CHOICE else None), []
            while len(curve) < MOST_LABELS:
                size = 10 if name == "label, ten at a time" else 1
                for item in order[len(curve) :][:1] if name.startswith("random") else labeling.batch(size):
                    labeling.label(int(item), int(labels[item]))
                    curve.append(float(behind[labeling.standing().leader]))
                    if name == "random":  # the plain rule: most hits, ties at their mean
                        counted = hits[:, order[: len(curve)]].sum(axis=1)
                        curve[-1] = float(behind[counted == counted.max()].mean())
                if name in stops and len(stops[name]) == turn and (
                    labeling.standing().regret <= 0.01 or len(curve) >= MOST_LABELS
                ):  # fmt: skip
                    stops[name].append((len(curve), curve[-1]))
            found[name].append(curve[:MOST_LABELS])
    mean = {name: np.mean(some, axis=0) for name, some in stops.items()}
    return {name: np.mean(curves, axis=0) for name, curves in found.items()}, {
        n: (float(a), float(b)) for n, (a, b) in mean.items()
    }


def _labels(curves: Mapping[str, Mapping[str, np.ndarray]]) -> list[tuple[str, str, str, float]]:
    """The first number of labels from which on the mean regret stays within a point; ``MOST_LABELS`` + 1 where it never
    does. ``all``: of the curve that is the mean over pairs."""
    found = []
    for name in ASKED:
        mean = np.mean([own[name] for own in curves.values()], axis=0)
        for pair, curve in (*((pair, own[name]) for pair, own in curves.items()), ("all", mean)):
            found.append(("labels for regret <= 1 point" + ", all pairs" * (pair == "all"), pair, name, _needed(curve)))
        found += [(f"regret after {n} labels", "all", name, float(mean[n - 1])) for n in (5, 10, 15, 25, 40)]
    return found


def _needed(curve: np.ndarray) -> float:
    return float(max(np.flatnonzero(curve > 1.0), default=-1) + 2)


if __name__ == "__main__":
    sys.exit(main())
