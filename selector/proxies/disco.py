"""DISCO-like: are the strong spectral components of the features those that tell the labels apart?"""

from __future__ import annotations

import numpy as np

from selector.core.contracts import LabelKind, Score
from selector.core.errors import NotApplicable
from selector.core.stats import softmax
from selector.features import FeatureSet
from selector.proxies._proxy import INVARIANCES, proxy

COMPONENTS = 8
_NO_SPREAD = 1e-12  # of the variance: less within classes is rounding


@proxy(
    "disco",
    summary="How well each group of singular vectors explains the labels, weighted by its share of the singular values.",
    label_kinds=(LabelKind.CLASSES, LabelKind.REAL),
    good="1 is perfect; the sum of the squared class shares (0 for real values) is a model that knows nothing.",
    source="after Zhang et al., AAAI 2025, arXiv:2412.19085 (DISCO)",
    cost="a projection N × D × min(N, D) on top of logme (classes), nothing for real values; a spectrum for every pattern of "
    "unknown labels",
    bounds=(0.0, 1.0),
    version=2,
    invariances=INVARIANCES,
    formula="Singular vectors of the centered rows, in order, fall into 8 groups of equal number. Score = Σ_g w_g s_g: w_g the group's "
    "share of the sum of singular values. Classes: s_g the mean posterior of the true class by isotropic Gaussians about "
    "the class means in the group's coordinates, the row left out of its own mean. Real values: s_g the share of variance that "
    "linear regression on the group explains, adjusted for its number of coordinates, not below 0; mean over columns.",
    deviations="Verified (abstract and secondary sources) are singular values as weights, scores by nearest class center for classes "
    "and by linear regression for real values, and grouping. The number of groups, the centering, the posterior and how terms are "
    "combined are this project's own, as are the row left out and the adjustment; the published sampling of hard examples is left "
    "out. Do not quote values as DISCO's.",
    domain="Classes and real values.",
)
def disco(features: FeatureSet, *, components: int = COMPONENTS) -> Score:
    """Label scores of spectral components, weighted by their singular values.

    Args:
        features: classes or real values.
        components: groups of singular vectors; fewer where there are fewer vectors.
    Returns:
        Score in 0..1; ``details``: ``weight@g`` and ``score@g`` of each group, strongest first (real values: of the
        first part of the labels).
    Raises:
        NotApplicable: constant features.
    """
    values: list[np.ndarray] = []
    details: dict[str, float] = {}
    for part in features.complete_parts():
        spectrum = part.spectrum
        order = np.flatnonzero(spectrum.values > 0)[::-1]
        if not len(order):
            raise NotApplicable("the features are constant")
        groups = np.array_split(np.arange(len(order)), min(components, len(order)))
        singular = np.sqrt(spectrum.values[order])
        weights = np.array([singular[group].sum() for group in groups]) / singular.sum()
        if features.label_kind is LabelKind.CLASSES:
            z = part.coordinates().astype(np.float64)
            scores = np.array([[_posterior(z[:, g], part.labels, part.class_counts)] for g in groups])
        else:
            energy = spectrum.energy[order] / spectrum.label_square
            scores = np.stack([_adjusted(energy[g].sum(axis=0), len(g), spectrum.count) for g in groups])
        if not details:
            details = {f"weight@{i}": float(w) for i, w in enumerate(weights)}
            details |= {f"score@{i}": float(s.mean()) for i, s in enumerate(scores)}
        values.append(weights @ scores)
    return Score(float(np.concatenate(values).mean()), details=details)


def _adjusted(share: np.ndarray, used: int, rows: int) -> np.ndarray:
    """R² less what as many random directions would explain."""
    free = max(rows - 1 - used, 1)
    return np.asarray(np.clip(1 - (1 - share) * (rows - 1) / free, 0.0, 1.0))


def _posterior(z: np.ndarray, codes: np.ndarray, counts: np.ndarray) -> float:
    """Mean p(own class | row); a class of one row counts as a guess among all."""
    sums = np.zeros((len(counts), z.shape[1]))
    np.add.at(sums, codes, z)
    means = sums / counts[:, None]
    squares = (z**2).sum(axis=1)[:, None] + (means**2).sum(axis=1) - 2 * z @ means.T
    everyone = np.arange(len(z))
    own = np.maximum(squares[everyone, codes], 0)
    # of classes without spread the nearest mean is sure
    variance = max(own.sum(), _NO_SPREAD * (z**2).sum()) / z.size
    several = counts[codes] > 1
    own_count = np.maximum(counts[codes] - 1, 1)
    squares[everyone, codes] = own * (counts[codes] / own_count) ** 2
    logits = np.log(counts / len(z)) - squares / (2 * variance)
    share = softmax(logits)[everyone, codes]
    return float(np.where(several, share, 1 / len(counts)).mean())
