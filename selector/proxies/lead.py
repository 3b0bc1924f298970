"""LEAD-like: how far the logits of a linear head move towards the labels in a short time."""

from __future__ import annotations

import math

import numpy as np

from selector.core.contracts import Score
from selector.features import FeatureSet
from selector.proxies._proxy import INVARIANCES, proxy
from selector.proxies.ridge import STRENGTHS, column_strengths, held_out_residuals

BEYOND_NOISE = 3.0  # standard deviations that a rate must lie above that of noise


@proxy(
    "lead",
    summary="Share of the labels' variance explained after the held-out logits moved towards the labels for a short time, "
    "each class at its own rate, as far as that is beyond what noise would move.",
    good="1 is perfect, 0 is a model that predicts the class shares, and what permuted labels have.",
    source="after Hu et al., CVPR 2024, arXiv:2507.14559 (LEAD)",
    cost="a product N × D × min(N, D) on top of logme, in the rows' own precision",
    bounds=(-float("inf"), 1.0),
    version=3,
    invariances=INVARIANCES,
    formula="F₀: leave-one-out predictions of a ridge regression on the one-hot labels Y. F_t = (1 − e^{−λt}) Y + e^{−λt} F₀ with "
    "a rate λ for each class c: λ_c = max(0, ρ_c − 3σ), ρ_c = N·Σ_{i≠j} r_i r_j k_ij/(‖r_c‖² Σ k_ii), r = Y − F₀, K = XXᵀ of the "
    "centered rows: how strongly the features' kernel acts on what is left to learn, without what each row does for itself; "
    "σ = √(2 Σ_{i≠j} k_ij²)/Σ k_ii is the standard deviation of ρ where r is noise, whose mean is 0. "
    "Score = 1 − Σ_c e^{−2λ_c t}‖r_c‖²/Σ_c ‖Y_c − mean‖².",
    deviations="Of the paper, the equation of F_t and that rates differ by class could be verified (abstract and secondary "
    "sources), not how F₀, λ and t are computed nor how F_t becomes a score: those are this project's own, chosen to be exact, "
    "held out and free of the features' scale. A kernel moves any logits towards the labels that it is trained on, noise as fast "
    "as a unit of time; without the self terms and the bar of 3σ permuted labels would have more than true ones. Do not quote "
    "values as LEAD's.",
    domain="Classes. Where the ridge regression, at its one strength for all classes, has learned what the kernel sees of each "
    "class, all rates are 0 and the value is the leave-one-out R² of `ridge`; beyond it goes a model with classes that this "
    "strength shrinks too much. Rows of one item are left out together.",
)
def lead(features: FeatureSet, *, time: float = 1.0) -> Score:
    """R² of logits that evolved for a time.

    Args:
        features: class labels.
        time: t, in units of the rate at which a kernel moves noise; 0 gives the leave-one-out R² of ridge regression.
    Returns:
        Score ≤ 1; ``details``: ``start`` (R² at t = 0) and ``rate`` (mean λ, weighted by what is left to learn).
    Raises:
        NotApplicable: constant features, or fewer than three rows.
    """
    chosen = column_strengths(features)
    spectrum = features.spectrum
    errors, null, along, of_itself = (np.zeros(1) for _ in range(4))
    squared, start = 0.0, 0
    groups = None if features.groups is None else np.sort(np.unique(features.groups, return_inverse=True)[1].ravel())
    for z, residual, alone in held_out_residuals(
        features, spectrum.trace / spectrum.count * np.array(STRENGTHS)[chosen]
    ):
        errors = errors + np.einsum("nt,nt->t", residual, residual)
        null = null + np.einsum("nt,nt->t", alone, alone)
        along = along + z.T @ residual
        own, own_squared = _of_groups(z, residual, None if groups is None else groups[start : start + len(z)])
        of_itself, squared, start = of_itself + own, squared + own_squared, start + len(z)
    squares, variance = np.asarray(errors), float(np.sum(null))
    force = np.einsum("kt,kt->t", along, along) - of_itself
    rates = np.divide(spectrum.count * force, squares * spectrum.trace, out=np.zeros_like(squares), where=squares > 0)
    noise = math.sqrt(2 * max(float((spectrum.values**2).sum()) - squared, 0.0)) / spectrum.trace
    rates = np.maximum(rates - BEYOND_NOISE * noise, 0.0)
    left = float((np.exp(-2 * rates * time) * squares).sum())
    total = max(float(squares.sum()), 1e-300)
    details = {"start": 1 - float(squares.sum()) / variance, "rate": float((rates * squares).sum() / total)}
    return Score(1 - left / variance, details=details)


def _of_groups(z: np.ndarray, residual: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, float]:
    """Σ rᵀKr (T,) and Σ ‖K‖² of the kernel within units, whose rows are neighbors; each row one where there are none."""
    if groups is None:
        lengths = np.einsum("nk,nk->n", z, z, dtype=np.float64)
        return np.asarray(lengths @ residual.astype(np.float64) ** 2), float((lengths**2).sum())
    own, squared = np.zeros(residual.shape[1]), 0.0
    for part in np.split(np.arange(len(z)), np.flatnonzero(np.diff(groups)) + 1):
        rows = z[part].astype(np.float64)
        own += ((rows.T @ residual[part]) ** 2).sum(axis=0)
        squared += float(((rows @ rows.T) ** 2).sum())
    return own, squared
