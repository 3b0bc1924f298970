"""Published tables: static baselines, and printed figures beside what their own tables give.

    python -m benchmarks.reproduce.published [--out FOLDER] [--draws 200] [--seed 0] [--quick]
    python -m benchmarks.reproduce.published --pack

Reads nothing but the fact tables of this folder. Writes ``published.md`` for people and three
tables: ``baselines.csv`` (rankings that never look at the target), ``printed.csv`` (every printed
figure with a verdict) and ``prior_weight.csv`` (what mixing such a ranking with a score gives).
With ``--pack`` it only writes the tables whose networks a zoo can name into the package
(``selector/ranking/published.json``), so that the prior of these networks rests on published figures.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import scipy
from scipy.stats import rankdata

import selector
from benchmarks.reproduce import static, tables
from benchmarks.reproduce.checks import BROKEN, EXACT, OTHER, ROUNDING, Check, check_figure, copied_columns
from benchmarks.reproduce.checks import impossible_hscores as impossible
from benchmarks.rows import markdown_lines, options, write_rows
from selector.ranking.agreement import weighted_tau
from selector.ranking.history import Result
from selector.ranking.prior import ModelFacts, static_prior

OUT = Path(__file__).parents[1] / "results" / "reproduce"
INTERVALS = ("weighted_tau", "regret@1")
POINTS = ("kendall", "spearman", "pearson", "regret@3", "rel@1")
WEIGHTS = (0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 1.0)
MIXED = ("logme", "hscore", "nce", "nleep", "pactran")
LARGE = 50  # models; beyond it fewer draws, the intervals are narrow
LOGME, SPIDER, SFDA = "LogME README", "Model Spider README", "SFDA README"
PACKED = Path(selector.__file__).parent / "ranking" / "published.json"
PACKED_TABLES = {
    "sfda_cnn_11x11": ("full", "SFDA, ECCV 2022 (TencentARC/SFDA, tw_group1.py)"),
    "rept_head_11x11": ("frozen", "arXiv 2504.20121 (alizkzm/pert_robust_platform, tw_group1.py)"),
    "logme_10x8": ("full", "LogME, ICML 2021 (thuml/Transfer-Learning-Library, model_selection/README.md)"),
    "tmlr_10x11": ("full", "arXiv 2405.20420 (VirtualSpaceman/tmlr-transferability-benchmark, transf_scores.csv)"),
}
ZOO_NAMES = {
    "Inception V3": "inception_v3", "MobileNet V2": "mobilenet_v2", "MNasNet": "mnasnet1_0",
    "mobilenetv2_050": "timm:mobilenetv2_050.lamb_in1k", "mobilenetv2_100": "timm:mobilenetv2_100.ra_in1k",
    "vit_small_patch16_224": "timm:vit_small_patch16_224.augreg_in1k",
}  # fmt: skip
SAME_SET = {"oxfordiiitpets": "pets", "oxfordpets": "pets", "stanfordcars": "cars", "flowers102": "flowers"}
Row = dict[str, object]


def main(argv: Sequence[str] | None = None) -> int:
    """Compute, write and print where the results are."""
    parser = options(__doc__, OUT, "20 draws")
    parser.add_argument("--draws", type=int, default=200, help="of every resampling")
    parser.add_argument("--pack", action="store_true", help="write the package's tables, nothing else")
    args = parser.parse_args(argv)
    if args.pack:
        PACKED.write_text(packed(), encoding="utf-8")
        print(f"wrote {PACKED}", file=sys.stderr)
        return 0
    draws = 20 if args.quick else args.draws
    args.out.mkdir(parents=True, exist_ok=True)
    found = {name: tables.accuracies(name) for name in tables.ACCURACY_TABLES}
    baselines = [row for table in found.values() for row in baseline_rows(table, draws, args.seed)]
    checks = printed_figures(draws, args.seed)
    mixtures = prior_weight(found, args.seed)
    write_rows(args.out / "baselines.csv", baselines, digits=4)
    write_rows(args.out / "printed.csv", [vars(check) for check in checks], digits=4)
    write_rows(args.out / "prior_weight.csv", mixtures, digits=4)
    text = "\n".join(report(found, baselines, checks, mixtures, draws, args.seed))
    (args.out / "published.md").write_text(text + "\n", encoding="utf-8")
    print(f"wrote published.md, baselines.csv, printed.csv and prior_weight.csv to {args.out}", file=sys.stderr)
    return 0


# ---------------------------------------------------------------------------- static baselines


def baseline_rows(table: tables.AccuracyTable, draws: int, seed: int) -> list[Row]:
    """One row a static ranking of a table, the last one a random order."""
    draws = min(draws, 50) if len(table.models) > LARGE else draws
    rankings = {name: rank(table) for name, rank in static.RANKERS.items()}
    rankings["selector.ranking.prior, other sets as history"] = with_history(table)
    rows = []
    for name, score in rankings.items():
        if score is None:
            continue
        row: Row = {"table": table.name, "models": len(table.models), "sets": len(table.sets), "ranking": name}
        for measure in INTERVALS:
            interval = static.agreement(table, score, measure, draws, seed)
            row |= {measure: interval.value, f"{measure}_low": interval.low, f"{measure}_high": interval.high}
        row["weighted_tau_rank_none"] = static.point(table, score, "weighted_tau", convention="accuracy")
        rows.append(row | {measure: static.point(table, score, measure) for measure in POINTS})
    return [*rows, _random_row(table, draws, seed)]


def with_history(table: tables.AccuracyTable) -> np.ndarray:
    """The package's own prior, (models, sets): the table is the history, the target's rows are left out."""
    known = _known(table.name, table.models)
    facts = {m: ModelFacts(**known[m]) for m in table.models}
    history = [
        Result(target=s, model=m, metric="accuracy", value=float(table.accuracy[i, j]), facts=known[m])
        for i, m in enumerate(table.models)
        for j, s in enumerate(table.sets)
    ]
    scores = [static_prior(facts, history, target=s).scores for s in table.sets]
    return np.array([[by_model[m].value for by_model in scores] for m in table.models])


def packed() -> str:
    """The tables that the package carries, as JSON: a line a network, facts by the names of ``ModelFacts``."""
    found = []
    for name, (strategy, source) in PACKED_TABLES.items():
        table = tables.accuracies(name)
        known = _known("sfda_cnn_11x11" if name == "rept_head_11x11" else name, table.models)
        named = {model: name_in_a_zoo(model) for model in table.models}
        found.append(
            {
                "name": name,
                "source": source,
                "strategy": strategy,
                "sets": [SAME_SET.get(s.lower(), s.lower()) for s in table.sets],
                "models": {
                    named[model]: {"facts": known[model], "accuracy": [round(float(v), 3) for v in row]}
                    for model, row in zip(table.models, table.accuracy, strict=True)
                },
            }
        )
    text = json.dumps({"version": 1, "tables": found}, indent=1)
    # arrays and the innermost objects on one line: a reader of a diff sees networks, not numbers
    return re.sub(r"\[[^\[\]{}]*\]|\{[^{}\[\]]*\}", lambda m: re.sub(r"\s+", " ", m[0]), text) + "\n"


def name_in_a_zoo(model: str) -> str:
    """A network of a table as a zoo's source names it; told apart by the ImageNet accuracy beside it."""
    name = ZOO_NAMES.get(model, model.lower())
    return name if ":" in name else f"torchvision:{name}.IMAGENET1K_V1"


