"""The figures of the manual: ``python -m _tools.figures [NAME ...]`` from docs/.

Diagrams are drawn here. Charts of benchmarks read ``benchmarks/results``. Figures of a run read the folder that
``SELECTOR_DEMO_RUN`` names (a run of ``selector demo``), and are left as they are without it.
"""

from __future__ import annotations

import csv
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

DOCS = Path(__file__).parents[1]
IMAGES = DOCS / "images"
RESULTS = DOCS.parent / "benchmarks" / "results"
INK, SOFT, BLUE, GREEN, AMBER, RED = "#1f2933", "#52606d", "#1d6fb8", "#2f855a", "#b7791f", "#c53030"

FIGURES: dict[str, Callable[[], None]] = {}


def figure(name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """File a function that writes ``images/NAME``."""

    def add(make: Callable[[], None]) -> Callable[[], None]:
        FIGURES[name] = make
        return make

    return add


# ---------------------------------------------------------------------------- diagrams


def svg(name: str, width: int, height: int, parts: Sequence[str]) -> None:
    """Write a diagram on white, which reads on light and dark pages."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="Helvetica, Arial, sans-serif" font-size="14" fill="{INK}">'
        f'<rect width="{width}" height="{height}" rx="6" fill="#ffffff"/>'
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 L10 5 L0 10 z" fill="{SOFT}"/></marker></defs>'
    )
    (IMAGES / name).write_text("\n".join([head, *parts, "</svg>"]) + "\n", encoding="utf-8")


def text(
    x: float, y: float, words: str, size: int = 14, color: str = INK, anchor: str = "start", weight: str = "normal"
) -> str:
    """A line of text."""
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{color}" text-anchor="{anchor}" font-weight="{weight}">{escape(words)}</text>'


def box(
    x: float, y: float, w: float, h: float, title: str, lines: Sequence[str], fill: str = "#e8f1fa", line: str = BLUE
) -> str:
    """A box with a title and lines below it."""
    parts = [f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="6" fill="{fill}" stroke="{line}"/>']
    parts.append(text(x + w / 2, y + 24, title, 15, line, "middle", "bold"))
    parts += [text(x + w / 2, y + 46 + 19 * k, words, 13, INK, "middle") for k, words in enumerate(lines)]
    return "\n".join(parts)


def badge(x: float, y: float, number: int) -> str:
    """A numbered circle that refers to a note."""
    return f'<circle cx="{x}" cy="{y}" r="8" fill="{AMBER}"/>' + text(
        x, y + 4, str(number), 11, "#ffffff", "middle", "bold"
    )


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """A line with a tip."""
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{SOFT}" stroke-width="1.6" marker-end="url(#tip)"/>'


@figure("how-it-works.svg")
def how_it_works() -> None:
    """Three steps from data and zoo to a model."""
    green = {"fill": "#e9f6ee", "line": GREEN}
    parts = [
        box(16, 24, 150, 88, "Your data", ["items with labels", "train / val / test"], **green),
        box(16, 140, 150, 88, "Zoo", ["pretrained models", "timm, hub, your own"], **green),
        box(214, 70, 158, 112, "1  Extract", ["each model encodes", "each item once;", "weak ones are pruned"]),
        box(416, 70, 158, 112, "2  Rank", ["metrics + prior =", "transferability,", "P(best), ties"]),
        box(618, 70, 158, 112, "3  Fine-tune", ["the leading models,", "within a budget;", "test is read once"]),
        box(416, 226, 158, 70, "Feature store", ["nothing computed twice"], fill="#f4f4f5", line=SOFT),
        box(618, 226, 158, 70, "Result", ["best model, report"], **green),
        arrow(166, 68, 212, 104), arrow(166, 184, 212, 150), arrow(372, 126, 414, 126), arrow(574, 126, 616, 126),
        arrow(697, 182, 697, 224), arrow(300, 182, 414, 250), arrow(495, 226, 495, 184),
    ]  # fmt: skip
    svg("how-it-works.svg", 792, 314, parts)


@figure("architecture.svg")
def architecture() -> None:
    """The layers, as the import contract lists them."""
    import tomllib

    config = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = config["tool"]["importlinter"]["contracts"]
    layers = next(c["layers"] for c in contracts if c["type"] == "layers")
    parts, height = [], 34
    for number, layer in enumerate(layers):
        names = [name.strip().removeprefix("selector.") for name in layer.replace("|", " ").replace(":", " ").split()]
        names = [name for name in names if name.strip("()")]
        wide = 620 / len(names)
        for k, name in enumerate(names):
            x, y = 90 + k * wide, 16 + number * height
            parts.append(
                f'<rect x="{x + 2}" y="{y}" width="{wide - 4}" height="{height - 6}" rx="4" fill="#e8f1fa" stroke="{BLUE}"/>'
            )
            parts.append(text(x + wide / 2, y + 19, name, 14, INK, "middle"))
    bottom = 16 + len(layers) * height
    parts += [arrow(52, 24, 52, bottom - 12), text(30, bottom / 2, "imports", 13, SOFT, "middle")]
    svg("architecture.svg", 730, bottom + 10, parts)


@figure("table-annotated.svg")
def table_annotated() -> None:
    """A small table with its columns and marks explained."""
    head = ["#", "model", "fine-tuned (val)", "fine-tuned (test)", "transferability", "90% CI", "P(best)", "P(top 2)"]
    at = [24, 50, 186, 308, 436, 556, 660, 732]
    rows = [
        ["1", "efficientnet-lite1", "0.743°", "0.740°", "0.551 ≈", "0.535–0.566", "65%", "91%"],
        ["2", "efficientnet-lite2", "–", "–", "0.537 ≈", "0.522–0.552", "26%", "81%"],
        ["3", "efficientnet-lite0", "–", "–", "0.514 ≈", "0.500–0.528", "6%", "24%"],
    ]
    parts = [
        text(186, 28, "measured", 12, GREEN, weight="bold"), text(436, 28, "predicted", 12, BLUE, weight="bold"),
        *(text(x, 52, name, 13, SOFT, weight="bold") for x, name in zip(at, head, strict=True)),
        f'<line x1="20" y1="60" x2="790" y2="60" stroke="{SOFT}"/>',
    ]  # fmt: skip
    for k, row in enumerate(rows):
        parts += [text(x, 82 + 24 * k, cell, 14) for x, cell in zip(at, row, strict=True)]
    marks = ((296, 47), (242, 77), (540, 47), (500, 77), (614, 47), (718, 47))
    notes = (
        "measured: validation selected the model,|the test split was read once",
        "° trained at reduced image size:|compare only with other ° values",
        "transferability: 0 is chance, 1 is perfect;|an order, not an accuracy",
        "≈ may be as good as the first|model after training (5% or more)",
        "90% CI: where it would lie with|other items of the same kind",
        "P(best): probability of being|the best after training",
    )
    for number, ((x, y), note) in enumerate(zip(marks, notes, strict=True), start=1):
        first, second = note.split("|")
        column, line = (number - 1) % 3, (number - 1) // 3
        left, top = 24 + 256 * column, 182 + 56 * line
        parts += [badge(x, y, number), badge(left + 8, top - 5, number)]
        parts += [text(left + 24, top, first, 12, INK), text(left + 24, top + 17, second, 12, INK)]
    svg("table-annotated.svg", 800, 276, parts)


# ---------------------------------------------------------------------------- charts of benchmarks


def rows(name: str) -> list[dict[str, str]]:
    """Of a results table."""
    with (RESULTS / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def number(cell: str | None) -> float:
    """A cell as a number; NaN when it is empty."""
    try:
        return float(cell or "nan")
    except ValueError:
        return math.nan


def tau(row: dict[str, str]) -> tuple[float, float, float]:
    """Weighted tau of a row, with the ends of its interval."""
    return number(row["weighted_tau"]), number(row["weighted_tau_low"]), number(row["weighted_tau_high"])


def axes(wide: float = 7.2, high: float = 3.4) -> tuple[Any, Any]:
    """A figure in the colors of the manual."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams.update(
        {"svg.hashsalt": "selector", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    )
    return plt.subplots(figsize=(wide, high), layout="constrained")


def save(made: Any, name: str) -> None:
    """Without dates, so that the same data give the same file."""
    import matplotlib.pyplot as plt

    made.savefig(IMAGES / name, facecolor="white", metadata={"Date": None} if name.endswith("svg") else None)
    plt.close(made)


def intervals(
    name: str, found: Sequence[tuple[str, float, float, float]], label: str, strong: Sequence[str] = ()
) -> None:
    """A value with its interval per line, the first on top."""
    made, ax = axes(high=0.34 * len(found) + 0.9)
    for k, (title, value, low, high) in enumerate(reversed(found)):
        color = BLUE if title in strong else SOFT
        if not math.isnan(low):
            ax.plot([low, high], [k, k], color=color, lw=2)
        ax.plot([value], [k], "o", color=color)
    ax.set_yticks(range(len(found)), [title for title, *_ in reversed(found)])
    ax.axvline(0, color="#c0c6cc", lw=1)
    ax.set_xlabel(label)
    save(made, name)


def agreement(name: str, table: str, wanted: dict[str, str], **keys: str) -> None:
    """Weighted tau of some orders of a table."""
    by_order = {
        r.get("score") or r.get("order") or "": r for r in rows(table) if all(r[k] == v for k, v in keys.items())
    }
    found = [(title, *tau(by_order[key])) for key, title in wanted.items() if key in by_order]
    intervals(
        name,
        found,
        "weighted τ (90% interval)",
        ("default transferability", "default", "shipped, full", "shipped, default"),
    )


@figure("bench-image-classification.svg")
def image_classification() -> None:
    """Orders of twenty image models against full fine-tuning."""
    wanted = {
        "noise ceiling": "noise ceiling", "transferability": "default transferability",
        "normalized_score": "without prior", "ncti": "ncti", "probe": "probe", "logme": "logme", "knn": "knn",
        "mean rank elsewhere": "mean rank elsewhere", "hscore": "hscore", "log parameters": "parameters", "random order": "random order",
    }  # fmt: skip
    agreement("bench-image-classification.svg", "suite/agreement_full", wanted, scope="all")


@figure("bench-text-classification.svg")
def text_classification() -> None:
    """The same for texts."""
    wanted = {
        "noise ceiling": "noise ceiling", "gbc": "gbc", "transferability": "default", "normalized_score": "without prior",
        "mean rank elsewhere": "mean rank elsewhere", "lda": "lda", "probe": "probe", "logme": "logme", "knn": "knn",
        "log parameters": "parameters", "random order": "random order",
    }  # fmt: skip
    agreement("bench-text-classification.svg", "suite/text_agreement_full", wanted, scope="all")


PILOT = {
    "noise ceiling": "noise ceiling", "every model: transferability + trial": "a pilot run for every model",
    "shipped: full": "shipped, full", "shipped: frozen and full": "shipped, default", "transferability": "no pilot run",
    "static: mean rank elsewhere": "mean rank elsewhere", "random order": "random order",
}  # fmt: skip


@figure("bench-pilot-runs.svg")
def pilot_runs() -> None:
    """With and without pilot runs."""
    by_order = {r["score"]: r for r in rows("suite/second_stage") if r["outcome"] == "full" and r["scope"] == "all"}
    found = sorted(((PILOT[key], *tau(row)) for key, row in by_order.items() if key in PILOT), key=lambda e: -e[1])
    intervals("bench-pilot-runs.svg", found, "weighted τ (90% interval)", ("shipped, full", "shipped, default"))


@figure("bench-best-probability.svg")
def best_probability() -> None:
    """How often models are the best, against their P(best)."""
    made, ax = axes(high=3.6)
    ax.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=":")
    for scope, color in (("images", BLUE), ("texts", GREEN)):
        found = [r for r in rows("suite/best_probability") if r["scope"] == scope]
        ax.plot(
            [number(r["p_best"]) for r in found], [number(r["best"]) for r in found], "o-", color=color, label=scope
        )
    ax.set_xlabel("P(best)")
    ax.set_ylabel("share that is the best")
    ax.legend(frameon=False)
    save(made, "bench-best-probability.svg")


