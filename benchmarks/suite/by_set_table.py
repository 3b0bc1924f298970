"""Each set by itself: the default order beside static ones, chance and the noise ceiling, in the whole pool and parts of it.

    SELECTOR_ASSETS=... python -m benchmarks.suite.by_set_table [--suite images|held_out]

Reads ground truth, scores and, where there are any, trials; writes ``by_set.csv`` beside them: a row a set and order, and
their means. ``noise ceiling`` is what one measurement of the truth has with another (``ceiling``), by the set's own spread
between seeds (of all sets where it has none).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from benchmarks.agreement import MEASURES
from benchmarks.assets import assets_folder
from benchmarks.rows import write_rows
from benchmarks.suite import encoders, members, score_cells, suites, table
from benchmarks.suite.agreement_table import fine_tuned
from benchmarks.suite.ceiling import DRAWS, SeedNoise, measured_twice, seed_noise
from benchmarks.suite.members import SCOPES, Cells
from benchmarks.suite.second_stage_table import FROZEN, columns_of, like_size, mixed
from selector.ranking.second_stage import PILOT_WEIGHT

FEWEST = 4  # encoders that a scope must have
REGRETS = ("regret@1", "regret@3")
Order = Sequence[tuple[np.ndarray, Cells]]
"""Scores and the cells that they are held against: one pair, or draws whose measures are averaged."""


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
    cells = {n: found for n, found in cells.items() if len(found.names) >= FEWEST}
    path = suite.table("trials")
    trials = {(r["set"], r["encoder"]): float(r["after"]) for r in table.whole_rows(path) if r["after"] != "nan"}
    elsewhere = mean_ranks(fine_tuned(suites.find("images").table("ground_truth"), "full"))
    noise = seed_noise(suite.table("ground_truth"), suites.find("images").table("ground_truth"))
    sizes = {e: float(card["params"]) for e, card in cards.items()}
    probed = fine_tuned(suite.table("ground_truth"), "frozen")
    rows = []
    for name, found in cells.items():
        made = orders(name, found, trials, elsewhere, sizes, noise, probed.get(name))
        rows += [measured(name, label, order, sizes) for label, order in made]
    for label in dict.fromkeys(str(row["order"]) for row in rows) if len(cells) > 1 else ():
        own = [row for row in rows if row["order"] == label]
        if len(own) < len(cells):  # a mean over other sets cannot be compared
            continue
        columns = [c for c in own[0] if c not in ("set", "order")]
        rows.append({"set": f"mean of {len(own)}", "order": label} | {c: round(float(np.nanmean([float(str(r[c])) for r in own])), 3) for c in columns})  # fmt: skip
    write_rows(suite.table("by_set"), rows)
    for row in rows:
        print(*row.values())
    return 0


def orders(
    name: str,
    cells: Cells,
    trials: Mapping[tuple[str, str], float],
    elsewhere: Mapping[str, Mapping[str, float]],
    sizes: Mapping[str, float],
    noise: SeedNoise,
    probed: Mapping[str, float] | None = None,
) -> Iterator[tuple[str, Order]]:
    """What is compared on a set; ``probed`` are test accuracies of frozen networks, which no score can know."""
    rng = np.random.default_rng(0)
    frozen = members.where_it_agrees("knn", "probe", "logme", weight=0.25)(cells, ()) / 0.75
    yield "transferability", [(frozen, cells)]
    yield "the same without prior", [(members.on_normalized_score("knn", "probe", "logme")(cells, ()), cells)]
    if cells.names and all((name, e) in trials for e in cells.names):
        values = {FROZEN: frozen, "trial": np.array([trials[name, e] for e in cells.names])}
        yield "transferability and trial, every model", [(mixed(values, PILOT_WEIGHT), cells)]
    if probed and all(e in probed for e in cells.names):
        yield "frozen, measured on test", [(np.array([probed[e] for e in cells.names]), cells)]
    past = {e: np.mean([r[e] for n, r in elsewhere.items() if n != name and e in r] or [0.5]) for e in cells.names}
    yield "mean rank on the other sets", [(np.array([past[e] for e in cells.names]), cells)]
    yield "parameters", [(np.array([sizes[e] for e in cells.names]), cells)]
    yield "chance", [(rng.permutation(len(cells.names)).astype(float), cells) for _ in range(DRAWS)]
    twice = [
        [np.array([made[name][e] for e in cells.names]) for made in pair]
        for pair in measured_twice(columns_of({name: cells}), noise)
    ]
    if twice:
        yield "noise ceiling", [(second, replace(cells, accuracy=first)) for first, second in twice]


def measured(name: str, label: str, order: Order, sizes: Mapping[str, float]) -> dict[str, object]:
    """Weighted tau by scope, pairs of like size in order, regrets in points."""
    count = len(order[0][1].names)
    row: dict[str, object] = {"set": name, "order": label, "encoders": count}
    for scope, kept in SCOPES.items():
        keeps = [kept(name, cells) for _, cells in order]
        values = [
            MEASURES["weighted_tau"](values[keep], cells.accuracy[keep]) if keep.sum() >= FEWEST else np.nan
            for (values, cells), keep in zip(order, keeps, strict=True)
        ]
        row[f"weighted_tau, {scope}"] = round(float(np.mean(values)), 3)
    right = [like_size(values, cells, sizes, np.ones(count, bool)) for values, cells in order]
    row["like_size_right"] = round(float(np.mean(right)), 3)
    return row | {m: round(float(np.mean([MEASURES[m](v, c.accuracy) for v, c in order])), 2) for m in REGRETS}


def mean_ranks(truth: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Share of the encoders that each one is better than, by set."""
    return {n: {e: float(np.mean([a > b for b in c.values()])) for e, a in c.items()} for n, c in truth.items()}


if __name__ == "__main__":
    sys.exit(main())