def _known(table: str, models: Sequence[str]) -> dict[str, dict[str, float]]:
    """Facts by model, under the names of ``ModelFacts``."""
    known: dict[str, dict[str, float]] = {model: {} for model in models}
    for column, name in (("parameters", "parameters"), ("imagenet_top1", "upstream_accuracy")):
        for model, value in tables.facts(table, column).items():
            known[model][name] = value
    return known


def _random_row(table: tables.AccuracyTable, draws: int, seed: int) -> Row:
    taus = static.random_taus(table.accuracy, draws, seed)
    low, high = np.quantile(taus.mean(axis=1), [0.05, 0.95])
    nothing = np.zeros_like(table.accuracy)  # all tied: agreement takes the expectation over orders
    return {
        "table": table.name,
        "models": len(table.models),
        "sets": len(table.sets),
        "ranking": "random order",
        "weighted_tau": float(taus.mean()),
        "weighted_tau_low": float(low),
        "weighted_tau_high": float(high),
        **{m: static.point(table, nothing, m) for m in ("regret@1", "regret@3", "rel@1")},
    }


# ---------------------------------------------------------------------------- printed figures


def printed_figures(draws: int, seed: int) -> list[Check]:
    """Every figure whose scores and accuracies were printed as well."""
    truth = tables.accuracies("logme_10x8")
    readme, spider = tables.scores("logme_scores"), tables.scores("spider_scores")
    checks = [
        check_figure(
            LOGME, (s, method, measure), printed, readme[s, method], truth.column(s),
            conventions=("scipy",), draws=draws, seed=seed,
        )
        for (s, method, measure), printed in tables.printed_correlations().items()
    ]  # fmt: skip
    for method, by_set in tables.printed_taus("spider_tau").items():
        for s in truth.sets:
            if (s, method) in spider:
                checks.append(
                    check_figure(
                        SPIDER, (s, method, "weighted_tau"), by_set[s], spider[s, method], truth.column(s),
                        conventions=("scipy", "accuracy"), draws=draws, seed=seed,
                    )
                )  # fmt: skip
    return checks


