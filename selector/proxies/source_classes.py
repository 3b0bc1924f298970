"""What the source head says: energy, LEEP, conditional entropy; and LEEP on a mixture in the place of a head."""

from __future__ import annotations

import math
import warnings

import numpy as np

from selector.core.contracts import LabelKind, Score
from selector.core.errors import NotApplicable
from selector.features import FeatureSet
from selector.proxies._proxy import NAMES_OF_CLASSES, proxy

SHARE = 0.05
LEAST_ROWS = 30


@proxy(
    "energy",
    summary="Log-sum-exp of the source head's logits on the least familiar rows.",
    label_kinds=tuple(LabelKind),
    good="Higher means that even the least familiar images excite the source head. In units of logits; compare encoders with heads "
    "of the same source task.",
    source="Gholami et al., ICCV 2023, arXiv:2308.02027 (ETran); Liu et al., NeurIPS 2020",
    cost="O(N·C_s)",
    needs_source_logits=True,
    invariances=NAMES_OF_CLASSES,
    formula="Mean of log Σ_z exp(logit_z) over the lowest 5% of rows, 30 at least.",
    deviations="The public code takes any share of rows, so small targets were judged by two or three; here there are at least 30. "
    "Published combinations divide by the pool's extremes, which changes scores when a model joins; this is the plain value.",
    domain="Encoders with their source head. Looks at no label: it cannot see whether the classes are separated. Depends on the "
    "temperature that the head was trained to.",
)
def energy(features: FeatureSet) -> float:
    """Mean log-sum-exp of the source logits' low tail.

    Raises:
        NotApplicable: no source logits, or fewer than 30 rows.
    """
    if len(features) < LEAST_ROWS:
        raise NotApplicable(f"needs {LEAST_ROWS} rows for a tail; there are {len(features)}")
    tail = max(LEAST_ROWS, math.ceil(SHARE * len(features)))
    values = np.sort(log_sum_exp(features.source_logits))
    return float(values[:tail].mean())


def log_sum_exp(logits: np.ndarray) -> np.ndarray:
    """float64 (N,)."""
    peak = logits.max(axis=1, keepdims=True).astype(np.float64)
    return np.asarray(peak[:, 0] + np.log(np.exp(logits - peak).sum(axis=1)))


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


@proxy(
    "nce",
    summary="Minus the entropy that is left in the label once the source head's top class is known.",
    good="0 is perfect; minus the entropy of the class shares is a head that says nothing about the labels.",
    source="Tran, Nguyen and Hassner, ICCV 2019, arXiv:1908.08142",
    cost="O(N·C_s)",
    needs_source_logits=True,
    bounds=(-float("inf"), 0.0),
    invariances=NAMES_OF_CLASSES,
    formula="−H(Y | Z), z = argmax of the source logits.",
    domain="Encoders with their source head. Biased upwards when source classes are many against N: with one row each it is 0.",
)
def nce(features: FeatureSet) -> float:
    """Negative conditional entropy, in nats.

    Raises:
        NotApplicable: no source logits.
    """
    top = features.source_logits.argmax(axis=1)
    _, z = np.unique(top, return_inverse=True)
    joint = np.zeros((z.max() + 1, len(features.classes)))
    np.add.at(joint, (z.ravel(), features.labels), 1)
    share = joint / joint.sum(axis=1, keepdims=True)
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    return float((joint * logs).sum() / len(features))


VARIANCE = 0.8
COMPONENTS_PER_CLASS = 5


@proxy(
    "nleep",
    summary="Log-likelihood of the labels when they are predicted from clusters of the rows.",
    good="0 is perfect; minus the entropy of the class shares is a model that knows nothing.",
    source="Li et al., CVPR 2021, arXiv:2011.11200",
    cost="expectation-maximization with 5C components in the leading principal components; slow for many classes",
    bounds=(-float("inf"), 0.0),
    invariances=NAMES_OF_CLASSES,
    seeded=True,
    formula="PCA to 80% of the variance, Gaussian mixture with 5C full components, LEEP on its posteriors.",
    deviations="Seeded, with rows in the order of their hashes; the logarithm, which copies dropped, is kept.",
    domain="Classes, and at least two rows per component (10C rows). In-sample. Depends on the seed: compare at one seed.",
)
def nleep(features: FeatureSet) -> Score:
    """LEEP on the posteriors of a Gaussian mixture; a contribution per row.

    Raises:
        NotApplicable: fewer than 10C rows, or constant features.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    components = COMPONENTS_PER_CLASS * len(features.classes)
    if len(features) < 2 * components:
        raise NotApplicable(f"needs two rows per component, {2 * components}; there are {len(features)}")
    values = features.spectrum.values[::-1]
    if values[0] <= 0:
        raise NotApplicable("the features are constant")
    keep = int(np.searchsorted(np.cumsum(values) / values.sum(), VARIANCE)) + 1
    order, _ = features.canonical
    z = features.coordinates(keep).astype(np.float64)[order]
    z /= np.sqrt(values[0] / len(features))  # the mixture's regularization is in absolute units
    mixture = GaussianMixture(components, random_state=features.seed, reg_covar=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        posterior = np.empty((len(z), components))
        posterior[order] = mixture.fit(z).predict_proba(z)
    per_row = soft_count_likelihood(posterior, features)
    return Score(
        float(per_row.mean()), per_row=per_row, details={"converged": float(mixture.converged_), "dimensions": keep}
    )
