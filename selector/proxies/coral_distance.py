"""CORAL distance: how far the covariances of the two domains lie apart."""

from __future__ import annotations

import numpy as np

from selector.core.contracts import Score
from selector.features import FeatureSet
from selector.proxies._domains import LABELS, target_rows
from selector.proxies._proxy import proxy


@proxy(
    "coral-distance",
    summary="Minus the distance of the two domains' covariances, as a share of their norms.",
    label_kinds=LABELS,
    needs_unlabeled=True,
    good="0 is equal covariances, −1 covariances that share no direction.",
    source="Sun & Saenko, ECCV 2016 workshops, arXiv:1607.01719, eq. 1 (their loss is in the details)",
    cost="O((N + M)·D²)",
    bounds=(-1.0, 0.0),
    invariances={
        "row order", "class renaming", "absent classes", "column permutation", "rotation", "zero padding", "scale", "offset",
    },
    blocks="recompute",
    formula="−‖C_s − C_t‖_F / (‖C_s‖_F + ‖C_t‖_F); details: loss = ‖C_s − C_t‖²_F / (4D²).",
    deviations="Divided by the norms instead of 4D², so that models of other scales and widths can be compared.",
    domain="Second moments only: two domains with other means and equal covariances have distance 0.",
)  # fmt: skip
def coral_distance(features: FeatureSet) -> Score:
    """Minus the relative distance; ``details``: the loss as published."""
    own, other = (np.cov(rows, rowvar=False, dtype=np.float64) for rows in (features.rows, target_rows(features)))
    own, other = np.atleast_2d(own), np.atleast_2d(other)
    distance = float(np.linalg.norm(own - other))
    norms = float(np.linalg.norm(own) + np.linalg.norm(other))
    return Score(-distance / max(norms, 1e-300), details={"loss": distance**2 / (4 * features.width**2)})