def spider_means() -> list[tuple[str, float, float, float]]:
    """(method, printed mean, its convention recomputed, scipy's default) of the Model Spider table."""
    truth, spider = tables.accuracies("logme_10x8"), tables.scores("spider_scores")
    rows = []
    for method, by_set in tables.printed_taus("spider_tau").items():
        if (truth.sets[0], method) in spider:
            pairs = [
                ([float(spider[s, method][m]) for m in truth.models], list(truth.accuracy[:, j]))
                for j, s in enumerate(truth.sets)
            ]
            other = float(np.mean([weighted_tau(x, y, convention="accuracy") for x, y in pairs]))
            rows.append((method, by_set["mean"], other, float(np.mean([weighted_tau(x, y) for x, y in pairs]))))
    return rows


# ---------------------------------------------------------------------------- weight of the prior


def prior_weight(found: Mapping[str, tables.AccuracyTable], seed: int) -> list[Row]:
    """Mean weighted tau when a share of the score is the mean rank elsewhere.

    Published scores on the 10 × 8 table; on every table a simulated one, the true rank (z-scored)
    plus normal noise of 0.75 deviations.
    """
    truth, spider = found["logme_10x8"], tables.scores("spider_scores")
    rows = [
        _mixture(truth, method, np.array([[float(spider[s, method][m]) for s in truth.sets] for m in truth.models]))
        for method in MIXED
    ]
    rng = np.random.default_rng(seed)
    for table in found.values():
        true = _z(rankdata(table.accuracy, axis=0))
        rows.append(_mixture(table, "simulated", true + 0.75 * rng.standard_normal(true.shape)))
    return rows


def _mixture(table: tables.AccuracyTable, name: str, score: np.ndarray) -> Row:
    prior = static.mean_rank_elsewhere(table)
    row: Row = {"table": table.name, "score": name}
    for weight in WEIGHTS:
        row[f"{weight:g}"] = static.point(table, (1 - weight) * _z(score) + weight * _z(prior), "weighted_tau")
    return row


def _z(values: np.ndarray) -> np.ndarray:
    deviation = values.std(axis=0)
    return np.asarray((values - values.mean(axis=0)) / np.where(deviation > 0, deviation, 1))


# ---------------------------------------------------------------------------- the report


def report(
    found: Mapping[str, tables.AccuracyTable],
    baselines: Sequence[Row],
    checks: Sequence[Check],
    mixtures: Sequence[Row],
    draws: int,
    seed: int,
) -> Iterable[str]:
    """The lines of ``published.md``."""
    yield "# Published results, recomputed from their own tables"
    yield ""
    yield (
        f"`python -m benchmarks.reproduce.published --draws {draws} --seed {seed}`, "
        f"Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}. "
        "Sources of the tables: `benchmarks/reproduce/tables/README.md`. τ_w is `scipy.stats.weightedtau` "
        "with its defaults, the mean over datasets; brackets are 90% bootstrap intervals over models "
        "and datasets; regret is in points of accuracy."
    )
    yield from _headlines(found, baselines, draws, seed)
    yield from _baseline_tables(found, baselines)
    yield from _verdicts(checks)
    yield from _conventions()
    yield from _defects(found)
    yield from _weights(mixtures)


