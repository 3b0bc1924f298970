"""TransRate: mutual information of features and labels as a difference of coding rates."""

from __future__ import annotations

import numpy as np

from selector.core.errors import NotApplicable
from selector.features import FeatureSet
from selector.features.arrays import as_float
from selector.proxies._proxy import INVARIANCES, proxy


@proxy(
    "transrate",
    summary="Bits needed to code all rows, minus those needed once the class is known.",
    good="Higher is better; 0 when the classes look alike. Grows with the number of directions that separate classes.",
    source="Huang et al., ICML 2022, arXiv:2106.09362",
    cost="one pass over the rows on top of logme, and a determinant of min(n_c, D) a class",
    invariances=INVARIANCES - {"zero padding"},
    formula="R(Z) − Σ_c n_c/n·R(Z_c), R(Z) = ½ log det(I + ZᵀZ/(nε)), ε = 1e-4, Z centered and scaled so that its covariance has "
    "trace D.",
    deviations="The public code leaves the scale as it is, so that multiplying features by ten changes the ranking, and weights "
    "classes equally; here the trace is fixed and classes weigh by their rows. Determinants come from the smaller Gram "
    "matrix.",
    domain="Classes. Dominated by the number of directions when D is large against n_c.",
)
def transrate(features: FeatureSet, *, eps: float = 1e-4) -> float:
    """Difference of coding rates, in nats.

    Raises:
        NotApplicable: constant features.
    """
    spectrum, n, width = features.spectrum, len(features), features.width
    if spectrum.trace <= 0:
        raise NotApplicable("the features are constant")
    scale = width * n / spectrum.trace  # makes the trace of the covariance D
    whole = 0.5 * float(np.log1p(scale * spectrum.values / (n * eps)).sum())
    rows = features.coordinates() if features.uses_kernel else None
    mean = 0.0 if rows is not None else features.mean
    known = 0.0
    for code, count in enumerate(features.class_counts):
        index = np.flatnonzero(features.labels == code)
        z = rows[index] if rows is not None else np.subtract(as_float(features.rows[index]), mean, dtype=np.float64)
        gram = z @ z.T if len(z) < z.shape[1] else z.T @ z
        gram *= scale / (count * eps)
        gram[np.diag_indices_from(gram)] += 1
        known += count / n * 0.5 * float(np.linalg.slogdet(gram)[1])
    return whole - known
