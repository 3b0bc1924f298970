"""What micro trials add to the default order, and how near the noise ceiling that comes.

    SELECTOR_ASSETS=... python -m benchmarks.suite.second_stage_table [--draws 1000]

Reads ``ground_truth.csv``, ``scores.csv`` and ``trials.csv``; writes ``second_stage.csv`` beside them: agreement with full
fine-tuning on the sets whose trials are complete, in the whole pool, its upper half, without networks trained on the
target's own data, and over pairs of like size (parameters within a factor of two); and ``second_stage_errors.csv``: the
correlation of the members' errors of rank; and ``second_stage_left_out.csv``: a row a set, whose weight of trials and margin
were chosen on the other sets, and what confirming the adaptive set finds and costs beside the first three; and
``second_stage_outcomes.csv``: which value of a trial orders what, fully fine-tuned, frozen, or the better of both. ``noise ceiling`` is what a second measurement of the truth would reach: the
accuracies with the spread between seeds added once more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from benchmarks.assets import assets_folder
from benchmarks.rows import write_rows
from benchmarks.suite import encoders, members, score_cells, table
from benchmarks.suite.agreement_table import fine_tuned, seed_deviation, static_baselines
from benchmarks.suite.image_suite import SUITE
from benchmarks.suite.members import MEASURES, SCOPES, Cells
from selector.ranking.agreement import MEASURES as ALL_MEASURES
from selector.ranking.agreement import mean_agreement, weighted_tau
from selector.ranking.second_stage import MARGIN, MOST_TRIALS, TRIAL_WEIGHT, Z90, as_long_as, choose, combined
from selector.results import TrialCell
from selector.tuning.micro_trials import BATCH, STEPS

COMPLETE = 14  # encoders with trial, truth and scores
CEILING_DRAWS = 100
FROZEN = "transferability"
WEIGHTS = (0.33, 0.5, 0.67)
OPEN_WEIGHTS = (0.0, 0.25, 0.33, 0.5, 0.67, 1.0)  # of trials, from which the other sets choose
FIXED = 3  # models that are confirmed without trials
OPEN_MARGINS = (0.01, 0.02, 0.03, 0.05, 0.08, 0.12)
TRAINING = SUITE.budget.steps * 32 / (STEPS * BATCH)  # what full fine-tuning in the suite costs, in trials
Values = dict[str, np.ndarray]
Trials = Mapping[tuple[str, str], Mapping[str, str]]


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suite.second_stage_table", description=__doc__)
    parser.add_argument("--draws", type=int, default=1000, help="of the bootstrap")
    parser.add_argument(
        "--fewest",
        type=int,
        default=COMPLETE,
        help="encoders with a trial that a set must have; fewer are only printed",
    )
    args = parser.parse_args(argv)
    assets = assets_folder(SUITE.needs)
    if assets is None:
        return 2
    cards = encoders.cards(assets / "models")
    cells, scores, trials = gathered(assets, args.fewest)
    if args.fewest < COMPLETE:
        for row in left_out(cells, scores, trials):
            print(row)
        return 0
    sizes = {e: float(card["params"]) for e, card in cards.items()}
    rows = agreement(cells, scores, sizes, seed_deviation(SUITE.table("ground_truth")), args.draws)
    write_rows(SUITE.table("second_stage"), rows)
    write_rows(SUITE.table("second_stage_errors"), correlations(cells, scores))
    for row in rows:
        print(*row.values())
    costs = [float(r["trial_seconds"]) / float(r["extract_seconds"]) for (s, _), r in trials.items() if s in cells]
    print(
        f"cost of a trial over that of the extraction: median {np.median(costs):.2f}, 90 % below {np.quantile(costs, 0.9):.2f}"
    )
    rows = outcomes(cells, scores, trials, fine_tuned(SUITE.table("ground_truth"), "frozen"))
    write_rows(SUITE.table("second_stage_outcomes"), rows)
    for row in rows:
        print(*row.values())
    rows = left_out(cells, scores, trials)
    write_rows(SUITE.table("second_stage_left_out"), rows)
    for row in rows:
        print(row)
    return 0


def gathered(assets: Path, fewest: int = COMPLETE) -> tuple[dict[str, Cells], dict[str, Values], Trials]:
    """The sets with enough trials: their cells and every score of them; all trials by set and encoder."""
    cards = encoders.cards(assets / "models")
    trials = {(r["set"], r["encoder"]): r for r in table.whole_rows(SUITE.table("trials"))}
    truth = fine_tuned(SUITE.table("ground_truth"), "full")
    scored = score_cells.read(SUITE.table("scores"))
    cells = {}
    for name, column in truth.items():
        if name not in scored.labels:
            continue
        found = members.gather(scored, name, {e: a for e, a in column.items() if (name, e) in trials}, cards)
        if len(found.names) >= fewest:
            cells[name] = found
    elsewhere = static_baselines(truth, SUITE.encoders(assets))["mean rank elsewhere"]
    scores = {name: scores_of(name, c, trials, elsewhere[name]) for name, c in cells.items()}
    return cells, scores, trials


def outcomes(
    cells: Mapping[str, Cells],
    scores: Mapping[str, Values],
    trials: Trials,
    frozen: Mapping[str, Mapping[str, float]],
) -> list[dict[str, object]]:
    """One row an outcome and a value that a trial may count by; ``left_out`` is the mean weighted tau where each set's
    value is the one that orders the other sets best."""
    rows = []
    truths = {
        "full": {n: c.accuracy for n, c in cells.items()},
        "frozen": {n: np.array([frozen[n][e] for e in c.names]) for n, c in cells.items()},
    }
    truths["better of both"] = {n: np.maximum(truths["full"][n], truths["frozen"][n]) for n in cells}
    for outcome, truth in truths.items():
        taus: dict[str, dict[str, float]] = {}
        found = []
        for label in ("no trial", "after", "mean of before and after", "better of before and after"):
            row: dict[str, object] = {"outcome": outcome, "trial": label, "sets": len(cells)}
            values = {n: _with(label, scores[n], [trials[n, e] for e in c.names]) for n, c in cells.items()}
            taus[label] = {n: weighted_tau(values[n], truth[n]) for n in cells}
            for measure in MEASURES:
                by_set = [ALL_MEASURES[measure](values[n], truth[n]) for n in cells]
                row[measure] = round(float(np.mean(by_set)), 3)
            found.append(row)
        best = {n: max(taus, key=lambda x: np.mean([taus[x][o] for o in cells if o != n])) for n in cells}
        left = round(float(np.mean([taus[best[n]][n] for n in cells])), 3)
        rows += [row | {"left_out": left, "chosen": sum(b == row["trial"] for b in best.values())} for row in found]
    return rows


def _with(label: str, values: Values, trials: Sequence[Mapping[str, str]]) -> np.ndarray:
    before, after = (np.array([float(t[k]) for t in trials]) for k in ("before", "after"))
    trial = {
        "no trial": values[FROZEN],
        "after": after,
        "mean of before and after": (before + after) / 2,
        "better of before and after": np.maximum(before, after),
    }[label]
    return np.asarray((1 - TRIAL_WEIGHT) * values[FROZEN] + TRIAL_WEIGHT * trial)


def left_out(cells: Mapping[str, Cells], scores: Mapping[str, Values], trials: Trials) -> list[dict[str, object]]:
    """One row a set: weight and margin as the other sets have them, and the sets that are confirmed.

    ``regret``, in points, is that of the best among those confirmed; ``seconds`` of the processor are those of trials and
    full trainings (a training has as many items as ``TRAINING`` trials).
    """
    rows = []
    for name, own in cells.items():
        others = [n for n in cells if n != name]
        weight = max(OPEN_WEIGHTS, key=lambda w: np.mean([weighted_tau(mixed(scores[n], w), cells[n].accuracy) for n in others]))  # fmt: skip
        margin = min((m for m in OPEN_MARGINS if all(stage(cells[n], scores[n], trials, n, m)["regret"] == 0 for n in others)), default=OPEN_MARGINS[-1])  # fmt: skip
        frozen, trained = scores[name][FROZEN], mixed(scores[name], weight)
        row: dict[str, object] = {"set": name, "encoders": len(own.names), "weight": weight, "margin": margin}
        row["weighted_tau"] = round(weighted_tau(trained, own.accuracy), 3)
        row["weighted_tau_without"] = round(weighted_tau(frozen, own.accuracy), 3)
        row["regret@1"] = round(float(own.accuracy.max() - own.accuracy[np.argmax(trained)]), 2)
        row["regret@1_without"] = round(float(own.accuracy.max() - own.accuracy[np.argmax(frozen)]), 2)
        for label, chosen, limited in (
            ("shipped", MARGIN, True),
            ("left_out", margin, True),
            ("unlimited", MARGIN, False),
        ):
            row |= {f"{label}_{k}": v for k, v in stage(own, scores[name], trials, name, chosen, limited).items()}
        rows.append(row | {f"first_3_{k}": v for k, v in fixed(own, frozen, trials, name).items()})
    return rows


def mixed(values: Values, weight: float) -> np.ndarray:
    """Transferability and trial."""
    return np.asarray((1 - weight) * values[FROZEN] + weight * values["trial"])


def stage(
    cells: Cells,
    values: Values,
    trials: Trials,
    name: str,
    margin: float,
    limited: bool = True,
) -> dict[str, float]:
    """What the second stage confirms of the leading ``MOST_TRIALS``: how many, the regret, the seconds; ``limited`` to the
    time that the first three would take."""
    order = np.argsort(-values[FROZEN], kind="stable")[:MOST_TRIALS]
    tried = {cells.names[i]: TrialCell("ok", after=float(values["trial"][i])) for i in order}
    errors = half_widths(tried, trials, name)
    value = combined({e: float(values[FROZEN][cells.names.index(e)]) for e in tried}, tried, errors)
    seconds = {e: float(trials[name, e]["trial_seconds"]) for e in tried}
    first = [cells.names[i] for i in order[:FIXED]]
    allowed = as_long_as(first, seconds, sum(seconds.values()), TRAINING, 1) if limited else np.inf
    chosen = choose(value, errors, seconds, None, margin, allowed=allowed).names
    spent = sum(seconds.values()) + TRAINING * sum(seconds[e] for e in chosen)
    return _confirmed(cells, chosen, spent)


def fixed(cells: Cells, frozen: np.ndarray, trials: Trials, name: str) -> dict[str, float]:
    """The first three by transferability, without a trial."""
    chosen = [cells.names[i] for i in np.argsort(-frozen, kind="stable")[:FIXED]]
    seconds = [float(trials[name, e]["trial_seconds"]) for e in chosen]
    return _confirmed(cells, chosen, TRAINING * sum(seconds))


def _confirmed(cells: Cells, chosen: Sequence[str], seconds: float) -> dict[str, float]:
    best = max(cells.accuracy[cells.names.index(e)] for e in chosen)
    return {"models": len(chosen), "regret": round(float(cells.accuracy.max() - best), 2), "seconds": round(seconds, 1)}


def half_widths(tried: Mapping[str, TrialCell], trials: Trials, name: str) -> dict[str, float]:
    """Half of the 90 % interval of each trial's paired difference to the best; unpaired where items were not kept."""
    best = max(tried, key=lambda e: tried[e].after or 0.0)

    def right(encoder: str) -> np.ndarray | None:
        kept, count = trials[name, encoder].get("right") or "", int(trials[name, encoder]["held_out"])
        return np.unpackbits(np.frombuffer(bytes.fromhex(kept), np.uint8))[:count].astype(float) if kept else None

    found = {}
    for encoder, cell in tried.items():
        count = int(trials[name, encoder]["held_out"])
        one, other = right(encoder), right(best)
        if one is not None and other is not None:
            variance = float(np.var(one - other)) / count
        else:
            variance = sum(p * (1 - p) for p in (cell.after or 0.0, tried[best].after or 0.0)) / count
        found[encoder] = 0.0 if encoder == best else Z90 * float(np.sqrt(variance))
    return found