@figure("bench-other-tasks.svg")
def other_tasks() -> None:
    """The combined score per target."""
    found = [
        (r["target"], *tau(r))
        for r in rows("tasks/agreement")
        if r["order"] in ("combined", "combined, all maps", "combined, what + where") and r["target"] != "mean"
    ]
    intervals(
        "bench-other-tasks.svg", sorted(found, key=lambda entry: -entry[1]), "weighted τ (90% interval over models)"
    )


@figure("bench-fine-tuning.svg")
def fine_tuning() -> None:
    """Regret per dataset and seed."""
    found = [(f"{r['set']} {r['seed']}", number(r["tournament_regret"])) for r in rows("confirm_regret")]
    bars("bench-fine-tuning.svg", found, "regret against training everything, points")


def bars(name: str, found: Sequence[tuple[str, float]], label: str, *, log: bool = False) -> None:
    """A bar per line, the first on top."""
    made, ax = axes(high=0.3 * len(found) + 0.9)
    ax.barh([title for title, _ in reversed(found)], [value for _, value in reversed(found)], color=BLUE, height=0.62)
    ax.set_xlabel(label)
    if log:
        ax.set_xscale("log")
    ax.axvline(1 if log else 0, color="#9aa5b1", lw=1)
    save(made, name)


@figure("bench-budgets.svg")
def budgets() -> None:
    """Regret of a limited scan."""
    shares = sorted({int(r["share"]) for r in rows("bench_scan_budget")})
    made, ax = axes(high=3)
    lost = [
        [number(r["regret"]) - number(r["whole_regret"]) for r in rows("bench_scan_budget") if int(r["share"]) == s]
        for s in shares
    ]
    ax.plot(shares, [max(values) for values in lost], "o--", color=SOFT, label="worst of 24")
    ax.plot(shares, [sum(values) / len(values) for values in lost], "o-", color=BLUE, label="mean")
    ax.axhline(0, color="#c0c6cc", lw=1)
    ax.set_xlabel("share of the full scan's time, %")
    ax.set_ylabel("regret, points")
    ax.legend(frameon=False)
    save(made, "bench-budgets.svg")


