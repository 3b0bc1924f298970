"""Silhouette of the classes, as if they were clusters."""

from __future__ import annotations

import numpy as np

from selector.core.contracts import Score
from selector.core.errors import NotApplicable
from selector.features import FeatureSet
from selector.features.arrays import as_float
from selector.proxies._proxy import INVARIANCES, proxy

MAX_ROWS = 4000


@proxy(
    "silhouette",
    summary="Whether rows lie nearer to their own class than to the next one.",
    good="Between −1 and 1; above 0 rows are nearer to their own class on average.",
    source="Rousseeuw, J. Comput. Appl. Math. 1987 (Euclidean)",
    cost="min(N, 4000)²·D",
    bounds=(-1.0, 1.0),
    invariances=INVARIANCES,
    seeded=True,
    blocks="recompute",
    formula="Mean of (b − a)/max(a, b): a the mean distance to the other rows of the class, b the smallest mean distance to "
    "another class; 0 for the only row of a class.",
    domain="A diagnostic: classes of several modes score low though a probe separates them. More than 4,000 rows are a stratified "
    "subsample drawn from hashes.",
)
def silhouette(features: FeatureSet) -> Score | float:
    """Mean silhouette width.

    Raises:
        NotApplicable: as many classes as rows.
    """
    rows = features.sample(MAX_ROWS)
    classes, codes = np.unique(features.labels[rows], return_inverse=True)
    counts = np.bincount(codes)
    if len(classes) < 2 or len(classes) == len(rows):
        raise NotApplicable("needs two classes, and a class of two rows")
    x = np.subtract(as_float(features.rows[rows]), features.mean, dtype=np.float64)
    norms = np.einsum("ij,ij->i", x, x)
    one_hot = np.eye(len(classes))[codes]
    widths = np.zeros(len(rows))
    for start in range(0, len(x), 512):
        part = slice(start, start + 512)
        square = norms[part, None] + norms - 2 * x[part] @ x.T
        square[np.arange(len(square)), np.arange(start, start + len(square))] = 0
        sums = np.sqrt(np.maximum(square, 0)) @ one_hot
        own = codes[part]
        index = np.arange(len(own))
        a = sums[index, own] / np.maximum(counts[own] - 1, 1)
        means = sums / counts
        means[index, own] = np.inf
        b = means.min(axis=1)
        top = np.maximum(a, b)
        widths[part] = np.divide(b - a, top, out=np.zeros_like(a), where=(top > 0) & (counts[own] > 1))
    if len(rows) < len(features):
        return float(widths.mean())
    return Score(float(widths.mean()), per_row=_unsorted(widths, rows))


def _unsorted(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    out = np.empty_like(values)
    out[rows] = values
    return out
