"""What this machine's own history does to the order, a set left out in turn.

    SELECTOR_ASSETS=... python -m benchmarks.suite.history_table

Reads the ground truth and the scores of the image suite; writes ``history.csv`` beside them: agreement of the
transferability with full fine-tuning where the other sets were confirmed before, the first ``k`` of each by the score of
that time or all of them. ``ranks`` is a history without the scores of that time: then ranks are all it has.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.assets import assets_folder
from benchmarks.rows import write_rows
from benchmarks.suite import encoders, score_cells
from benchmarks.suite.agreement_table import fine_tuned
from benchmarks.suite.image_suite import SUITE, upper_half
from benchmarks.suite.suites import Column
from selector.core.contracts import Score
from selector.ranking.agreement import MEASURES, weighted_tau
from selector.ranking.combination import Transferability, combine
from selector.ranking.history import SCORE_METRIC, Result
from selector.ranking.prior import FEWEST_OWN_TARGETS, ModelFacts, static_prior

CONFIRMED = (2, 3, 4, 6, 99)
SHOWN = ("weighted_tau", "regret@1", "regret@3")


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, print, write."""
    argparse.ArgumentParser(prog="python -m benchmarks.suite.history_table", description=__doc__).parse_args(argv)
    assets = assets_folder(SUITE.needs)
    if assets is None:
        return 2
    facts = {e: encoders.facts_of(card) for e, card in encoders.cards(assets / "models").items()}
    scored = score_cells.read(SUITE.table("scores"))
    truth = {n: c for n, c in fine_tuned(SUITE.table("ground_truth"), "full").items() if n in scored.labels}
    alone = {name: ranked(scored, name, column, facts, ()) for name, column in truth.items()}
    rows = [row("none", "", truth, alone)]
    for kind in ("scores and results", "ranks"):
        for k in CONFIRMED:
            past = {name: confirmed(name, truth[name], alone[name], k, kind) for name in truth}
            found = {
                name: ranked(scored, name, column, facts, [r for n, rs in past.items() if n != name for r in rs])
                for name, column in truth.items()
            }
            rows.append(row(kind, "all" if k == CONFIRMED[-1] else k, truth, found))
    write_rows(SUITE.table("history"), rows)
    for one in rows:
        print(*one.values())
    return 0


def ranked(
    scored: score_cells.Scored, name: str, column: Column, facts: Mapping[str, ModelFacts], history: Sequence[Result]
) -> dict[str, Transferability]:
    """As the package combines scores, whose recorded jackknife errors stand in for blocks (the table holds none)."""
    labels = scored.labels[name]
    cells = {
        e: {m: score(scored, m, name, e) for m in labels.scales}
        for e in column
        if all(e in scored.values[m][name] for m in labels.scales)
    }
    prior = static_prior(
        {e: facts[e] for e in cells}, history, target=name, target_name=name, fewest_own=FEWEST_OWN_TARGETS
    )
    return combine(cells, labels, prior=prior)


def score(scored: score_cells.Scored, member: str, name: str, encoder: str) -> Score:
    """With ten blocks that have the recorded jackknife error, the same pattern for every member and model."""
    value, error = (kind[member][name][encoder] for kind in (scored.values, scored.errors))
    pattern = np.where(np.arange(10) % 2, 1.0, -1.0)
    return Score(value, blocks=value + error / 3 * pattern)


def confirmed(name: str, column: Column, alone: Mapping[str, Transferability], k: int, kind: str) -> list[Result]:
    """What confirming the first ``k`` of a set leaves in the history."""
    first = sorted(alone, key=lambda e: -alone[e].value)[:k]
    rows = [Result(name, e, "accuracy", column[e] / 100, strategy="full", run=name, items=150) for e in first]
    if kind == "ranks":
        return rows
    scores = [
        Result(name, e, f"{SCORE_METRIC}knn+logme+probe", alone[e].normalised_score, kind="predicted", run=name)
        for e in first
    ]
    return [*rows, *scores]


def row(
    kind: str, k: object, truth: Mapping[str, Column], found: Mapping[str, Mapping[str, Transferability]]
) -> dict[str, object]:
    """Means over sets, and the largest regret."""
    pairs = {n: ([t.value for t in f.values()], [truth[n][e] for e in f]) for n, f in found.items()}
    made: dict[str, object] = {"history": kind, "confirmed": k, "sets": len(pairs)}
    made |= {m: round(float(np.mean([MEASURES[m](*pair) for pair in pairs.values()])), 3) for m in SHOWN}
    halves = []
    for name, by_encoder in found.items():
        kept = [e for e in upper_half(truth[name]) if e in by_encoder]
        halves.append(weighted_tau([by_encoder[e].value for e in kept], [truth[name][e] for e in kept]))
    made["weighted_tau, upper half"] = round(float(np.mean(halves)), 3)
    made["largest regret@1"] = round(max(MEASURES["regret@1"](*pair) for pair in pairs.values()), 2)
    return made


if __name__ == "__main__":
    sys.exit(main())
