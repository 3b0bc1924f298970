"""Which members should the combined score have, with which weights? Decided on the suite, a set left out in turn.

    SELECTOR_ASSETS=... python -m benchmarks.suite.members [--partial] [--strategy full|frozen] [--draws 1000]
    SELECTOR_ASSETS=... python -m benchmarks.suite.members --partial --only stacked six    # some candidates, printed alone
    SELECTOR_ASSETS=... python -m benchmarks.suite.members --partial --also itm lead disco alpha
    python -m benchmarks.suite.members --freeze

Reads the ground truth and the scores beside it; writes ``members_<strategy>.csv``: agreement of every
candidate with the fine-tuned accuracy, and its paired difference to the package's default. Whatever is
learned (weights, means and deviations) comes from the other sets. ``--also`` tries further scores, on the encoders that
have them on a set, and writes ``members_also_<strategy>.csv``. ``--freeze`` writes what the package
carries of the suite (``selector/ranking/calibration.json``); it needs scores but no ground truth.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize, nnls
from scipy.stats import rankdata

import selector
from benchmarks.agreement import mean_agreement, paired_difference
from benchmarks.assets import assets_folder
from benchmarks.rows import write_rows
from benchmarks.suite import encoders, score_cells
from benchmarks.suite.agreement_table import FEWEST_ENCODERS, fine_tuned
from benchmarks.suite.image_suite import SUITE, foreign
from selector.core.contracts import LabelKind
from selector.ranking.agreement import calibration, weighted_tau
from selector.ranking.combination import MEMBERS, LabelFacts
from selector.ranking.prior import static_prior

FROZEN = Path(selector.__file__).parent / "ranking" / "calibration.json"
MEASURES = ("weighted_tau", "spearman", "regret@1", "regret@3")
DEFAULT = "normalized score: knn+probe+logme"
NORMALIZED_SCORES = {
    **MEMBERS[LabelKind.CLASSES],
    "lda": MEMBERS[LabelKind.CLASSES]["knn"],
    "nearest-class-mean": MEMBERS[LabelKind.CLASSES]["knn"],
    # from posteriors that are the class shares (0 + chance - 0) to perfect ones (1 + 1 - 1/2)
    "ncti": lambda value, facts: (value - facts.chance) / (1.5 - facts.chance),
}  # the chance of lda and nearest-class-mean is that of knn
OPEN_PRIORS = (0.0, 0.05, 0.1, 0.15, 0.25, 0.35, 0.5)  # weights of the prior, from which the other sets choose
MOST_CHOSEN = 3  # members that the other sets choose
OTHERS = ("pactran", "hscore", "gbc")  # of other families; they have no fixed zero, so z-scores only
WHOLE = 15  # encoders that a set must have to say how far encoders lie apart
PAIR_SCALE = 3.0  # of equal weights, in which a pair a deviation apart is nearly certain
_RIDGE = 1.0  # equal weights count as much as this many deviations of rank
Column = dict[str, float]


@dataclass(frozen=True)
class Cells:
    """Members of one set: (encoders, members) beside the names, and the accuracies in points (NaN where unknown)."""

    names: tuple[str, ...]
    normalized_scores: dict[str, np.ndarray]
    raw: dict[str, np.ndarray]
    prior: np.ndarray
    accuracy: np.ndarray


Candidate = Callable[[Cells, Sequence[Cells]], np.ndarray]


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, print, write; or freeze."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suite.members", description=__doc__)
    parser.add_argument("--truth", type=Path, default=SUITE.table("ground_truth"))
    parser.add_argument("--scores", type=Path, default=SUITE.table("scores"))
    parser.add_argument("--out", type=Path, help="folder of the table; beside the truth when left out")
    parser.add_argument("--strategy", choices=("full", "frozen"), default="full")
    parser.add_argument("--partial", action="store_true", help="take columns that lack encoders as well")
    parser.add_argument("--draws", type=int, default=1000, help="of the bootstrap")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="print the candidates with one of these in their name; write nothing")
    parser.add_argument("--also", nargs="+", default=(), help="further scores of the table as candidates")
    parser.add_argument("--freeze", action="store_true", help="write the package's calibration, nothing else")
    args = parser.parse_args(argv)
    scored = score_cells.read(args.scores)
    if args.freeze:
        FROZEN.write_text(frozen(scored), encoding="utf-8")
        print(f"wrote {FROZEN}", file=sys.stderr)
        return 0
    assets = assets_folder("models/")
    if assets is None:
        return 2
    cards = encoders.cards(assets / "models")
    truth = fine_tuned(args.truth, args.strategy)
    fewest = FEWEST_ENCODERS if args.partial else len(cards)
    cells = {n: gather(scored, n, column, cards, args.also) for n, column in truth.items() if n in scored.labels}
    cells = {name: found for name, found in cells.items() if len(found.names) >= fewest}
    if not cells:
        print("no set has both scores and accuracies of all encoders; --partial takes the others.", file=sys.stderr)
        return 1
    if args.only:
        chosen = {k: v for k, v in CANDIDATES.items() if k == DEFAULT or any(part in k for part in args.only)}
        show(compare(cells, args.draws, args.seed, chosen), cells)
        return 0
    folder = args.out or args.truth.parent
    if args.also:
        rows = compare(cells, args.draws, args.seed, further(args.also))
        write_rows(folder / f"members_also_{args.strategy}.csv", [_rounded(row) for row in rows])
        show(rows, cells)
        return 0
    rows = compare(cells, args.draws, args.seed)
    noise = stability(scored)
    write_rows(folder / "members_stability.csv", noise)
    write_rows(folder / f"members_{args.strategy}.csv", [_rounded(row) for row in rows])
    show(rows, cells)
    print("\nsampling error of a normalized score over how far encoders lie apart: ", noise)
    return 0


def _rounded(row: Mapping[str, object]) -> dict[str, object]:
    return {k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()}


def gather(
    scored: score_cells.Scored,
    name: str,
    column: Column,
    cards: Mapping[str, Mapping[str, Any]],
    also: Sequence[str] = (),
) -> Cells:
    """The encoders of a set that have an accuracy and every member."""
    wanted = [*NORMALIZED_SCORES, *OTHERS, *also]
    names = tuple(e for e in column if all(e in scored.values.get(m, {}).get(name, {}) for m in wanted))
    raw = {m: np.array([scored.values[m][name][e] for e in names]) for m in wanted}
    normalized_scores = {m: np.asarray(scale(raw[m], scored.labels[name])) for m, scale in NORMALIZED_SCORES.items()}
    facts = {e: encoders.facts_of(cards[e]) for e in names}
    prior = static_prior(facts).scores if facts else {}
    return Cells(
        names, normalized_scores, raw, np.array([prior[e].value for e in names]), np.array([column[e] for e in names])
    )


# ---------------------------------------------------------------------------- candidates


def on_normalized_score(*members: str, weight: float = 0.0) -> Candidate:
    """Mean normalized score, and a share of the prior as the package mixes it."""

    def score(cells: Cells, others: Sequence[Cells]) -> np.ndarray:
        mean = np.mean([cells.normalized_scores[m] for m in members], axis=0)
        return np.asarray((1 - weight) * mean + weight * calibration().normalized_score_per_deviation * cells.prior)

    return score


def where_it_agrees(*members: str, weight: float) -> Candidate:
    """``on_normalized_score``, and no prior on a set whose own scores it orders the other way."""

    def score(cells: Cells, others: Sequence[Cells]) -> np.ndarray:
        mean = on_normalized_score(*members)(cells, others)
        agrees = not weighted_tau(cells.prior, mean) < 0
        return on_normalized_score(*members, weight=weight if agrees else 0.0)(cells, others)

    return score


def weight_chosen_elsewhere(*members: str) -> Candidate:
    """``where_it_agrees`` with that of ``OPEN_PRIORS`` that orders the other sets best."""

    def score(cells: Cells, others: Sequence[Cells]) -> np.ndarray:
        return where_it_agrees(*members, weight=best_weight(others, *members))(cells, others)

    return score


def best_weight(others: Sequence[Cells], *members: str) -> float:
    """The prior's weight with the highest mean weighted tau on these sets; the lowest of several."""

    def merit(weight: float) -> float:
        made = where_it_agrees(*members, weight=weight)
        return float(np.mean([weighted_tau(made(o, ()), o.accuracy) for o in others])) if others else 0.0

    return max(OPEN_PRIORS, key=merit)


