"""Nearest class mean, each row left out of its own class's mean."""

from __future__ import annotations

import numpy as np

from selector.core.contracts import Score
from selector.features import FeatureSet
from selector.proxies._proxy import INVARIANCES, proxy


@proxy(
    "nearest-class-mean",
    summary="How often the nearest class mean is that of the row's class, the row left out of it.",
    good="An accuracy: 1 is perfect, 1/C is chance for equal classes.",
    source="Mensink et al., PAMI 2013 (Euclidean); leave-one-out in closed form",
    cost="a product N × D × C on top of the class sums",
    bounds=(0.0, 1.0),
    invariances=INVARIANCES,
    formula="Share of rows with ‖x − μ_y⁻‖ < ‖x − μ_c‖ for every other class c, μ_y⁻ the mean without the row: ‖x − μ_y⁻‖ = "
    "n_y/(n_y − 1)·‖x − μ_y‖.",
    domain="A diagnostic. The only row of a class counts as wrong.",
)
def nearest_class_mean(features: FeatureSet) -> Score:
    """Leave-one-out accuracy of the nearest class mean; a contribution a row."""
    codes, counts = features.labels, features.class_counts
    center = features.mean
    sums = np.zeros((len(counts), features.width))
    for start, chunk in features.chunks():
        z = np.subtract(chunk, center, dtype=np.float64)
        sums += features.label_data.sums(z, slice(start, start + len(chunk)))
    means = sums / counts[:, None]
    squares = np.einsum("cd,cd->c", means, means)
    per_row = np.empty(len(codes))
    for start, chunk in features.chunks():
        z = np.subtract(chunk, center, dtype=np.float64)
        own, index = codes[start : start + len(z)], np.arange(len(z))
        distance = np.einsum("ij,ij->i", z, z)[:, None] - 2 * z @ means.T + squares
        n = counts[own].astype(float)
        factor = np.divide(n, n - 1, out=np.full(len(n), np.inf), where=n > 1)
        mine = (
            np.maximum(distance[index, own], 0) * factor**2
            if (n > 1).all()
            else np.where(n > 1, np.maximum(distance[index, own], 0) * np.where(n > 1, factor, 0) ** 2, np.inf)
        )
        distance[index, own] = np.inf
        # at equal distance the row counts as wrong
        per_row[start : start + len(z)] = mine < distance.min(axis=1)
    return Score(float(per_row.mean()), per_row=per_row)
