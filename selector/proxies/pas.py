"""PAS: how much nearer the rows of a target without labels are to one class of the source than to the next."""

from __future__ import annotations

import numpy as np

from selector.core.contracts import Score
from selector.features import FeatureSet
from selector.proxies._domains import LABELS, target_rows, unit
from selector.proxies._proxy import proxy


@proxy(
    "pas",
    summary="How clearly rows of a target without labels fall to one class centroid of the source domain.",
    label_kinds=LABELS,
    needs_unlabeled=True,
    good="0 is a target between the classes, 1 a target on the centroids.",
    source="PAS, ICLR 2026, arXiv:2604.09863 (quoted from its abstract)",
    cost="a product M × D × C",
    bounds=(0.0, 1.0),
    invariances={
        "row order",
        "class renaming",
        "absent classes",
        "column permutation",
        "rotation",
        "zero padding",
        "scale",
    },
    blocks="recompute",
    formula="Unit class centroids of the unit source rows; of each target row the cosine distances d₁ ≤ d₂ to the two nearest; "
    "mean of (d₂ − d₁)/d₂.",
    domain="Says how sure a target is of its classes, not whether it is right. A target on one centroid alone scores well.",
)
def pas(features: FeatureSet) -> Score:
    """The mean relative gap of the target's rows to the two nearest source centroids."""
    own, labels = unit(features.rows), features.labels
    sums = np.zeros((len(features.classes), features.width))
    np.add.at(sums, labels, own)
    distances = np.maximum(1 - unit(target_rows(features)) @ unit(sums).T, 0.0)
    nearest = np.partition(distances, 1, axis=1)[:, :2]
    gap, far = nearest[:, 1] - nearest[:, 0], nearest[:, 1]
    return Score(float(np.divide(gap, far, out=np.zeros_like(gap), where=far > 1e-12).mean()))