@figure("budget.svg")
def budget() -> None:
    """Time line of fine-tuning stages with several budgets."""
    table = [r for r in rows("confirm_budget") if r["seed"] == "0"]
    made, ax = axes(high=0.42 * len(table) + 1)
    parts = (("setup_s", "measuring speed", AMBER), ("steps_s", "optimizer steps", BLUE), ("val_s", "validation", "#9aa5b1"), ("final_s", "test, saving", GREEN))  # fmt: skip
    for k, row in enumerate(table):
        at = 0.0
        for column, title, color in parts:
            ax.barh(-k, number(row[column]), left=at, color=color, height=0.68, label=title if k == 0 else None)
            at += number(row[column])
        ax.plot([number(row["budget_s"])] * 2, [-k - 0.4, -k + 0.4], color=INK, lw=2)
    ax.set_yticks(
        [-k for k in range(len(table))], [f"{number(r['budget_s']) / 60:.0f} min, {r['load']}" for r in table]
    )
    ax.set_xlabel("seconds; the black line is the budget")
    ax.legend(frameon=False)
    save(made, "budget.svg")


@figure("bench-pruning.svg")
def pruning() -> None:
    """Forward time saved per dataset."""
    import statistics

    by_set: dict[str, list[float]] = {}
    for row in rows("bench_dropping"):
        by_set.setdefault(row["set"], []).append(100 * number(row["saved"]))
    found = sorted(((name, statistics.median(values)) for name, values in by_set.items()), key=lambda entry: -entry[1])
    bars("bench-pruning.svg", found, "forward time saved, % (median of five subsamples)")


