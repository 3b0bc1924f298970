"""Frozen features of train and val, kept for the proxies: too large to commit, cheap to make again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.suite.sets import LabeledSet


def folder(quick: bool = False) -> Path:
    """Where ``<set>/<encoder>.npz`` lie. Those of a quick run are few and lie apart."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / ("selector-suite-quick" if quick else "selector-suite")


def save(path: Path, data: LabeledSet, size: int, features: np.ndarray, source_logits: np.ndarray | None) -> None:
    """Features, labels, splits, size and, with a source head, source_logits.

    The test split is left out: no proxy may see it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = data.rows("train", "val")
    arrays = {"features": features[rows], "labels": data.labels[rows], "splits": data.splits[rows], "size": size}
    if source_logits is not None:
        arrays["source_logits"] = source_logits[rows]
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
        np.savez(file, **arrays)
    Path(file.name).replace(path)