def _headlines(
    found: Mapping[str, tables.AccuracyTable], baselines: Sequence[Row], draws: int, seed: int
) -> Iterable[str]:
    def of(table: str, ranking: str, measure: str) -> float:
        return next(float(str(r[measure])) for r in baselines if (r["table"], r["ranking"]) == (table, ranking))

    sfda = tables.printed_taus("sfda_tau")
    one_set = static.random_taus(found["sfda_cnn_11x11"].accuracy[:, :1], 20 * draws, seed)
    low, high = np.quantile(one_set, [0.025, 0.975])
    mean_sfda, mean_logme = (float(np.mean([v for s, v in sfda[m].items() if s != "mean"])) for m in ("sfda", "logme"))
    rank = "mean rank elsewhere"
    ten = found["logme_10x8"]
    listed = static.point(ten, static.mean_rank_elsewhere(ten, "ordinal"), "weighted_tau")
    figures = [
        ("mean rank on the other sets, 11 × 11: τ_w", "0.837", of("sfda_cnn_11x11", rank, "weighted_tau"), 3),
        ("ImageNet accuracy, 11 × 11: τ_w", "0.654", of("sfda_cnn_11x11", "ImageNet accuracy", "weighted_tau"), 3),
        ("best published score (SFDA), 11 × 11: mean of its row", "0.710", mean_sfda, 3),
        ("LogME, 11 × 11: mean of its row", "0.510", mean_logme, 3),
        ("mean rank, 111 × 13 hub images: τ_w", "0.280", of("transfergraph_111x13", rank, "weighted_tau"), 3),
        ("mean rank, 231 × 16 hub images: τ_w", "0.300", of("shift_image_231x16", rank, "weighted_tau"), 3),
        ("mean rank, 111 × 13: regret@1", "8", of("transfergraph_111x13", rank, "regret@1"), 0),
        ("mean rank, 231 × 16: regret@1", "14", of("shift_image_231x16", rank, "regret@1"), 0),
        ("random order, 11 models, one set: 2.5% of τ_w", "-0.50", float(low), 2),
        ("random order, 11 models, one set: 97.5% of τ_w", "0.54", float(high), 2),
        ("mean rank, 10 × 8, ties averaged: τ_w", "0.709", of("logme_10x8", rank, "weighted_tau"), 3),
        ("mean rank, 10 × 8, ties in the order of the file: τ_w", "0.709", listed, 3),
    ]
    rows = [
        (text, printed, f"{value:.4f}", "yes" if round(value, digits) == float(printed) else "no")
        for text, printed, value, digits in figures
    ]
    yield from _section("Headline figures", ("figure", "quoted", "recomputed", "equal when rounded"), rows)
    yield ""
    yield (
        "The means of SFDA and LogME are means of printed figures: the scores behind them were not "
        "published, so they cannot be recomputed. LogME's 0.510 is rounded twice (0.50945, printed as "
        "0.5095). Quantiles of random orders move in the second digit with the draws. The 0.709 of the "
        "10 × 8 table comes out only when an unstable sort places models of equal accuracy (`argsort` of "
        "`argsort`); with averaged ties, which no order can change, it is lower."
    )


def _baseline_tables(found: Mapping[str, tables.AccuracyTable], baselines: Sequence[Row]) -> Iterable[str]:
    rows = [
        (
            f"{found[str(r['table'])].title}, {r['models']} × {r['sets']}", r["ranking"],
            _bracket(r, "weighted_tau"), _number(r, "weighted_tau_rank_none"), _number(r, "kendall"),
            _bracket(r, "regret@1", 2), _number(r, "regret@3", 2), _number(r, "rel@1"),
        )
        for r in baselines
    ]  # fmt: skip
    header = ("table", "ranking", "τ_w", "τ_w, rank=None", "Kendall", "regret@1", "regret@3", "Rel@1")
    yield from _section("Rankings that never look at the target", header, rows)
    yield ""
    yield (
        "*Elsewhere* is the mean over all other sets of the table, so the set itself is never used. "
        "`selector.ranking.prior` chooses its method and learns from the same rows; it knows parameters and "
        "ImageNet accuracy where `models.csv` has them."
    )


