"""What pilot runs add to the default order, as the package runs them and with a trial for every model.

    SELECTOR_ASSETS=... python -m benchmarks.suite.second_stage_table [--draws 1000]

Reads ``ground_truth.csv``, ``scores.csv`` and ``trials.csv``; writes ``second_stage.csv`` beside them: agreement with an
outcome (full fine-tuning, and the better of that and the frozen network) on the sets with enough trials, in the whole pool,
its upper half, without networks trained on the target's own data, and over pairs of like size (parameters within a factor of
two). *shipped* is the package's own second stage (``second_stage_replay``), at most six trials; ``every model`` has a trial
for each. ``second_stage_errors.csv``: the correlation of the members' errors of rank; ``second_stage_left_out.csv``: a row a
set and strategies, whose weight of trials and margin were chosen on the other sets, and what confirming the adaptive set
finds and costs beside the first three; ``second_stage_outcomes.csv``: which value of a trial orders what, with a trial for
every model. ``noise ceiling`` and ``random order``: see ``ceiling``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from benchmarks.agreement import MEASURES as ALL_MEASURES
from benchmarks.agreement import Interval, mean_agreement
from benchmarks.assets import assets_folder
from benchmarks.rows import write_rows
from benchmarks.suite import encoders, members, score_cells, table
from benchmarks.suite.agreement_table import fine_tuned, static_baselines
from benchmarks.suite.ceiling import Kept, SeedNoise, ceiling, chance, seed_noise
from benchmarks.suite.image_suite import SUITE
from benchmarks.suite.members import MEASURES, SCOPES, Cells
from benchmarks.suite.second_stage_replay import Stage, Trials, confirm, fixed, second_stage
from selector.ranking.agreement import weighted_tau
from selector.ranking.second_stage import MARGIN, PILOT_WEIGHT
from selector.tuning.pilot_runs import BACKWARD, BATCH, HELD_OUT, PROBE_ITEMS, STEPS

FEWEST = 10  # encoders with trial, truth and scores that a set must have
FROZEN = "transferability"
NO_PRIOR = "transferability, no prior"
STRATEGIES = {"full": False, "frozen and full": True}  # whether a model may also be handed over as it is
OUTCOMES = {"full": "full", "frozen and full": "better of both"}  # what these strategies hand over
WEIGHTS = (0.33, 0.5, 0.67)
OPEN_WEIGHTS = (0.0, 0.25, 0.33, 0.5, 0.67, 1.0)  # of trials, from which the other sets choose
OPEN_MARGINS = (0.01, 0.02, 0.03, 0.05, 0.08, 0.12)
Values = dict[str, np.ndarray]
Stages = Mapping[str, Mapping[str, Stage]]
"""Strategies -> set -> what the package makes of it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suite.second_stage_table", description=__doc__)
    parser.add_argument("--draws", type=int, default=1000, help="of the bootstrap")
    parser.add_argument(
        "--fewest", type=int, default=FEWEST, help="encoders with a trial that a set must have; others are only printed"
    )
    args = parser.parse_args(argv)
    assets = assets_folder(SUITE.needs)
    if assets is None:
        return 2
    sizes = {e: float(card["params"]) for e, card in encoders.cards(assets / "models").items()}
    cells, scores, trials = gathered(assets, args.fewest)
    frozen = fine_tuned(SUITE.table("ground_truth"), "frozen")
    stages, by_trials = (replayed(cells, scores, trials, prior_by_trials=asked) for asked in (False, True))
    every = {**stages, **{f"{strategies}, prior by trials": by_set for strategies, by_set in by_trials.items()}}
    rows = {
        "": agreement(cells, scores, every, sizes, frozen, seed_noise(SUITE.table("ground_truth")), args.draws),
        "_errors": correlations(cells, scores),
        "_outcomes": outcomes(cells, scores, trials, frozen),
        "_left_out": [
            row
            for strategies, by_set in stages.items()
            for row in left_out(
                strategies,
                of_outcome(cells, frozen, OUTCOMES[strategies]),
                scores,
                by_set,
                by_trials[strategies],
                trials,
            )
        ],
    }
    for what, found in rows.items():
        if args.fewest == FEWEST:
            write_rows(SUITE.table(f"second_stage{what}"), found)
        for row in found:
            print(row if what == "_left_out" else " ".join(map(str, row.values())))
    costs = [float(r["trial_seconds"]) / float(r["extract_seconds"]) for (s, _), r in trials.items() if s in cells]
    print(
        f"a trial without its probe, over the extraction: median {np.median(costs):.2f}, 90% below "
        f"{np.quantile(costs, 0.9):.2f} of the time; {passes():.2f} of the forward passes, {passes(probe=True):.2f} with the probe's"
    )
    return 0