@figure("bench-metric-speed.svg")
def metric_speed() -> None:
    """LogME against the floor."""
    found: dict[tuple[str, str], float] = {}
    for row in rows("bench_proxies"):
        if row["case"] in ("logme", "transformer-ranker-logme") and row["threads"] == "1" and row["ratio"]:
            key = (row["case"], row["size"])
            found[key] = min(found.get(key, math.inf), number(row["ratio"]))
    found_bars = [(f"{case.replace('-logme', '')}, {size}", ratio) for (case, size), ratio in sorted(found.items())]
    bars("bench-metric-speed.svg", found_bars, "processor time / arithmetic floor", log=True)


@figure("bench-text-speed.svg")
def text_speed() -> None:
    """Seconds of the whole process, by dataset."""
    seconds: dict[tuple[str, str], float] = {}
    for row in rows("bench_text"):
        kind = {"peer cold": "transformer-ranker", "ours cold": "selector"}.get(row["case"])
        if kind and row["seconds"]:
            key = (row["data"] + (" (base)" if "base" in row["models"] else ""), kind)
            seconds[key] = min(seconds.get(key, math.inf), number(row["seconds"]))
    names = sorted({name for name, _ in seconds})
    made, ax = axes(high=0.42 * len(names) + 1)
    for k, (kind, color) in enumerate((("transformer-ranker", "#9aa5b1"), ("selector", BLUE))):
        ax.barh(
            [i + 0.36 * k for i in range(len(names))],
            [seconds.get((n, kind), math.nan) for n in names],
            0.34,
            color=color,
            label=kind,
        )
    ax.set_yticks([i + 0.18 for i in range(len(names))], names)
    ax.set_xscale("log")
    ax.set_xlabel("seconds, whole process")
    ax.legend(frameon=False)
    save(made, "bench-text-speed.svg")


