"""How well do proxies, the combined transferability and static baselines agree with fine-tuned accuracy?

    SELECTOR_ASSETS=... python -m benchmarks.suite.agreement_table [--suite images|texts] [--strategy full|frozen] [--draws 1000]

Reads the ground-truth table and the scores that ``score_cells`` wrote beside it; writes ``agreement_<strategy>.csv`` (figures
with 90% bootstrap intervals) and ``scores_<strategy>.csv`` (every single value) beside the table, of texts with
``text_`` before their names.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from benchmarks.agreement import Interval, mean_agreement, paired_difference
from benchmarks.assets import assets_folder
from benchmarks.rows import options, write_rows
from benchmarks.suite import score_cells, suites, table
from benchmarks.suite.ceiling import SeedNoise, ceiling, chance, seed_noise
from benchmarks.suite.suites import ByScore, Column, Facts, Scope, Suite
from selector.core.contracts import Score
from selector.ranking.combination import combine
from selector.ranking.prior import ModelFacts, static_prior

MEASURES = ("weighted_tau", "spearman", "regret@1", "regret@3", "rel@1", "rel@3")
FEWEST_ENCODERS = 4  # a scope with fewer says nothing about an order
NORMALIZED_SCORE, TRANSFERABILITY = "normalized_score", "transferability"
RANDOM = "random order"
CEILING = "noise ceiling"  # see the module of that name


def main(argv: Sequence[str] | None = None) -> int:
    """Score, compare, print and write."""
    # no --out: beside the truth
    parser = options(__doc__, quick="the tables of a quick run, and 50 draws")
    parser.add_argument("--suite", choices=suites.NAMES, default=suites.NAMES[0])
    parser.add_argument("--truth", type=Path, help="the suite's own when left out")
    parser.add_argument("--scores", type=Path, help="the suite's own when left out")
    parser.add_argument("--strategy", choices=("full", "frozen"), default="full")
    parser.add_argument("--sets", nargs="+", help="complete columns when left out")
    parser.add_argument("--partial", action="store_true", help="take columns that lack encoders as well")
    parser.add_argument("--draws", type=int, default=1000, help="of the bootstrap")
    args = parser.parse_args(argv)
    suite = suites.find(args.suite)
    assets = assets_folder(suite.needs)
    facts = suite.encoders(assets)
    path = args.truth or suite.table("ground_truth", args.quick)
    truth = fine_tuned(path, args.strategy)
    chosen = [
        name
        for name, column in truth.items()
        if (not args.sets or name in args.sets) and (args.partial or len(column) == len(facts))
    ]
    if not chosen:
        have = ", ".join(f"{name} {len(column)} of {len(facts)}" for name, column in truth.items())
        print(f"no complete column in {path} ({have or 'empty'}); --partial takes the others.", file=sys.stderr)
        return 1
    truth = {name: truth[name] for name in chosen}
    by_score = static_baselines(truth, facts)
    scored = score_cells.read(args.scores or suite.table("scores", args.quick), suite.members)
    by_score |= known(scored, truth, {name: known_of.model for name, known_of in facts.items()})
    missing = {key: reason for key, reason in scored.missing.items() if key[2] in truth.get(key[0], ())}
    noise = seed_noise(path, strategy=args.strategy)
    rows = agreement(by_score, truth, suite.scopes, 50 if args.quick else args.draws, args.seed, noise)
    times = seconds(scored, truth)
    rows = [row | {"seconds": times.get(str(row["score"]), "")} for row in rows]
    folder = args.out or path.parent
    folder.mkdir(parents=True, exist_ok=True)
    write_scores(folder / f"{suite.prefix}scores_{args.strategy}.csv", by_score, truth, missing)
    write_rows(folder / f"{suite.prefix}agreement_{args.strategy}.csv", rows, digits=4)
    show(rows, suite.scopes, truth)
    show_source_is_target(suite, by_score, truth)
    return 0


def fine_tuned(path: Path, strategy: str) -> dict[str, Column]:
    """Test accuracy in points by set and encoder, the mean over seeds; failed and diverged cells are left out."""
    found: dict[str, dict[str, list[float]]] = {}
    for (set_name, encoder, how, _), row in table.read(path).items():
        if how == strategy and row["status"] == "ok" and row["diverged"] == "0":
            found.setdefault(set_name, {}).setdefault(encoder, []).append(100 * float(row["test_accuracy"]))
    return {name: {e: float(np.mean(v)) for e, v in column.items()} for name, column in found.items()}


def static_baselines(truth: Mapping[str, Column], facts: Mapping[str, Facts]) -> dict[str, dict[str, Column]]:
    """Scores that never look at the target: log parameters, depth, and the mean rank on the other sets."""
    size = {name: {e: math.log(facts[e].model.parameters or 1) for e in column} for name, column in truth.items()}
    depths = {e: float(known.depth) for e, known in facts.items() if known.depth is not None}
    found = {"log parameters": size}
    if depths:
        found["depth"] = {name: {e: depths[e] for e in column if e in depths} for name, column in truth.items()}
    if len(truth) < 2:
        return found
    ranks = {s: dict(zip(c, rankdata(list(c.values())) / len(c), strict=True)) for s, c in truth.items()}
    others: dict[str, Column] = {}
    for name, column in truth.items():
        past = {e: [r[e] for s, r in ranks.items() if s != name and e in r] for e in column}
        others[name] = {e: float(np.mean(values)) for e, values in past.items() if values}
    return found | {"mean rank elsewhere": others}


def known(
    scored: score_cells.Scored, truth: Mapping[str, Column], facts: Mapping[str, ModelFacts]
) -> dict[str, dict[str, Column]]:
    """Scores of the cells that have a fine-tuned accuracy, their combined normalized score, and the transferability: the
    normalized score moved by the prior over the encoders' facts, as the package does it without a history."""
    found: dict[str, dict[str, Column]] = {}
    for score, by_set in scored.values.items():
        for name, values in by_set.items():
            if column := {e: values[e] for e in truth.get(name, ()) if e in values}:
                found.setdefault(score, {})[name] = column
    for name in truth:
        if name not in scored.labels:
            continue
        cells = {e: {s: Score(found[s][name][e]) for s in found if e in found[s].get(name, ())} for e in truth[name]}
        whole = {e: by_proxy for e, by_proxy in cells.items() if set(scored.labels[name].scales) <= set(by_proxy)}
        if not whole:
            continue
        prior = static_prior({e: facts.get(e, ModelFacts()) for e in whole})
        combined = combine(whole, scored.labels[name], prior=prior)
        found.setdefault(NORMALIZED_SCORE, {})[name] = {
            e: transferability.normalized_score for e, transferability in combined.items()
        }
        found.setdefault(TRANSFERABILITY, {})[name] = {
            e: transferability.value for e, transferability in combined.items()
        }
    return found