def passes(*, probe: bool = False, items: int = SUITE.budget.max_train_val) -> float:
    """Forward passes of a trial of all its steps at an unreduced resolution, over those of the extraction."""
    return ((PROBE_ITEMS + HELD_OUT) * probe + HELD_OUT + BACKWARD * STEPS * BATCH) / items


def gathered(assets: Path, fewest: int = FEWEST) -> tuple[dict[str, Cells], dict[str, Values], Trials]:
    """The sets with enough trials: their cells and every score of them; all trials by set and encoder."""
    cards = encoders.cards(assets / "models")
    trials = {(r["set"], r["encoder"]): r for r in table.whole_rows(SUITE.table("trials")) if r["status"] == "ok"}
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


def replayed(
    cells: Mapping[str, Cells], scores: Mapping[str, Values], trials: Trials, *, prior_by_trials: bool = False
) -> Stages:
    """The package's second stage on every set."""
    return {
        strategies: {
            n: second_stage(
                n, c, scores[n][FROZEN], scores[n][NO_PRIOR], trials, frozen_too=too, prior_by_trials=prior_by_trials
            )
            for n, c in cells.items()
        }
        for strategies, too in STRATEGIES.items()
    }


def of_outcome(cells: Mapping[str, Cells], frozen: Mapping[str, Mapping[str, float]], outcome: str) -> dict[str, Cells]:
    """The cells with that outcome's accuracies: ``full``, ``frozen`` or ``better of both``."""

    def column(name: str, own: Cells) -> np.ndarray:
        other = np.array([frozen[name][e] for e in own.names]) if outcome != "full" else own.accuracy
        return other if outcome == "frozen" else np.maximum(own.accuracy, other)

    return {n: replace(c, accuracy=column(n, c)) for n, c in cells.items()}


def outcomes(
    cells: Mapping[str, Cells],
    scores: Mapping[str, Values],
    trials: Trials,
    frozen: Mapping[str, Mapping[str, float]],
) -> list[dict[str, object]]:
    """One row an outcome and a value that a trial may count by; ``left_out`` is the mean weighted tau where each set's
    value is the one that orders the other sets best."""
    rows = []
    for outcome in ("full", "frozen", "better of both"):
        truth = {n: c.accuracy for n, c in of_outcome(cells, frozen, outcome).items()}
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
    return np.asarray((1 - PILOT_WEIGHT) * values[FROZEN] + PILOT_WEIGHT * trial)


def left_out(
    strategies: str,
    cells: Mapping[str, Cells],
    scores: Mapping[str, Values],
    stages: Mapping[str, Stage],
    by_trials: Mapping[str, Stage],
    trials: Trials,
) -> list[dict[str, object]]:
    """One row a set: weight and margin as the other sets have them, and the sets that are confirmed.

    ``weighted_tau`` and ``regret@1`` are those of the shipped stage, with ``_all`` of a trial for every model at the weight
    that the other sets choose, and ``_without`` without trials. ``regret``, in points, is that of the best among those
    confirmed; ``seconds`` of the processor are those of trials and full trainings; ``_unlimited`` of a call without a budget. ``by_trials`` are the stages that leave the prior out where the trials of the
    contenders order against it.
    """
    trial = "trial and probe" if STRATEGIES[strategies] else "trial"
    rows = []
    for name, own in cells.items():
        others = [n for n in cells if n != name]
        weight = max(OPEN_WEIGHTS, key=lambda w: np.mean([weighted_tau(mixed(scores[n], w, trial), cells[n].accuracy) for n in others]))  # fmt: skip
        limits = {"": True, "_unlimited": False}
        margins = {k: best_margin([(stages[n], cells[n]) for n in others], limited=v) for k, v in limits.items()}
        orders = {
            "": stages[name].order,
            "_all": mixed(scores[name], weight, trial),
            "_without": scores[name][FROZEN],
        }
        row: dict[str, object] = {"strategies": strategies, "set": name, "encoders": len(own.names)}
        row |= {"weight": weight, **{f"margin{k}": margin for k, margin in margins.items()}}
        for measure in ("weighted_tau", "regret@1", "regret@3"):
            row |= {f"{measure}{k}": round(ALL_MEASURES[measure](o, own.accuracy), 3) for k, o in orders.items()}
        for limit, limited in limits.items():
            for label, margin in (("shipped", MARGIN), ("left_out", margins[limit])):
                found = confirm(stages[name], own, margin, limited=limited)
                row |= {f"{label}{limit}_{k}": v for k, v in found.items()}
            row |= {f"by_trials{limit}_{k}": v for k, v in confirm(by_trials[name], own, limited=limited).items()}
        rows.append(row | {f"first_3_{k}": v for k, v in fixed(name, stages[name], own, trials).items()})
    return rows


