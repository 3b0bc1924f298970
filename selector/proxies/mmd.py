"""Maximum mean discrepancy between the two domains, with a Gaussian kernel."""

from __future__ import annotations

import numpy as np

from selector.core.contracts import Score
from selector.features import FeatureSet
from selector.proxies._domains import LABELS, equal_samples
from selector.proxies._proxy import proxy

MOST = 1000  # rows a domain


@proxy(
    "mmd",
    summary="Minus the squared maximum mean discrepancy of the two domains.",
    label_kinds=LABELS,
    needs_unlabeled=True,
    good="About 0 is two samples of one distribution, −2 two that share nothing.",
    source="Gretton et al., JMLR 2012, eq. 3 (unbiased)",
    cost="O(n²·D), n at most 1,000 rows a domain",
    seeded=True,
    bounds=(-2.0, 2.0),
    invariances={
        "row order", "class renaming", "absent classes", "column permutation", "rotation", "zero padding", "scale", "offset",
    },
    blocks="recompute",
    formula="−(mean k(s, s′) + mean k(t, t′) − 2 mean k(s, t)) over pairs of different rows, k = exp(−‖x − y‖²/m), m the "
    "median of ‖x − y‖² over all pairs.",
    domain="Compares marginals and knows no labels. With m the median, a shift of all rows by far saturates it.",
)  # fmt: skip
def mmd(features: FeatureSet) -> Score:
    """Minus the unbiased estimate, which may exceed 0 by noise."""
    source, target = equal_samples(features, MOST)
    rows = np.concatenate([source, target]).astype(np.float64)
    rows -= rows.mean(axis=0)
    squares = np.einsum("ij,ij->i", rows, rows)
    distances = np.maximum(squares[:, None] + squares - 2 * rows @ rows.T, 0.0)
    upper = distances[np.triu_indices(len(rows), 1)]
    kernel = np.exp(-distances / max(float(np.median(upper)), 1e-12))
    n = len(source)
    same = [(kernel[part, part].sum() - n) / (n * (n - 1)) for part in (slice(0, n), slice(n, None))]
    return Score(-float(sum(same) - 2 * kernel[:n, n:].mean()))
