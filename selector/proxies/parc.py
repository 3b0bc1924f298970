"""PARC: do rows that are alike have labels that are alike?"""

from __future__ import annotations

import numpy as np

from selector.core.contracts import LabelKind
from selector.core.errors import NotApplicable
from selector.features import FeatureSet
from selector.proxies._proxy import INVARIANCES, proxy

DIMENSIONS = 32
MAX_ROWS = 2000


@proxy(
    "parc",
    summary="Rank correlation between distances of rows and distances of their labels.",
    label_kinds=(LabelKind.CLASSES, LabelKind.MULTILABEL),
    good="Between −1 and 1; 0 is chance. With classes it stays far below 1 even for perfect features, since label distances are "
    "tied.",
    source="Bolya, Mittapalli and Hoffman, NeurIPS 2021, arXiv:2111.06977",
    cost="a projection N × D × 32 on top of logme, and a ranking of min(N, 2000)²/2 pairs",
    bounds=(-1.0, 1.0),
    invariances=INVARIANCES,
    seeded=True,
    version=2,
    formula="Spearman correlation, over pairs of rows, of 1 − cosine(row_i, row_j) after PCA to 32 standardized dimensions with "
    "1 − Pearson of the one-hot (multi-hot) labels.",
    deviations="Rows are compared by their cosine; the published Pearson correlation first subtracts each row's mean over "
    "its principal components, whose signs are arbitrary, so its value changes with the library. PCA is exact, not randomized; values are not multiplied by 100; more than 2,000 rows are a stratified subsample "
    "drawn from hashes.",
    domain="Classes or label sets. A row with no label, or all, is at distance 1 from every other.",
)
def parc(features: FeatureSet) -> float:
    """Spearman correlation of row distances and label distances.

    Raises:
        NotApplicable: fewer than three rows, or fewer than two dimensions that vary.
    """
    z = features.coordinates(DIMENSIONS).astype(np.float64)
    rows = features.sample(MAX_ROWS)
    z = z[rows]
    deviation = z.std(axis=0)
    z = z[:, deviation > 1e-9 * deviation.max(initial=0)] if z.size else z
    if len(z) < 3 or z.shape[1] < 2:
        raise NotApplicable("needs three rows and two dimensions that vary")
    z = (z - z.mean(axis=0)) / z.std(axis=0)
    z /= np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-30)
    upper = np.triu_indices(len(z), 1)
    labels = features.label_data.block(rows)
    from scipy.stats import rankdata

    a, b = rankdata(np.round((1 - z @ z.T)[upper], 12)), rankdata(np.round(_apart(labels)[upper], 9))
    a -= a.mean()
    b -= b.mean()
    below = float(np.sqrt((a @ a) * (b @ b)))
    if below <= 0:
        raise NotApplicable("all distances are equal")
    return float(a @ b) / below


def _apart(rows: np.ndarray) -> np.ndarray:
    """(n, n) 1 - Pearson correlation of rows; 1 where a row is constant."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return np.asarray(1 - rows @ rows.T)
