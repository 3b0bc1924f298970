"""Deep embedded validation: the source's risk, weighted towards the target, with a control variate."""

from __future__ import annotations

import numpy as np

from selector.tuning.validators import View, validator


@validator("dev")
def dev(view: View) -> float:
    """Minus the risk mean(w·ℓ) + η·mean(w) − η, η = −cov(w·ℓ, w)/var(w), of the cross-entropy ℓ on the source's
    validation items with density ratios w (You et al., ICML 2019)."""
    likelihood = view.val[np.arange(len(view.val)), view.val_labels]
    return -weighted_risk(-np.log(np.maximum(likelihood, 1e-12)), view.val_weights)


def weighted_risk(loss: np.ndarray, weights: np.ndarray) -> float:
    """The risk of losses (V,) with weights (V,)."""
    weighted = weights * loss
    variance = float(np.var(weights, ddof=1))
    eta = -float(np.cov(weighted, weights)[0, 1]) / variance if variance > 0 else 0.0
    return float(weighted.mean() + eta * weights.mean() - eta)
