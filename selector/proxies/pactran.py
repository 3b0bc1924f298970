"""PACTran-Gauss: minus a bound on the error of a linear classifier."""

from __future__ import annotations

import numpy as np

from selector.core.contracts import Score
from selector.features import FeatureSet
from selector.features.arrays import as_float
from selector.linear.logistic import Logistic
from selector.proxies._proxy import NAMES_OF_CLASSES, proxy


@proxy(
    "pactran",
    summary="Minus a PAC-Bayes bound on the loss of a logistic regression with a Gaussian prior.",
    good="Higher is better; the bound itself is lower-better, so the value is its negative.",
    source="Ding et al., ECCV 2022, arXiv:2203.05126 (PACTran-Gauss)",
    cost="a logistic regression: some ten products N × D × C, and one N × D × C for the curvature",
    invariances=NAMES_OF_CLASSES | {"offset"},
    formula="−[min (mean CE + ‖W‖²/2λ) + ½ (CD/λ)(s/D) log(λh/(CD))], h = Σ x_id² p_ic(1 − p_ic) + Σ p_ic(1 − p_ic) + CD/λ, centered "
    "rows, λ = f·N, s = 10f or 100f, f ∈ {0.1, 1, 10}.",
    deviations="Solved in the eigenbasis to a tolerance instead of 100 steps from a random start, so there is no seed.",
    domain="Classes. Depends on the features' scale: the prior is in their units. Published tables choose f and s by the result; the "
    "default here is f = 1, s = 10 f.",
)
def pactran(features: FeatureSet, *, factor: float = 1.0, variance: float = 10.0) -> Score:
    """Negative PACTran-Gauss bound, in nats a row.

    Args:
        features: class labels.
        factor: f, the prior's strength is λ = f·N.
        variance: s / f, the prior variance's numerator.
    """
    order, codes = features.canonical
    codes = codes[order]
    n, width, classes = len(codes), features.width, len(features.classes)
    spectrum = features.spectrum
    kept = np.flatnonzero(spectrum.values > 0)[::-1]
    z = np.ones((n, len(kept) + 1), dtype=np.float32)
    z[:, :-1] = features.coordinates()[order]
    prior = factor * n
    # mean CE + ‖W‖²/(2fN) is, times N, the sum with ‖W‖²/(2f): C = f; two classes keep both weight vectors
    strength = factor * (2.0 if classes == 2 else 1.0)
    solved = Logistic(z, np.append(spectrum.values[kept], n), codes, np.ones((1, n))).solve(strength, tolerance=1e-7)
    solution = solved.solution[:, 0].astype(np.float64)
    loss, curvature = 0.0, 0.0
    for start in range(0, n, 4096):
        part = slice(start, start + 4096)
        logits = z[part].astype(np.float64) @ solution
        logits -= logits.max(axis=1, keepdims=True)
        total = np.exp(logits).sum(axis=1)
        loss -= float((logits[np.arange(len(logits)), codes[part]] - np.log(total)).sum())
        p = np.exp(logits) / total[:, None]
        spread = (p - p * p).sum(axis=1)
        rows = np.subtract(as_float(features.rows[order[part]]), features.mean, dtype=np.float64)
        curvature += float(((rows**2).sum(axis=1) + 1) @ spread)
    best = loss / n + 0.5 * float((solution[:-1] ** 2).sum()) / prior
    cells = classes * width
    h = curvature + cells / prior
    bound = best + 0.5 * cells / prior * (variance * factor / width) * np.log(prior * h / cells)
    return Score(-float(bound), details={"loss": best})
