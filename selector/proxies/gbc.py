"""Gaussian Bhattacharyya coefficient: how much the classes overlap."""

from __future__ import annotations

import numpy as np

from selector.features import FeatureSet
from selector.proxies._proxy import INVARIANCES, proxy

DIMENSIONS = 64
FLOOR = 1e-4


@proxy(
    "gbc",
    summary="Minus the summed overlap of all pairs of classes, each a Gaussian with a diagonal covariance.",
    good="0 means no overlap, −C(C − 1) that all classes are the same.",
    source="Pándy et al., CVPR 2022, arXiv:2111.12780",
    cost="a projection N × D × 64 on top of logme, and C² pairs",
    bounds=(-float("inf"), 0.0),
    invariances=INVARIANCES - {"scale"},
    formula="−Σ_{i≠j} exp(−D_B), D_B = ⅛ Σ Δμ²/σ̄ + ½[Σ log σ̄ − ½ Σ log σ_i − ½ Σ log σ_j], σ̄ = (σ_i + σ_j)/2, after PCA to 64 "
    "dimensions; variances not below 1e-4.",
    deviations="PCA is exact, not randomized; variances divide by n_c. The floor is in the features' own units, so the score "
    "depends on their scale, as published.",
    domain="Classes. A class of one row has the floor as its variance and overlaps with nothing.",
)
def gbc(features: FeatureSet) -> float:
    """Minus the sum of Bhattacharyya coefficients over ordered pairs of classes."""
    means, variances = class_statistics(features, DIMENSIONS)
    variances = np.maximum(variances, FLOOR)
    half_log = 0.5 * np.log(variances).sum(axis=1)
    total = 0.0
    for i in range(len(means)):
        mixed = 0.5 * (variances[i] + variances)
        distance = 0.125 * ((means[i] - means) ** 2 / mixed).sum(axis=1)
        distance += 0.5 * (np.log(mixed).sum(axis=1) - half_log[i] - half_log)
        overlap = np.exp(-distance)
        total += float(overlap.sum() - overlap[i])
    return -total


def class_statistics(features: FeatureSet, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (C, k) of every class in the leading principal components."""
    z = features.coordinates(dimensions).astype(np.float64)
    counts = features.class_counts[:, None]
    means = features.label_data.sums(z, slice(None)) / counts
    apart = z - means[features.labels]
    return means, features.label_data.sums(apart**2, slice(None)) / counts