def chosen_elsewhere(make: Callable[..., Candidate], *members: str) -> Candidate:
    """What ``make`` makes of up to ``MOST_CHOSEN`` members, those that order the other sets best."""

    def score(cells: Cells, others: Sequence[Cells]) -> np.ndarray:
        lists = [c for k in range(1, MOST_CHOSEN + 1) for c in combinations(members, k)]

        def merit(some: tuple[str, ...]) -> float:
            rest = [(o, [x for x in others if x is not o]) for o in others]
            return float(np.mean([weighted_tau(make(*some)(o, r), o.accuracy) for o, r in rest])) if others else 0.0

        return make(*max(lists, key=merit))(cells, others)

    return score


def on_z(*members: str) -> Candidate:
    """Mean of z-scores with means and deviations of the other sets."""

    def score(cells: Cells, others: Sequence[Cells]) -> np.ndarray:
        parts = []
        for m in members:
            seen = np.concatenate([c.raw[m] for c in others]) if others else cells.raw[m]
            parts.append((cells.raw[m] - seen.mean()) / max(seen.std(), 1e-12))
        return np.mean(parts, axis=0)

    return score


def learned(*members: str, prior: bool = False) -> Candidate:
    """Non-negative least squares of the accuracy's rank on normalized scores, drawn towards equal weights."""

    def columns(cells: Cells) -> np.ndarray:
        parts = [cells.normalized_scores[m] for m in members]
        return np.stack(
            [*parts, calibration().normalized_score_per_deviation * cells.prior] if prior else parts, axis=1
        )

    def score(cells: Cells, others: Sequence[Cells]) -> np.ndarray:
        width = len(members) + prior
        x, y = [np.sqrt(_RIDGE) * np.eye(width)], [np.sqrt(_RIDGE) * np.ones(width)]
        for c in others:
            rows = columns(c)
            x.append(rows - rows.mean(axis=0))  # every set has its own level
            y.append((rankdata(c.accuracy) / (len(c.accuracy) + 1) - 0.5) * np.sqrt(12))
        return np.asarray(columns(cells) @ nnls(np.concatenate(x), np.concatenate(y))[0])

    return score


