"""Each set by itself: the default order beside static ones, chance and the noise ceiling, in the whole pool and parts of it.

    SELECTOR_ASSETS=... python -m benchmarks.suite.by_set_table [--suite images|held_out]

Reads ground truth, scores and, where there are any, trials; writes ``by_set.csv`` beside them: a row a set and order, and
their means. ``noise ceiling`` is the truth with the set's own spread between seeds (of all sets where it has none) added once
more: what a second measurement of the truth would reach. ``errors.csv``: what each score sees that the default does not, as
the correlation of their errors of rank on the encoders of a set that have both; ``ntk:`` are scores of rows of gradients,
``alpha`` (negated) is a fact of the weights.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy.stats import rankdata

from benchmarks.assets import assets_folder
from benchmarks.rows import write_rows
from benchmarks.suite import alpha_cells, encoders, members, score_cells, suites, table
from benchmarks.suite.agreement_table import fine_tuned
from benchmarks.suite.members import SCOPES, Cells
from benchmarks.suite.ntk_cells import SCORES
from benchmarks.suite.second_stage_table import CEILING_DRAWS, FROZEN, like_size, mixed
from selector.ranking.agreement import MEASURES
from selector.ranking.second_stage import TRIAL_WEIGHT

FEWEST = 4  # encoders that a scope must have
REGRETS = ("regret@1", "regret@3")
Order = Sequence[np.ndarray]  # one, or draws whose measures are averaged


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suite.by_set_table", description=__doc__)
    parser.add_argument("--suite", choices=("images", "held_out"), default="images")
    args = parser.parse_args(argv)
    suite = suites.find(args.suite)
    assets = assets_folder(suite.needs)
    if assets is None:
        return 2
    cards = encoders.cards(assets / "models")
    truth = fine_tuned(suite.table("ground_truth"), "full")
    scored = score_cells.read(suite.table("scores"))
    cells = {n: members.gather(scored, n, column, cards) for n, column in truth.items() if n in scored.labels}
    path = suite.table("trials")
    trials = {(r["set"], r["encoder"]): float(r["after"]) for r in table.whole_rows(path) if r["after"] != "nan"}
    elsewhere = mean_ranks(fine_tuned(suites.find("images").table("ground_truth"), "full"))
    deviations = seed_deviations(suite)
    sizes = {e: float(card["params"]) for e, card in cards.items()}
    probed = fine_tuned(suite.table("ground_truth"), "frozen")
    rows = []
    for name, found in cells.items():
        made = orders(name, found, trials, elsewhere, sizes, deviations.get(name, deviations[""]), probed.get(name))
        rows += [measured(name, label, order, found, sizes) for label, order in made]
    for label in dict.fromkeys(str(row["order"]) for row in rows) if len(cells) > 1 else ():
        own = [row for row in rows if row["order"] == label]
        columns = [c for c in own[0] if c not in ("set", "order")]
        rows.append({"set": f"mean of {len(own)}", "order": label} | {c: round(float(np.nanmean([float(str(r[c])) for r in own])), 3) for c in columns})  # fmt: skip
    write_rows(suite.table("by_set"), rows)
    others = {score: dict(by_set) for score, by_set in scored.values.items()} | gradients(suite)
    others["alpha"] = dict.fromkeys(cells, alpha_cells.by_encoder(suites.find("images").table("alpha")))
    write_rows(suite.table("errors"), [e for n, found in cells.items() for e in errors(n, found, others)])
    for row in rows:
        print(*row.values())
    return 0


def orders(
    name: str,
    cells: Cells,
    trials: Mapping[tuple[str, str], float],
    elsewhere: Mapping[str, Mapping[str, float]],
    sizes: Mapping[str, float],
    noise: float,
    probed: Mapping[str, float] | None = None,
) -> Iterator[tuple[str, Order]]:
    """What is compared on a set; ``probed`` are test accuracies of frozen networks, which no score can know."""
    rng = np.random.default_rng(0)
    frozen = members.where_it_agrees("knn", "probe", "logme", weight=0.25)(cells, ()) / 0.75
    yield "transferability", [frozen]
    yield "the same without prior", [members.on_normalised_score("knn", "probe", "logme")(cells, ())]
    if cells.names and all((name, e) in trials for e in cells.names):
        values = {FROZEN: frozen, "trial": np.array([trials[name, e] for e in cells.names])}
        yield "transferability and trial", [mixed(values, TRIAL_WEIGHT)]
    if probed and all(e in probed for e in cells.names):
        yield "frozen, measured on test", [np.array([probed[e] for e in cells.names])]
    past = {e: np.mean([r[e] for n, r in elsewhere.items() if n != name and e in r] or [0.5]) for e in cells.names}
    yield "mean rank on the other sets", [np.array([past[e] for e in cells.names])]
    yield "parameters", [np.array([sizes[e] for e in cells.names])]
    yield "chance", [rng.permutation(len(cells.names)).astype(float) for _ in range(CEILING_DRAWS)]
    yield "noise ceiling", [cells.accuracy + rng.normal(0, noise, len(cells.names)) for _ in range(CEILING_DRAWS)]


def measured(name: str, label: str, order: Order, cells: Cells, sizes: Mapping[str, float]) -> dict[str, object]:
    """Weighted tau by scope, pairs of like size in order, regrets in points."""
    row: dict[str, object] = {"set": name, "order": label, "encoders": len(cells.names)}
    everyone = np.ones(len(cells.names), bool)
    for scope, kept in SCOPES.items():
        keep = kept(name, cells)
        values = [MEASURES["weighted_tau"](o[keep], cells.accuracy[keep]) for o in order] if keep.sum() >= FEWEST else [np.nan]  # fmt: skip
        row[f"weighted_tau, {scope}"] = round(float(np.mean(values)), 3)
    row["like_size_right"] = round(float(np.mean([like_size(o, cells, sizes, everyone) for o in order])), 3)
    return row | {m: round(float(np.mean([MEASURES[m](o, cells.accuracy) for o in order])), 2) for m in REGRETS}


def gradients(suite: suites.Suite) -> dict[str, dict[str, dict[str, float]]]:
    """Scores of rows of projected gradients: score -> set -> encoder -> value."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in table.whole_rows(suite.table("ntk")):
        for score in SCORES:
            by_set = found.setdefault(f"ntk: {score}", {})
            by_set.setdefault(row["set"], {})[row["encoder"]] = float(row[f"gradients_{score}"])
    return found