def seconds(scored: score_cells.Scored, truth: Mapping[str, Column]) -> dict[str, float]:
    """Median time of each score on a cell of the truth; of the combined ones that of their members."""
    found = {}
    for score, by_set in scored.seconds.items():
        if cells := [
            time for name, by_encoder in by_set.items() for e, time in by_encoder.items() if e in truth.get(name, ())
        ]:
            found[score] = float(np.median(cells))
    members = [found[member] for member in next(iter(scored.labels.values())).scales if member in found]
    return found | {NORMALIZED_SCORE: sum(members), TRANSFERABILITY: sum(members)}


def agreement(
    by_score: ByScore,
    truth: Mapping[str, Column],
    scopes: Mapping[str, Scope],
    draws: int,
    seed: int,
    noise: SeedNoise | None = None,
) -> list[dict[str, object]]:
    """One row a scope and score: the mean of every measure over sets, with its interval over sets and encoders.

    A score that lacks some encoders is compared on those it has; ``encoders`` says how many on average.
    ``gain`` is its weighted tau minus that of the transferability, on the same encoders and resamples. ``noise`` is for the
    row of the noise ceiling.
    """
    rows = []
    for scope, members in scopes.items():
        for score, by_set in by_score.items():
            compared = {name: members(name, truth[name], by_score) for name in by_set}
            scores, accuracies, names = columns([by_set], compared, truth)
            if not accuracies:
                continue
            row: dict[str, object] = {"scope": scope, "score": score, "sets": len(accuracies)}
            row["encoders"] = round(float(np.mean([len(y) for y in accuracies])), 1)
            for measure in MEASURES:
                row |= cells(
                    measure, mean_agreement(scores[0], accuracies, measure, models=names, draws=draws, seed=seed)
                )
            both, accuracies, names = columns([by_set, by_score.get(TRANSFERABILITY, {})], compared, truth)
            if accuracies:
                row |= cells("gain", paired_difference(*both, accuracies, models=names, draws=draws, seed=seed))
            rows.append(row)
        _, truths, names = columns([], {name: members(name, truth[name], by_score) for name in truth}, truth)
        if truths:
            row = {"scope": scope, "sets": len(truths), "encoders": round(float(np.mean([len(y) for y in truths])), 1)}
            found = {RANDOM: chance(truths, MEASURES, seed=seed)}
            if noise is not None:
                found[CEILING] = ceiling(
                    truth,
                    noise,
                    lambda n, c, of=members: of(n, dict(c), by_score),
                    MEASURES,
                    fewest=FEWEST_ENCODERS,
                    seed=seed,
                )
            for score, by_measure in found.items():
                if by_measure:
                    rows.append(
                        row | {"score": score} | {k: v for m, i in by_measure.items() for k, v in cells(m, i).items()}
                    )
    return rows