def stacked(*members: str, strength: float, weight: float = 0.25) -> Candidate:
    """Non-negative weights that order the pairs of the other sets: logistic loss, by how far a pair's accuracies lie apart
    and how near the top it is, drawn towards equal weights and the usual share of the prior."""

    def columns(cells: Cells) -> np.ndarray:
        parts = [cells.normalized_scores[m] for m in members]
        agrees = not weighted_tau(cells.prior, np.mean(parts, axis=0)) < 0
        return np.stack([*parts, agrees * calibration().normalized_score_per_deviation * cells.prior], axis=1)

    def score(cells: Cells, others: Sequence[Cells]) -> np.ndarray:
        usual = np.array([1 / len(members)] * len(members) + [weight / (1 - weight)])
        seen = [pairs(columns(c), c.accuracy, len(members)) for c in others]
        return np.asarray(columns(cells) @ ordering_weights(seen, usual, strength))

    return score


def ordering_weights(seen: Sequence[tuple[np.ndarray, np.ndarray]], usual: np.ndarray, strength: float) -> np.ndarray:
    """(columns,) non-negative weights that order what ``pairs`` gives of several sets: logistic loss, drawn towards the
    usual ones."""
    gap, count = (np.concatenate(parts) for parts in zip(*seen, strict=True))

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        margin, drawn = gap @ w, w - PAIR_SCALE * usual
        slope = -(gap * (count / (1 + np.exp(margin)))[:, None]).sum(axis=0)
        value = (np.logaddexp(0, -margin) * count).sum() + strength * (drawn**2).sum()
        return float(value), slope + 2 * strength * drawn

    bounds = [(0, None)] * len(usual)
    return np.asarray(minimize(loss, PAIR_SCALE * usual, jac=True, bounds=bounds, method="L-BFGS-B").x)


def pairs(columns: np.ndarray, accuracy: np.ndarray, members: int) -> tuple[np.ndarray, np.ndarray]:
    """(pairs, columns) differences of the better one to the other, in the set's own spread, and what each pair counts."""
    place = len(accuracy) - rankdata(accuracy)
    better, other = np.nonzero(accuracy[:, None] > accuracy[None] + 1e-9)
    count = np.minimum((accuracy[better] - accuracy[other]) / max(1.0, 0.3 * accuracy.std()), 1)
    count *= 1 / (1 + place[better]) + 1 / (1 + place[other])
    return (columns[better] - columns[other]) / columns[:, :members].mean(axis=1).std(), count / count.sum()


