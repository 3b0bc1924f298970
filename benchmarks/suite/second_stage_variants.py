"""Other ways to make one order of transferability and micro trials than the plain mean; what is learned comes from the other sets.

    SELECTOR_ASSETS=... python -m benchmarks.suite.second_stage_variants

Writes ``second_stage_variants.csv``: a row a variant, means over the sets with enough trials, with a trial for every model.
Rows of the learning curve are over the sets that have one (accuracy after 8, 16 and all steps), beside the plain mean on the
same sets. *Reliability* is the
share of a score's variance between encoders that its own sampling error (jackknife over rows; binomial over the held-out
items) does not explain.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.assets import assets_folder
from benchmarks.rows import write_rows
from benchmarks.suite import members, score_cells
from benchmarks.suite.image_suite import SUITE
from benchmarks.suite.members import MEASURES, SCOPES, Cells
from benchmarks.suite.second_stage_replay import Trials
from benchmarks.suite.second_stage_table import FROZEN, NO_PRIOR, Values, gathered
from benchmarks.suite.trial_cells import CURVE
from selector.ranking.agreement import MEASURES as ALL_MEASURES
from selector.ranking.combination import LabelFacts
from selector.tuning.micro_trials import STEPS

POINTS = (*CURVE, STEPS)


@dataclass(frozen=True)
class TriedSet:
    """One set. Arrays are by encoder: transferability, accuracies of the probe and after the trial, normalised log-loss
    after the trial, sampling error of the transferability; what the prior adds to the scores; and (encoders, 3) accuracies
    after the steps of ``POINTS``, NaN where they were not kept."""

    cells: Cells
    score: np.ndarray
    before: np.ndarray
    after: np.ndarray
    log_loss: np.ndarray
    error: np.ndarray
    held_out: int
    shift: np.ndarray
    curve: np.ndarray

    @property
    def columns(self) -> np.ndarray:
        """(encoders, 4) that may be stacked; the first two are the plain mean's."""
        return np.stack([self.score, self.after, self.log_loss, self.before], axis=1)

    @property
    def trial_noise(self) -> float:
        """Mean sampling variance of ``after``."""
        return float(np.mean(self.after * (1 - self.after) / self.held_out))


Variant = Callable[[TriedSet, Sequence[TriedSet]], np.ndarray]


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suite.second_stage_variants", description=__doc__)
    parser.parse_args(argv)
    assets = assets_folder(SUITE.needs)
    if assets is None:
        return 2
    cells, scores, trials = gathered(assets)
    scored = score_cells.read(SUITE.table("scores"))
    sets = {n: read(n, c, scores[n], trials, scored) for n, c in cells.items()}
    rows = every_variant(sets)
    write_rows(SUITE.table("second_stage_variants"), rows)
    for row in rows:
        print(*row.values())
    for name, one in sets.items():
        print(name, "reliability of transferability and trial", np.round(reliabilities(one), 2))
    return 0


def read(name: str, cells: Cells, scores: Values, trials: Trials, scored: score_cells.Scored) -> TriedSet:
    """One set of the tables."""
    rows = [trials[name, e] for e in cells.names]
    facts = scored.labels[name]

    def column(key: str) -> np.ndarray:
        return np.array([float(r[key]) for r in rows])

    return TriedSet(
        cells, scores[FROZEN], column("before"), column("after"),
        normalised(column("after_log_loss"), facts),
        sampling_error(name, cells, scored), int(rows[0]["held_out"]),
        scores[FROZEN] - scores[NO_PRIOR], np.array([curve(r) for r in rows]),
    )  # fmt: skip


def curve(row: Mapping[str, str]) -> list[float]:
    """Accuracies after the steps of ``POINTS``."""
    found = dict(point.split(":") for point in row["curve"].split(";") if point)
    return [float(found[str(step)].split("/")[0]) if str(step) in found else np.nan for step in CURVE] + [
        float(row["after"])
    ]


def normalised(loss: np.ndarray, facts: LabelFacts) -> np.ndarray:
    """1 for no loss, 0 for that of the class shares, not below −1."""
    return np.asarray(1 - np.clip(loss, 0, 2 * facts.entropy) / facts.entropy)


def sampling_error(name: str, cells: Cells, scored: score_cells.Scored) -> np.ndarray:
    """Of the normalised score, by encoder: the mean over members (their errors are nearly the same)."""
    found = []
    for member in ("knn", "probe", "logme"):
        scale = members.NORMALISED_SCORES[member]
        at = np.array([scored.values[member][name][e] for e in cells.names])
        error = np.array([scored.errors.get(member, {}).get(name, {}).get(e, np.nan) for e in cells.names])
        found.append(np.abs(scale(at + error, scored.labels[name]) - scale(at - error, scored.labels[name])) / 2)
    return np.asarray(np.nanmean(found, axis=0))


def reliabilities(one: TriedSet) -> tuple[float, float]:
    """Of transferability and trial."""
    noises = (float(np.mean(one.error**2)), one.trial_noise)
    spreads = (float(np.var(one.score, ddof=1)), float(np.var(one.after, ddof=1)))
    first, second = (max(0.0, 1 - noise / spread) for noise, spread in zip(noises, spreads, strict=True))
    return first, second


