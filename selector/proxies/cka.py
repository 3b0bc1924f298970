"""Centered kernel alignment of the features with the labels."""

from __future__ import annotations

import numpy as np

from selector.core.contracts import LabelKind
from selector.core.errors import NotApplicable
from selector.features import FeatureSet
from selector.proxies._proxy import INVARIANCES, proxy


@proxy(
    "cka",
    summary="Alignment of the similarity of rows with the similarity of their labels.",
    label_kinds=(LabelKind.CLASSES, LabelKind.MULTILABEL, LabelKind.REAL),
    good="Between 0 and 1; 1 when rows are similar exactly as their labels are.",
    source="Cortes, Mohri and Rostamizadeh, JMLR 2012; Kornblith et al., ICML 2019, arXiv:1905.00414 (linear)",
    cost="nothing on top of logme",
    bounds=(0.0, 1.0),
    invariances=INVARIANCES,
    formula="‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖), Frobenius norms, both centered.",
    domain="A diagnostic. Biased upwards when D is large against N.",
)
def cka(features: FeatureSet) -> float:
    """Linear CKA with the label columns.

    Raises:
        NotApplicable: constant features.
    """
    spectrum = features.spectrum
    if features.label_kind is LabelKind.CLASSES:
        counts = spectrum.label_counts
        square = np.diag(counts) - np.outer(counts, counts) / spectrum.count
    else:
        centered = features.labels - spectrum.label_mean
        square = centered.T @ centered
    below = float(np.linalg.norm(spectrum.values) * np.linalg.norm(square))
    if below <= 0:
        raise NotApplicable("the features are constant")
    return float((spectrum.response**2).sum()) / below