def scores_of(name: str, cells: Cells, trials: Trials, elsewhere: Mapping[str, float]) -> Values:
    """Every score of a set, in the order of its encoders."""
    frozen = members.where_it_agrees("knn", "probe", "logme", weight=0.25)(cells, ()) / 0.75
    after = np.array([float(trials[name, e]["after"]) for e in cells.names])
    found = {
        FROZEN: frozen,
        "transferability, no prior": np.mean([cells.normalised_scores[m] for m in ("knn", "probe", "logme")], axis=0),
        "trial": after,
        "transferability + trial": (1 - TRIAL_WEIGHT) * frozen + TRIAL_WEIGHT * after,
        "static: mean rank elsewhere": np.array([elsewhere[e] for e in cells.names]),
    }
    found |= {m: cells.normalised_scores[m] for m in ("knn", "probe", "logme")}
    return found | {f"both, trial {w:.0%}": (1 - w) * frozen + w * after for w in WEIGHTS}


def agreement(
    cells: Mapping[str, Cells], scores: Mapping[str, Values], sizes: Mapping[str, float], noise: float, draws: int
) -> list[dict[str, object]]:
    """One row a scope and score."""
    rows = []
    rng = np.random.default_rng(0)
    for scope, kept in SCOPES.items():
        keep = {n: kept(n, c) for n, c in cells.items()}
        truth = [c.accuracy[keep[n]] for n, c in cells.items()]
        for label in next(iter(scores.values())):
            here = [scores[n][label][keep[n]] for n in cells]
            row: dict[str, object] = {
                "scope": scope,
                "score": label,
                "sets": len(truth),
                "encoders": sum(map(len, truth)),
            }
            for measure in MEASURES:
                found = mean_agreement(here, truth, measure, draws=draws, seed=0)
                row |= {measure: round(found.value, 3), f"{measure}_low": round(found.low, 3), f"{measure}_high": round(found.high, 3)}  # fmt: skip
            pairs = [like_size(scores[n][label], c, sizes, keep[n]) for n, c in cells.items()]
            row["like_size_right"] = round(float(np.mean(pairs)), 3)
            rows.append(row)
        for label in ("noise ceiling", "random order"):
            row = {"scope": scope, "score": label, "sets": len(truth), "encoders": sum(map(len, truth))}
            for measure in MEASURES:
                means = []
                for _ in range(CEILING_DRAWS):
                    drawn = [
                        t + rng.normal(0, noise, len(t))
                        if label == "noise ceiling"
                        else rng.permutation(len(t)).astype(float)
                        for t in truth
                    ]
                    means.append(mean_agreement(drawn, truth, measure, draws=1, seed=0).value)
                low, high = np.quantile(means, (0.05, 0.95))
                row |= {measure: round(float(np.mean(means)), 3), f"{measure}_low": round(low, 3), f"{measure}_high": round(high, 3)}  # fmt: skip
            rows.append(row | {"like_size_right": ""})
    return rows