@figure("bench-scaling.svg")
def scaling() -> None:
    """Seconds by models and targets."""
    made, ax = axes(high=3.2)
    table = rows("bench_many")
    for models in sorted({int(r["models"]) for r in table}):
        points = sorted((int(r["targets"]), number(r["seconds"])) for r in table if int(r["models"]) == models)
        ax.plot(*zip(*points, strict=True), "o-", label=f"{models} models")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xlabel("datasets")
    ax.set_ylabel("processor seconds")
    ax.legend(frameon=False)
    save(made, "bench-scaling.svg")


@figure("bench-domain-adaptation.svg")
def domain_adaptation() -> None:
    """Points behind the best candidate, by validator."""
    found: dict[str, list[float]] = {}
    for row in rows("da_tables"):
        if row["table"] == "validators, regret in points":
            found.setdefault(row["name"], []).append(number(row["value"]))
    means = sorted(((name, sum(v) / len(v)) for name, v in found.items()), key=lambda entry: entry[1])
    bars("bench-domain-adaptation.svg", means, "points behind the best candidate, mean over pairs")


@figure("bench-published-tables.svg")
def published_tables() -> None:
    """The mean rank elsewhere, per published table."""
    found = [(r["table"], *tau(r)) for r in rows("reproduce/baselines") if r["ranking"] == "mean rank elsewhere"]
    intervals("bench-published-tables.svg", found, "weighted τ of the mean rank on the other datasets")


# ---------------------------------------------------------------------------- drawn items


@figure("masks-and-boxes.png")
def masks_and_boxes() -> None:
    """Three generated images with their masks and boxes, as predictions are drawn."""
    import numpy as np
    from PIL import Image

    from _tools.samples import shapes
    from selector.tasks.detection.box_predictions import with_boxes
    from selector.tasks.segmentation.mask_predictions import overlaid

    rng = np.random.default_rng(3)
    canvas = Image.new("RGB", (3 * 200 - 8, 192), "white")
    for number, kind in enumerate(("image", "mask", "boxes")):
        image, mask, drawn = shapes(np.random.default_rng(3)) if number else shapes(rng)
        large = image.resize((192, 192), Image.Resampling.LANCZOS)
        if kind == "mask":
            classes = np.asarray(mask.resize((192, 192), Image.Resampling.NEAREST)).astype(np.int64)
            large = Image.fromarray(overlaid(np.asarray(large), classes))
        elif kind == "boxes":
            boxes = [
                {"label": name, "box": [2 * left, 2 * top, 2 * (left + w), 2 * (top + h)], "score": 1.0}
                for name, (left, top, w, h) in drawn
            ]
            large = with_boxes(np.asarray(large), boxes, ["disc", "square"])
        canvas.paste(large, (200 * number, 0))
    canvas.save(IMAGES / "masks-and-boxes.png", optimize=True)


# ---------------------------------------------------------------------------- figures of a run


def demo_run() -> Path | None:
    """The folder of a finished ``selector demo``."""
    folder = os.environ.get("SELECTOR_DEMO_RUN")
    return Path(folder) if folder else None


@figure("pareto.svg")
def pareto() -> None:
    """Transferability against latency."""
    import selector

    if (run := demo_run()) is None:
        return
    made = selector.plot.cost(selector.load_ranking(run), "latency", "predicted")
    made = getattr(made, "figure", made)
    save(made, "pareto.svg")


@figure("report-annotated.png")
def report_annotated() -> None:
    """The picture of the report with numbers on its parts."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.open(IMAGES / "report.png").convert("RGB")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(26)
    for number, (x, y) in enumerate(REPORT_PARTS, start=1):
        draw.ellipse((x - 20, y - 20, x + 20, y + 20), fill=AMBER)
        draw.text((x, y), str(number), fill="white", font=font, anchor="mm")
    image.thumbnail((1100, 900))
    image.save(IMAGES / "report-annotated.png", optimize=True)


REPORT_PARTS = ((30, 150), (30, 330), (30, 625))
"""Where the advice, its certainty and the ranking stand in ``report.png``."""


def main(names: Sequence[str]) -> int:
    """Draw those that are named, or all."""
    IMAGES.mkdir(exist_ok=True)
    for name in names or FIGURES:
        FIGURES[name]()
        sys.stdout.write(f"{name}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
