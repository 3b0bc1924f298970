"""LEEP: predicting the label through the source classes, from soft counts."""

from __future__ import annotations

import numpy as np

from selector.features import FeatureSet
from selector.proxies._proxy import NAMES_OF_CLASSES, proxy
from selector.proxies.energy import log_sum_exp


@proxy(
    "leep",
    summary="Log-likelihood of the labels when they are predicted from the source head's classes.",
    good="0 is perfect; minus the entropy of the class shares is a model that knows nothing.",
    source="Nguyen et al., ICML 2020, arXiv:2002.12462",
    cost="O(N·C_s·C)",
    needs_source_logits=True,
    bounds=(-float("inf"), 0.0),
    invariances=NAMES_OF_CLASSES,
    formula="mean log Σ_z P(y_i | z) θ_iz, P(y | z) from soft counts of θ, the softmax of the source logits.",
    deviations="Several copies dropped the logarithm; it is kept. Source classes of no mass are left out instead of dividing by 0.",
    domain="Encoders with their source head. Measures the head as much as the encoder, in-sample; weak when source classes are few "
    "or unrelated.",
)
def leep(features: FeatureSet) -> float:
    """Log expected empirical prediction, in nats.

    Raises:
        NotApplicable: no source logits.
    """
    logits = features.source_logits.astype(np.float64)
    theta = np.exp(logits - log_sum_exp(logits)[:, None])
    per_row = soft_count_likelihood(theta, features)
    return float(per_row.mean())


def soft_count_likelihood(theta: np.ndarray, features: FeatureSet) -> np.ndarray:
    """(N,) log Σ_z P(y_i | z) θ_iz, for any soft assignment θ (N, Z)."""
    joint = features.label_data.sums(theta, slice(None))  # (C, Z)
    mass = joint.sum(axis=0)
    given = np.divide(joint, mass, out=np.zeros_like(joint), where=mass > 0)
    expected = np.einsum("nz,nz->n", theta, given[features.labels])
    return np.asarray(np.log(np.maximum(expected, np.finfo(np.float64).tiny)))