def cells(measure: str, found: Interval) -> dict[str, object]:
    """Three columns of a row."""
    return {measure: found.value, f"{measure}_low": found.low, f"{measure}_high": found.high}


def columns(
    scores: Sequence[Mapping[str, Column]], compared: Mapping[str, Sequence[str]], truth: Mapping[str, Column]
) -> tuple[list[list[list[float]]], list[list[float]], list[list[str]]]:
    """Values of each score, accuracies and names, a list a set: of the encoders to be compared that all scores have."""
    values: list[list[list[float]]] = [[] for _ in scores]
    accuracies, names = [], []
    for name, encoders in compared.items():
        shared = [e for e in encoders if all(e in score.get(name, ()) for score in scores)]
        if len(shared) >= FEWEST_ENCODERS:
            accuracies.append([truth[name][e] for e in shared])
            names.append(shared)
            for found, score in zip(values, scores, strict=True):
                found.append([score[name][e] for e in shared])
    return values, accuracies, names


def write_scores(
    path: Path,
    by_score: Mapping[str, Mapping[str, Column]],
    truth: Mapping[str, Column],
    missing: Mapping[tuple[str, str, str], str],
) -> None:
    """Every value beside the accuracy it should predict; missing ones with their reason."""
    cells: list[dict[str, object]] = [
        {"set": name, "encoder": e, "score": score, "value": f"{value:.6g}", "status": "ok"}
        for score, by_set in by_score.items()
        for name, values in by_set.items()
        for e, value in values.items()
    ]
    for (name, score, e), reason in missing.items():
        status, _, why = reason.partition(": ")
        cells.append({"set": name, "encoder": e, "score": score, "status": status, "reason": why})
    for cell in cells:
        cell["test_accuracy_points"] = f"{truth[str(cell['set'])][str(cell['encoder'])]:.2f}"
    write_rows(path, cells, ("set", "encoder", "score", "value", "test_accuracy_points", "status", "reason"))


def show(rows: Sequence[Mapping[str, object]], scopes: Iterable[str], truth: Mapping[str, Column]) -> None:
    """Print one block a scope, best weighted tau first."""
    print(
        f"sets: {', '.join(truth)}; accuracies in points, 90% bootstrap intervals over sets and encoders (drawn once for all sets)"
    )
    for scope in scopes:
        print(f"\n{scope}\n{'score':24}{'sets':>5}{'enc.':>6}" + "".join(f"{m:>24}" for m in MEASURES))
        chosen = [row for row in rows if row["scope"] == scope]
        for row in sorted(chosen, key=lambda row: -float(str(row["weighted_tau"]))):
            cells = (f"{row[m]:.3f} [{row[f'{m}_low']:.3f}, {row[f'{m}_high']:.3f}]" for m in MEASURES)
            print(f"{row['score']:24}{row['sets']:>5}{row['encoders']:>6}" + "".join(f"{cell:>24}" for cell in cells))


def show_source_is_target(suite: Suite, by_score: ByScore, truth: Mapping[str, Column]) -> None:
    """Print where each score puts the encoders that were trained on the target itself."""
    for name, members in suite.source_is_target.items():
        if name not in truth:
            continue
        print(f"\nsource = target on {name}: rank of {len(truth[name])} by accuracy, then by score")
        for encoder in (e for e in members if e in truth[name]):
            places = {"accuracy": place(truth[name], encoder)}
            places |= {s: place(b[name], encoder) for s, b in by_score.items() if encoder in b.get(name, {})}
            print(f"{encoder:20}" + "  ".join(f"{score} {rank}" for score, rank in places.items()))


def place(column: Column, encoder: str) -> int:
    """1 for the highest value."""
    return 1 + sum(value > column[encoder] for value in column.values())


if __name__ == "__main__":
    sys.exit(main())
