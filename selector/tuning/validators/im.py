"""Information maximization: predictions that are sure, of every class."""

from __future__ import annotations

import numpy as np

from selector.tuning.validators import View, validator


@validator("im")
def im(view: View) -> float:
    """Entropy of the mean prediction minus mean entropy, nats; 0..log C (Krause et al., NeurIPS 2010)."""
    return float(_entropy(view.target.mean(axis=0, keepdims=True))[0] - _entropy(view.target).mean())


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    return np.asarray(-(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=1))
