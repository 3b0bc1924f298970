"""Would other members order masks and boxes better? Every subset of proxies, and the choice with a set left out.

    SELECTOR_ASSETS=... python -m benchmarks.tasks.dense_members

Reads ``ground_truth.csv`` and ``scores.csv``. A subset's value is the mean over targets of the weighted tau of its mean
normalised score; with a set left out the best subset on the others is read there. Then the tau of the usual members
without each encoder: which one is misplaced?
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.assets import assets_folder
from benchmarks.suite import table
from benchmarks.tasks import agreement, cells, detection, scores
from benchmarks.tasks.agreement import Question
from selector.core.contracts import LabelKind
from selector.ranking.agreement import weighted_tau
from selector.ranking.combination import LabelFacts

KNOWN = ("knn", "probe", "logme", "lda", "gbc")
WHERE = (("knn", "loo-ridge", "logme"), ("loo-ridge", "logme"), ("logme",), ("loo-ridge",), ())
USUAL = (("knn", "probe", "logme"), WHERE[0])
CLASSES = {"camvid": 11, "dtd10_mosaics": 10}  # points are even by class
Subset = tuple[tuple[str, ...], tuple[str, ...]]
Columns = Mapping[tuple[str, str, str, str], Mapping[str, float]]


def main() -> int:
    """Compare and print."""
    assets = assets_folder("data/")
    if assets is None:
        return 2
    asked = [q for q in agreement.questions(cells.read(cells.TRUTH)) if q.task in ("segmentation", "detection")]
    columns: dict[tuple[str, str, str, str], dict[str, float]] = {}
    for row in table.whole_rows(scores.SCORES):
        if row["status"] == "ok" and row["score"] != "end":
            key = (row["set"], row["variant"], row["facet"], row["score"])
            columns.setdefault(key, {})[row["encoder"]] = float(row["value"])
    asked = [q for q in asked if ordered(q, columns, USUAL, {}) is not None]
    labels = {name: what(name, assets) for name in dict.fromkeys(q.set for q in asked)}
    subsets = [
        (first, second)
        for size in range(1, len(KNOWN) + 1)
        for first in itertools.combinations(KNOWN, size)
        for second in WHERE
    ]
    found = {one: [tau(q, columns, one, labels) for q in asked] for one in subsets}
    print("targets:", ", ".join(q.target for q in asked))
    show("usual", USUAL, found)
    for one in sorted(found, key=lambda one: -float(np.mean(found[one])))[:8]:
        show("best", one, found)
    for left in labels:
        rest = [[i for i, q in enumerate(asked) if q.set == name] for name in labels if name != left]
        chosen = max(found, key=lambda one: np.mean([np.mean([found[one][i] for i in group]) for group in rest]))
        show(f"chosen without {left}", chosen, found)
    for question in asked:
        for encoder in question.truth:
            print(f"{question.target} without {encoder}: {tau(question, columns, USUAL, labels, encoder):.2f}")
    return 0


def what(name: str, assets: Path) -> np.ndarray:
    """Classes of the rows that were scored; of boxes as ``scores`` drew them."""
    if name in CLASSES:
        return np.arange(100 * CLASSES[name]) % CLASSES[name]
    data, rng, found = detection.load_set(name, assets), torch.Generator().manual_seed(0), []
    for i in np.concatenate([data.rows("train"), data.rows("val")]).tolist():
        chosen = torch.randperm(len(data.boxes[i]), generator=rng)[: scores.BOXES]
        detection.jittered(data.boxes[i][chosen], rng)
        size = data.images[i].shape[2], data.images[i].shape[1]
        none = detection.background(data.boxes[i], scores.BACKGROUND, *size, rng)
        found += data.labels[i][chosen].tolist() + [len(data.classes)] * len(none)
    return np.array(found)


def ordered(
    question: Question, columns: Columns, subset: Subset, labels: Mapping[str, np.ndarray]
) -> dict[str, float] | None:
    """Mean normalised score by encoder, each facet the same; None where scores lack. Without labels of the set only whether."""
    dense = question.task == "segmentation"
    keys = [("all maps", "pixels")] if dense else [("regions", "what"), ("regions", "where")]
    parts = []
    for (variant, facet), members in zip(keys, subset, strict=False):
        kind = LabelKind.REAL if facet == "where" else LabelKind.CLASSES
        own = [columns.get((question.set, variant, facet, member), {}) for member in members]
        if members and not all(own):
            return None
        if not labels or not members:
            continue
        values = labels[question.set] if kind is LabelKind.CLASSES else np.random.default_rng(0).normal(size=(9, 4))
        facts = LabelFacts.of(values, kind, members)
        shared = [encoder for encoder in question.truth if all(encoder in column for column in own)]
        scaled = [
            facts.scales[member](np.array([column[encoder] for encoder in shared]), facts)
            for member, column in zip(members, own, strict=True)
        ]
        parts.append(dict(zip(shared, np.mean(scaled, axis=0), strict=True)))
    if not labels:
        return {}
    return {e: float(np.mean([part[e] for part in parts])) for e in question.truth if all(e in part for part in parts)}


def tau(
    question: Question, columns: Columns, subset: Subset, labels: Mapping[str, np.ndarray], without: str = ""
) -> float:
    """Weighted tau with the truth, of all encoders but one."""
    found = ordered(question, columns, subset, labels) or {}
    kept = [encoder for encoder in found if encoder != without]
    return float(weighted_tau([found[e] for e in kept], [question.truth[e] for e in kept]))


def show(title: str, subset: Subset, found: Mapping[Subset, Sequence[float]]) -> None:
    """A line of a subset."""
    values = " ".join(f"{value:.2f}" for value in found[subset])
    print(f"{title}: {' + '.join(subset[0])} | where: {' + '.join(subset[1]) or 'none'}: {values}")


if __name__ == "__main__":
    sys.exit(main())
