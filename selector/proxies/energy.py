"""Energy: how familiar the target looks to the source head."""

from __future__ import annotations

import math

import numpy as np

from selector.core.contracts import LabelKind
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