def like_size(score: np.ndarray, cells: Cells, sizes: Mapping[str, float], keep: np.ndarray) -> float:
    """Share of pairs of like size that the score orders as the truth does; ties of the truth are left out."""
    size = np.array([sizes[e] for e in cells.names])
    right = [
        (score[i] - score[j]) * (cells.accuracy[i] - cells.accuracy[j]) > 0
        for i in np.flatnonzero(keep)
        for j in np.flatnonzero(keep)
        if i < j and 0.5 <= size[i] / size[j] <= 2 and cells.accuracy[i] != cells.accuracy[j]
    ]
    return float(np.mean(right)) if right else float("nan")


def correlations(cells: Mapping[str, Cells], scores: Mapping[str, Values]) -> list[dict[str, object]]:
    """Correlation of the errors of rank, over the cells of all sets."""
    labels = [FROZEN, "trial", "knn", "probe", "logme"]
    errors = [np.concatenate([rankdata(scores[n][x]) - rankdata(c.accuracy) for n, c in cells.items()]) for x in labels]
    matrix = np.corrcoef(errors)
    return [
        {"score": a, **{b: round(float(matrix[i, j]), 2) for j, b in enumerate(labels)}} for i, a in enumerate(labels)
    ]


if __name__ == "__main__":
    sys.exit(main())