def errors(
    name: str, cells: Cells, scores: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> Iterator[dict[str, object]]:
    """One row a score: its weighted tau and that of the default on the same encoders, and how their errors correlate."""
    default = dict(orders(name, cells, {}, {}, dict.fromkeys(cells.names, 1.0), 0.0))["transferability"][0]
    for score, by_set in scores.items():
        kept = [i for i, e in enumerate(cells.names) if e in by_set.get(name, {})]
        if len(kept) < FEWEST:
            continue
        values = np.array([by_set[name][cells.names[i]] for i in kept])
        truth = rankdata(cells.accuracy[kept])
        wrong = [rankdata(v) - truth for v in (values, default[kept])]
        taus = [MEASURES["weighted_tau"](v, cells.accuracy[kept]) for v in (values, default[kept])]
        correlation = np.corrcoef(wrong)[0, 1] if min(np.ptp(w) for w in wrong) > 0 else np.nan
        yield {
            "set": name, "score": score, "encoders": len(kept), "weighted_tau": round(taus[0], 3),
            "default": round(taus[1], 3), "correlation_of_errors": round(float(correlation), 3),
        }  # fmt: skip


def mean_ranks(truth: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Share of the encoders that each one is better than, by set."""
    return {n: {e: float(np.mean([a > b for b in c.values()])) for e, a in c.items()} for n, c in truth.items()}


def seed_deviations(suite: suites.Suite) -> dict[str, float]:
    """Standard deviation of an accuracy between seeds, in points, by set, and of all image sets under an empty name."""
    found: dict[tuple[str, str], list[float]] = {}
    for path in {suite.table("ground_truth"), suites.find("images").table("ground_truth")}:
        for (name, encoder, how, _), row in table.read(path).items():
            if how == "full" and row["status"] == "ok" and row["diverged"] == "0":
                found.setdefault((name, encoder), []).append(100 * float(row["test_accuracy"]))
    several = {cell: np.var(values, ddof=1) for cell, values in found.items() if len(values) > 1}
    names = {name for name, _ in several}
    made = {n: float(np.sqrt(np.mean([v for (of, _), v in several.items() if of == n]))) for n in names}
    return made | {"": float(np.sqrt(np.mean(list(several.values()))))}


if __name__ == "__main__":
    sys.exit(main())
