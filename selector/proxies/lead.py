"""LEAD-like: how far the logits of a linear head move towards the labels in a short time."""

from __future__ import annotations

import numpy as np

from selector.core.contracts import Score
from selector.features import FeatureSet
from selector.proxies._proxy import INVARIANCES, proxy
from selector.proxies.ridge import STRENGTHS, column_strengths, held_out_residuals


@proxy(
    "lead",
    summary="Share of the labels' variance explained after the held-out logits moved towards the labels for a short time, "
    "each class at its own rate.",
    good="1 is perfect, 0 is a model that predicts the class shares.",
    source="after Hu et al., CVPR 2024, arXiv:2507.14559 (LEAD)",
    cost="a product N × D × min(N, D) on top of logme, in the rows' own precision",
    bounds=(-float("inf"), 1.0),
    version=2,
    invariances=INVARIANCES,
    formula="F₀: leave-one-out predictions of a ridge regression on the one-hot labels Y. F_t = (1 − e^{−λt}) Y + e^{−λt} F₀ with "
    "a rate λ for each class c: λ_c = N·‖Xᵀr_c‖²/(‖r_c‖² ‖X‖²), r = Y − F₀, X centred: how strongly the features' kernel acts "
    "on what is left to learn; 1 where that is noise to the features. Score = 1 − Σ_c e^{−2λ_c t}‖r_c‖²/Σ_c ‖Y_c − mean‖².",
    deviations="Of the paper, the equation of F_t and that rates differ by class could be verified (abstract and secondary "
    "sources), not how F₀, λ and t are computed nor how F_t becomes a score: those are this project's own, chosen to be exact, "
    "held out and free of the features' scale. Do not quote values as LEAD's.",
    domain="Classes. Differs from `ridge` only as far as rates differ between models. Rows of one item are left out together.",
)
def lead(features: FeatureSet, *, time: float = 1.0) -> Score:
    """R² of logits that evolved for a time.

    Args:
        features: class labels.
        time: t, in units of the rate of noise; 0 gives the leave-one-out R² of ridge regression.
    Returns:
        Score ≤ 1; ``details``: ``start`` (R² at t = 0) and ``rate`` (mean λ, weighted by what is left to learn).
    Raises:
        NotApplicable: constant features, or fewer than three rows.
    """
    chosen = column_strengths(features)
    spectrum = features.spectrum
    errors, null, along = 0.0, 0.0, 0.0
    for z, residual, alone in held_out_residuals(
        features, spectrum.trace / spectrum.count * np.array(STRENGTHS)[chosen]
    ):
        errors = errors + np.einsum("nt,nt->t", residual, residual)
        null = null + np.einsum("nt,nt->t", alone, alone)
        along = along + z.T @ residual
    squares, variance = np.asarray(errors), float(np.sum(null))
    force = np.einsum("kt,kt->t", along, along)
    rates = np.divide(spectrum.count * force, squares * spectrum.trace, out=np.zeros_like(squares), where=squares > 0)
    left = float((np.exp(-2 * rates * time) * squares).sum())
    total = max(float(squares.sum()), 1e-300)
    details = {"start": 1 - float(squares.sum()) / variance, "rate": float((rates * squares).sum() / total)}
    return Score(1 - left / variance, details=details)
