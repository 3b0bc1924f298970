"""Labels that are most likely wrong, by out-of-fold predictions of a linear probe on features that are stored."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from selector.core.atomic import write_atomic
from selector.core.contracts import Target
from selector.core.errors import NotApplicable, ProxyError
from selector.core.units import inert
from selector.features import FeatureSet
from selector.proxies.probe import out_of_fold
from selector.scan.candidate import Candidate
from selector.scan.dataset_view import Rows, previewed
from selector.scan.scoring import feature_set
from selector.store import FeatureStore, RowsMissing

LABEL_ISSUES = "label-issues.csv"
MOST_ITEMS, MOST_SHOWN = 500, 24  # in the table, and in the report with what they are
_MOST_CELLS = 2_000_000_000  # rows × columns × classes: half a minute on two cores; fewer rows are judged beyond
_VERSION = 1


def label_quality(candidate: Candidate, rows: Rows, store: FeatureStore, seed: int) -> dict[str, Any]:
    """The items whose labels the features of a model contradict most, as ``StoredRanking.label_quality``.

    Args:
        candidate: the model; its rows are in the store.
        rows: train and validation items; the test split is not looked at.

    Returns:
        Nothing where an item has no single class, or the rows cannot be judged.

    Cost: one cross-validated logistic regression, at the strength that ``probe`` found where it was asked for; kept in
    the store.
    """
    if rows.target.item_classes is None or candidate.entry is None or len(rows.hashes) != len(rows.indices):
        return {}
    key = {
        "entry": candidate.entry.key, "rows": rows.digest, "seed": seed, "version": _VERSION, "method": _method(),
    }  # fmt: skip
    found = store.get("labels", key)
    if found is None:
        score = candidate.scores.get("probe")
        try:
            found = judge(
                feature_set(candidate.entry, rows, seed),
                rows.hashes,
                None if score is None else float(score.details["strength"]),
            )
        except (NotApplicable, ProxyError, RowsMissing):
            return {}
        store.put("labels", key, found)
    return {"model": candidate.spec.name, **found, "items": _items(found["items"], rows)}


def judge(features: FeatureSet, addresses: Any, strength: float | None = None) -> dict[str, Any]:
    """Rank rows by how much a linear probe that did not see them doubts their labels.

    By cleanlab's confident learning (Northcutt et al., JAIR 2021, arXiv:1911.00068) where it is installed: classes that
    the probe confuses anyway need more evidence. Otherwise all rows of which another class is more probable. Both list
    the highest log-loss first.

    Args:
        addresses: (N,) what names each row.
        strength: of the probe; see ``out_of_fold``.

    Returns:
        ``method``, ``judged`` rows, ``suspects`` among them, and ``items``, at most 500: address, label, predicted label,
        probability of the predicted label and of its own.
    """
    most = max(2, _MOST_CELLS // (features.width * len(features.classes)))
    if len(features) > most:
        kept = features.sample(most)
        features, addresses = features.take(kept), [addresses[i] for i in kept]
    probabilities, classes = out_of_fold(features, strength), features.classes
    rows = np.flatnonzero(~np.isnan(probabilities[:, 0]))
    probabilities, labels = probabilities[rows], features.labels[rows]
    own = probabilities[np.arange(len(rows)), labels]
    if (method := _method()) == "log-loss":
        doubted = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    else:
        from cleanlab.filter import find_label_issues

        doubted = np.flatnonzero(find_label_issues(labels, probabilities, n_jobs=1))
        doubted = doubted[probabilities[doubted].argmax(axis=1) != labels[doubted]]
    order = doubted[np.argsort(own[doubted], kind="stable")]
    items = [
        [
            addresses[rows[i]], int(classes[labels[i]]), int(classes[probabilities[i].argmax()]),
            round(float(probabilities[i].max()), 4), round(float(own[i]), 4),
        ]
        for i in order[:MOST_ITEMS]
    ]  # fmt: skip
    return {"method": method, "judged": len(rows), "suspects": len(order), "items": items}


def write_label_issues(folder: Path, found: Mapping[str, Any]) -> None:
    """The table of a run, the most doubtful label first; one of an earlier run is removed where there is nothing."""
    path = folder / LABEL_ISSUES
    if not found.get("items"):
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    columns = ("name", "split", "label", "predicted", "probability", "of_label")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([inert(str(item[column])) for column in columns] for item in found["items"])
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.getvalue().encode("utf-8", "backslashreplace"))


def _method() -> str:
    """How suspects are found: part of what addresses them in the store."""
    found = find_spec("cleanlab") is not None
    return f"cleanlab {version('cleanlab')}" if found else "log-loss"


def _items(found: Any, rows: Rows) -> list[dict[str, Any]]:
    target: Target = rows.target
    places: dict[tuple[str, int], list[int]] = defaultdict(list)  # copies of an item may bear different labels
    for index, address, label in zip(rows.indices[::-1], rows.hashes[::-1], rows.labels[::-1], strict=True):
        places[address, int(label)].append(int(index))
    items: list[dict[str, Any]] = []
    for address, label, predicted, probability, of_label in found:
        index = places[address, label].pop()
        items.append(
            {
                "index": index,
                "name": str(target.names[index]),
                "split": str(target.splits[index]),
                "label": target.class_names[label],
                "predicted": target.class_names[predicted],
                "probability": probability,
                "of_label": of_label,
            }
        )
    return [*previewed(items[:MOST_SHOWN], target), *items[MOST_SHOWN:]]