CANDIDATES: dict[str, Candidate] = {
    DEFAULT: on_normalized_score("knn", "probe", "logme"),
    **{f"normalized score: {m}": on_normalized_score(m) for m in NORMALIZED_SCORES},
    "normalized score: knn+probe": on_normalized_score("knn", "probe"),
    "normalized score: knn+logme": on_normalized_score("knn", "logme"),
    "normalized score: probe+logme": on_normalized_score("probe", "logme"),
    "normalized score: knn+probe+logme+lda": on_normalized_score("knn", "probe", "logme", "lda"),
    "normalized score: probe+logme+lda": on_normalized_score("probe", "logme", "lda"),
    **{
        f"normalized score: knn+probe+logme, prior {100 * w:.0f}%": on_normalized_score(
            "knn", "probe", "logme", weight=w
        )
        for w in (0.1, 0.25, 0.5)
    },
    "normalized score: knn+probe+logme+lda, prior 25%": on_normalized_score(
        "knn", "probe", "logme", "lda", weight=0.25
    ),
    "normalized score: knn+probe+logme, prior 25% where it agrees": where_it_agrees(
        "knn", "probe", "logme", weight=0.25
    ),
    "normalized score: knn+probe+logme, prior's weight chosen on the other sets": weight_chosen_elsewhere(
        "knn", "probe", "logme"
    ),
    "normalized score: probe+nearest-class-mean+ncti, prior 25% where it agrees": where_it_agrees(
        "probe", "nearest-class-mean", "ncti", weight=0.25
    ),
    "normalized score: ncti, prior 25% where it agrees": where_it_agrees("ncti", weight=0.25),
    "normalized score: chosen on the other sets": chosen_elsewhere(
        partial(where_it_agrees, weight=0.0), *NORMALIZED_SCORES
    ),
    "normalized score: chosen on the other sets, prior 25% where it agrees": chosen_elsewhere(
        partial(where_it_agrees, weight=0.25), *NORMALIZED_SCORES
    ),
    "prior alone (facts)": lambda cells, others: cells.prior,
    "z: knn+probe+logme": on_z("knn", "probe", "logme"),
    "z: knn+probe+logme+lda": on_z("knn", "probe", "logme", "lda"),
    **{f"z: knn+probe+logme+{m}": on_z("knn", "probe", "logme", m) for m in ("ncti", *OTHERS)},
    "normalized score: all six, prior 25% where it agrees": where_it_agrees(*NORMALIZED_SCORES, weight=0.25),
    **{f"stacked: all six, prior, strength {x:g}": stacked(*NORMALIZED_SCORES, strength=x) for x in (0.01, 0.1, 1, 10)},
    "stacked: knn+probe+logme, prior, strength 1": stacked("knn", "probe", "logme", strength=1),
    "learned: knn+probe+logme": learned("knn", "probe", "logme"),
    "learned: knn+probe+logme+lda": learned("knn", "probe", "logme", "lda"),
    "learned: knn+probe+logme+lda, prior": learned("knn", "probe", "logme", "lda", prior=True),
}


def further(also: Sequence[str]) -> dict[str, Candidate]:
    """Scores without a fixed zero as members beside the usual ones, alone, and chosen on the other sets."""
    usual = ("knn", "probe", "logme")
    return {
        DEFAULT: CANDIDATES[DEFAULT],
        "normalized score: knn+probe+logme, prior 25% where it agrees": where_it_agrees(*usual, weight=0.25),
        "z: knn+probe+logme": on_z(*usual),
        **{f"z: knn+probe+logme+{m}": on_z(*usual, m) for m in also},
        **{f"z: {m}": on_z(m) for m in also},
        "z: all": on_z(*usual, *also),
        "z: chosen on the other sets": chosen_elsewhere(on_z, *usual, *also),
    }


SCOPES: dict[str, Callable[[str, Cells], np.ndarray]] = {
    "all": lambda name, cells: np.ones(len(cells.names), bool),
    "upper half": lambda name, cells: cells.accuracy >= np.median(cells.accuracy),
    "without source = target": lambda name, cells: np.isin(cells.names, foreign(name, cells.names)),
}


def compare(
    cells: Mapping[str, Cells], draws: int, seed: int, candidates: Mapping[str, Candidate] = CANDIDATES
) -> list[dict[str, object]]:
    """One row a scope and candidate."""
    scores = {
        label: {name: make(c, [o for other, o in cells.items() if other != name]) for name, c in cells.items()}
        for label, make in candidates.items()
    }
    rows = []
    for scope, kept in SCOPES.items():
        keep = {n: kept(n, c) for n, c in cells.items()}
        truth = [c.accuracy[keep[n]] for n, c in cells.items()]
        default = [scores[DEFAULT][n][keep[n]] for n in cells]
        names = [np.array(c.names)[keep[n]].tolist() for n, c in cells.items()]
        for label, by_set in scores.items():
            here = [by_set[n][keep[n]] for n in cells]
            row: dict[str, object] = {
                "scope": scope,
                "score": label,
                "sets": len(cells),
                "encoders": sum(map(len, truth)),
            }
            for measure in MEASURES:
                found = mean_agreement(here, truth, measure, models=names, draws=draws, seed=seed)
                row |= {measure: found.value, f"{measure}_low": found.low, f"{measure}_high": found.high}
            gain = paired_difference(here, default, truth, models=names, draws=draws, seed=seed)
            row |= {"gain": gain.value, "gain_low": gain.low, "gain_high": gain.high}
            rows.append(row)
    return rows


