"""In what order to look at a thousand models, and how to share the time between looking, pilot runs and training.

    SELECTOR_ASSETS=... python -m benchmarks.suite.large_pools

No published table has a thousand models with features, scores, times and trainings, so pools are drawn: models and their
costs from ``timm_facts.csv``, what they are worth from a model that the image datasets of the suites fit (how far scores
spread, how they go with the prior, how large their error is, what training changes by ``ranking.outlook``). A run scans in
rounds as ``scan.target_scan.BudgetedRounds`` does, gives pilot runs to the leaders and trains one after the other; what
validation prefers is saved. ``large_pools.csv``: points behind the best trained model of the pool, a row a budget and policy,
with a 90% interval over pools; the table of its page.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.assets import assets_folder
from benchmarks.rows import options, write_into, write_rows
from benchmarks.suite import best_probability, suites
from benchmarks.suite.best_probability import PAGE, SUITES
from benchmarks.timm_facts import TABLE as FACTS
from selector.ranking.outlook import Outlook, family
from selector.ranking.prior import ModelFacts, static_prior
from selector.scan.target_scan import BREADTH, CHEAP, EXPENSIVE, FIRST_ROWS, FIRST_SHARE
from selector.tuning.plan import FACTORS

MODELS, POOLS, ITEMS, VALIDATION = 1000, 200, 1600, 300
LOADING = 1.0  # seconds a network
MACHINES = {"10 min of a GPU": (600.0, 3000.0, 2000.0), "1 h of two cores": (3600.0, 40.0, 200.0)}
"""Seconds; billions of multiply-adds a second; images a second that are read at most."""
DECADES = {"random": None, "cheapest first": math.inf, "best prior first": 0.0, "prior - 0.25": 0.25, "prior - 0.5": 0.5,
           "prior - 1": 1.0, "prior - 2": 2.0}  # fmt: skip
"""Deviations of the prior that a network must be better by to cost ten times as much."""
SHIPPED, LOOKING, PILOTS = "prior - 0.5", (0.25, 0.5, 0.75), (0.0, 0.25)
EPOCHS, RATES, PASSES, PILOT_IMAGES, MOST_PILOTS = 6, 1.25, 3, 24 * 16, 6


@dataclass(frozen=True)
class Fitted:
    """Of the suites: deviation of scores, of their error on ``rows`` rows, of a pilot run from the truth, all in units of the
    score; correlation of the prior with the truth; points that a unit of the score is worth after training."""

    deviation: float
    error: float
    rows: int
    agreement: float
    points: float


@dataclass(frozen=True)
class Pool:
    """Arrays of ``MODELS``: prior, seconds an image on the machine, score without error, and worth after training."""

    prior: np.ndarray
    seconds: np.ndarray
    score: np.ndarray
    worth: np.ndarray


def main(argv: Sequence[str] | None = None) -> int:
    """Draw, run, write."""
    args = options(__doc__, suites.RESULTS / "large_pools.csv").parse_args(argv)
    fitted, rows = fit(assets_folder("models/")), []
    print(fitted)
    facts = pd.read_csv(FACTS).dropna(subset=["gmacs", "params_millions", "imagenet_top1"])
    policies = list(dict.fromkeys([*((order, 0.5, 0.25) for order in DECADES), *((SHIPPED, *each) for each in itertools.product(LOOKING, PILOTS))]))  # fmt: skip
    for machine, (budget, rate, reading) in MACHINES.items():
        behind = np.empty((POOLS, len(policies)))
        for number in range(POOLS):
            pool = drawn(facts, fitted, rate, reading, np.random.default_rng((args.seed, number)))
            for i, policy in enumerate(policies):
                behind[number, i] = lost(pool, fitted, budget, *policy, np.random.default_rng((args.seed, number, 1)))
        for (order, looking, pilots), own in zip(policies, behind.T, strict=True):
            middle = own[np.random.default_rng(args.seed).integers(POOLS, size=(2000, POOLS))].mean(axis=1)
            low, high = np.quantile(middle, [0.05, 0.95])
            rows.append({"time": machine, "order": order, "looking": looking, "pilots": pilots, "pools": POOLS,
                         "behind": f"{own.mean():.2f}", "low": f"{low:.2f}", "high": f"{high:.2f}"})  # fmt: skip
            print(*rows[-1].values())
    write_rows(args.out, rows)
    write_into(PAGE, "large_pools", shown(rows))
    return 0


def fit(assets: Path) -> Fitted:
    """From the image datasets: medians over those with eight networks of a million parameters and more (networks for digits
    are told from these by anything)."""
    found = []
    for one in best_probability.datasets(assets).values():
        facts = suites.find(one.suite).encoders(assets)
        large = np.array([(facts[name].model.parameters or 0) > 1e6 for name in one.names])
        if one.suite not in SUITES[:2] or large.sum() < 8:
            continue
        prior = static_prior({name: facts[name].model for name in one.names}).scores
        known = np.array([prior[name].value for name in one.names])
        values, truth = one.values[large], one.truth[large]
        found.append((values.std(), np.median(one.errors[large]), np.corrcoef(known[large], truth)[0, 1],
                      np.polyfit(values, truth, 1)[0]))  # fmt: skip
    deviation, error, agreement, points = np.median(found, axis=0)
    return Fitted(float(deviation), float(error), 850, float(agreement), float(points))


def drawn(facts: pd.DataFrame, fitted: Fitted, rate: float, reading: float, rng: np.random.Generator) -> Pool:
    """A pool of models of timm."""
    some = facts.iloc[rng.choice(len(facts), min(MODELS, len(facts)), replace=False)]
    names = [f"timm:{name}" for name in some["model"]]
    known = {
        name: ModelFacts(parameters=1e6 * millions, upstream_accuracy=top1)
        for name, millions, top1 in zip(names, some["params_millions"], some["imagenet_top1"], strict=True)
    }
    made = static_prior(known)
    prior = np.array([made.scores[name].value for name in names])
    standard = (prior - prior.mean()) / prior.std()
    own = rng.standard_normal(len(names))
    score = fitted.deviation * (fitted.agreement * standard + math.sqrt(1 - fitted.agreement**2) * own)
    outlook = Outlook({name: family(name) for name in names})
    worth = fitted.points * (score + outlook.draws(names, 1, rng)[0])
    return Pool(prior, np.maximum(some["gmacs"].to_numpy() / rate, 1 / reading), score, worth)


def lost(
    pool: Pool, fitted: Fitted, budget: float, order: str, looking: float, pilots: float, rng: np.random.Generator
) -> float:
    """Points behind the best trained model of the pool."""
    seen, left = scanned(pool, fitted, looking * budget, order, rng)
    left += (1 - looking) * budget
    first = sorted(seen, key=lambda i: -seen[i])
    allowed = pilots * left
    for i in first[:MOST_PILOTS]:  # a pilot run sees the training with an error as large as what training changes
        cost = LOADING + PASSES * PILOT_IMAGES * pool.seconds[i]
        if cost <= allowed:
            allowed, left = allowed - cost, left - cost
            shown_by = pool.worth[i] / fitted.points + 0.045 * rng.standard_normal()
            seen[i] += 0.5 * (shown_by - seen[i])
    trained = []
    for i in sorted(seen, key=lambda i: -seen[i]):
        native = RATES * EPOCHS * ITEMS * PASSES * pool.seconds[i]
        cost = LOADING + native * next((f**2 for f in FACTORS if LOADING + native * f**2 <= left), FACTORS[-1] ** 2)
        if cost <= left or (not trained and i == first[-1]):
            left -= cost
            trained.append((pool.worth[i] + 100 * rng.standard_normal() * math.sqrt(0.1 / VALIDATION), pool.worth[i]))
    return float(pool.worth.max() - max(trained)[1])


def scanned(
    pool: Pool, fitted: Fitted, seconds: float, order: str, rng: np.random.Generator
) -> tuple[dict[int, float], float]:
    """Scores of the models that were looked at to the end, and seconds left: half of what is left goes into a round while
    another follows, and what is among the better half of a round is looked at with twice the rows."""
    count, decade = len(pool.prior), DECADES[order]
    if decade is None:
        queue = list(rng.permutation(count))
    else:
        value = -pool.seconds if math.isinf(decade) else pool.prior - decade * np.log10(pool.seconds)
        queue = sorted(range(count), key=lambda i: -value[i])
    whole = float(pool.seconds.sum()) * ITEMS
    part = max(0.0, seconds - LOADING * count / BREADTH) / whole
    rows = max(int(ITEMS * min(FIRST_SHARE, part * BREADTH)), FIRST_ROWS)
    if decade is not None and decade > 0:  # as shipped: the very cheap ahead of all, the very expensive behind
        price = pool.seconds * rows / (BREADTH * seconds)
        queue.sort(key=lambda i: int(price[i] > EXPENSIVE) - int(price[i] < CHEAP))
    read, seen = np.zeros(count), dict[int, float]()
    while True:
        allotted, looked = seconds * (BREADTH if rows < ITEMS else 1.0), dict[int, float]()
        for i in queue:
            price = pool.seconds[i] * (rows - read[i]) + (LOADING if not read[i] else 0.0)
            if price > allotted and len(looked) >= 3:
                break
            allotted, seconds, read[i] = allotted - price, seconds - price, rows
            error = fitted.error * math.sqrt(fitted.rows / rows)
            looked[i] = float(pool.score[i] + error * rng.standard_normal())
        seen = looked
        if rows >= ITEMS or seconds <= 0:
            return seen, max(0.0, seconds)
        queue = sorted(seen, key=lambda i: -seen[i])[: max(3, len(seen) // 2)]
        rows = min(ITEMS, 2 * rows)


def shown(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """The table of the page: a row a policy, a column a budget."""
    by_policy: dict[tuple[object, ...], dict[str, object]] = {}
    for row in rows:
        key = (row["order"], row["looking"], row["pilots"])
        own = by_policy.setdefault(key, dict(zip(("order", "looking", "pilot runs"), key, strict=True)))
        own[str(row["time"])] = f"{row['behind']} [{row['low']}, {row['high']}]"
    return list(by_policy.values())


if __name__ == "__main__":
    sys.exit(main())
