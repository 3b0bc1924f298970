"""How well do scores, static orders and chance agree with fine-tuning on regression, several labels, masks and boxes?

    SELECTOR_ASSETS=... python -m benchmarks.tasks.agreement

Reads ``ground_truth.csv`` and ``scores.csv``, which README.md describes; writes ``agreement.csv`` beside them and prints a
table per target.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from benchmarks.agreement import MEASURES as AGREEMENT
from benchmarks.agreement import mean_agreement
from benchmarks.assets import assets_folder
from benchmarks.rows import in_markdown, options, write_rows
from benchmarks.suite import encoders, table, text_suite
from selector.ranking.prior import ModelFacts, static_prior

RESULTS = Path(__file__).parents[1] / "results" / "tasks"
MEASURES = ("weighted_tau", "regret@1", "regret@3")
FEWEST = 5  # encoders; fewer say nothing about an order
LEARNED = 5.0  # points: where not even the best encoder reaches this, nothing was learned and an order is noise
ORDERS = 200
RANDOM = "random order"
PROBE = "linear head, validation"
Column = dict[str, float]


class Cell(NamedTuple):
    """What a row of the truth is about."""

    task: str
    set: str
    encoder: str
    head: str
    strategy: str
    seed: int = 0


@dataclass(frozen=True)
class Question:
    """A column of the ground truth: which encoder is best for this?

    Attributes:
        task, target: as they are shown.
        set, facet: whose scores are asked.
        truth: encoder -> value in points.
        frozen: encoder -> validation value of the frozen head, in points, where it is measured for this very output.
    """

    task: str
    target: str
    set: str
    facet: str | None
    metric: str
    truth: Column
    frozen: Column = field(default_factory=dict)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, write, print."""
    parser = options(__doc__, RESULTS / "agreement.csv")
    parser.add_argument("--truth", type=Path, default=RESULTS / "ground_truth.csv")
    parser.add_argument("--scores", type=Path, default=RESULTS / "scores.csv")
    parser.add_argument("--draws", type=int, default=1000, help="of the bootstrap")
    args = parser.parse_args(argv)
    assets = assets_folder("models/")
    asked = questions(read(args.truth))
    if not asked:
        print(f"{args.truth} has no column of {FEWEST} encoders yet.", file=sys.stderr)
        return 1
    rows = compare(asked, table.whole_rows(args.scores), facts_of_all(assets), args.draws)
    write_rows(args.out, rows, digits=4)
    for task, target in dict.fromkeys((row["task"], row["target"]) for row in rows):
        part = [row for row in rows if (row["task"], row["target"]) == (task, target)]
        print(f"\n{task}, {target}\n{in_markdown(shown(part))}")
    return 0


# ---------------------------------------------------------------------------- the truth


def read(path: Path) -> dict[Cell, dict[str, str]]:
    """The last row of each cell."""
    keys = ("task", "set", "encoder", "head", "strategy")
    return {Cell(*(row[key] for key in keys), int(row["seed"])): row for row in table.whole_rows(path)}


def by_output(row: Mapping[str, str]) -> dict[str, float]:
    """``log_price:0.5;area:0.2`` -> {"log_price": 0.5, "area": 0.2}."""
    pairs = (part.rpartition(":") for part in row["test_by_output"].split(";") if part)
    return {name: float(value) for name, _, value in pairs}


def questions(truth: Mapping[Cell, Mapping[str, str]]) -> list[Question]:
    """Columns with at least ``FEWEST`` encoders where something was learned; a set with several values is a column for each of them."""
    good = {cell: row for cell, row in truth.items() if row["status"] == "ok"}
    found = []
    for task, name, head, strategy in dict.fromkeys((c.task, c.set, c.head, c.strategy) for c in good):
        if strategy == "frozen" and task != "detection":
            continue  # a linear head on frozen features agrees with probes by construction
        column = {
            c: row for c, row in good.items() if (c.task, c.set, c.head, c.strategy) == (task, name, head, strategy)
        }
        frozen = {
            c.encoder: 100 * float(row["val_value"])
            for c, row in good.items()
            if (c.set, c.strategy) == (name, "frozen")
        }
        metric = next(iter(column.values()))["metric"]
        if task == "regression":
            outputs = {c: by_output(row) for c, row in column.items()}
            names = list(dict.fromkeys(n for values in outputs.values() for n in values))
            for output in names:
                values = _mean_over_seeds({c: v[output] for c, v in outputs.items() if output in v})
                own = frozen if len(names) == 1 else {}
                found.append(Question(task, f"{name}: {output}", name, output, metric, values, own))
        else:
            values = _mean_over_seeds({c: float(row["test_value"]) for c, row in column.items()})
            target = f"{name}: {head}, {strategy}" if task in ("segmentation", "detection") else name
            own = {} if task == "detection" else frozen
            found.append(Question(task, target, name, None, metric, values, own))
    return [q for q in found if len(q.truth) >= FEWEST and max(q.truth.values()) >= LEARNED]


def _mean_over_seeds(values: Mapping[Cell, float]) -> Column:
    found: dict[str, list[float]] = {}
    for cell, value in values.items():
        found.setdefault(cell.encoder, []).append(100 * value)
    return {encoder: float(np.mean(v)) for encoder, v in found.items()}


# ---------------------------------------------------------------------------- what is compared with it


def facts_of_all(assets: Path) -> dict[str, ModelFacts]:
    """Of every encoder of either suite."""
    images = {name: encoders.facts_of(card) for name, card in encoders.cards(assets / "models").items()}
    texts = {name: ModelFacts(parameters=spec.params) for name, spec in text_suite.specs().items()}
    return images | texts