def show(rows: Sequence[Mapping[str, object]], cells: Mapping[str, Cells]) -> None:
    """Print one block a scope, best weighted tau first."""
    print(f"sets: {', '.join(f'{n} ({len(c.names)})' for n, c in cells.items())}; gain: of weighted tau over {DEFAULT}")
    for scope in dict.fromkeys(row["scope"] for row in rows):
        print(f"\n{scope}")
        for row in sorted((r for r in rows if r["scope"] == scope), key=lambda r: -float(str(r["weighted_tau"]))):
            figures = "  ".join(f"{m} {row[m]:.3f} [{row[f'{m}_low']:.2f}, {row[f'{m}_high']:.2f}]" for m in MEASURES)
            print(
                f"{row['score']:44}{figures}  gain {row['gain']:+.3f} [{row['gain_low']:+.3f}, {row['gain_high']:+.3f}]"
            )


def stability(scored: score_cells.Scored) -> list[dict[str, object]]:
    """By set and member: the median jackknife error of a normalized score over the deviation of normalized scores between encoders.

    Near 1 and above a member would order encoders by its own noise.
    """
    rows = []
    for name, facts in scored.labels.items():
        row: dict[str, object] = {"set": name}
        for member in score_cells.WITH_ERROR:
            scale = NORMALIZED_SCORES[member]
            values, errors = (kind.get(member, {}).get(name, {}) for kind in (scored.values, scored.errors))
            shared = [e for e in values if e in errors]
            if len(shared) < FEWEST_ENCODERS:
                continue
            at, error = np.array([values[e] for e in shared]), np.array([errors[e] for e in shared])
            normalized_scores = scale(at, facts)
            moved = np.abs(scale(at + error, facts) - scale(at - error, facts)) / 2
            row[member] = round(float(np.median(moved) / normalized_scores.std()), 3)
        if len(row) == 1 + len(score_cells.WITH_ERROR):
            rows.append(row)
    return rows


# ---------------------------------------------------------------------------- what the package carries


def frozen(scored: score_cells.Scored) -> str:
    """``selector/ranking/calibration.json``: sizes and normalized scores of every set, and how far encoders lie apart."""
    sets, slopes = {}, []
    for name, facts in scored.labels.items():
        normalized_score = mean_normalized_score(scored, name, facts)
        if len(normalized_score) < WHOLE:
            continue
        deviations = (rankdata(normalized_score) / (len(normalized_score) + 1) - 0.5) * np.sqrt(12)
        slopes.append(float(np.polyfit(deviations, normalized_score, 1)[0]))
        sets[name] = {
            "rows": scored.rows[name],
            "classes": scored.classes[name],
            "encoders": len(normalized_score),
            "best_normalized_score": round(float(normalized_score.max()), 4),
            "median_normalized_score": round(float(np.median(normalized_score)), 4),
        }
    made = {"normalized_score_per_deviation": round(float(np.mean(slopes)), 3), "sets": sets}
    before = json.loads(FROZEN.read_text(encoding="utf-8"))
    same = made == {k: v for k, v in before.items() if k != "version"}
    return json.dumps({"version": before["version"] + (not same), **made}, indent=1) + "\n"


def mean_normalized_score(scored: score_cells.Scored, name: str, facts: LabelFacts) -> np.ndarray:
    """Of the default members, for the encoders that have all of them."""
    members = MEMBERS[LabelKind.CLASSES]
    by_member = [scored.values.get(m, {}).get(name, {}) for m in members]
    shared = [e for e in by_member[0] if all(e in values for values in by_member)]
    columns = [
        scale(np.array([values[e] for e in shared]), facts)
        for scale, values in zip(members.values(), by_member, strict=True)
    ]
    return np.asarray(np.mean(columns, axis=0))


if __name__ == "__main__":
    sys.exit(main())