# ---------------------------------------------------------------------------- variants


def by_reliability(one: TriedSet, others: Sequence[TriedSet]) -> np.ndarray:
    """Each drawn towards its mean as its own error asks."""
    of_score, of_trial = reliabilities(one)
    return np.asarray(of_score * one.score + of_trial * one.after)


def standardised(one: TriedSet, others: Sequence[TriedSet]) -> np.ndarray:
    return np.asarray(sum((x - x.mean()) / x.std() for x in (one.score, one.after)))


def empirical_bayes(one: TriedSet, others: Sequence[TriedSet]) -> np.ndarray:
    """The trial's line on the transferability, and of what lies beside it as much as is no noise."""
    line = np.polyval(np.polyfit(one.score, one.after, 1), one.score)
    beside = one.after - line
    kept = max(0.0, 1 - one.trial_noise / max(float(np.var(beside, ddof=2)), 1e-12))
    return np.asarray(one.score + line + kept * beside)


def where_they_disagree(one: TriedSet, others: Sequence[TriedSet]) -> np.ndarray:
    """The trial counts the more the less it agrees with the transferability on this target."""
    weight = 0.5 + 0.125 * (1 - ALL_MEASURES["weighted_tau"](one.score, one.after))
    return np.asarray((1 - weight) * one.score + weight * one.after)


def without_a_prior_that_trials_contradict(one: TriedSet, others: Sequence[TriedSet]) -> np.ndarray:
    """The plain mean, and no prior on a set whose trials it orders the other way."""
    against = ALL_MEASURES["weighted_tau"](one.shift, one.after) < 0
    return np.asarray(one.score - against * one.shift + one.after)


def extrapolated(steps: int) -> Variant:
    """The accuracy that a straight line through the curve, over the logarithm of the steps, has after so many."""

    def score(one: TriedSet, others: Sequence[TriedSet]) -> np.ndarray:
        line = np.polyfit(np.log(POINTS), one.curve.T, 1)
        return np.asarray(one.score + np.clip(line[0] * np.log(steps) + line[1], 0, 1))

    return score


def stacked(strength: float) -> Variant:
    """Non-negative weights of four columns by the pairs of the other sets, drawn towards the plain mean."""

    def score(one: TriedSet, others: Sequence[TriedSet]) -> np.ndarray:
        seen = [members.pairs(o.columns, o.cells.accuracy, 2) for o in others]
        return np.asarray(one.columns @ members.ordering_weights(seen, np.array([0.5, 0.5, 0.0, 0.0]), strength))

    return score


def plain(one: TriedSet, others: Sequence[TriedSet]) -> np.ndarray:
    return np.asarray(one.score + one.after)


VARIANTS: dict[str, Variant] = {
    "plain mean": plain,
    "transferability": lambda one, others: one.score,
    "trial": lambda one, others: one.after,
    "no prior": lambda one, others: one.score - one.shift + one.after,
    "prior left out where trials order against it": without_a_prior_that_trials_contradict,
    "with the gain over the probe": lambda one, others: one.score + 2 * one.after - one.before,
    "mean with the trial's log-loss": lambda one, others: one.score + (one.after + one.log_loss) / 2,
    "by reliability": by_reliability,
    "empirical Bayes": empirical_bayes,
    "standardised": standardised,
    "trial counts more where they disagree": where_they_disagree,
    **{f"stacked on the other sets, strength {s:g}": stacked(s) for s in (0.1, 1, 3)},
}
OF_CURVES: dict[str, Variant] = {
    "plain mean, sets with curves": plain,
    **{f"curve extrapolated to {s} steps, sets with curves": extrapolated(s) for s in (48, 150)},
}


def every_variant(sets: Mapping[str, TriedSet]) -> list[dict[str, object]]:
    """One row a variant, those of curves on the sets that have them for every encoder."""
    with_curve = {n: one for n, one in sets.items() if np.isfinite(one.curve).all()}
    return compare(sets) + (compare(with_curve, OF_CURVES) if with_curve else [])


def compare(sets: Mapping[str, TriedSet], variants: Mapping[str, Variant] = VARIANTS) -> list[dict[str, object]]:
    """One row a variant."""
    rows = []
    for label, make in variants.items():
        made = {n: make(one, [o for m, o in sets.items() if m != n]) for n, one in sets.items()}
        row: dict[str, object] = {"variant": label, "sets": len(sets)}
        for measure in MEASURES:
            found = [ALL_MEASURES[measure](made[n], one.cells.accuracy) for n, one in sets.items()]
            row[measure] = round(float(np.mean(found)), 3)
        upper = {n: SCOPES["upper half"](n, one.cells) for n, one in sets.items()}
        halves = [ALL_MEASURES["weighted_tau"](made[n][k], sets[n].cells.accuracy[k]) for n, k in upper.items()]
        rows.append(row | {"weighted_tau, upper half": round(float(np.mean(halves)), 3)})
    return rows


if __name__ == "__main__":
    sys.exit(main())
