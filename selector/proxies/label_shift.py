"""Label shift: how far the class shares of the target, as the source's head sees them, differ from the source's."""

from __future__ import annotations

import numpy as np

from selector.core.contracts import Score
from selector.features import FeatureSet
from selector.proxies._domains import LABELS, source_head
from selector.proxies._proxy import proxy

STEPS, TOLERANCE = 1000, 1e-9


@proxy(
    "label-shift",
    summary="Minus the total variation between the source's class shares and those estimated for the target.",
    label_kinds=LABELS,
    needs_unlabeled=True,
    good="0 is the same class shares in both domains, −1 classes that do not overlap.",
    source="Saerens et al., Neural Computation 2002; calibrated as in Alexandari et al., ICML 2020, arXiv:1901.06852",
    cost="one head of the source domain and steps of M × C",
    bounds=(-1.0, 0.0),
    invariances={"row order", "class renaming", "absent classes"},
    seeded=True,
    blocks="recompute",
    formula="Expectation-maximization of the target's class shares q under probabilities p(y|x)·q(y)/p(y), p from the source's "
    "head at the temperature that fits held-out source rows; −½ Σ|q − p|.",
    domain="Right where only the class shares differ. Where the items differ too, the head errs and so does the estimate.",
)
def label_shift(features: FeatureSet) -> Score:
    """Minus the total variation; ``details``: the largest ratio of target to source share."""
    head = source_head(features)
    target = estimated_shares(head.target, head.shares)
    ratio = float((target / head.shares).max())
    return Score(-0.5 * float(np.abs(target - head.shares).sum()), details={"largest_ratio": ratio})


def estimated_shares(probabilities: np.ndarray, source: np.ndarray) -> np.ndarray:
    """(C,) class shares that make probabilities (M, C) under source shares (C,) most likely."""
    target = source.astype(np.float64).copy()
    for _ in range(STEPS):
        weighted = probabilities * (target / source)
        new = (weighted / np.maximum(weighted.sum(axis=1, keepdims=True), 1e-300)).mean(axis=0)
        done = np.abs(new - target).max() < TOLERANCE
        target = new
        if done:
            break
    return np.asarray(target)
