"""Which members should the combined score of texts have? Every mean of up to four, and what the other sets would choose.

    python -m benchmarks.suite.text_members

Reads the ground truth and the scores of the texts; writes ``text_members.csv``: by strategy the weighted tau of a few
means, what having a member among them adds on average, and what is left where each set's members are those that order
the other sets best. No prior: the facts of these encoders move next to nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from itertools import combinations

import numpy as np

from benchmarks.rows import write_rows
from benchmarks.suite import score_cells
from benchmarks.suite.agreement_table import fine_tuned
from benchmarks.suite.members import NORMALISED_SCORES
from benchmarks.suite.text_suite import SUITE
from selector.ranking.agreement import regret_at, weighted_tau
from selector.ranking.combination import LabelFacts

SCALES: Mapping[str, Callable[[np.ndarray, LabelFacts], np.ndarray]] = {
    **NORMALISED_SCORES,
    "ridge": lambda value, facts: value,
    "gbc": lambda value, facts: np.clip(1 + value / facts.overlap, 0.0, 1.0),
}
MOST = 4
SHOWN = (("knn", "probe", "logme"), ("logme", "lda", "gbc"), ("probe", "lda", "gbc"), ("ncti", "gbc"), ("gbc",))


def main() -> int:
    """Compare, print, write."""
    scored = score_cells.read(SUITE.table("scores"))
    lists = [c for k in range(1, MOST + 1) for c in combinations(SCALES, k)]
    rows: list[dict[str, object]] = []
    for strategy in ("full", "frozen"):
        truth = fine_tuned(SUITE.table("ground_truth"), strategy)
        names = list(truth)
        accuracy = {n: np.array(list(truth[n].values())) for n in names}
        values = {
            n: {m: np.asarray(scale(np.array([scored.values[m][n][e] for e in truth[n]]), scored.labels[n])) for m, scale in SCALES.items()}
            for n in names
        }  # fmt: skip
        means = {c: {n: np.mean([values[n][m] for m in c], axis=0) for n in names} for c in lists}
        taus = {c: np.array([weighted_tau(means[c][n], accuracy[n]) for n in names]) for c in lists}
        for members in SHOWN:
            by_set = dict(zip(names, taus[members].round(2), strict=True))
            first = np.mean([regret_at(1)(means[members][n], accuracy[n]) for n in names])
            rows.append(_row(strategy, "+".join(members), taus[members].mean(), round(float(first), 2), by_set))
        left = {n: max(lists, key=lambda c, i=i: np.delete(taus[c], i).mean()) for i, n in enumerate(names)}
        own = np.array([taus[left[n]][i] for i, n in enumerate(names)])
        rows.append(_row(strategy, "chosen on the other sets", own.mean(), "", dict(zip(names, own.round(2), strict=True))))  # fmt: skip
        for member in SCALES:
            has, lacks = ([taus[c].mean() for c in lists if len(c) > 1 and (member in c) is k] for k in (True, False))
            rows.append(_row(strategy, f"gain of having {member}", np.mean(has) - np.mean(lacks), "", {}))
    write_rows(SUITE.table("members"), rows)
    for row in rows:
        print(*row.values())
    return 0


def _row(strategy: str, label: str, tau: float, first: object, by_set: Mapping[str, float]) -> dict[str, object]:
    told = " ".join(f"{n} {v:.2f}" for n, v in by_set.items())
    return {"strategy": strategy, "score": label, "weighted_tau": round(float(tau), 3), "regret@1": first, "by_set": told}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
