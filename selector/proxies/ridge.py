"""Ridge regression: generalised cross-validation from the spectrum, or exact leave-one-out."""

from __future__ import annotations

import numpy as np

from selector.core.contracts import LabelKind, Score
from selector.core.errors import ConfigError, NotApplicable
from selector.features import FeatureSet, Spectrum
from selector.proxies._proxy import proxy

STRENGTHS = tuple(10.0 ** (e / 2) for e in range(-8, 9))
"""Penalties, in units of the mean squared length of a centred row."""


@proxy(
    "ridge",
    summary="Share of the labels' variance that ridge regression predicts on unseen rows.",
    label_kinds=(LabelKind.CLASSES, LabelKind.MULTILABEL, LabelKind.REAL),
    good="1 is perfect, 0 is the mean; negative values mean that nothing was learned.",
    source="Golub, Heath and Wahba, Technometrics 1979; Allen, Technometrics 1974 (leave-one-out)",
    cost="nothing on top of logme; leave-one-out one more pass of N·D·min(N, D)",
    bounds=(-float("inf"), 1.0),
    invariances={
        "row order",
        "class renaming",
        "absent classes",
        "column permutation",
        "rotation",
        "zero padding",
        "scale",
        "offset",
    },
    formula="1 − GCV(λ)/GCV(∞) at the best of 17 penalties λ, GCV(λ) = N·RSS(λ)/(N − 1 − Σ S/(S + λ))²; free intercept. One λ "
    "for all classes (RSS summed over the one-hot columns), one for each real target, whose values are averaged.",
    deviations="In-sample least squares, as some codes have it, means nothing once D ≥ N.",
    domain="All label kinds, any N and D. GCV treats all rows alike; `method='loo'` leaves out each row exactly.",
)
def ridge(features: FeatureSet, *, method: str = "gcv") -> Score:
    """Predicted share of variance (R²) on unseen rows.

    Args:
        features: any label kind; classes as one-hot columns.
        method: ``gcv``, or ``loo`` for exact leave-one-out residuals at GCV's penalty.
    Returns:
        Score ≤ 1; ``details``: the penalty, in units of the mean squared length of a centred row.
    Raises:
        NotApplicable: constant features or labels, N < 3.
    """
    if method not in ("gcv", "loo"):
        raise ConfigError(f"ridge: method must be 'gcv' or 'loo'. Got {method!r}.")
    spectrum = features.spectrum
    unit = spectrum.trace / spectrum.count
    varying = spectrum.label_square > 1e-12 * spectrum.count
    if unit <= 0 or not varying.any() or spectrum.count < 3:
        raise NotApplicable("needs three rows, and features and labels that vary")
    values = np.array([gcv(spectrum, unit * s) for s in STRENGTHS])  # (strengths, T)
    null = spectrum.count * spectrum.label_square / (spectrum.count - 1) ** 2
    if features.label_kind is LabelKind.REAL:
        chosen = values.argmin(axis=0)
    else:
        chosen = np.full(len(null), values.sum(axis=1).argmin())
    penalties = np.array(STRENGTHS)[chosen]
    if method == "loo":
        errors = _leave_one_out(features, unit * penalties)
        null = spectrum.label_square * (spectrum.count / (spectrum.count - 1)) ** 2
    else:
        errors = values[chosen, np.arange(len(null))]
    if features.label_kind is LabelKind.REAL:
        value = float(np.mean(1 - errors[varying] / null[varying]))
    else:
        value = 1 - float(errors.sum() / null.sum())
    return Score(value, details={"strength": float(np.exp(np.log(penalties).mean()))})


def gcv(spectrum: Spectrum, penalty: float) -> np.ndarray:
    """(T,) generalised cross-validation error of each column at a penalty."""
    shrink = penalty / (spectrum.values + penalty)
    rss = spectrum.residual + shrink**2 @ spectrum.energy
    free = spectrum.count - 1 - len(spectrum.values) + float(shrink.sum())  # N - 1 - Σ S/(S + λ), nothing cancels
    return np.asarray(spectrum.count * rss / max(free, 1e-12) ** 2)


def _leave_one_out(features: FeatureSet, penalties: np.ndarray) -> np.ndarray:
    """(T,) sums of squared leave-one-out residuals, each column at its penalty."""
    spectrum, n = features.spectrum, len(features)
    z = features.coordinates()
    order = np.flatnonzero(spectrum.values > 0)[::-1]
    values = spectrum.values[order]
    targets = features.label_data.block(slice(None))
    total = np.empty(len(penalties))
    for penalty in np.unique(penalties):
        columns = np.flatnonzero(penalties == penalty)
        # coordinates may point the other way than the basis: both sides of the product from them
        solution = (z.T @ targets[:, columns]) / (values + penalty)[:, None]
        leverage = 1 / n + (z.astype(np.float64) ** 2) @ (1 / (values + penalty))
        residual = targets[:, columns] - spectrum.label_mean[columns] - z @ solution
        total[columns] = ((residual / np.maximum(1 - leverage, 1e-12)[:, None]) ** 2).sum(axis=0)
    return total