def best_margin(others: Sequence[tuple[Stage, Cells]], *, limited: bool = True) -> float:
    """The margin whose confirmed models have the lowest mean regret on these sets; of several the one that takes the least
    time, then the smallest."""

    def merit(margin: float) -> tuple[float, float]:
        found = [confirm(stage, cells, margin, limited=limited) for stage, cells in others]
        return float(np.mean([f["regret"] for f in found])), sum(f["seconds"] for f in found)

    return min(OPEN_MARGINS, key=merit)


def mixed(values: Values, weight: float, trial: str = "trial") -> np.ndarray:
    """Transferability and trial."""
    return np.asarray((1 - weight) * values[FROZEN] + weight * values[trial])


def scores_of(name: str, cells: Cells, trials: Trials, elsewhere: Mapping[str, float]) -> Values:
    """Every score of a set, in the order of its encoders."""
    frozen = members.where_it_agrees("knn", "probe", "logme", weight=0.25)(cells, ()) / 0.75
    after, before = (np.array([float(trials[name, e][k]) for e in cells.names]) for k in ("after", "before"))
    found = {
        FROZEN: frozen,
        NO_PRIOR: np.mean([cells.normalized_scores[m] for m in ("knn", "probe", "logme")], axis=0),
        "trial": after,
        "trial and probe": (before + after) / 2,
        "static: mean rank elsewhere": np.array([elsewhere[e] for e in cells.names]),
    }
    for trial in ("trial", "trial and probe"):
        found[f"every model: transferability + {trial}"] = mixed(found, PILOT_WEIGHT, trial)
    found |= {m: cells.normalized_scores[m] for m in ("knn", "probe", "logme")}
    return found | {f"every model: both, trial {w:.0%}": mixed(found, w) for w in WEIGHTS}


def agreement(
    cells: Mapping[str, Cells],
    scores: Mapping[str, Values],
    stages: Stages,
    sizes: Mapping[str, float],
    frozen: Mapping[str, Mapping[str, float]],
    noise: SeedNoise,
    draws: int,
) -> list[dict[str, object]]:
    """One row an outcome, scope and score, what ships first. The noise ceiling is known of full fine-tuning alone."""
    rows = []
    for outcome in ("full", "better of both"):
        judged = of_outcome(cells, frozen, outcome)
        for scope, kept in SCOPES.items():
            keep = {n: kept(n, c) for n, c in judged.items()}
            truth = [c.accuracy[keep[n]] for n, c in judged.items()]
            names = [np.array(c.names)[keep[n]].tolist() for n, c in judged.items()]
            start = {"outcome": outcome, "scope": scope, "score": ""}
            counts: dict[str, object] = {"sets": len(truth), "encoders": sum(map(len, truth))}
            orders = {
                **{f"shipped: {k}": {n: s.order for n, s in by_set.items()} for k, by_set in stages.items()},
                **{label: {n: scores[n][label] for n in cells} for label in next(iter(scores.values()))},
            }
            for label, by_set in orders.items():
                here = [by_set[n][keep[n]] for n in judged]
                row = start | {"score": label} | counts
                for measure in MEASURES:
                    row |= _rounded(measure, mean_agreement(here, truth, measure, models=names, draws=draws, seed=0))
                pairs = [like_size(by_set[n], c, sizes, keep[n]) for n, c in judged.items()]
                rows.append(row | {"like_size_right": round(float(np.nanmean(pairs)), 3)})
            references = {"random order": chance(truth, MEASURES)}
            if outcome == "full":
                references["noise ceiling"] = ceiling(columns_of(judged), noise, kept_of(judged, scope), MEASURES)
            for label, by_measure in references.items():
                row = start | {"score": label} | counts
                for measure, found in by_measure.items():
                    row |= _rounded(measure, found)
                rows.append(row | {"like_size_right": ""})
    return rows


def _rounded(measure: str, found: Interval) -> dict[str, object]:
    low, high = round(found.low, 3), round(found.high, 3)
    return {measure: round(found.value, 3), f"{measure}_low": low, f"{measure}_high": high}


def columns_of(cells: Mapping[str, Cells]) -> dict[str, dict[str, float]]:
    """Accuracies by set and encoder."""
    return {n: dict(zip(c.names, c.accuracy.tolist(), strict=True)) for n, c in cells.items()}


def kept_of(cells: Mapping[str, Cells], scope: str) -> Kept:
    """The encoders of a scope, of columns as ``columns_of`` gives them, measured anew."""

    def kept(name: str, column: Mapping[str, float]) -> list[str]:
        again = replace(cells[name], accuracy=np.array([column[e] for e in cells[name].names]))
        return np.array(again.names)[SCOPES[scope](name, again)].tolist()  # type: ignore[no-any-return]

    return kept


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
