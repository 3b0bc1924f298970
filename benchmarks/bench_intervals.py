"""Do 90% intervals of the difference of two models hold the true difference nine times in ten, on 4 to 200 items?

    python -m benchmarks.bench_intervals [--quick] [--tasks GLOB]

For each task and metric two models are simulated on a population of items, whose difference is known; ``n`` items are drawn
again and again, and ``tuning.compare.standings`` gives an interval and P(best) for each draw. ``results/intervals.csv`` has
a row for each task, metric, case and ``n``: how often the interval held the true difference, its mean half-width, the same
of the plain paired bootstrap (percentiles of 1,000 resamples; for metrics that are means), and the mean P(best) of the
first beside how often it was the better one. Cases: ``near`` (two models of nearly equal quality), ``apart`` (one clearly
better) and ``easy`` (nearly everything is right).
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rows import options, write_rows
from selector import tasks
from selector.core.task import Stats
from selector.tasks.detection.box_predictions import DetectionStats, match
from selector.tasks.segmentation import SegmentationStats
from selector.tasks.tagging import TaggingStats
from selector.tuning.compare import standings

RESULTS = Path(__file__).parent / "results"
COUNTS = (4, 10, 20, 50, 200)
POPULATION, CLASSES = 20_000, 5
CASES: Mapping[str, tuple[float, float]] = {"near": (1.3, 1.25), "apart": (1.7, 1.1), "easy": (2.3, 2.15)}
"""Quality of the two models, in deviations of what an item asks for."""
Pair = tuple[Stats, Stats]


def classification(quality: tuple[float, float], rng: np.random.Generator) -> Pair:
    """Classes of unequal size; the two models share half of what makes an item hard."""
    label = rng.choice(CLASSES, POPULATION, p=np.array([4, 3, 2, 2, 1]) / 12)
    hard = rng.normal(size=(POPULATION, CLASSES))
    made = [
        tasks.registry.get("classification").stats(
            q * 1.5 * np.eye(CLASSES)[label] + 0.7 * hard + 0.7 * rng.normal(size=hard.shape), label
        )
        for q in quality
    ]
    return made[0], made[1]


def multilabel(quality: tuple[float, float], rng: np.random.Generator) -> Pair:
    """Four labels, of which the rarest holds of a fifth of the items."""
    truth = (rng.random((POPULATION, 4)) < np.array([0.5, 0.4, 0.3, 0.2])).astype(float)
    hard = rng.normal(size=truth.shape)
    made = [
        tasks.registry.get("multilabel").stats(
            2 * q * (truth - 0.5) + 0.7 * hard + 0.7 * rng.normal(size=truth.shape), truth
        )
        for q in quality
    ]
    return made[0], made[1]


def regression(quality: tuple[float, float], rng: np.random.Generator) -> Pair:
    """Values with a long tail, errors with heavy ones."""
    truth = rng.gamma(2.0, size=(POPULATION, 1))
    hard = rng.standard_t(5, size=truth.shape)
    made = [
        tasks.registry.get("regression").stats(
            truth + (0.5 * hard + 0.7 * rng.standard_t(5, size=truth.shape)) / q, truth, np.zeros(1), np.ones(1)
        )
        for q in quality
    ]
    return made[0], made[1]


def tagging(quality: tuple[float, float], rng: np.random.Generator) -> Pair:
    """Sentences of 3 to 20 words with 0 to 5 entities, some of them harder than others."""
    words = rng.integers(3, 21, POPULATION)
    gold = np.minimum(rng.poisson(1.5, POPULATION), 5)
    hard = rng.normal(size=POPULATION)
    made = []
    for q in quality:
        share = 1 / (1 + np.exp(-(1.2 * q - hard - 0.5 * rng.normal(size=POPULATION))))
        right = rng.binomial(gold, share)
        found = right + rng.binomial(gold - right + 1, 0.6 * (1 - share))
        correct = rng.binomial(words, 0.6 + 0.4 * share)
        of_words = np.concatenate([np.arange(w) < c for w, c in zip(words, correct, strict=True)])
        arrays = {
            "words": words, "right": right, "found": found, "gold": gold, "label": np.zeros(len(of_words), int),
            "predicted": np.where(of_words, 0, 1), "log_likelihood": np.where(of_words, -0.1, -2.0),
            "confidence": np.full(len(of_words), 0.8),
        }  # fmt: skip
        made.append(TaggingStats(arrays, {"classes": 2, "temperature": 1.0}))
    return made[0], made[1]


def segmentation(quality: tuple[float, float], rng: np.random.Generator) -> Pair:
    """Images that show some of the classes; how well a class is found differs between images."""
    shown = rng.random((POPULATION, CLASSES)) < np.array([1.0, 0.7, 0.5, 0.4, 0.3])
    truth = (shown * rng.lognormal(7, 0.8, shown.shape)).astype(np.int64)
    hard = rng.normal(size=shown.shape)
    made = []
    for q in quality:
        share = 1 / (1 + np.exp(-(q - 0.8 * hard - 0.3 * rng.normal(size=shown.shape))))
        hit = (truth * share).astype(np.int64)
        missed = (truth - hit).sum(axis=1, keepdims=True)
        others = rng.dirichlet(np.ones(CLASSES), POPULATION)
        made.append(SegmentationStats({"hit": hit, "truth": truth, "said": hit + (missed * others).astype(np.int64)}))
    return made[0], made[1]


def detection(quality: tuple[float, float], rng: np.random.Generator) -> Pair:
    """Images with 1 to 4 boxes of three classes; found ones are moved by some pixels, others are made up."""
    images: tuple[list[dict[str, np.ndarray]], list[dict[str, np.ndarray]]] = ([], [])
    for _ in range(POPULATION // 20):
        count = int(rng.integers(1, 5))
        corner, side = rng.uniform(0, 200, (count, 2)), rng.uniform(30, 90, (count, 2))
        true, labels = np.hstack([corner, corner + side]), rng.integers(3, size=count)
        hard = rng.normal(size=count)
        for q, found in zip(quality, images, strict=True):
            sure = 1 / (1 + np.exp(-(q - hard - 0.5 * rng.normal(size=count))))
            hit = rng.random(count) < sure
            boxes = true[hit] + rng.normal(0, 6 / q, (int(hit.sum()), 4))
            false = rng.poisson(0.8 / q)
            wrong = rng.uniform(0, 200, (false, 2))
            boxes = np.vstack([boxes, np.hstack([wrong, wrong + rng.uniform(30, 90, (false, 2))])])
            scores = np.concatenate([sure[hit], rng.uniform(0, 0.7, false)])
            said = np.concatenate([labels[hit], rng.integers(3, size=false)])
            found.append(match(true, labels, boxes, scores, said, 3))
    made = [
        DetectionStats(
            {
                "boxes": np.array([len(one["score"]) for one in own]),
                "truth": np.stack([one["truth"] for one in own]),
                **{
                    k: np.concatenate([one[k] for one in own])
                    for k in ("score", "category", "matched", "ignored", "box")
                },
            }
        )
        for own in images
    ]
    return made[0], made[1]


MAKERS: Mapping[str, tuple[Callable[..., Pair], tuple[str, ...]]] = {
    "classification": (classification, ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "log_loss")),
    "multilabel": (multilabel, ("map", "micro_f1", "macro_f1", "auroc", "log_loss")),
    "regression": (regression, ("r2", "mae", "rmse", "spearman")),
    "tagging": (tagging, ("entity_f1", "token_accuracy", "log_loss")),
    "segmentation": (segmentation, ("miou", "pixel_accuracy")),
    "detection": (detection, ("map", "map50")),
}


def measure(pair: Pair, task: str, metric: str, count: int, draws: int, seed: int) -> dict[str, Any]:
    """One row: coverage, widths and P(best) over draws of so many items."""
    declared = tasks.registry.get(task).metrics[metric] if task != "tagging" else _tagging_metric(metric)
    first, second = pair
    truth = declared.sign * (first.value(metric) - second.value(metric))
    rng = np.random.default_rng((seed, count))
    held, widths, sure, right, plain, plain_widths = [], [], [], [], [], []
    for draw in range(draws):
        items = rng.integers(len(first), size=count)
        a, b = first[items], second[items]
        if not np.isfinite([a.value(metric), b.value(metric)]).all():
            continue
        table = standings({"a": [a], "b": [b]}, metric, declared, draw)
        ahead = table["a"].difference == 0 and table["b"].difference >= 0
        behind = table["b"] if ahead else table["a"]
        wanted = truth if ahead else -truth
        held.append(behind.low - 1e-12 <= wanted <= behind.high + 1e-12)
        widths.append((behind.high - behind.low) / 2)
        sure.append(max(table["a"].p_best, table["b"].p_best))
        leader = "a" if table["a"].p_best >= table["b"].p_best else "b"
        right.append((leader == "a") == (truth > 0))
        ratios = a.ratio(metric), b.ratio(metric)
        if ratios[0] is not None and ratios[1] is not None:
            weights = rng.multinomial(count, np.full(count, 1 / count), size=1000)
            one, two = ((weights @ top) / np.maximum(weights @ below, 1e-12) for top, below in ratios)
            low, high = np.quantile(declared.sign * (one - two), [0.05, 0.95])
            plain.append(low - 1e-12 <= truth <= high + 1e-12)
            plain_widths.append((high - low) / 2)
    return {
        "difference": f"{truth:.4f}", "draws": len(held), "coverage": f"{np.mean(held):.3f}",
        "half_width": f"{np.mean(widths):.4f}", "p_best": f"{np.mean(sure):.3f}", "best": f"{np.mean(right):.3f}",
        "bootstrap_coverage": f"{np.mean(plain):.3f}" if plain else "",
        "bootstrap_half_width": f"{np.mean(plain_widths):.4f}" if plain else "",
    }  # fmt: skip


def _tagging_metric(metric: str) -> Any:
    from selector.tasks.tagging import _ENTITIES, _WORDS

    return {**_ENTITIES, **_WORDS}[metric]


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate and write the table."""
    parser = options(__doc__, RESULTS / "intervals.csv", "few draws: does it run?")
    parser.add_argument("--tasks", default="*", help="glob on names of tasks")
    parser.add_argument("--draws", type=int, default=400)
    args = parser.parse_args(argv)
    rows: list[dict[str, Any]] = []
    for task, (make, metrics) in MAKERS.items():
        for case, quality in CASES.items():
            if not fnmatch(task, args.tasks):
                continue
            pair = make(quality, np.random.default_rng((args.seed, zlib.crc32(f"{task} {case}".encode()))))
            for metric in metrics:
                for count in COUNTS[:2] if args.quick else COUNTS:
                    most = min(20_000 // count, 300) if task == "detection" else args.draws
                    row = measure(pair, task, metric, count, 20 if args.quick else min(args.draws, most), args.seed)
                    rows.append({"task": task, "metric": metric, "case": case, "items": count, **row})
                    print(*rows[-1].values(), flush=True)
    write_rows(args.out, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
