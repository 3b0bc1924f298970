"""How far behind the best model of the pool is the one that a run gives after so many minutes? A replay of the tables.

    SELECTOR_ASSETS=... python -m benchmarks.suite.regret_curve

Every dataset of the suites (images, held-out images, texts): what a strategy has measured when the budget ends, the model
that validation chooses of it, and how many percentage points it is behind the best fully fine-tuned one on test. A budget
covers everything: extraction, linear probes, pilot runs (24 steps of 16 images) and trainings (two rates x 20 steps and 150
steps of 32 images), each with its own seconds on two cores of one machine; tables without pilot runs have the seconds of
their cells. Writes ``regret_curve.csv`` (a row a strategy and budget: mean over datasets with a 90% bootstrap interval, the
worst dataset), ``regret_curve_by_set.csv``, the figure ``docs/images/regret-curve.svg``, and the table of its page.

Strategies: ``selector`` scans within half of the budget, gives pilot runs to models that are among the first three after
training with a probability of 5 % (six at most) as long as the leading model can still be trained, and trains in the order
of score and pilot run; ``as shipped`` is the same with the package's own weight of a pilot run; ``without pilot runs``
trains in the order of the score; ``fixed list`` is EfficientNet-Lite0 and then Lite2, the most accurate on ImageNet below 3.5
and below 10 million parameters (of texts the smallest and the largest model); ``ImageNet accuracy`` and ``size`` train the
best or largest first, ``random`` any; ``successive halving`` gives every model a pilot run and trains the better half in that
order; the ``oracle`` knows what is best of what fits. The spread of training and the weight of a pilot run are chosen on the
other datasets.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.assets import assets_folder
from benchmarks.rows import options, write_into, write_rows
from benchmarks.suite import best_probability, suites, table
from benchmarks.suite.best_probability import PAGE, Dataset
from selector.ranking.outlook import Spread
from selector.ranking.second_stage import NEAR, PILOT_WEIGHT, seconds_for_pilots
from selector.report.svg import Axis, bottom_axis, element, left_axis, picture
from selector.scan.target_scan import SCAN_SHARE
from selector.tuning.pilot_runs import BATCH, STEPS

FIGURE = Path(__file__).parents[2] / "docs" / "images" / "regret-curve.svg"
BUDGETS = (1, 2, 5, 10, 20, 60)
TRAINING = 150 * 32 / (STEPS * BATCH)  # a full fine-tuning of the suite, in pilot runs
RATES = (150 + 2 * 20) / 150  # a training with its two trials of rates, over one
MOST_PILOTS, WEIGHTS, ORDERS, DRAWS = 6, (0.0, 0.25, 0.5, 0.67, 1.0), 50, 4000
IMAGENET = {"efflite2": 77.6, "efflite1": 76.7, "efflite0": 75.1, "mn_edgetpu075": 73.5, "mnv2_coral": 71.8,
            "mnv1_100": 70.9, "mnv1_025": 49.8}  # fmt: skip
"""Top-1 as their authors published it; the other encoders have none."""
FIXED = ("efflite0", "efflite2")
NAMES = (
    "selector",
    "as shipped",
    "without pilot runs",
    "fixed list",
    "ImageNet accuracy",
    "size",
    "random",
    "successive halving",
    "oracle",
)
COLOURS = ("#1f6feb", "#0b3d91", "#6aa5f5", "#d9480f", "#9c36b5", "#868e96", "#ced4da", "#2b8a3e", "#212529")


@dataclass(frozen=True)
class Cell:
    """What a model has on a dataset: accuracies in points and seconds; the value of its pilot run where it had one."""

    frozen: tuple[float, float]
    full: tuple[float, float]
    extract: float
    train: float
    pilot: float
    after: float | None


@dataclass(frozen=True)
class Replay:
    """A dataset with its cells by model, parameters, and constants that other datasets chose."""

    data: Dataset
    cells: Mapping[str, Cell]
    sizes: Mapping[str, float]
    chance: float

    @property
    def best(self) -> float:
        """Test accuracy of the best fully fine-tuned model."""
        return max(cell.full[1] for cell in self.cells.values())


Event = tuple[float, float, float]
"""Seconds when it is known, accuracy on validation, accuracy on test."""


def main(argv: Sequence[str] | None = None) -> int:
    """Replay, print, write, draw."""
    args = options(__doc__).parse_args(argv)
    assets = assets_folder("models/")
    replays = gathered(assets)
    spreads = left_out_spreads({name: one.data for name, one in replays.items()}, args.seed)
    by_weight = {
        weight: {name: curve(one, lambda b, one=one, name=name, weight=weight: selector(one, b, spreads[name], weight))
                 for name, one in replays.items()}
        for weight in WEIGHTS
    }  # fmt: skip
    found: dict[str, dict[str, np.ndarray]] = {name: {} for name in NAMES}
    for name, one in replays.items():
        weight = min(WEIGHTS, key=lambda w, name=name: sum(v.mean() for n, v in by_weight[w].items() if n != name))
        found["selector"][name] = by_weight[weight][name]
        found["as shipped"][name] = by_weight[PILOT_WEIGHT][name]
        found["without pilot runs"][name] = curve(one, lambda b, one=one: selector(one, b, None, 0.0))
        texts = one.data.suite == "texts"
        by_size = sorted(one.cells, key=lambda e: -one.sizes[e])
        fixed = [e for e in FIXED if e in one.cells] if not texts else [by_size[-1], by_size[0]]
        known = by_size if texts else sorted(one.cells, key=lambda e: (-IMAGENET.get(e, 0.0), -one.sizes[e]))
        for label, order in (("fixed list", fixed), ("ImageNet accuracy", known), ("size", by_size)):
            found[label][name] = curve(one, lambda b, one=one, order=order: trained(one, order))
        rng = np.random.default_rng(args.seed)
        shuffled = [[list(one.cells)[i] for i in rng.permutation(len(one.cells))] for _ in range(ORDERS)]
        each = [curve(one, lambda b, one=one, order=order: trained(one, order)) for order in shuffled]
        found["random"][name] = np.mean(each, axis=0)
        found["successive halving"][name] = curve(one, lambda b, one=one: halving(one))
        found["oracle"][name] = np.array([oracle(one, 60.0 * budget) for budget in BUDGETS])
    rows = summary(found, args.seed)
    write_rows(suites.RESULTS / "regret_curve.csv", rows)
    write_rows(suites.RESULTS / "regret_curve_by_set.csv", [
        {"strategy": label, "set": name, **{f"{b} min": f"{v:.2f}" for b, v in zip(BUDGETS, values, strict=True)}}
        for label, by_set in found.items() for name, values in by_set.items()
    ])  # fmt: skip
    for row in rows:
        print(*row.values())
    FIGURE.write_text(figure(rows), encoding="utf-8")
    write_into(PAGE, "regret_curve", shown(rows))
    return 0


# ---------------------------------------------------------------------------- the tables


def gathered(assets: Path) -> dict[str, Replay]:
    """Every dataset with the cells of its models."""
    made = {}
    pilots = {(r["set"], r["encoder"]): r for r in table.whole_rows(suites.find("images").table("trials"))
              if r["status"] == "ok"}  # fmt: skip
    for name, data in best_probability.datasets(assets).items():
        suite = suites.find(data.suite)
        rows = [r for r in table.whole_rows(suite.table("ground_truth")) if r["set"] == name and r["status"] == "ok"]
        facts = suite.encoders(assets)
        cells = {}
        for encoder in data.names:
            frozen, full = (
                [r for r in rows if r["encoder"] == encoder and r["strategy"] == how] for how in ("frozen", "full")
            )
            if not frozen or not full:
                continue
            pilot = pilots.get((name, encoder))
            seconds = min(float(r["seconds"]) for r in full)
            quick = float(pilot["trial_seconds"]) if pilot else seconds / RATES / TRAINING
            cells[encoder] = Cell(
                accuracies(frozen), accuracies(full),
                float(pilot["extract_seconds"]) if pilot else min(float(r["seconds"]) for r in frozen),
                TRAINING * RATES * quick, quick, 100 * float(pilot["after"]) if pilot else None,
            )  # fmt: skip
        made[name] = Replay(
            data, cells, {e: facts[e].model.parameters or 0.0 for e in cells}, 100 / int(rows[0]["classes"])
        )
    return made


def accuracies(rows: Sequence[Mapping[str, str]]) -> tuple[float, float]:
    """(validation, test) in points, the mean over seeds."""
    val, test = (100 * float(np.mean([float(r[f"{split}_accuracy"]) for r in rows])) for split in ("val", "test"))
    return val, test


def left_out_spreads(sets: Mapping[str, Dataset], seed: int) -> dict[str, Spread]:
    """By dataset, the spread that minimizes the log loss of P(best) on the others."""
    grid = [Spread(*one) for one in itertools.product((0.02, 0.045, 0.08), (0.012, 0.03), (2,))]
    losses = np.array(
        [[best_probability.log_loss(best_probability.cells(one, s, seed)) for s in grid] for one in sets.values()]
    )
    return {name: grid[int(np.delete(losses, i, axis=0).mean(axis=0).argmin())] for i, name in enumerate(sets)}


# ---------------------------------------------------------------------------- strategies


def curve(one: Replay, events: Callable[[float], Iterator[Event]]) -> np.ndarray:
    """(budgets,) points behind the best: of what is known in time, what validation prefers."""
    found = []
    for minutes in BUDGETS:
        known = [event for event in events(60.0 * minutes) if event[0] <= 60 * minutes]
        found.append(one.best - max(known, key=lambda e: e[1], default=(0.0, 0.0, one.chance))[2])
    return np.array(found)


def trained(one: Replay, order: Sequence[str], begin: float = 0.0) -> Iterator[Event]:
    """Trainings one after the other."""
    for encoder in order:
        begin += one.cells[encoder].train
        yield (begin, *one.cells[encoder].full)


def halving(one: Replay) -> Iterator[Event]:
    """A pilot run for every model, then trainings of the better half; where the table has none, of any order."""
    begin = sum(cell.pilot for cell in one.cells.values())
    order = sorted(one.cells, key=lambda e: -(one.cells[e].after or 0.0))
    yield from trained(one, order[: (len(order) + 1) // 2], begin)


def selector(one: Replay, budget: float, spread: Spread | None, weight: float) -> Iterator[Event]:
    """What a run does; without a spread, and where the table has none, without pilot runs."""
    data, clock, seen = one.data, 0.0, []
    for encoder in sorted(one.cells, key=lambda e: one.cells[e].extract):
        if seen and clock + one.cells[encoder].extract > SCAN_SHARE * budget:
            break
        clock += one.cells[encoder].extract
        seen.append(encoder)
    scores = dict(zip(data.names, data.values.tolist(), strict=True))
    order = sorted(seen, key=lambda e: -scores[e])
    yield (clock, *one.cells[order[0]].frozen)
    if spread is not None:
        chosen = np.array([data.names.index(e) for e in order])
        place = (-best_probability.drawn(data, chosen, spread, 0)).argsort(axis=1).argsort(axis=1)
        among = dict(zip(order, (place < 3).mean(axis=0), strict=True))
        piloted: dict[str, float] = {}
        allowed = seconds_for_pilots(budget - clock, one.cells[order[0]].train)
        for encoder in [e for e in order if among[e] >= NEAR][:MOST_PILOTS]:
            cell = one.cells[encoder]
            if cell.after is not None and cell.pilot <= allowed:
                allowed, clock = allowed - cell.pilot, clock + cell.pilot
                piloted[encoder] = cell.after / 100 - scores[encoder]
        usual = float(np.mean(list(piloted.values()) or [0.0]))
        scores = {e: scores[e] + weight * (piloted.get(e, usual) - usual) for e in order}
        order = sorted(order, key=lambda e: -scores[e])
    left = budget - clock
    fitting = [e for e in order if one.cells[e].train <= left] or order
    for encoder in order[:2]:  # the heads of the leaders cost next to nothing
        yield (clock, *one.cells[encoder].frozen)
    yield from trained(one, fitting, clock)


def oracle(one: Replay, budget: float) -> float:
    """The least regret of what fits the budget."""
    known = [cell.frozen[1] for cell in one.cells.values() if cell.extract <= budget]
    known += [cell.full[1] for cell in one.cells.values() if cell.train <= budget]
    return one.best - max(known, default=one.chance)


# ---------------------------------------------------------------------------- what comes of it


def summary(found: Mapping[str, Mapping[str, np.ndarray]], seed: int) -> list[dict[str, object]]:
    """Mean over datasets with its interval, the worst dataset, and the paired difference to ``selector``."""
    rng = np.random.default_rng(seed)
    names = list(found["selector"])
    resamples = rng.integers(len(names), size=(DRAWS, len(names)))
    rows: list[dict[str, object]] = []
    for label, by_set in found.items():
        values = np.stack([by_set[name] for name in names])
        beyond = values - np.stack([found["selector"][name] for name in names])
        for i, minutes in enumerate(BUDGETS):
            low, high = np.quantile(values[resamples, i].mean(axis=1), [0.05, 0.95])
            less, more = np.quantile(beyond[resamples, i].mean(axis=1), [0.05, 0.95])
            rows.append({
                "strategy": label, "minutes": minutes, "datasets": len(names), "regret": f"{values[:, i].mean():.2f}",
                "low": f"{low:.2f}", "high": f"{high:.2f}", "worst": f"{values[:, i].max():.2f}",
                "behind_selector": f"{beyond[:, i].mean():.2f}", "behind_low": f"{less:.2f}", "behind_high": f"{more:.2f}",
            })  # fmt: skip
    return rows


def shown(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """The table of the page, with one row per strategy and one column per budget."""
    return [
        {"strategy": f"**{label}**" if label == NAMES[0] else label}
        | {f"{r['minutes']} min": f"{float(str(r['regret'])):.1f} [{float(str(r['low'])):.1f}, {float(str(r['high'])):.1f}]"
           for r in rows if r["strategy"] == label}
        for label in NAMES
    ]  # fmt: skip


def figure(rows: Sequence[Mapping[str, object]]) -> str:
    """Mean regret against minutes, a line a strategy, with the interval of ``selector``."""
    width, height, left, right, top, bottom = 760, 430, 60, 590, 40, 370
    values = [float(str(row["regret"])) for row in rows]
    across = Axis.over([float(b) for b in BUDGETS], left, right, log=True)
    up = Axis.over([0.0, *(min(v, 30.0) for v in values)], bottom, top)
    parts = [*bottom_axis(across, top, bottom, "Minutes for everything (two cores)"),
             *left_axis(up, left, right, "Percentage points behind the best model")]  # fmt: skip
    own = [row for row in rows if row["strategy"] == "selector"]
    band = [(float(str(r["minutes"])), float(str(r["low"]))) for r in own] + [
        (float(str(r["minutes"])), float(str(r["high"]))) for r in reversed(own)
    ]
    shape = " ".join(f"{across(x):.1f},{up(min(y, 30.0)):.1f}" for x, y in band)
    parts.append(element("polygon", points=shape, fill=COLOURS[0], opacity=0.15))
    for number, (label, colour) in enumerate(zip(NAMES, COLOURS, strict=True)):
        line = [(float(str(r["minutes"])), float(str(r["regret"]))) for r in rows if r["strategy"] == label]
        points = " ".join(f"{across(x):.1f},{up(min(y, 30.0)):.1f}" for x, y in line)
        stroke = 3 if number == 0 else 1.6
        parts.append(element("polyline", points=points, fill="none", stroke=colour, stroke_width=stroke))
        y = top + 20 * number + 10
        parts.append(element("line", x1=right + 14, x2=right + 38, y1=y, y2=y, stroke=colour, stroke_width=stroke))
        parts.append(element("text", label, x=right + 44, y=y + 4, font_size=12))
    look = "text{font:12px sans-serif;fill:#343a40}.grid{stroke:#dee2e6}.axis{font-weight:bold}"
    ground = element("rect", width=width, height=height, fill="white")
    label = "Percentage points behind the best fine-tuned model against minutes"
    return str(picture(width, height, label, element("style", look), ground, *parts)) + "\n"


if __name__ == "__main__":
    sys.exit(main())