def orders(
    asked: Sequence[Question], scored: Sequence[Mapping[str, str]], facts: Mapping[str, ModelFacts]
) -> dict[str, dict[str, Column]]:
    """Order -> target -> encoder -> value, higher is better; scores are called by variant and facet where there are several."""
    by_row: dict[tuple[str, str, str, str], Column] = {}
    for row in scored:
        if row["status"] == "ok" and row["score"] != "end":
            key = (row["set"], row["variant"], row["facet"], row["score"])
            by_row.setdefault(key, {})[row["encoder"]] = float(row["value"])
    found: dict[str, dict[str, Column]] = {}
    for question in asked:
        for (name, variant, facet, score), column in by_row.items():
            if name == question.set and question.facet in (None, facet):
                label = (
                    score if variant == "pooled" else f"{score}, {variant if facet in ('pixels', 'labels') else facet}"
                )
                _add(found, label, question, column)
        for score in dict.fromkeys(key[3] for key in by_row):
            halves = [by_row.get((question.set, "regions", facet, score), {}) for facet in ("what", "where")]
            both = {e: (halves[0][e] + halves[1][e]) / 2 for e in halves[0] if e in halves[1]}
            _add(found, f"{score}, what + where", question, both)
        _add(found, PROBE, question, question.frozen)
        prior = static_prior({e: facts[e] for e in question.truth if e in facts}).scores
        _add(found, "static prior", question, {e: prior[e].value for e in prior})
        sizes = {e: math.log(facts[e].parameters or 1) for e in question.truth if e in facts}
        _add(found, "log parameters", question, sizes)
        _add(found, "mean rank elsewhere", question, elsewhere(question, asked))
    return found


def _add(found: dict[str, dict[str, Column]], label: str, question: Question, column: Column) -> None:
    shared = {e: column[e] for e in question.truth if e in column}
    if len(shared) >= FEWEST:
        found.setdefault(label, {})[question.target] = shared


def elsewhere(question: Question, asked: Sequence[Question]) -> Column:
    """Mean rank, from 0 to 1, in the columns of other sets."""
    ranks: dict[str, list[float]] = {}
    for other in asked:
        if other.set != question.set:
            for encoder, rank in zip(other.truth, rankdata(list(other.truth.values())) / len(other.truth), strict=True):
                ranks.setdefault(encoder, []).append(float(rank))
    return {encoder: float(np.mean(values)) for encoder, values in ranks.items() if encoder in question.truth}


# ---------------------------------------------------------------------------- comparing


def compare(
    asked: Sequence[Question], scored: Sequence[Mapping[str, str]], facts: Mapping[str, ModelFacts], draws: int
) -> list[dict[str, object]]:
    """One row a target and order, and one a task and order that every target of the task has: their mean."""
    ranked = orders(asked, scored, facts)
    rows: list[dict[str, object]] = []
    for task in dict.fromkeys(question.task for question in asked):
        group = [question for question in asked if question.task == task]
        for question in group:
            rows += [
                _row(task, question.target, label, [question], by_target, draws)
                for label, by_target in ranked.items()
                if question.target in by_target
            ]
            rows.append(_chance(task, question.target, [question]))
        if len(group) > 1:
            whole = [label for label, by_target in ranked.items() if all(q.target in by_target for q in group)]
            rows += [_row(task, "mean", label, group, ranked[label], draws) for label in whole]
            rows.append(_chance(task, "mean", group))
    return rows


def _named(task: str, target: str, order: str, truths: Sequence[Sequence[float]]) -> dict[str, object]:
    count = round(float(np.mean([len(truth) for truth in truths])), 1)
    return {"task": task, "target": target, "order": order, "encoders": count}


def _row(
    task: str, target: str, label: str, group: Sequence[Question], by_target: Mapping[str, Column], draws: int
) -> dict[str, object]:
    x = [list(by_target[q.target].values()) for q in group]
    y = [[q.truth[e] for e in by_target[q.target]] for q in group]
    row = _named(task, target, label, y)
    for measure in MEASURES:
        found = mean_agreement(x, y, measure, draws=draws, resample="models")
        row |= {measure: found.value, f"{measure}_low": found.low, f"{measure}_high": found.high}
    return row


def _chance(task: str, target: str, group: Sequence[Question]) -> dict[str, object]:
    """Mean over random orders; the interval is that of a single draw."""
    rng = np.random.default_rng(0)
    truths = [list(q.truth.values()) for q in group]
    row = _named(task, target, RANDOM, truths)
    for measure in MEASURES:
        drawn = [np.mean([AGREEMENT[measure](rng.permutation(len(t)), t) for t in truths]) for _ in range(ORDERS)]
        low, high = np.quantile(drawn, (0.05, 0.95))
        row |= {measure: float(np.mean(drawn)), f"{measure}_low": float(low), f"{measure}_high": float(high)}
    return row


def shown(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """The table of a target, best weighted tau first; one that is not defined comes last."""
    ordered = sorted(rows, key=lambda row: -float(np.nan_to_num(float(str(row["weighted_tau"])), nan=-np.inf)))
    return [
        {"order": row["order"], "encoders": row["encoders"]}
        | {m: f"{row[m]:.2f} [{row[f'{m}_low']:.2f}, {row[f'{m}_high']:.2f}]" for m in MEASURES}
        for row in ordered
    ]


if __name__ == "__main__":
    sys.exit(main())