def _verdicts(checks: Sequence[Check]) -> Iterable[str]:
    sources = dict.fromkeys(c.source for c in checks)
    counts = Counter((c.source, c.verdict) for c in checks)
    verdicts = (EXACT, OTHER, ROUNDING, BROKEN)
    rows = [(s, *(counts[s, v] for v in verdicts)) for s in sources]
    yield from _section("Printed agreement beside its own table", ("source", *verdicts), rows)
    yield ""
    yield (
        "Exact is equality in the printed digits. *Within the rounding* means that moving every score "
        "and accuracy by at most half of its last printed digit reaches the printed figure (ties in "
        "printed values decide a rank correlation). The figures that no such move reaches:"
    )
    broken = [
        (c.source, c.dataset, c.method, c.measure, f"{c.printed:.3f}", f"{c.ours:.3f}", f"{c.other:.3f}")
        for c in checks
        if c.verdict == BROKEN
    ]
    yield from _table(("source", "set", "score", "measure", "printed", "ours", "rank=None"), broken)


def _conventions() -> Iterable[str]:
    rows = [(m, f"{printed:.3f}", f"{other:.3f}", f"{ours:.3f}") for m, printed, other, ours in spider_means()]
    header = ("score", "printed mean", "weightedtau(accuracy, score, rank=None)", "scipy's default")
    yield from _section("The other convention: Model Spider's table", header, rows)
    yield ""
    yield (
        "`rank=None` weighs by the accuracy alone, scipy's default by the mean of both orders. Figures "
        "of the two conventions must not stand in one table: PACTran differs by a tenth."
    )


def _defects(found: Mapping[str, tables.AccuracyTable]) -> Iterable[str]:
    yield ""
    yield "## Values that cannot be right"
    sources = {"LogME README": tables.scores("logme_scores"), "Model Spider": tables.scores("spider_scores")}
    yield ""
    yield "Columns that are copies of each other:"
    copies = [(source, *copy) for source, scores in sources.items() for copy in copied_columns(scores)]
    yield from _table(("source", "set", "score", "same as"), copies)
    yield ""
    yield "H-scores above C − 1, their mathematical bound:"
    rows = [(source, s, m, f"{v:g}", bound) for source, s, bound, m, v in impossible(sources)]
    yield from _table(("source", "set", "model", "printed", "C − 1"), rows)
    yield ""
    yield "Tables of hub models whose columns say little, because most fine-tunings ended at one value:"
    stuck = [
        (t.title, s, f"{share:.0%}", f"{value:.1f}")
        for t in found.values()
        if len(t.models) > LARGE
        for s, share, value in _stuck(t)
    ]
    yield from _table(("table", "set", "models at the same accuracy", "that accuracy"), stuck)


def _stuck(table: tables.AccuracyTable) -> list[tuple[str, float, float]]:
    """Sets where at least a third of the models have one and the same accuracy."""
    found = []
    for name, column in zip(table.sets, table.accuracy.T, strict=True):
        values, counts = np.unique(column, return_counts=True)
        share = counts.max() / len(column)
        if share >= 1 / 3:
            found.append((name, float(share), float(values[counts.argmax()])))
    return found


def _weights(mixtures: Sequence[Row]) -> Iterable[str]:
    names = {**{t: title for t, (title, _) in tables.ACCURACY_TABLES.items()}}
    header = ("table", "score", *(f"{w:g}" for w in WEIGHTS))
    rows = [(names[str(r["table"])], r["score"], *(_number(r, f"{w:g}") for w in WEIGHTS)) for r in mixtures]
    yield from _section("How much weight the mean rank elsewhere deserves", header, rows)
    yield ""
    yield (
        "τ_w of (1 − w) · score + w · mean rank elsewhere, both z-scored within a set. Scores of the first "
        "rows are the published ones; *simulated* is the true rank with noise. Where the mean rank alone "
        "(w = 1) reaches 0.6 and more, half is near the best; where it reaches 0.3, a quarter does no harm "
        "and half does. `selector.ranking.prior` sets its weight along this line."
    )


def _section(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterable[str]:
    yield ""
    yield f"## {title}"
    yield from _table(header, rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterable[str]:
    return ["", *markdown_lines(header, rows)]


def _number(row: Row, name: str, digits: int = 3) -> str:
    value = row.get(name)
    return f"{value:.{digits}f}" if isinstance(value, float) else ""


def _bracket(row: Row, name: str, digits: int = 3) -> str:
    low, high = _number(row, f"{name}_low", digits), _number(row, f"{name}_high", digits)
    return f"{_number(row, name, digits)} [{low}, {high}]" if low else _number(row, name, digits)


if __name__ == "__main__":
    raise SystemExit(main())
